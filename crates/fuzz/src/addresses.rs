//! Signed addresses of packs: only what was signed passes.

use aws_lc_rs::hmac;
use polder_types::{EndpointId, PackId, ShareId};

use crate::address::{Address, AddressError, Method};

const NOW_MS: u64 = 1_700_000_000_000;

fn key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
}

fn signed(method: Method, expires_ms: u64) -> Address {
    Address {
        method,
        share: ShareId([1; 16]),
        pack: PackId([2; 16]),
        endpoint: EndpointId([3; 16]),
        size_bytes: 4096,
        expires_ms,
    }
}

/// The addresses of [`seeds`], and no others.
fn known() -> [Address; 3] {
    [signed(Method::Get, NOW_MS + 1), signed(Method::Put, NOW_MS + 1), signed(Method::Get, NOW_MS)]
}

/// An address in the form of a request's target.
pub(crate) fn addresses(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let mut parts = path.strip_prefix("/data/v1/").unwrap_or(path).splitn(2, '/');
    let (share, pack) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    for method in [Method::Get, Method::Put] {
        match Address::check(&key(), method, share, pack, query, NOW_MS) {
            Ok(address) => {
                assert_eq!(address.method, method);
                assert!(
                    known().contains(&address) && address.expires_ms > NOW_MS,
                    "a forged address: {text}"
                );
            }
            Err(AddressError::Expired) => assert!(query.contains(&format!("expires={NOW_MS}")), "{text}"),
            Err(AddressError::Forged) => (),
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    known().iter().map(|address| address.sign(&key()).into_bytes()).collect()
}
