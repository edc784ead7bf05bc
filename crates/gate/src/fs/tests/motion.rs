//! Changes beneath the mount of which the kernel has not been told yet. Promise I1.

use super::*;

const RMDIR: u32 = 11;
const LINK: u32 = 13;
const RENAME: u32 = 45;

fn rename_in(flags: u64, names: &str) -> Vec<u8> {
    [words(&[1, flags]), names.as_bytes().to_vec()].concat()
}

fn moving(names: &[&str]) -> Vec<(Node, CString)> {
    names.iter().map(|name| (Node::ROOT, CString::new(*name).unwrap())).collect()
}

#[test]
fn i1_what_the_kernel_does_not_show_is_not_renamed() {
    let mut worker = Worker::new();
    worker.ports.put("f", Kind::Resident, b"old");
    worker.ports.put("other", Kind::Resident, b"");
    let names = moving(&["f"]);
    worker.fs.begin_motion(&names);
    let ports = worker.ports.clone();
    let new = worker.fs.alone(|| ports.put("f", Kind::Resident, b"new"));
    for (opcode, body) in [
        (UNLINK, b"f\0".to_vec()),
        (RMDIR, b"f\0".to_vec()),
        (RENAME, rename_in(0, "f\0g\0")),
        (RENAME, rename_in(0, "other\0f\0")),
        (RENAME, rename_in(2, "other\0f\0")),
        (CREATE, create_in(libc::O_CREAT, "f")),
    ] {
        assert_eq!(worker.get(opcode, 1, &body), error(Errno::STALE), "{opcode}");
    }
    assert_eq!(worker.ports.disk().changes, 0);
    // Others go on, and who has looked anew too.
    worker.get(UNLINK, 1, b"other\0").unwrap();
    worker.get(LOOKUP, 1, b"f\0").unwrap();
    worker.get(RENAME, 1, &rename_in(0, "f\0g\0")).unwrap();
    assert_eq!(worker.ports.disk().names[&(1, b"g".to_vec())], new);
    worker.fs.end_motion(&names);
    assert_eq!(worker.get(UNLINK, 1, b"f\0"), error(Errno::NOENT));
}

#[test]
fn what_was_changed_through_the_mount_is_known_to_the_kernel() {
    let mut worker = Worker::new();
    worker.ports.put("f", Kind::Resident, b"old");
    let node = worker.ports.put("g", Kind::Resident, b"");
    let names = moving(&["f", "new"]);
    worker.fs.begin_motion(&names);
    // Nothing was changed beneath: as ever, and the kernel learns of it by the answers.
    worker.get(RENAME, 1, &rename_in(0, "f\0new\0")).unwrap();
    worker.get(RENAME, 1, &rename_in(0, "new\0f\0")).unwrap();
    worker.get(UNLINK, 1, b"f\0").unwrap();
    worker.get(LINK, 1, &[words(&[node]), b"f\0".to_vec()].concat()).unwrap();
    worker.get(UNLINK, 1, b"f\0").unwrap();
    worker.fs.end_motion(&names);
}

#[test]
fn two_changes_of_one_name_end_apart() {
    let mut worker = Worker::new();
    worker.ports.put("f", Kind::Resident, b"old");
    let (first, second) = (moving(&["f"]), moving(&["f", "g"]));
    worker.fs.begin_motion(&first);
    worker.fs.begin_motion(&second);
    worker.ports.put("f", Kind::Resident, b"new");
    worker.fs.end_motion(&first);
    assert_eq!(worker.get(UNLINK, 1, b"f\0"), error(Errno::STALE));
    worker.fs.end_motion(&second);
    worker.get(UNLINK, 1, b"f\0").unwrap();
}

/// Refused now, the kernel would look up anew and remove what sync has put there since.
#[test]
fn what_a_dead_worker_has_done_is_answered_in_any_case() {
    let mut worker = Worker::new();
    worker.ports.put("f", Kind::Resident, b"old");
    let (answer, ..) = worker.ask(40, UNLINK, 1, b"f\0", true);
    assert_eq!(answer, Ok(()));
    worker.again();
    let names = moving(&["f"]);
    worker.fs.begin_motion(&names);
    worker.ports.put("f", Kind::Resident, b"new");
    let (answer, _, leaves) = worker.ask(40 | RESENT, UNLINK, 1, b"f\0", true);
    assert_eq!(answer, Ok(()));
    worker.fs.delivered(leaves, true);
    assert_eq!(worker.ports.disk().names.len(), 1, "the new file stands");
    worker.fs.end_motion(&names);
}

#[test]
fn a_listing_leaves_names_in_motion_to_a_look_up() {
    let mut worker = Worker::new();
    let node = worker.ports.put("f", Kind::Resident, b"old");
    let plus = |worker: &mut Worker| worker.get(44, 1, &read_in(0, 4096)).unwrap();
    let first = |listed: &[u8]| u64::from_ne_bytes(*listed.first_chunk().unwrap());
    assert_eq!(first(&plus(&mut worker)), node);
    let names = moving(&["f"]);
    worker.fs.begin_motion(&names);
    assert_eq!(first(&plus(&mut worker)), 0);
    worker.fs.end_motion(&names);
    assert_eq!(first(&plus(&mut worker)), node);
}
