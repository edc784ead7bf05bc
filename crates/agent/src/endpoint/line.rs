//! The applies of a lane that no thread has begun. What somebody waits for goes ahead of the others.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use polder_engine::Apply;

use super::LOCK;

/// Who puts applies in line; its end ends the line once that is empty.
#[derive(Debug)]
pub(crate) struct Line(Waiting);

/// Who takes them out.
#[derive(Debug, Clone)]
pub(crate) struct Waiting(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    applies: VecDeque<Apply>,
    /// How many of them, from the first on, are urgent.
    urgent: usize,
    ended: bool,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self(Waiting(Arc::default()))
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.0.clone()
    }

    pub(crate) fn push(&self, apply: Apply) {
        let (state, more) = &*self.0.0;
        let mut state = state.lock().expect(LOCK);
        if apply.urgent {
            let at = state.urgent;
            state.applies.insert(at, apply);
            state.urgent += 1;
        } else {
            state.applies.push_back(apply);
        }
        more.notify_one();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let (state, more) = &*self.0.0;
        // A thread that has panicked with the lock does not keep the others from ending.
        state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).ended = true;
        more.notify_all();
    }
}

impl Waiting {
    /// The next one; waits for it. `None`: there will be none any more.
    pub(crate) fn next(&self) -> Option<Apply> {
        let (state, more) = &*self.0;
        let mut state = state.lock().expect(LOCK);
        loop {
            if let Some(apply) = state.applies.pop_front() {
                state.urgent = state.urgent.saturating_sub(1);
                return Some(apply);
            }
            if state.ended {
                return None;
            }
            state = more.wait(state).expect(LOCK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polder_engine::{JobId, Lane};

    fn apply(number: u64, urgent: bool) -> Apply {
        Apply { job: JobId(number), steps: Vec::new(), dir_times: Vec::new(), lane: Lane::Small, urgent }
    }

    #[test]
    fn the_urgent_go_first_and_all_in_the_order_they_came() {
        let line = Line::new();
        let waiting = line.waiting();
        for (number, urgent) in [(1, false), (2, true), (3, false), (4, true)] {
            line.push(apply(number, urgent));
        }
        let first: Vec<u64> = (0..3).map(|_| waiting.next().unwrap().job.0).collect();
        assert_eq!(first, [2, 4, 1]);
        line.push(apply(5, true));
        drop(line);
        let rest: Vec<u64> = std::iter::from_fn(|| waiting.next()).map(|apply| apply.job.0).collect();
        assert_eq!(rest, [5, 3]);
    }
}
