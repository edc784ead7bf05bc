use std::io::Write;
use std::path::{Path, PathBuf};

use polder_chunk::ShareKeys;
use polder_replica::{Act, AttrPolicy, Batch, DirAt, Place, Root, Step, StepResult};
use polder_sync::Filter;
use polder_types::{EndpointId, Name, NodeUid, RelPath, ShareId};

use super::*;

const DAY: i64 = 24 * 3600;

/// An endpoint whose files are removed into the recycle area.
struct Area {
    disk: Arc<Disk>,
    share: Share,
    unknown: Unknown,
    path: PathBuf,
    now: i64,
    _dir: tempfile::TempDir,
}

impl Area {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("share");
        std::fs::create_dir(&path).unwrap();
        let root = Arc::new(Root::adopt(&path, EndpointId([7; 16]), &[]).unwrap());
        let disk =
            Disk::new(root, AttrPolicy::default(), Arc::new(Filter::defaults()), "site-a", None).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let share = Share::new(ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32]));
        Self { disk: Arc::new(disk), share, unknown: Unknown::new(), path, now, _dir: dir }
    }

    fn displace(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path.join(name), bytes).unwrap();
        self.remove(name, Kind::File);
    }

    fn remove(&self, name: &str, kind: Kind) {
        let name = Name::parse(name.as_bytes()).unwrap();
        let at = DirAt { path: RelPath::root(), ident: None };
        let mut hands = self.disk.hands();
        let found = hands
            .walk(|walker, attributes| {
                polder_replica::look(walker, attributes, &at, std::slice::from_ref(&name))
            })
            .unwrap();
        let [polder_replica::Look::Found(found)] = &found[..] else { panic!("{found:?}") };
        let dir = hands.walk(|walker, _| walker.dir(&at)).unwrap().ident;
        let dir = Arc::new(DirAt { path: RelPath::root(), ident: Some(dir) });
        let act = Act::Remove { at: Place { dir, name }, kind, expect: found.seen.stamp };
        let steps = vec![Step { uid: NodeUid([9; 16]), act, after: Vec::new() }];
        let filter = self.disk.filter();
        let batch = Batch { steps, dir_times: Vec::new(), server: "site-a", filter: &filter };
        let done = polder_replica::apply(&self.disk.root, &self.disk.recycle, &mut hands.attributes, batch);
        assert!(matches!(done.steps[..], [StepResult::Done { .. }]), "{:?}", done.steps);
    }

    /// A round so many days from now; how often somebody was asked.
    fn round(&mut self, days: i64, answer: Option<bool>) -> u32 {
        let mut asked = 0;
        let now = self.now + days * DAY + 3600;
        round(&self.disk, &self.share, now, &mut self.unknown, &mut |ids| {
            assert!(!ids.is_empty());
            asked += 1;
            answer
        })
        .unwrap();
        asked
    }

    fn folder(&self) -> PathBuf {
        self.path.join(".polder/recycle")
    }

    fn count(&self) -> usize {
        std::fs::read_dir(self.folder()).unwrap().count()
    }

    fn bytes(&self) -> u64 {
        self.disk.recycled_bytes.load(Ordering::Relaxed)
    }
}

fn only_entry(folder: &Path) -> PathBuf {
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn known_content_leaves_after_a_week_and_not_before() {
    let mut area = Area::new();
    area.displace("f", b"old content");
    std::os::unix::fs::symlink("target", area.path.join("link")).unwrap();
    area.remove("link", Kind::Symlink);
    assert_eq!(area.round(6, Some(true)), 0);
    assert_eq!((area.count(), area.bytes()), (2, 11));
    assert_eq!(area.round(7, Some(true)), 1);
    assert_eq!((area.count(), area.bytes()), (0, 0));
}

#[test]
fn regression_of_a_folder_that_is_to_go_known_content_goes_at_once_and_nothing_else() {
    let area = Area::new();
    let let_go = |answer| let_go_of_all(&area.disk.recycle, &area.share, &mut |_| answer).unwrap();
    area.displace("f", b"old content");
    area.displace("empty", b"");
    std::os::unix::fs::symlink("target", area.path.join("link")).unwrap();
    area.remove("link", Kind::Symlink);
    let_go(None);
    assert_eq!(area.count(), 1, "whoever has no bytes needs nobody's word");
    let_go(Some(false));
    let open = std::fs::File::open(only_entry(&area.folder())).unwrap();
    let_go(Some(true));
    assert_eq!(area.count(), 1, "somebody has it open");
    drop(open);
    let_go(Some(true));
    assert_eq!(area.count(), 0);
    std::fs::create_dir(area.path.join("dir")).unwrap();
    std::fs::write(area.path.join("dir/left out.tmp"), b"mine").unwrap();
    area.remove("dir", Kind::Directory);
    let_go(Some(true));
    assert_eq!(area.count(), 1, "what the share never got");
}

#[test]
fn unknown_content_stays_and_is_not_read_every_round() {
    let mut area = Area::new();
    area.displace("f", b"only copy");
    assert_eq!(area.round(8, Some(false)), 1);
    assert_eq!(area.round(8, Some(true)), 0);
    assert_eq!((area.count(), area.bytes()), (1, 9));
    // In the end it is read again: the share may have come to know it.
    let asked: u32 = (0..ROUNDS_UNTIL_READ_AGAIN).map(|_| area.round(8, Some(true))).sum();
    assert_eq!((asked, area.count()), (1, 0));
}

#[test]
fn nothing_leaves_while_nobody_can_be_asked() {
    let mut area = Area::new();
    area.displace("f", b"one");
    area.displace("g", b"two");
    assert_eq!(area.round(30, None), 1);
    assert_eq!(area.count(), 2);
    assert_eq!(area.round(30, Some(true)), 2);
    assert_eq!(area.count(), 0);
}

#[test]
fn what_somebody_writes_to_is_judged_by_its_new_bytes() {
    let mut area = Area::new();
    std::fs::write(area.path.join("f"), b"old").unwrap();
    let mut program = std::fs::File::options().append(true).open(area.path.join("f")).unwrap();
    area.remove("f", Kind::File);
    assert_eq!(area.round(8, Some(true)), 0);
    assert_eq!(area.count(), 1);
    program.write_all(b" and new").unwrap();
    drop(program);
    assert_eq!(area.round(8, Some(false)), 1);
    assert_eq!(std::fs::read(only_entry(&area.folder())).unwrap(), b"old and new");
}

#[test]
fn names_that_are_not_ours_stay() {
    let mut area = Area::new();
    std::fs::write(area.folder().join("a-note-of-somebody"), b"mine").unwrap();
    assert_eq!(area.round(400, Some(true)), 0);
    assert_eq!((area.count(), area.bytes()), (1, 4));
}

/// A file that finds no room makes known content leave at once; unknown content stays even then.
#[test]
fn want_of_room_comes_before_the_week() {
    let mut area = Area::new();
    area.displace("f", b"known");
    // Larger than any volume.
    assert!(area.disk.staging.file(1 << 61, 1 << 61).is_err());
    assert_eq!(area.round(0, Some(false)), 1);
    assert_eq!(area.count(), 1);
    area.unknown.clear();
    assert!(area.disk.staging.file(1 << 61, 1 << 61).is_err());
    assert_eq!(area.round(0, Some(true)), 1);
    assert_eq!(area.count(), 0);
    // Nobody is short any more.
    area.displace("g", b"later");
    assert_eq!(area.round(0, Some(true)), 0);
    assert_eq!(area.count(), 1);
}
