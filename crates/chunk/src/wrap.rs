//! Share keys wrapped by the operator's master key, as the service keeps them (`docs/formats/pack.md` §2).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use polder_types::{DecodeError, Reader, ShareId, Writer};

use crate::keys::array;
use crate::{KeyError, ShareKeys};

const FORMAT: u8 = 1;
const LABEL: &[u8] = b"polder share key wrap v1";
const ID_CONTEXT: &str = "polder 2026-11-23 master key id v1";

/// The key under which share keys are stored. Comes from the operator: a file, the environment, a KMS.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(secret)")
    }
}

impl MasterKey {
    /// Takes 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Tells master keys apart without giving them away.
    pub fn id(&self) -> [u8; 8] {
        blake3::derive_key(ID_CONTEXT, &self.0)[..8].try_into().expect("eight bytes")
    }

    /// Wraps the keys of a share. `nonce` is 32 fresh random bytes, also when the same keys are wrapped again.
    pub fn wrap(&self, keys: &ShareKeys, nonce: [u8; 32]) -> Vec<u8> {
        let mut head = Writer::new();
        head.byte(FORMAT).raw(&self.id()).raw(&nonce);
        let mut out = head.finish();
        let aad = [out.as_slice(), keys.share().as_bytes()].concat();
        let mut sealed = keys.to_secret_bytes();
        self.aead(&nonce)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(aad), &mut sealed)
            .expect("sealing fails only beyond 64 GiB");
        out.extend_from_slice(&sealed);
        out
    }

    /// Reads [`Self::wrap`]; the keys must be those of `share`.
    pub fn unwrap(&self, share: ShareId, wrapped: &[u8]) -> Result<ShareKeys, KeyError> {
        let mut from = Reader::new(wrapped);
        match from.byte()? {
            FORMAT => (),
            other => return Err(DecodeError::Version(other).into()),
        }
        if array::<8>(&mut from)? != self.id() {
            return Err(KeyError::OtherMaster);
        }
        let nonce = array(&mut from)?;
        let (head, sealed) = wrapped.split_at(wrapped.len() - from.left());
        let aad = [head, share.as_bytes()].concat();
        let mut sealed = sealed.to_vec();
        let plain = self
            .aead(&nonce)
            .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(aad), &mut sealed)
            .map_err(|_| KeyError::Damaged)?;
        let keys = ShareKeys::from_secret_bytes(plain)?;
        if keys.share() == share {
            Ok(keys)
        } else {
            Err(KeyError::OtherShare { wanted: share, found: keys.share() })
        }
    }

    // Every wrapping has its own key, so the nonce of GCM may be constant.
    fn aead(&self, nonce: &[u8; 32]) -> LessSafeKey {
        let key = blake3::keyed_hash(&self.0, &[LABEL, nonce].concat());
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("the key has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_master_and_share_unwrap() {
        let share = ShareId([1; 16]);
        let keys = ShareKeys::new(share, [2; 32], [3; 32]);
        let master = MasterKey::new([4; 32]);
        let wrapped = master.wrap(&keys, [5; 32]);
        assert_eq!(master.unwrap(share, &wrapped), Ok(keys.clone()));
        assert_ne!(wrapped, master.wrap(&keys, [6; 32]));
        assert_eq!(MasterKey::new([7; 32]).unwrap(share, &wrapped), Err(KeyError::OtherMaster));
        assert_eq!(master.unwrap(ShareId([8; 16]), &wrapped), Err(KeyError::Damaged));
        for at in 0..wrapped.len() {
            let mut forged = wrapped.clone();
            forged[at] ^= 1;
            assert!(master.unwrap(share, &forged).is_err(), "byte {at}");
            assert!(master.unwrap(share, &wrapped[..at]).is_err(), "cut at {at}");
        }
    }
}
