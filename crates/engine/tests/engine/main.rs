//! The engine from outside: facts go in, effects come out. One program, so that its parts share a bench and the zoo has
//! all of their tests.

mod bench;
mod directories;
mod history;
mod leftovers;
mod pin;
mod pledges;
mod refusal;
mod seen;
mod told;
#[cfg(feature = "zoo")]
mod zoo;
