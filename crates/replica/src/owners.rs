//! Names of users and groups and back, remembered for a while.
//!
//! A lookup may ask a directory server and take seconds; a share has few owners and millions of files.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sys;

/// How long an answer is believed: a renamed account is noticed at the next look after this.
const FRESH: Duration = Duration::from_secs(300);
/// Most answers kept of each kind; beyond it all are forgotten.
const KEPT_MAX: usize = 4096;

/// A memory of account lookups, shared by all threads of an endpoint.
#[derive(Debug, Default)]
pub struct Owners {
    user_names: Cache<u32, Box<str>>,
    group_names: Cache<u32, Box<str>>,
    user_ids: Cache<Box<str>, Option<u32>>,
    group_ids: Cache<Box<str>, Option<u32>>,
}

#[derive(Debug)]
struct Cache<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: std::hash::Hash + Eq, V: Clone> Cache<K, V> {
    fn get(&self, key: K, look_up: impl FnOnce(&K) -> V) -> V {
        let lock = || self.0.lock().expect("no holder of this lock panics");
        if let Some((at, value)) = lock().get(&key)
            && at.elapsed() < FRESH
        {
            return value.clone();
        }
        // Not under the lock: others must not wait for a slow directory server.
        let value = look_up(&key);
        let mut entries = lock();
        if entries.len() >= KEPT_MAX {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), value.clone()));
        value
    }
}

impl Owners {
    /// Name of a user; empty when nobody has the number.
    pub fn user_name(&self, uid: u32) -> Box<str> {
        self.user_names.get(uid, |uid| bounded(sys::user_name(*uid)))
    }

    /// Name of a group; empty when no group has the number.
    pub fn group_name(&self, gid: u32) -> Box<str> {
        self.group_names.get(gid, |gid| bounded(sys::group_name(*gid)))
    }

    /// The number of a user by name, if there is one here.
    pub fn user_id(&self, name: &str) -> Option<u32> {
        (!name.is_empty()).then(|| self.user_ids.get(name.into(), |name| sys::user_id(name))).flatten()
    }

    /// The number of a group by name, if there is one here.
    pub fn group_id(&self, name: &str) -> Option<u32> {
        (!name.is_empty()).then(|| self.group_ids.get(name.into(), |name| sys::group_id(name))).flatten()
    }
}

/// Longer names than the attributes hold count as unknown; the number travels anyway.
fn bounded(name: Option<String>) -> Box<str> {
    name.filter(|name| name.len() <= 255).unwrap_or_default().into()
}
