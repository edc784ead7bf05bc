//! Signed addresses of packs on the service's own port: good for one pack, method, length and endpoint, for a quarter
//! of an hour. Who has one may use it; so they are never logged, and the query is not part of any span.

use aws_lc_rs::hmac;
use polder_types::{EndpointId, PackId, ShareId};

use crate::hex::{hex, unhex};

/// How long an address is good, in milliseconds of service time.
pub const URL_VALID_MS: u64 = 15 * 60 * 1000;

const VERSION: &[u8] = b"polder pack address 1";

/// What an address allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Ranges of the pack.
    Get,
    /// Storing it.
    Put,
}

/// An address before it is signed, or after its signature was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// What it allows.
    pub method: Method,
    /// Whose pack.
    pub share: ShareId,
    /// Which one.
    pub pack: PackId,
    /// To whom it was given; zero for a direct reader.
    pub endpoint: EndpointId,
    /// Length of the whole pack.
    pub size_bytes: u64,
    /// When it ends, milliseconds of service time.
    pub expires_ms: u64,
}

/// Why an address is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not made by this service, or changed since.
    #[error("the address is not valid")]
    Forged,
    /// Its time is over.
    #[error("the address has ended: ask for another")]
    Expired,
}

impl Method {
    fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

impl Address {
    /// Path and query, relative to the service's own address.
    pub fn sign(&self, key: &hmac::Key) -> String {
        let tag = hmac::sign(key, &self.signed_bytes());
        format!(
            "/data/v1/{}/{}?endpoint={}&size={}&expires={}&sign={}",
            self.share,
            self.pack,
            self.endpoint,
            self.size_bytes,
            self.expires_ms,
            hex(tag.as_ref())
        )
    }

    /// Checks path and query of a request, in constant time.
    pub fn check(
        key: &hmac::Key,
        method: Method,
        share: &str,
        pack: &str,
        query: &str,
        now_ms: u64,
    ) -> Result<Self, AddressError> {
        let (address, tag) = Self::parse(method, share, pack, query).ok_or(AddressError::Forged)?;
        hmac::verify(key, &address.signed_bytes(), &tag).map_err(|_| AddressError::Forged)?;
        if now_ms < address.expires_ms { Ok(address) } else { Err(AddressError::Expired) }
    }

    fn parse(method: Method, share: &str, pack: &str, query: &str) -> Option<(Self, [u8; 32])> {
        let (mut endpoint, mut size, mut expires, mut sign) = (None, None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            let slot = match name {
                "endpoint" => &mut endpoint,
                "size" => &mut size,
                "expires" => &mut expires,
                "sign" => &mut sign,
                _ => return None,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        let address = Self {
            method,
            share: share.parse().ok()?,
            pack: pack.parse().ok()?,
            endpoint: endpoint?.parse().ok()?,
            size_bytes: size?.parse().ok()?,
            expires_ms: expires?.parse().ok()?,
        };
        Some((address, unhex(sign?)?))
    }

    /// All fields, each of fixed length but the method, which is first and ends with a NUL.
    fn signed_bytes(&self) -> Vec<u8> {
        [
            VERSION,
            self.method.word().as_bytes(),
            b"\0",
            &self.share.0,
            &self.pack.0,
            &self.endpoint.0,
            &self.size_bytes.to_be_bytes(),
            &self.expires_ms.to_be_bytes(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
    }

    fn address() -> Address {
        Address {
            method: Method::Put,
            share: ShareId([1; 16]),
            pack: PackId([2; 16]),
            endpoint: EndpointId([3; 16]),
            size_bytes: 4096,
            expires_ms: 1000,
        }
    }

    fn check(url: &str, method: Method, now_ms: u64) -> Result<Address, AddressError> {
        let (path, query) = url.split_once('?').expect("signed");
        let parts: Vec<&str> = path.split('/').collect();
        Address::check(&key(), method, parts[3], parts[4], query, now_ms)
    }

    /// Scenario 113.
    #[test]
    fn an_address_is_good_for_what_it_was_signed_for_alone() {
        let url = address().sign(&key());
        assert_eq!(check(&url, Method::Put, 999), Ok(address()));
        assert_eq!(check(&url, Method::Put, 1000), Err(AddressError::Expired));
        assert_eq!(check(&url, Method::Get, 999), Err(AddressError::Forged));
        let changes = [
            ("size=4096", "size=4097"),
            ("expires=1000", "expires=9999"),
            ("0202", "0203"),
            ("0303", "0304"),
            ("0101", "0102"),
            ("size=4096", "size=4096&size=4096"),
            ("sign=", "sign=0"),
            ("&size=4096", ""),
        ];
        for (from, to) in changes {
            assert_eq!(
                check(&url.replacen(from, to, 1), Method::Put, 999),
                Err(AddressError::Forged),
                "{to}"
            );
        }
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[8; 32]);
        assert_eq!(check(&address().sign(&other), Method::Put, 999), Err(AddressError::Forged));
    }
}
