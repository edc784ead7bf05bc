//! Packs: signed addresses, the HTTP data plane, chunks read out of packs.

mod address;
mod http;
mod read;

pub use address::{Address, AddressError, Method, URL_VALID_MS};
pub use http::{accept_pack, new_pack, register, router};
pub use read::{TreeCache, read_chunk, trees_below};

#[cfg(test)]
pub use read::location;
