//! What the gate's hook, the policy runner and the commands share of one endpoint. Outlives the endpoint's lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use polder_api::grpc::convert::Tiering;
use polder_tiering::Endpoint;

use super::book::Book;
use super::inventory::{Held, Refusals};
use super::wants;

const LOCK: &str = "no holder of this lock panics";

/// What the last look at an endpoint's files found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// When, in seconds since 1970.
    pub at_s: i64,
    /// What it holds, and why its files stay.
    pub held: Held,
    /// Whether the volume was in low disk mode.
    pub is_low: bool,
    /// Bytes that are missing to the free-space policy even if everything leaves that may.
    pub missing_bytes: u64,
    /// Why the look, or what followed from it, ended early.
    pub failed: Option<Box<str>>,
}

/// The desk of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Uses of its files.
    pub book: Arc<Book>,
    /// Files that stayed lately.
    pub refusals: Arc<Mutex<Refusals>>,
    looked: Mutex<Option<Arc<Looked>>>,
    settings: Mutex<Option<Tiering>>,
    is_uploaded: AtomicBool,
    is_reachable: AtomicBool,
    is_wished: AtomicBool,
    is_background_due: AtomicBool,
    is_brought: AtomicBool,
}

impl Desk {
    /// The settings as they are now. `true`: they are others than before.
    pub(crate) fn set_settings(&self, new: &Tiering) -> bool {
        let mut settings = self.settings.lock().expect(LOCK);
        if settings.as_ref() == Some(new) {
            return false;
        }
        // What programs have used of their budgets is kept unless their rules change.
        if settings.as_ref().is_none_or(|old| old.programs != new.programs) {
            self.book.set_programs(wants::programs(&new.programs));
        }
        *settings = Some(new.clone());
        self.wish();
        true
    }

    /// Whether the endpoint is to tier.
    pub(crate) fn is_enabled(&self) -> bool {
        self.settings.lock().expect(LOCK).as_ref().is_some_and(|settings| settings.enabled)
    }

    /// What the endpoint wants now.
    pub(crate) fn wants(&self) -> Endpoint {
        let settings = self.settings.lock().expect(LOCK);
        wants::endpoint(&settings.clone().unwrap_or_default(), self.is_uploaded.load(Ordering::Relaxed))
    }

    /// Everything that was here at the beginning is in the share. It stays so: later uploads do not make room wait.
    pub(crate) fn uploaded(&self) {
        self.is_uploaded.store(true, Ordering::Relaxed);
    }

    /// Whether the share can be asked. Once it can again, nothing is left alone that failed meanwhile: a volume may have filled.
    pub(crate) fn set_reachable(&self, is_reachable: bool) {
        if !self.is_reachable.swap(is_reachable, Ordering::Relaxed) && is_reachable {
            self.refusals.lock().expect(LOCK).forget_failures();
            self.wish();
        }
    }

    /// Whether what came as names alone is to be fetched in the background.
    pub(crate) fn set_background(&self, is_due: bool) {
        self.is_background_due.store(is_due, Ordering::Relaxed);
    }

    /// Whether it still is.
    pub(crate) fn is_background_due(&self) -> bool {
        self.is_background_due.load(Ordering::Relaxed)
    }

    /// It is over: all is here, or there is no more room.
    pub(crate) fn brought(&self) {
        self.set_background(false);
        self.is_brought.store(true, Ordering::Relaxed);
    }

    /// Whether it has come to its end since the last call.
    pub(crate) fn take_brought(&self) -> bool {
        self.is_brought.swap(false, Ordering::Relaxed)
    }

    /// Somebody wants a look now.
    pub(crate) fn wish(&self) {
        self.is_wished.store(true, Ordering::Relaxed);
    }

    /// Whether somebody wanted a look since the last call.
    pub(crate) fn take_wish(&self) -> bool {
        self.is_wished.swap(false, Ordering::Relaxed)
    }

    /// A look is over.
    pub(crate) fn looked(&self, looked: Looked) {
        *self.looked.lock().expect(LOCK) = Some(Arc::new(looked));
    }

    /// What the last look found; none before the first.
    pub(crate) fn last_look(&self) -> Option<Arc<Looked>> {
        self.looked.lock().expect(LOCK).clone()
    }
}
