//! Placeholders that no agent serves: told apart from everything else by their marks, made whole or left as they were.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Endpoint, Mounted};
use polder_replica::{
    AtPlace, FillError, FsError, GivenUp, MARK_XATTR, MarkedFile, Placeholder, Pledge, Root, RootError, Sink,
    Walker, at_place, each_marked, give_up, lay_out, note_share, noted_share, write_state_file,
};
use polder_types::{
    Body, ChunkId, Content, EndpointId, Extent, ExtentSource, NodeUid, RelPath, Seq, ShareId,
};

const NOTE_XATTR: &std::ffi::CStr = c"trusted.polder.content";

fn everywhere(test: impl Fn(&Endpoint)) {
    let _alone = common::alone();
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320)] {
        if let Some(mounted) = Mounted::new(kind, megabytes, &[]) {
            test(&Endpoint::new(mounted.path()));
        }
    }
}

/// No byte is zero, so that a hole is seen; but for a megabyte in the middle.
fn bytes() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..3 << 20).map(|at: usize| (at * 31 % 255) as u8 + 1).collect();
    bytes[1 << 20..2 << 20].fill(0);
    bytes
}

fn tiered(endpoint: &Endpoint, name: &str) -> Pledge {
    let stamp = endpoint.write(name, &bytes());
    let source = ExtentSource::Chunk { id: ChunkId([3; 32]), skip: 0 };
    let extent = Extent { len: stamp.size, source };
    let content = Content::File { size: stamp.size, body: Body::Inline(vec![extent]) };
    let pledge = Pledge::new(NodeUid([5; 16]), Seq(9), &content, stamp.mtime);
    let file = OpenOptions::new().read(true).write(true).open(endpoint.file(name)).unwrap();
    let given = give_up(&endpoint.root, &file, (&pledge, &content), &stamp, &mut |_| true).unwrap();
    assert_eq!(given, GivenUp::Done);
    pledge
}

fn at(root: &Root, path: &str) -> AtPlace {
    at_place(root, &mut Walker::new(root).unwrap(), &RelPath::parse(path.as_bytes()).unwrap()).unwrap()
}

fn placeholder(root: &Root, path: &str) -> Placeholder {
    match at(root, path) {
        AtPlace::Placeholder(found) => found,
        other => panic!("{other:?}"),
    }
}

fn marked(root: &Root) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    each_marked(root, &mut |file: MarkedFile| -> Result<(), FsError> {
        found.insert(file.path.to_string(), file.stands_for.is_some());
        Ok(())
    })
    .unwrap();
    found
}

/// The bytes, in pieces.
fn give(bytes: &[u8]) -> impl FnMut(Sink<'_>) -> Result<(), FsError> + '_ {
    move |sink| bytes.chunks(100_000).try_for_each(&mut *sink)
}

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let mut value = [0; 1024];
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    rustix::fs::getxattr(path.as_c_str(), name, &mut value).ok().map(|len| value[..len].to_vec())
}

fn copy_marks(from: &Path, to: &Path) {
    for name in [MARK_XATTR, NOTE_XATTR] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(to, name, &xattr(from, name).unwrap(), flags).unwrap();
    }
}

/// Scenario 53.
#[test]
fn nothing_else_is_taken_for_one() {
    everywhere(|endpoint| {
        let file = |name: &str| endpoint.file(name);
        for name in ["ours", "without a note", "damaged"] {
            tiered(endpoint, name);
        }
        endpoint.write("plain", b"bytes");
        std::fs::create_dir(file("dir")).unwrap();
        std::fs::rename(file("ours"), file("dir/moved")).unwrap();
        std::os::unix::fs::symlink("dir/moved", file("link")).unwrap();
        // Copies of it: with its marks, and in the place that it had.
        for name in ["copy", "ours"] {
            std::fs::copy(file("dir/moved"), file(name)).unwrap();
            copy_marks(&file("dir/moved"), &file(name));
        }
        rustix::fs::removexattr(file("without a note"), NOTE_XATTR).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(file("damaged"), MARK_XATTR, b"PlMk?", flags).unwrap();
        // A note of another content than the mark's.
        tiered(endpoint, "other note");
        rustix::fs::setxattr(file("other note"), NOTE_XATTR, &Content::Directory.encode(), flags).unwrap();

        let root = &endpoint.root;
        assert!(
            matches!(at(root, "dir/moved"), AtPlace::Placeholder(found) if found.pledge.node.0 == [5; 16])
        );
        for orphan in ["copy", "ours", "without a note", "damaged", "other note"] {
            assert!(matches!(at(root, orphan), AtPlace::Orphan), "{orphan}");
        }
        assert!(matches!(at(root, "plain"), AtPlace::Whole));
        for nothing in ["none", "none/below", "dir", "link", "", "plain/below"] {
            assert!(matches!(at(root, nothing), AtPlace::Gone), "{nothing}");
        }
        let orphans =
            ["copy", "ours", "without a note", "damaged", "other note"].map(|name| (name.to_owned(), false));
        let mut wanted = BTreeMap::from(orphans);
        wanted.insert("dir/moved".to_owned(), true);
        assert_eq!(marked(root), wanted);
    });
}

/// Scenario 57. Killed before every step: it is a placeholder still, or whole and right; and the same file, with its owner, mode and names.
#[test]
fn a_stop_at_each_step_of_making_it_whole() {
    everywhere(|endpoint| {
        let bytes = bytes();
        for steps in 0_usize.. {
            let name = format!("file {steps}");
            let pledge = tiered(endpoint, &name);
            std::fs::hard_link(endpoint.file(&name), endpoint.file("other name")).unwrap();
            std::os::unix::fs::chown(endpoint.file(&name), Some(7), Some(8)).unwrap();
            let inode = std::fs::metadata(endpoint.file(&name)).unwrap().ino();
            let mut left = steps;
            let made =
                placeholder(&endpoint.root, &name).make_whole(&endpoint.root, &mut give(&bytes), &mut |_| {
                    let goes_on = left > 0;
                    left = left.saturating_sub(1);
                    goes_on
                });
            if let AtPlace::Placeholder(again) = at(&endpoint.root, &name) {
                assert!(made.is_err(), "{steps}");
                assert_eq!(again.pledge, pledge);
                again.make_whole(&endpoint.root, &mut give(&bytes), &mut |_| true).unwrap();
            }
            assert!(matches!(at(&endpoint.root, &name), AtPlace::Whole), "{steps}");
            assert!(xattr(&endpoint.file(&name), MARK_XATTR).is_none());
            assert_eq!(std::fs::read(endpoint.file("other name")).unwrap(), bytes, "{steps}");
            let meta = std::fs::metadata(endpoint.file(&name)).unwrap();
            assert_eq!((meta.ino(), meta.uid(), meta.gid()), (inode, 7, 8));
            assert!(meta.blocks() * 512 <= 5 << 19, "the hole is a hole: {} blocks", meta.blocks());
            assert_eq!(endpoint.stamp(&name).mtime, pledge.mtime, "{steps}");
            std::fs::remove_file(endpoint.file("other name")).unwrap();
            std::fs::remove_file(endpoint.file(&name)).unwrap();
            if made.is_ok() {
                assert!(steps > 6, "{steps} steps");
                break;
            }
        }
    });
}

#[test]
fn what_is_not_right_leaves_it_a_placeholder() {
    everywhere(|endpoint| {
        let (root, bytes) = (&endpoint.root, bytes());
        let pledge = tiered(endpoint, "file");
        let fill = |given: &[u8]| placeholder(root, "file").make_whole(root, &mut give(given), &mut |_| true);
        let is_untouched = || {
            assert_eq!(placeholder(root, "file").pledge, pledge);
            let meta = std::fs::metadata(endpoint.file("file")).unwrap();
            // The marks may take a block of their own.
            assert!(
                meta.blocks() * 512 <= 8192 && meta.len() == bytes.len() as u64,
                "the room is given back"
            );
        };
        let short = fill(&bytes[1..]);
        assert!(matches!(short, Err(FillError::Length { .. })), "{short:?}");
        is_untouched();
        let long = fill(&[&bytes[..], b"1"].concat());
        assert!(matches!(long, Err(FillError::Length { .. })), "{long:?}");
        is_untouched();
        let failed = placeholder(root, "file").make_whole(root, &mut |_| Err("no bytes"), &mut |_| true);
        assert!(matches!(failed, Err(FillError::Source("no bytes"))), "{failed:?}");
        is_untouched();
        // Somebody has it open, before or from the middle on.
        let reader = std::fs::File::open(endpoint.file("file")).unwrap();
        let in_use = fill(&bytes);
        assert!(matches!(in_use, Err(FillError::InUse)), "{in_use:?}");
        drop(reader);
        let mut opener = None;
        let found = placeholder(root, "file");
        let in_use = found.make_whole::<Infallible>(
            root,
            &mut |sink| {
                let (path, flags) =
                    (endpoint.file("file"), rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK);
                opener = Some(rustix::fs::open(path, flags, rustix::fs::Mode::empty()));
                bytes.chunks(1 << 20).for_each(|piece| sink(piece).unwrap());
                Ok(())
            },
            &mut |_| true,
        );
        assert!(matches!(in_use, Err(FillError::InUse)), "{in_use:?}");
        drop((opener, found));
        is_untouched();
        fill(&bytes).unwrap();
        assert_eq!(endpoint.bytes("file").unwrap(), bytes);
    });
}

#[test]
fn a_state_file_is_the_old_one_or_the_new_one() {
    everywhere(|endpoint| {
        let path = endpoint.path.join(".polder/list");
        write_state_file(&endpoint.root, "list", &mut |out| out.write_all(b"old")).unwrap();
        let failed = write_state_file(&endpoint.root, "list", &mut |out| {
            out.write_all(b"new")?;
            Err(std::io::Error::other("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write_state_file(&endpoint.root, "list", &mut |out| out.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    });
}

/// An endpoint that is made again takes its placeholders up; one of another share would have names whose bytes nobody has.
#[test]
fn placeholders_are_of_one_share() {
    everywhere(|endpoint| {
        let (ours, other) = (ShareId([1; 16]), ShareId([2; 16]));
        let path = endpoint.path.clone();
        let old = common::ENDPOINT;
        let id = |number| EndpointId([number; 16]);
        tiered(endpoint, "file");
        // The endpoint of the test holds the root: another folder beside it.
        let folder = endpoint.outside();
        let plain = Root::adopt(&folder, old, &[]).unwrap();
        lay_out(&plain, &mut |_| true).unwrap();
        let root = plain.anew().unwrap();
        drop(plain);
        assert_eq!(noted_share(&root).unwrap(), None);
        note_share(&root, ours).unwrap();
        note_share(&root, ours).unwrap();
        assert_eq!(noted_share(&root).unwrap(), Some(ours));
        let nonce = root.identity().nonce;
        std::fs::rename(path.join("file"), folder.join(".polder/tree/file")).unwrap();
        drop(root);
        let refused = Root::take_over(&folder, id(8), old, other, false);
        assert!(matches!(refused, Err(RootError::OtherShare { .. })), "{refused:?}");
        for name in ["left-behind.jsonl", "state.db"] {
            std::fs::write(folder.join(".polder").join(name), name).unwrap();
        }
        let refused = Root::take_over(&folder, id(8), old, ours, true);
        assert!(matches!(refused, Err(RootError::Placeholders { .. })), "{refused:?}");
        let root = Root::take_over(&folder, id(8), old, ours, false).unwrap();
        assert_eq!(root.identity().nonce, nonce, "the marks are its own");
        assert!(!folder.join(".polder/left-behind.jsonl").exists(), "the list was the old endpoint's");
        assert!(folder.join(".polder/state.db").exists(), "it goes on where the old one was");
        drop(root);
        // Without a placeholder it is any folder.
        std::fs::remove_file(folder.join(".polder/tree/file")).unwrap();
        drop(Root::take_over(&folder, id(9), id(8), other, false).unwrap());
        assert!(!folder.join(".polder/state.db").exists(), "of another share nothing is known");
    });
}
