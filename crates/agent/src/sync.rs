//! The locks of what is tried under every order of threads: in its own tests with the feature `shuttle` the scheduler
//! of that crate decides who goes on.

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use std::sync::Mutex;

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use shuttle::sync::Mutex;
