//! Values that no log may show.

use std::fmt;

use super::pb;

/// Bytes that no log may show. Its `Debug` shows only how many they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl fmt::Debug for pb::Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment").field("endpoint_id", &self.endpoint_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

// Addresses are signed: who has one may use it.
impl fmt::Debug for pb::PackPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackPlace").field("pack_id", &self.pack_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::PackUrlReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackUrlReply").field("announce", &self.announce).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let secret = "abababab".to_owned();
        let assignment = pb::Assignment { share_keys: secret.clone().into(), ..Default::default() };
        let request = pb::RegisterRequest { join_token: secret.clone(), ..Default::default() };
        let pack = pb::PackPlace { url: secret.clone(), ..Default::default() };
        let place = pb::PackUrlReply { url: secret.clone(), ..Default::default() };
        let shown = [
            format!("{:?}", pb::Assignments { endpoints: vec![assignment] }),
            format!("{request:?}"),
            format!("{:?}", Secret(secret.into())),
            format!("{pack:?}"),
            format!("{place:?}"),
        ];
        for text in shown {
            assert!(!text.contains("abab") && !text.contains("97, 98"), "{text}");
        }
    }
}
