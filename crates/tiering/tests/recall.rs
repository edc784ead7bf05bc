//! The queue of recalls against its promises.

use std::collections::BTreeSet;

use polder_tiering::{Asked, Cause, Fetch, Lane, PIECE_BYTES, Program, Reader, Recalls, Settled};
use polder_types::NodeUid;
use proptest::prelude::*;

const FILE: NodeUid = NodeUid([1; 16]);
const SIZE: u64 = 64 * PIECE_BYTES;

fn ask(recalls: &mut Recalls, reader: u64, lane: Lane, offset: u64, len: u64) -> Asked {
    recalls.ask(Reader(reader), lane, FILE, 9, (offset, len, SIZE), None, |_| false)
}

fn started(recalls: &mut Recalls) -> Vec<(Lane, u64)> {
    std::iter::from_fn(|| recalls.start_next()).map(|(lane, fetch)| (lane, fetch.piece)).collect()
}

#[test]
fn a_small_read_fetches_little() {
    let mut recalls = Recalls::new(16, 100);
    assert_eq!(ask(&mut recalls, 1, Lane::Access, SIZE / 2 + 5, 4096), Asked::Waits);
    assert_eq!(started(&mut recalls), [(Lane::Access, 32)]);
}

#[test]
fn readers_of_one_range_share_one_fetch() {
    let mut recalls = Recalls::new(16, 100_000);
    for reader in 0..10_000 {
        assert_eq!(ask(&mut recalls, reader, Lane::Access, 10, 10), Asked::Waits);
    }
    assert_eq!(started(&mut recalls).len(), 1);
    let settled = recalls.settle(Fetch { node: FILE, piece: 0 }, true);
    assert_eq!(settled.ready.len(), 10_000);
    assert_eq!(recalls.load(), (0, 0));
}

#[test]
fn readers_go_first_and_lift_what_waits() {
    let mut recalls = Recalls::new(6, 100);
    ask(&mut recalls, 1, Lane::Background, 0, 8 * PIECE_BYTES);
    assert_eq!(
        started(&mut recalls),
        [(Lane::Background, 0), (Lane::Background, 1)],
        "four places are kept free"
    );
    ask(&mut recalls, 2, Lane::Access, 7 * PIECE_BYTES, 1);
    assert_eq!(started(&mut recalls), [(Lane::Access, 7)]);
}

#[test]
fn reading_on_reads_ahead() {
    let mut recalls = Recalls::new(64, 100);
    let mut ahead = 0;
    for step in 0..6 {
        ask(&mut recalls, step, Lane::Access, step * PIECE_BYTES, PIECE_BYTES);
        let begun = started(&mut recalls);
        ahead += begun.iter().filter(|(lane, _)| *lane == Lane::Ahead).count();
        begun.iter().for_each(|(_, piece)| drop(recalls.settle(Fetch { node: FILE, piece: *piece }, true)));
    }
    assert!(ahead > 4, "{ahead}");
}

/// The kernel reads 128 KiB at a time, and is seen only where something is missing.
#[test]
fn small_reads_that_go_on_read_ahead() {
    const READ: u64 = 128 << 10;
    let mut recalls = Recalls::new(64, 10_000);
    let (mut here, mut waits) = (BTreeSet::new(), 0);
    for read in 0..SIZE / READ {
        let range = (read * READ, READ, SIZE);
        if here.contains(&(range.0 / PIECE_BYTES)) {
            continue;
        }
        waits += 1;
        let is_here = |piece| here.contains(&piece);
        recalls.ask(Reader(read), Lane::Access, FILE, 9, range, None, is_here);
        while let Some((_, fetch)) = recalls.start_next() {
            recalls.settle(fetch, true);
            here.insert(fetch.piece);
        }
    }
    assert!(waits < 12, "{waits} waits for {} pieces", SIZE / PIECE_BYTES);
    // Reading here and there does not.
    let before = here.len();
    here.clear();
    for read in [40, 3, 22, 60] {
        recalls.ask(
            Reader(1000 + read),
            Lane::Access,
            FILE,
            8,
            (read * PIECE_BYTES, READ, SIZE),
            None,
            |_| false,
        );
    }
    while let Some((_, fetch)) = recalls.start_next() {
        here.insert(fetch.piece);
    }
    assert_eq!((before, here.len()), (64, 4));
}

#[test]
fn what_is_read_ahead_is_for_the_program_that_reads_on() {
    let mut recalls = Recalls::new(64, 100);
    let cause = |name: &[u8]| Cause { program: Program::new(name), user: 5 };
    let range = |piece| (piece * PIECE_BYTES, PIECE_BYTES, SIZE);
    recalls.ask(Reader(1), Lane::Command, FILE, 9, range(0), None, |_| false);
    recalls.ask(Reader(2), Lane::Access, FILE, 9, range(0), Some(&cause(b"cat")), |_| false);
    recalls.ask(Reader(3), Lane::Access, FILE, 9, range(1), Some(&cause(b"cat")), |_| false);
    recalls.ask(Reader(4), Lane::Access, FILE, 8, range(2), Some(&cause(b"dd")), |_| false);
    recalls.ask(Reader(5), Lane::Command, FILE, 7, range(3), None, |_| false);
    while recalls.start_next().is_some() {}
    let mut told = |piece| recalls.settle(Fetch { node: FILE, piece }, true).cause;
    assert_eq!(told(0), Some(cause(b"cat")), "a program waits for what a command began");
    assert_eq!(told(2), Some(cause(b"cat")), "read ahead for the first one");
    assert_eq!(told(3), None);
}

#[test]
fn failures_and_signals() {
    let mut recalls = Recalls::new(16, 2);
    ask(&mut recalls, 1, Lane::Access, 0, 2 * PIECE_BYTES);
    ask(&mut recalls, 2, Lane::Access, PIECE_BYTES, 1);
    assert_eq!(ask(&mut recalls, 3, Lane::Access, 9 * PIECE_BYTES, 1), Asked::Full);
    assert_eq!(started(&mut recalls).len(), 2);
    recalls.cancel(Reader(2));
    let settled = recalls.settle(Fetch { node: FILE, piece: 1 }, false);
    assert_eq!(settled, Settled { ready: vec![], failed: vec![Reader(1)], cause: None });
    assert_eq!(recalls.settle(Fetch { node: FILE, piece: 0 }, true), Settled::default());
    assert_eq!(recalls.load(), (0, 0));
    assert_eq!(
        ask(&mut recalls, 4, Lane::Access, PIECE_BYTES, 1),
        Asked::Waits,
        "asking again fetches again"
    );
    assert_eq!(started(&mut recalls), [(Lane::Access, 1)]);
}

proptest! {
    /// Everybody who waits is answered once; no piece is fetched twice at a time; places are never exceeded.
    #[test]
    fn everybody_is_answered(steps in prop::collection::vec((0u8..4, 0u64..64, 1u64..4, any::<bool>()), 1..120)) {
        let mut recalls = Recalls::new(7, 1000);
        let (mut running, mut waiting, mut reader) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (what, piece, len, good) in steps {
            match what {
                0 | 1 => {
                    reader += 1;
                    let lane = if what == 0 { Lane::Access } else { Lane::Command };
                    if ask(&mut recalls, reader, lane, piece * PIECE_BYTES, len * PIECE_BYTES) == Asked::Waits {
                        waiting.insert(Reader(reader));
                    }
                }
                2 => if let Some((_, fetch)) = recalls.start_next() {
                    prop_assert!(running.insert(fetch), "fetched twice at a time");
                    prop_assert!(running.len() <= 7);
                },
                _ => if let Some(fetch) = running.pop_first() {
                    let settled = recalls.settle(fetch, good);
                    for reader in settled.ready.iter().chain(&settled.failed) {
                        prop_assert!(waiting.remove(reader), "answered twice");
                    }
                },
            }
        }
        while !waiting.is_empty() {
            while let Some((_, fetch)) = recalls.start_next() {
                running.insert(fetch);
            }
            let Some(fetch) = running.pop_first() else { break };
            let settled = recalls.settle(fetch, true);
            settled.ready.iter().chain(&settled.failed).for_each(|reader| { waiting.remove(reader); });
        }
        prop_assert!(waiting.is_empty(), "left waiting: {waiting:?}");
        prop_assert_eq!(recalls.load().0, 0);
    }
}
