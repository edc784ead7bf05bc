//! Presence on the file systems that tiering is for: a reader of the mark gets right bytes or "absent", never zeros.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::{fs::File, fs::OpenOptions, os::fd::OwnedFd};

use common::{Endpoint, Mounted};
use polder_replica::{
    GivenUp, Marked, Pledge, Presence, PresenceError, Span, SpanSource, Untested, discard, empty,
    ensure_tested, give_up, is_stamp_of_mark, marked, pledged_content, re_point, set_marked_mtime,
};
use polder_types::{Body, ChunkId, Content, Extent, ExtentSource, NodeUid, Seq, Stamp, Timestamp};
use proptest::prelude::*;

fn id(bytes: &[u8]) -> ChunkId {
    ChunkId(*blake3::hash(bytes).as_bytes())
}

fn is_chunk(wanted: &ChunkId, bytes: &[u8]) -> bool {
    *wanted == id(bytes)
}

/// No byte is zero, so that a hole is seen.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 255) as u8 + 1).collect()
}

/// Spans with borders inside of blocks; `lens` are repeated.
fn spans(bytes: &[u8], lens: &[usize]) -> Vec<Span> {
    let (mut start, mut out, mut turn) = (0, Vec::new(), 0);
    while start < bytes.len() {
        let len = lens[turn % lens.len()].min(bytes.len() - start);
        let source = SpanSource::Chunk(id(&bytes[start..start + len]));
        out.push(Span { start: start as u64, len: len as u64, source });
        (start, turn) = (start + len, turn + 1);
    }
    out
}

struct Case {
    endpoint: Endpoint,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    stamp: Stamp,
    pledge: Pledge,
    content: Content,
}

impl Case {
    fn new(base: &Path, len: usize, lens: &[usize]) -> Self {
        let endpoint = Endpoint::new(base);
        let bytes = content(len);
        let stamp = endpoint.write("file", &bytes);
        let spans = spans(&bytes, lens);
        let extent = Extent { len: len as u64, source: ExtentSource::Chunk { id: id(&bytes), skip: 0 } };
        let content = Content::File { size: len as u64, body: Body::Inline(vec![extent]) };
        let pledge = Pledge::new(NodeUid([5; 16]), Seq(9), &content, stamp.mtime);
        Self { endpoint, bytes, spans, stamp, pledge, content }
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.endpoint.file("file")).unwrap()
    }

    fn give_up(&self) -> GivenUp {
        give_up(&self.endpoint.root, self.open(), (&self.pledge, &self.content), &self.stamp, &mut |_| true)
            .unwrap()
    }

    fn begin(&self) -> Presence {
        let file = OwnedFd::from(self.open());
        Presence::begin(&self.endpoint.root, file, self.pledge, self.spans.clone()).unwrap().unwrap()
    }

    fn fill(&self, presence: &mut Presence, index: usize) {
        let Span { start, len, .. } = self.spans[index];
        let bytes = &self.bytes[start as usize..(start + len) as usize];
        presence.fill(index, bytes, is_chunk).unwrap().unwrap();
    }

    /// What a new life of the agent makes of the file: its bytes, or nothing until they are fetched.
    fn ensure_right(&self, doing: &str) {
        match marked(&self.endpoint.root, self.open()).unwrap() {
            Marked::No => {
                assert_eq!(self.endpoint.bytes("file").unwrap(), self.bytes, "unmarked after {doing}")
            }
            Marked::Ours(pledge) => {
                assert_eq!(pledge, self.pledge);
                let mut presence = self.begin();
                let mut out = vec![0; self.bytes.len()];
                assert!(!presence.read(0, &mut out).unwrap(), "present without proof after {doing}");
                (0..self.spans.len()).for_each(|index| self.fill(&mut presence, index));
                assert!(presence.read(0, &mut out).unwrap() && out == self.bytes);
                presence.settle(&self.endpoint.root, &mut |_| true).unwrap();
                assert_eq!(marked(&self.endpoint.root, self.open()).unwrap(), Marked::No);
                assert_eq!(self.endpoint.bytes("file").unwrap(), self.bytes);
            }
            other => panic!("{other:?} after {doing}"),
        }
        assert_eq!(self.endpoint.stamp("file").mtime, self.pledge.mtime, "after {doing}");
    }
}

/// Lets `n` steps through.
fn stop_after(n: usize) -> impl FnMut(&'static str) -> bool {
    let mut left = n;
    move |_| {
        let goes_on = left > 0;
        left = left.saturating_sub(1);
        goes_on
    }
}

fn everywhere(test: impl Fn(&Path)) {
    let _alone = common::alone();
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320)] {
        if let Some(mounted) = Mounted::new(kind, megabytes, &[]) {
            eprintln!("on {kind}");
            test(mounted.path());
        }
    }
}

const LENS: [usize; 4] = [100_000, 700, 33_333, 4096];

#[test]
fn bytes_leave_and_come_back() {
    everywhere(|base| {
        let case = Case::new(base, 1_000_003, &LENS);
        assert_eq!(case.give_up(), GivenUp::Done);
        let metadata = case.open().metadata().unwrap();
        assert!(metadata.blocks() <= 16, "{} blocks are left", metadata.blocks());
        assert_eq!(metadata.len(), case.bytes.len() as u64);
        assert_eq!(case.give_up(), GivenUp::Changed, "its stamp is another now");
        case.ensure_right("all");
    });
}

/// Takes all room of a volume.
fn fill(base: &Path) {
    let ballast = File::create(base.join("ballast")).unwrap();
    let mut at = 0;
    for size in [1 << 20, 4096, 1] {
        while let Ok(count) = ballast.write_at(&vec![1; size], at) {
            at += count as u64;
        }
    }
    ballast.sync_all().unwrap();
}

/// On a full ext4 there is no block for a mark, and without one nothing can leave: the reserve is for that.
#[test]
fn a_full_volume_lets_files_go() {
    everywhere(|base| {
        let case = Case::new(base, 1_000_003, &LENS);
        assert!(case.endpoint.root.keep_reserve().unwrap());
        fill(base);
        assert_eq!(case.give_up(), GivenUp::Done);
        case.ensure_right("a full volume");
    });
}

/// A placeholder takes the block of its mark and nothing else, wherever in a block its file ends.
#[test]
fn the_last_block_leaves_too() {
    everywhere(|base| {
        for len in [8 * 4096, 8 * 4096 + 1, 9 * 4096 - 1] {
            let case = Case::new(base, len, &[4096, 700]);
            assert_eq!(case.give_up(), GivenUp::Done);
            let metadata = case.open().metadata().unwrap();
            assert!(metadata.blocks() <= 8, "{} blocks of {len} bytes are left", metadata.blocks());
            assert_eq!(metadata.len(), len as u64);
            case.ensure_right("all");
        }
    });
}

/// Scenario 58: a stop before each single system call of giving up; then the file is looked at as after a restart.
#[test]
fn a_stop_at_each_step() {
    everywhere(|base| {
        let mut ended = 0;
        for stop in 0.. {
            let case = Case::new(base, 300_001, &LENS);
            let mut pace = stop_after(stop);
            let result = give_up(
                &case.endpoint.root,
                case.open(),
                (&case.pledge, &case.content),
                &case.stamp,
                &mut pace,
            );
            let mut at = match result {
                Ok(done) => format!("{done:?}"),
                Err(PresenceError::Ended(step)) => step.to_owned(),
                Err(error) => panic!("{error}"),
            };
            // The mtime of a file that was stopped before its times were restored is answered from the mark.
            if at == "restore the times" {
                at.push_str(", then filled");
            }
            ended += 1;
            case.ensure_right(&at);
            if at == "Done" {
                break;
            }
        }
        assert_eq!(ended, 7, "six steps and the whole");
    });
}

#[test]
fn a_stop_at_each_step_of_settling() {
    everywhere(|base| {
        let mut whole = false;
        for stop in 0..10 {
            let case = Case::new(base, 100_001, &LENS);
            assert_eq!(case.give_up(), GivenUp::Done);
            let mut presence = case.begin();
            (0..case.spans.len()).for_each(|index| case.fill(&mut presence, index));
            whole = presence.settle(&case.endpoint.root, &mut stop_after(stop)).is_ok();
            case.ensure_right("settling");
        }
        assert!(whole);
    });
}

/// Scenario 37, and of 38 that who has it open keeps it.
#[test]
fn who_uses_a_file_keeps_it() {
    everywhere(|base| {
        let case = Case::new(base, 50_000, &LENS);
        let reader = File::open(case.endpoint.file("file")).unwrap();
        assert_eq!(case.give_up(), GivenUp::InUse);
        drop(reader);
        case.open().write_at(b"x", 7).unwrap();
        assert_eq!(case.give_up(), GivenUp::Changed);
        assert_eq!(case.endpoint.bytes("file").unwrap()[7], b'x');
        assert_eq!(marked(&case.endpoint.root, case.open()).unwrap(), Marked::No);
    });
}

/// Scenario 58: what the file system calls data after a crash may be zeros; it proves nothing.
#[test]
fn seek_data_proves_nothing() {
    everywhere(|base| {
        let case = Case::new(base, 200_000, &LENS);
        assert_eq!(case.give_up(), GivenUp::Done);
        case.open().write_at(&[0; 8192], 0).unwrap();
        let data = rustix::fs::seek(case.open(), rustix::fs::SeekFrom::Data(0));
        assert_eq!(data, Ok(0), "the trap is laid");
        let presence = case.begin();
        assert!(!presence.read(0, &mut [0; 100]).unwrap());
        assert!(matches!(presence.settle(&case.endpoint.root, &mut |_| true), Err(PresenceError::NotWhole)));
        case.ensure_right("zeros that are data");
    });
}

/// Scenario 53.
#[test]
fn a_copy_is_not_a_placeholder() {
    everywhere(|base| {
        let case = Case::new(base, 50_000, &LENS);
        assert_eq!(case.give_up(), GivenUp::Done);
        let mut value = vec![0; 300];
        let path = case.endpoint.file("file");
        let len = rustix::fs::getxattr(&path, c"trusted.polder", &mut value).unwrap();
        let copy = case.endpoint.file("copy");
        std::fs::copy(&path, &copy).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&copy, c"trusted.polder", &value[..len], flags).unwrap();
        let of = |path: &Path| marked(&case.endpoint.root, File::open(path).unwrap()).unwrap();
        assert_eq!(of(&copy), Marked::Copy(case.pledge));
        assert_eq!(of(&path), Marked::Ours(case.pledge));
        rustix::fs::setxattr(&copy, c"trusted.polder", &value[..len - 1], flags).unwrap();
        assert_eq!(of(&copy), Marked::Damaged);
    });
}

/// Scenario 43.
#[test]
fn cut_to_nothing_at_each_step() {
    everywhere(|base| {
        for stop in 0..6 {
            let case = Case::new(base, 90_000, &LENS);
            assert_eq!(case.give_up(), GivenUp::Done);
            let done = empty(&case.endpoint.root, case.open(), &case.pledge, &mut stop_after(stop));
            assert_eq!(done.is_ok(), stop == 5);
            match marked(&case.endpoint.root, case.open()).unwrap() {
                Marked::No => assert_eq!(case.endpoint.bytes("file").unwrap(), b""),
                other => {
                    assert_eq!(other, Marked::Ours(case.pledge), "still the version, or empty");
                    case.ensure_right("a cut that was not told");
                }
            }
        }
    });
}

/// Scenarios 49 and 50. A remote edit: a new placeholder takes the place, and a reader of the old one goes on with the old version.
#[test]
fn a_remote_edit_re_points() {
    everywhere(|base| {
        let case = Case::new(base, 90_000, &LENS);
        assert_eq!(case.give_up(), GivenUp::Done);
        let mut old = case.begin();
        case.fill(&mut old, 0);
        let extent = Extent { len: 123_456, source: ExtentSource::Chunk { id: id(b"newer"), skip: 0 } };
        let content = Content::File { size: 123_456, body: Body::Inline(vec![extent]) };
        let newer = Pledge::new(case.pledge.node, Seq(10), &content, case.pledge.mtime);
        assert!(re_point(&case.endpoint.root, case.open(), (&newer, &case.content), &mut |_| true).is_err());
        let fresh = case.endpoint.file("fresh");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&fresh).unwrap();
        re_point(&case.endpoint.root, &file, (&newer, &content), &mut |_| true).unwrap();
        assert_eq!(pledged_content(&file, &newer).unwrap(), Some(content));
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let (cwd, path) = (rustix::fs::CWD, case.endpoint.file("file"));
        rustix::fs::renameat_with(cwd, &fresh, cwd, &path, flags).unwrap();
        assert_eq!(marked(&case.endpoint.root, case.open()).unwrap(), Marked::Ours(newer));
        assert_eq!(case.open().metadata().unwrap().len(), 123_456);
        let mut out = vec![0; 1000];
        assert!(old.read(0, &mut out).unwrap() && out == case.bytes[..1000]);
        discard(
            &case.endpoint.root,
            File::options().read(true).write(true).open(&fresh).unwrap(),
            &case.pledge,
            &mut |_| true,
        )
        .unwrap();
    });
}

/// Scenario 56. Tiering is not a change: a placeholder looks the same whatever is filled in, and never like a resident file; its bytes are nobody's.
#[test]
fn what_is_seen_of_a_placeholder() {
    everywhere(|base| {
        let case = Case::new(base, 90_000, &LENS);
        assert_eq!(case.give_up(), GivenUp::Done);
        let seen = case.endpoint.stamp("file");
        assert_eq!(
            (seen.ident, seen.size, seen.mtime),
            (case.stamp.ident, case.stamp.size, case.stamp.mtime)
        );
        assert!(is_stamp_of_mark(&seen) && !is_stamp_of_mark(&case.stamp));
        assert_eq!(case.endpoint.stands_for("file"), Some(case.content.clone()));
        let mut presence = case.begin();
        case.fill(&mut presence, 0);
        assert_eq!(case.endpoint.stamp("file"), seen, "a fill is no change");
        let refused = case.endpoint.try_read("file").unwrap_err();
        assert!(refused.doing.contains("mark"), "{refused}");
        let later = Timestamp { secs: 77, nanos: 5 };
        set_marked_mtime(case.open(), later).unwrap();
        assert_eq!(case.endpoint.stamp("file"), Stamp { mtime: later, ..seen });
        (0..case.spans.len()).for_each(|index| case.fill(&mut presence, index));
        presence.settle(&case.endpoint.root, &mut |_| true).unwrap();
        assert_eq!(case.endpoint.stamp("file").mtime, later, "the time that was set meanwhile");
        assert!(!is_stamp_of_mark(&case.endpoint.stamp("file")));
        // Its mark is gone: it does not come back.
        set_marked_mtime(case.open(), later).unwrap();
        assert_eq!(marked(&case.endpoint.root, case.open()).unwrap(), Marked::No);
        assert_eq!(case.endpoint.stands_for("file"), None);
    });
}

/// Scenario 48.
#[test]
fn wrong_bytes_never_become_present() {
    everywhere(|base| {
        let case = Case::new(base, 90_000, &LENS);
        assert_eq!(case.give_up(), GivenUp::Done);
        let mut presence = case.begin();
        let len = case.spans[0].len as usize;
        assert!(presence.fill(0, &vec![0; len], is_chunk).unwrap().is_err());
        assert!(presence.fill(0, &case.bytes[..len - 1], is_chunk).unwrap().is_err());
        assert!(!presence.is_at_hand(0));
    });
}

#[test]
fn untested_file_systems_are_refused() {
    let shm = File::open("/dev/shm").unwrap();
    assert!(matches!(ensure_tested(&shm), Err(Untested::Kind(_))));
    let _alone = common::alone();
    if let Some(mounted) = Mounted::new("ext4", 64, &[]) {
        assert_eq!(ensure_tested(File::open(mounted.path()).unwrap()), Ok(()));
        // "data=" cannot be changed by a remount: the super block's default can, and is shown then.
    }
}

/// Chunks of any lengths, holes between them, in any order: what is at hand is right, the rest is absent.
#[test]
fn any_order_of_filling() {
    let _alone = common::alone();
    let Some(mounted) = Mounted::new("ext4", 64, &[]) else { return };
    let strategy = (prop::collection::vec((1usize..9000, any::<bool>()), 1..30), any::<u64>());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let test = |(parts, seed): (Vec<(usize, bool)>, u64)| {
        let len = parts.iter().map(|(len, _)| len).sum();
        let mut case = Case::new(mounted.path(), len, &parts.iter().map(|(len, _)| *len).collect::<Vec<_>>());
        for (span, (_, is_hole)) in case.spans.iter_mut().zip(&parts) {
            if *is_hole {
                span.source = SpanSource::Hole;
                case.bytes[span.start as usize..(span.start + span.len) as usize].fill(0);
            }
        }
        prop_assert_eq!(case.give_up(), GivenUp::Done);
        // Rubbish of an earlier life everywhere.
        case.open().write_at(&vec![0xee; len], 0).unwrap();
        let mut presence = case.begin();
        let mut order: Vec<usize> = (0..parts.len()).filter(|index| !parts[*index].1).collect();
        order.sort_by_key(|index| seed.rotate_left(*index as u32).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for index in order {
            case.fill(&mut presence, index);
            for (other, span) in case.spans.iter().enumerate() {
                let mut out = vec![0; span.len as usize];
                let got = presence.read(span.start, &mut out).unwrap();
                prop_assert_eq!(got, presence.is_at_hand(other));
                let right = &case.bytes[span.start as usize..(span.start + span.len) as usize];
                prop_assert!(!got || out == right);
            }
        }
        prop_assert!(presence.is_whole());
        presence.settle(&case.endpoint.root, &mut |_| true).unwrap();
        prop_assert_eq!(case.endpoint.bytes("file").unwrap(), case.bytes);
        Ok(())
    };
    runner.run(&strategy, test).unwrap();
}
