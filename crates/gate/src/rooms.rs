//! Two kinds of work that must not overlap, while any number of one kind may.
//!
//! A lock that is shared by one kind and exclusive for the other would have the second kind wait for itself. Here whoever comes when the other kind
//! waits lets it in first, so that neither is kept out for longer than one round of the other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Changes through the mount.
    Through = 0,
    /// Changes beneath it.
    Beneath = 1,
}

/// Who is in.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    state: Mutex<State>,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    inside: [u32; 2],
    waiting: [u32; 2],
    /// Whose turn it is when both wait.
    turn: usize,
}

impl State {
    fn may_enter(&self, room: usize) -> bool {
        let other = 1 - room;
        if self.inside[other] > 0 {
            return false;
        }
        // One that comes while the other kind waits would keep that out.
        self.waiting[other] == 0 || (self.inside[room] == 0 && self.turn == room)
    }
}

impl Rooms {
    /// Waits until nobody is in the other room, and stays in this one until what is answered is dropped. Must not be called by who is in a room.
    pub(crate) fn enter(&self, room: Room) -> Inside<'_> {
        let room = room as usize;
        let mut state = self.state();
        if !state.may_enter(room) {
            state.waiting[room] += 1;
            while !state.may_enter(room) {
                state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.waiting[room] -= 1;
        }
        state.inside[room] += 1;
        Inside { rooms: self, room }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody is in a room.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    rooms: &'a Rooms,
    room: usize,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.rooms.state();
        state.inside[self.room] -= 1;
        if state.inside[self.room] > 0 {
            return;
        }
        state.turn = 1 - self.room;
        if state.waiting != [0; 2] {
            self.rooms.emptied.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::thread;

    const ROUNDS: u64 = 20_000;

    #[test]
    fn the_two_kinds_never_overlap_and_both_come_to_their_end() {
        let rooms = Rooms::default();
        let inside = [AtomicI64::new(0), AtomicI64::new(0)];
        let (rooms, inside) = (&rooms, &inside);
        thread::scope(|scope| {
            for room in [Room::Through, Room::Beneath, Room::Through, Room::Beneath] {
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let _inside = rooms.enter(room);
                        inside[room as usize].fetch_add(1, SeqCst);
                        assert_eq!(inside[1 - room as usize].load(SeqCst), 0);
                        inside[room as usize].fetch_sub(1, SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn those_of_a_kind_are_in_together() {
        let rooms = Rooms::default();
        let first = rooms.enter(Room::Beneath);
        let (told, second) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _second = rooms.enter(Room::Beneath);
                told.send(()).unwrap();
            });
            // It does not wait for the first one's end.
            second.recv().unwrap();
        });
        drop(first);
    }

    #[test]
    fn who_waits_is_let_in_before_those_who_come_later() {
        let rooms = Rooms::default();
        let order = Mutex::new(Vec::new());
        let first = rooms.enter(Room::Beneath);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _inside = rooms.enter(Room::Through);
                order.lock().unwrap().push("through");
            });
            while rooms.state().waiting[Room::Through as usize] == 0 {
                thread::yield_now();
            }
            scope.spawn(|| {
                let _inside = rooms.enter(Room::Beneath);
                order.lock().unwrap().push("beneath");
            });
            while rooms.state().waiting[Room::Beneath as usize] == 0 {
                thread::yield_now();
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), ["through", "beneath"]);
    }
}
