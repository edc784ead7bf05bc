//! Whether somebody still looks at the tree past the gate. Until nobody does, no placeholder is made: they would read zeros.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Inner, LOCK, TieredError, looks};
use crate::endpoint::spawn_thread;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
enum State {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    Watched(Box<str>),
    Free,
}

/// What is known of those who look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    told: Condvar,
}

impl Watch {
    /// Fails with the list of who looks. Waits for the first look.
    pub(super) fn ensure_free(&self) -> Result<(), TieredError> {
        let state = self.state.lock().expect(LOCK);
        let state = self.told.wait_while(state, |state| matches!(state, State::Unknown)).expect(LOCK);
        match &*state {
            State::Watched(who) => Err(TieredError::Watched(who.clone())),
            State::Unknown | State::Free => Ok(()),
        }
    }

    /// Who looks, as far as it is known.
    pub(super) fn who(&self) -> Option<Box<str>> {
        match &*self.state.lock().expect(LOCK) {
            State::Watched(who) => Some(who.clone()),
            State::Unknown | State::Free => None,
        }
    }

    fn set(&self, state: State) {
        *self.state.lock().expect(LOCK) = state;
        self.told.notify_all();
    }
}

/// Looks until nobody looks any more. At every start: who came while no gate was mounted, or before the tree was moved, is still there.
pub(super) fn begin(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    drop(spawn_thread("looks", move || {
        while let Some(inner) = weak.upgrade() {
            if inner.queue.is_ended() {
                return;
            }
            let who = looks::ensure_nobody_looks_below(&inner.point);
            match who {
                Ok(()) => return inner.watch.set(State::Free),
                Err(error) => {
                    let who: Box<str> = crate::status::sentence(error.chain()).into();
                    if inner.watch.who().as_ref() != Some(&who) {
                        tracing::warn!(who = %who, "nothing is tiered yet");
                    }
                    inner.watch.set(State::Watched(who));
                }
            }
            drop(inner);
            std::thread::sleep(LOOK_EVERY);
        }
    }));
}
