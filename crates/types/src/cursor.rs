//! How far somebody has read a share's history.

use crate::{Epoch, Seq, Tag};

/// A place in a share's history. The tag is that of the commit that owns `seq`: a service that was set back in
/// time and has used the number again has another tag there, and the mismatch is noticed (promise I7).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Cursor {
    /// The share's epoch.
    pub epoch: Epoch,
    /// Everything up to this number is known. Always the last number of a commit; 0 for an empty history.
    pub seq: Seq,
    /// Tag of that commit; 0 for an empty history.
    pub tag: Tag,
}
