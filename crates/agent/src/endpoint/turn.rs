//! From a plain folder to one laid out for tiering, and back: what stands in the way is looked at beside the endpoint's life, which goes on.
//!
//! Nothing is written down: the folder tells which layout it has, the settings which one it shall have.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polder_replica::Root;

use super::{LOCK, spawn_thread};
use crate::status;
use crate::tiered::{Cancel, Tiered, ensure_nobody_looks};

/// How often it is looked who is in the way.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What failed is tried again after so long; and what was refused, after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(15);
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// A thread that waits looks so often whether it is still wanted.
const STEP: Duration = Duration::from_millis(200);

/// A turn that waits, or is under way. Ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    why: Mutex<Option<Box<str>>>,
    is_ready: AtomicBool,
    cancel: Cancel,
    /// Beside a refusal: until when nothing is tried.
    until: Option<Instant>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}

impl Turn {
    /// To the layout for tiering, once nobody looks at the folder.
    pub(super) fn to_tiered(path: PathBuf) -> Self {
        Self::beside("turn to tiering", move |shared| {
            loop {
                match ensure_nobody_looks(&path) {
                    Ok(()) => return,
                    Err(error) => shared.say(status::sentence(error.chain())),
                }
                if shared.is_over_after(LOOK_EVERY) {
                    return;
                }
            }
        })
    }

    /// To the plain layout, once all is here.
    pub(super) fn to_plain(tiered: Tiered, root: Arc<Root>) -> Self {
        Self::beside("turn to plain", move |shared| {
            loop {
                let recalled = tiered.recall_all(&shared.cancel);
                let why = match recalled {
                    Ok(()) => match polder_replica::ensure_unmarked(&root) {
                        Ok(()) => return,
                        Err(error) => status::chain(&error),
                    },
                    Err(error) => status::chain(&error),
                };
                tiered.say(None);
                tracing::info!(why, "the folder cannot be laid out plainly yet");
                shared.say(format!("tiering is off, and the folder cannot be laid out plainly yet: {why}"));
                if shared.is_over_after(AGAIN_AFTER) {
                    return;
                }
            }
        })
    }

    /// What was refused: said, and tried again after a while.
    pub(super) fn refused(why: Box<str>) -> Self {
        let until = Some(Instant::now() + REFUSED_FOR);
        Self(Arc::new(Shared { why: Mutex::new(Some(why)), until, ..Shared::default() }))
    }

    fn beside(name: &str, work: impl FnOnce(&Shared) + Send + 'static) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let of_thread = Arc::clone(&shared);
        drop(spawn_thread(name, move || {
            work(&of_thread);
            of_thread.is_ready.store(!of_thread.cancel.is_cancelled(), Ordering::Release);
        }));
        Self(shared)
    }

    /// Whether the folder may be laid out anew now.
    pub(super) fn is_ready(&self) -> bool {
        self.0.is_ready.load(Ordering::Acquire) || self.0.until.is_some_and(|until| Instant::now() >= until)
    }

    /// What it waits for.
    pub(super) fn why(&self) -> Option<Box<str>> {
        self.0.why.lock().expect(LOCK).clone()
    }
}

impl Shared {
    fn say(&self, why: String) {
        let mut known = self.why.lock().expect(LOCK);
        if known.as_deref() != Some(&*why) {
            tracing::info!(why, "the folder is not laid out anew yet");
            *known = Some(why.into());
        }
    }

    /// Waits; `true` when nobody wants the turn any more.
    fn is_over_after(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.cancel.is_cancelled() {
            std::thread::sleep(STEP);
        }
        self.cancel.is_cancelled()
    }
}
