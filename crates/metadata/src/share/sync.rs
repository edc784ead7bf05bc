//! The locks and threads of what is tried under every order of threads: in its own tests with the feature `shuttle` the
//! scheduler of that crate decides who goes on.

#[cfg(not(all(test, feature = "shuttle")))]
pub(super) use std::{
    sync::{Condvar, Mutex, PoisonError, mpsc},
    thread,
};

#[cfg(all(test, feature = "shuttle"))]
pub(super) use {
    shuttle::sync::{Condvar, Mutex, mpsc},
    shuttle::thread,
    std::sync::PoisonError,
};
