//! One suite for a share's rows, run by every form of them: memory is the reference, SQLite is what ships.

mod commits;
mod feed;
mod history;
mod model;
mod packs;
mod reads;
mod rows;
mod store;
mod support;
