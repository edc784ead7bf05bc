//! One newtype per id, made by two macros. Never a bare integer or array in an interface.

use std::fmt;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is {expected} hexadecimal digits, not \"{found}\"")]
pub struct IdError {
    /// How many digits the id has.
    pub expected: usize,
    /// What was found, escaped and cut.
    pub found: String,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let fail = || IdError { expected: 2 * N, found: text.escape_default().take(80).collect() };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(fail());
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16).ok_or_else(fail)?;
        let low = (pair[1] as char).to_digit(16).ok_or_else(fail)?;
        *byte = (high * 16 + low) as u8;
    }
    Ok(out)
}

/// `bytes` in `digits`, which are twice as many.
fn hex<'a>(bytes: &[u8], digits: &'a mut [u8]) -> &'a str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    std::str::from_utf8(digits).expect("digits are ASCII")
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// All bytes zero.
            pub const ZERO: Self = Self([0; $len]);
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The id in `bytes`, or `None` when the length is another.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 2 * $len];
                f.write_str(hex(&self.0, &mut digits))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

byte_id!(
    /// A node (file, directory, symlink) of a share, for ever. Made where the node was created.
    NodeUid, 16
);
byte_id!(
    /// A share.
    ShareId, 16
);
byte_id!(
    /// A sync group: one share and the server endpoints that follow it.
    GroupId, 16
);
byte_id!(
    /// A registered server.
    ServerId, 16
);
byte_id!(
    /// A server endpoint: a path on a registered server that follows a share.
    EndpointId, 16
);
byte_id!(
    /// One life of an endpoint's state database. Two agents with one state are told apart by it (promise I7).
    InstanceId, 16
);
byte_id!(
    /// A pack in object storage.
    PackId, 16
);
byte_id!(
    /// BLAKE3 of a chunk's plain bytes, keyed by its share: equal ids in one share mean equal bytes.
    ChunkId, 32
);

number_id!(
    /// Number of a node in its share: the sequence number that created it.
    Nid
);
number_id!(
    /// Sequence number in the one ordered history of a share; 63 bits.
    Seq
);
number_id!(
    /// Random number of a commit: tells a history from another one that reused its numbers.
    Tag
);
number_id!(
    /// Counts how often a share's metadata was set back and began a new history.
    Epoch
);
number_id!(
    /// Number of a batch of one endpoint instance; never names another batch.
    BatchNo
);

impl NodeUid {
    /// The root directory of every share.
    pub const ROOT: Self = Self::ZERO;

    /// A new id: 48 bits of coarse time (milliseconds since 1970, for index locality alone; no decision uses it)
    /// before 80 random bits.
    pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0u8; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The id of the conflict copy that keeps version `since` of this node. It follows from its arguments, so that
    /// planning twice names one node; no two versions share it, since an operation changes one node.
    pub fn copy_of(self, since: Seq) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("polder 1 conflict copy");
        hasher.update(&self.0).update(&since.0.to_be_bytes());
        let mut bytes = self.0;
        bytes[6..].copy_from_slice(&hasher.finalize().as_bytes()[..10]);
        Self(bytes)
    }
}

impl ChunkId {
    /// The first half, which keys the chunk index: 128 bits are enough inside one share.
    pub fn key16(&self) -> [u8; 16] {
        let mut key = [0u8; 16];
        key.copy_from_slice(&self.0[..16]);
        key
    }
}

impl Seq {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// How far a new epoch moves the head, so that numbers never repeat (`docs/formats/share.md`).
    pub const HEAD_JUMP: u64 = 1 << 40;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text() {
        let id = NodeUid::from_parts(0x0123_4567_89ab, [7; 10]);
        assert_eq!(id.to_string(), "0123456789ab07070707070707070707");
        assert_eq!(id.to_string().parse::<NodeUid>(), Ok(id));
        let json = serde_json::to_string(&id).expect("ids are plain text");
        assert_eq!(serde_json::from_str::<NodeUid>(&json).expect("own text"), id);
    }

    #[test]
    fn a_conflict_copy_has_one_id_a_version() {
        let node = NodeUid::from_parts(0x0123_4567_89ab, [7; 10]);
        assert_eq!(node.copy_of(Seq(5)), node.copy_of(Seq(5)));
        assert_ne!(node.copy_of(Seq(5)), node.copy_of(Seq(6)));
        assert_eq!(node.copy_of(Seq(5)).0[..6], node.0[..6]);
    }

    #[test]
    fn bad_ids_are_refused() {
        for text in ["", "00", "zz123456789ab07070707070707070707", "0123456789ab0707070707070707070g"] {
            assert!(text.parse::<NodeUid>().is_err(), "{text}");
        }
    }
}
