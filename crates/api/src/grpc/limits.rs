//! Bounds of the protocol. What exceeds one is refused as a whole, by both sides.

/// Largest message of an agent to the service, and of the service to an agent.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest message of somebody without a certificate.
pub const ENROLMENT_BYTES_MAX: usize = 64 * 1024;
/// Most operations in one batch; an author sends about 1,024, more only in one group that cannot be split.
pub const BATCH_OPS_MAX: usize = polder_types::GROUP_OPS_MAX;
/// Most entries in a batch's or a feed stream's table of attributes.
pub const ATTRS_TABLE_MAX: usize = 65_536;
/// Most bytes in a feed stream's table of attributes: the sender empties it before.
pub const ATTRS_TABLE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most rows in one page of the feed.
pub const PAGE_ROWS_MAX: usize = 4096;
/// Most packs named by one page of the feed or one answer to `Locate`.
pub const PAGE_PACKS_MAX: usize = 65_536;
/// Most chunks asked for by one `Have` or `Locate`.
pub const CHUNKS_ASKED_MAX: usize = 16_384;
/// Most previous openings in one `OpenEndpoint`.
pub const PREVIOUS_OPENINGS_MAX: usize = 16;
/// Batches that an opening asks about. An agent has a handful in flight.
pub const OPEN_BATCHES_MAX: usize = 64;
/// Most endpoints of one server.
pub const ENDPOINTS_MAX: usize = 1024;
/// Longest share keys: 1,024 generations.
pub const SHARE_KEYS_BYTES_MAX: usize = 64 + 1024 * 40;
/// Longest reference of a pack: id, generation, nonce.
pub const PACK_REFERENCE_BYTES_MAX: usize = 16 + 5 + 32;
/// Longest slot of a chunk: four numbers and a byte.
pub const SLOT_BYTES_MAX: usize = 24;
/// Most exclude globs of an endpoint.
pub const GLOBS_MAX: usize = 1024;
/// Most rules about files of an endpoint, and as many about programs.
pub const RULES_MAX: usize = 256;
/// Most programs, reasons or notices in one report about tiering.
pub const TIERING_ROWS_MAX: usize = 128;
/// Longest text for people, address, glob or name of an object.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Longest path of an item: PATH_MAX does not bound what exists below a root, this does what is reported.
pub const PATH_BYTES_MAX: usize = 64 * 1024;
/// Most problems in one status; the rest is counted and can be listed by a command.
pub const PROBLEMS_MAX: usize = 200;
/// Most versions in one pin.
pub const PINNED_VERSIONS_MAX: usize = 256;
/// Longest JSON in the answer to a command.
pub const COMMAND_JSON_BYTES_MAX: usize = 1024 * 1024;
/// Most paths named by one command.
pub const COMMAND_PATHS_MAX: usize = 10_000;
/// Largest pack, with its footer: 32 MiB of chunks, and room for one more chunk and the footer.
pub const PACK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Rows of a page that are refused alone; with more the page is none.
pub const BAD_ROWS_MAX: usize = 100;
