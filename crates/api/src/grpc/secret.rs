//! Values that no log may show.

use std::fmt;

use super::pb;

/// A key of 32 bytes. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key32(pub [u8; 32]);

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key32(…)")
    }
}

impl fmt::Debug for pb::ShareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareKey").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::ShareKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareKeys").field("generations", &self.generations).finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let key = pb::ShareKey { generation: 3, key: vec![0xab; 32].into() };
        let keys = pb::ShareKeys { chunk_id_key: vec![0xab; 32].into(), generations: vec![key], current: 3 };
        let request = pb::RegisterRequest { join_token: "abab".into(), ..Default::default() };
        for text in [format!("{keys:?}"), format!("{request:?}"), format!("{:?}", Key32([0xab; 32]))] {
            assert!(!text.contains("ab") && !text.contains("171"), "{text}");
        }
    }
}
