use super::*;
use crate::rng::Rng;

fn name(text: &str) -> Name {
    text.parse().expect("a plain name")
}

fn disk() -> Disk {
    let mut disk = Disk::new(0, Times::Fine, false);
    disk.remember_durable();
    disk
}

/// What a power cut may leave of a disk, over many draws.
fn outcomes(disk: &Disk, look: impl Fn(&Disk) -> String) -> BTreeSet<String> {
    let outcome = |seed| {
        let mut disk = disk.clone();
        disk.power_cut(&mut Rng::new(seed, 0));
        look(&disk)
    };
    (0..400).map(outcome).collect()
}

fn names_and_bytes(disk: &Disk) -> String {
    let text = disk.everything().into_iter().map(|(path, ino)| match disk.token(ino) {
        Some(token) if is_zeros(token) => format!("{path}=zeros"),
        Some(token) => format!("{path}={token}"),
        None => path.to_string(),
    });
    text.collect::<Vec<_>>().join(" ")
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_rename_over_a_file_without_fsync_may_leave_zeros() {
    let mut disk = disk();
    disk.create(ROOT, &name("a"), Node::File(5), attrs(0o644)).unwrap();
    disk.sync_all();
    disk.create(ROOT, &name("t"), Node::File(6), attrs(0o644)).unwrap();
    disk.rename((ROOT, &name("t")), (ROOT, &name("a")));
    let found = outcomes(&disk, names_and_bytes);
    assert_eq!(found, set(&["a=5", "a=5 t=6", "a=5 t=zeros", "a=6", "a=zeros"]));
}

#[test]
fn what_was_fsynced_stays() {
    let mut disk = disk();
    let ino = disk.create(ROOT, &name("t"), Node::File(6), attrs(0o644)).unwrap();
    disk.fsync(ino);
    disk.rename((ROOT, &name("t")), (ROOT, &name("a")));
    assert_eq!(outcomes(&disk, names_and_bytes), set(&["", "t=6", "a=6"]));
    disk.fsync(ROOT);
    assert_eq!(outcomes(&disk, names_and_bytes), set(&["a=6"]));
}

#[test]
fn nothing_is_lost_that_was_moved_out_of_a_removed_directory() {
    let mut disk = disk();
    let dir = disk.create(ROOT, &name("d"), Node::Dir(BTreeMap::new()), attrs(0o755)).unwrap();
    disk.create(dir, &name("f"), Node::File(7), attrs(0o644)).unwrap();
    disk.sync_all();
    disk.rename((dir, &name("f")), (ROOT, &name("g")));
    disk.detach(ROOT, &name("d"));
    assert_eq!(outcomes(&disk, names_and_bytes), set(&["d d/f=7", "d g=7", "g=7"]));
}

#[test]
fn an_exchange_is_whole() {
    let mut disk = disk();
    disk.create(ROOT, &name("a"), Node::File(1), attrs(0o644)).unwrap();
    disk.create(ROOT, &name("b"), Node::File(2), attrs(0o644)).unwrap();
    disk.sync_all();
    disk.exchange((ROOT, &name("a")), (ROOT, &name("b")));
    assert_eq!(outcomes(&disk, names_and_bytes), set(&["a=1 b=2", "a=2 b=1"]));
}

#[test]
fn stores_to_a_mapping_move_the_time_once() {
    let mut disk = disk();
    let ino = disk.create(ROOT, &name("a"), Node::File(1), attrs(0o644)).unwrap();
    disk.hold_open(ino);
    let before = disk.stamp(ino);
    disk.store(ino, 2 + 4096).unwrap();
    let first = disk.stamp(ino);
    disk.store(ino, 2 + 8192).unwrap();
    assert!(before.mtime < first.mtime && disk.stamp(ino) == first);
    disk.fsync(ino);
    disk.store(ino, 2 + 12288).unwrap();
    assert!(first.mtime < disk.stamp(ino).mtime);
}

#[test]
fn an_open_file_lives_without_a_name() {
    let mut disk = disk();
    let ino = disk.create(ROOT, &name("a"), Node::File(1), attrs(0o644)).unwrap();
    disk.hold_open(ino);
    disk.detach(ROOT, &name("a"));
    disk.write(ino, None, 9).unwrap();
    assert_eq!(disk.token(ino), Some(9));
    disk.close(ino, None);
    assert!(disk.get(ino).is_none());
}

#[test]
fn a_full_disk_takes_nothing_more() {
    let mut disk = disk();
    disk.room = size_of(100) + 1;
    let ino = disk.create(ROOT, &name("a"), Node::File(100), attrs(0o644)).unwrap();
    assert!(disk.create(ROOT, &name("b"), Node::File(101), attrs(0o644)).is_err());
    assert!(disk.write(ino, None, 101).is_ok());
    disk.detach(ROOT, &name("a"));
    assert!(disk.create(ROOT, &name("b"), Node::File(101), attrs(0o644)).is_ok());
}
