//! An endpoint in a folder of its own, and the file systems that tests run on.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polder_replica::{
    Act, AttrPolicy, Attributes, Batch, BatchResult, DirAt, Found, Look, Owners, Piece, Place, Read,
    ReadDone, ReadOptions, Recycle, Root, Staged, Staging, Step, StepResult, Walker, apply, look, read,
};
use polder_sync::Filter;
use polder_types::{Attrs, EndpointId, Name, NodeUid, RelPath, Stamp, Timestamp};

pub const ENDPOINT: EndpointId = EndpointId([7; 16]);

pub struct Endpoint {
    pub path: PathBuf,
    pub root: Arc<Root>,
    pub staging: Staging,
    pub recycle: Arc<Recycle>,
    pub policy: AttrPolicy,
    owners: Arc<Owners>,
    _dir: tempfile::TempDir,
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn uid(number: u8) -> NodeUid {
    NodeUid([number; 16])
}

impl Endpoint {
    /// A new endpoint below `base`.
    pub fn new(base: &Path) -> Self {
        let dir = tempfile::tempdir_in(base).unwrap();
        let path = dir.path().join("share");
        std::fs::create_dir(&path).unwrap();
        let root = Arc::new(Root::adopt(&path, ENDPOINT, &[]).unwrap());
        let staging = Staging::open(&root).unwrap();
        let recycle = Recycle::open(&root).unwrap();
        Self {
            path,
            root,
            staging,
            recycle,
            policy: AttrPolicy::default(),
            owners: Arc::default(),
            _dir: dir,
        }
    }

    /// A folder beside the share.
    pub fn outside(&self) -> PathBuf {
        let outside = self.path.parent().unwrap().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        outside
    }

    pub fn attributes(&self) -> Attributes {
        Attributes::new(self.policy, self.owners.clone()).with_marks_of(&self.root)
    }

    pub fn file(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    pub fn write(&self, path: &str, bytes: &[u8]) -> Stamp {
        std::fs::write(self.file(path), bytes).unwrap();
        self.stamp(path)
    }

    pub fn mkdir(&self, path: &str) {
        std::fs::create_dir(self.file(path)).unwrap();
    }

    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.file(path)).ok()
    }

    fn split(&self, path: &str) -> (RelPath, Name) {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let (dir, name) = path.split_last().unwrap();
        (dir, name.clone())
    }

    /// The directory at a path, with the identity that it has now.
    pub fn dir(&self, path: &RelPath) -> Arc<DirAt> {
        let mut walker = Walker::new(&self.root).unwrap();
        let ident = walker.path(path.names()).ok().map(|dir| dir.ident);
        Arc::new(DirAt { path: path.clone(), ident })
    }

    pub fn dir_at(&self, path: &str) -> Arc<DirAt> {
        self.dir(&RelPath::parse(path.as_bytes()).unwrap())
    }

    pub fn place(&self, path: &str) -> Place {
        let (dir, name) = self.split(path);
        Place { dir: self.dir(&dir), name }
    }

    pub fn look(&self, path: &str) -> Option<Found> {
        let (dir, name) = self.split(path);
        self.look_in(&DirAt { path: dir, ident: None }, &name)
    }

    pub fn look_in(&self, dir: &DirAt, name: &Name) -> Option<Found> {
        let mut walker = Walker::new(&self.root).unwrap();
        let mut looks = look(&mut walker, &mut self.attributes(), dir, std::slice::from_ref(name)).unwrap();
        match looks.pop().unwrap() {
            Look::Found(found) => Some(found),
            Look::Absent => None,
            other => panic!("{other:?}"),
        }
    }

    pub fn stamp(&self, path: &str) -> Stamp {
        self.look(path).unwrap_or_else(|| panic!("{path} is not there")).seen.stamp
    }

    /// What a placeholder stands for.
    pub fn stands_for(&self, path: &str) -> Option<polder_types::Content> {
        Some(self.look(path)?.stands_for?.content)
    }

    /// Reads a file that may refuse it.
    pub fn try_read(&self, path: &str) -> Result<Read, polder_replica::FsError> {
        let (dir, name) = self.split(path);
        let mut walker = Walker::new(&self.root)?;
        let at = DirAt { path: dir, ident: None };
        let mut attributes = self.attributes();
        read(&mut walker, &mut attributes, &at, &name, ReadOptions::default(), &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
    }

    /// Reads a file; what came of it, and its bytes with holes filled.
    pub fn read(&self, path: &str, options: ReadOptions<'_>) -> (Read, Vec<u8>) {
        let (dir, name) = self.split(path);
        let mut walker = Walker::new(&self.root).unwrap();
        let mut bytes = Vec::new();
        let outcome = read(
            &mut walker,
            &mut self.attributes(),
            &DirAt { path: dir, ident: None },
            &name,
            options,
            &mut |piece| {
                match piece {
                    Piece::Data(data) => bytes.extend_from_slice(data),
                    Piece::Hole(len) => bytes.resize(bytes.len() + len as usize, 0),
                }
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        (outcome, bytes)
    }

    pub fn read_whole(&self, path: &str) -> (ReadDone, Vec<u8>) {
        match self.read(path, ReadOptions::default()) {
            (Read::Whole(done), bytes) => (done, bytes),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// A file in staging, finished with mode 0644 and this time.
    pub fn staged(&self, bytes: &[u8]) -> Staged {
        let mut staged = self.staging.file(bytes.len() as u64, bytes.len() as u64).unwrap();
        staged.write_at(0, bytes).unwrap();
        staged.finish(&mut self.attributes(), &plain(0o644), MTIME).unwrap();
        staged
    }

    pub fn staged_dir(&self) -> Staged {
        let mut staged = self.staging.directory().unwrap();
        staged.finish(&mut self.attributes(), &plain(0o755), MTIME).unwrap();
        staged
    }

    pub fn apply(&self, steps: Vec<Step>) -> BatchResult {
        let filter = Filter::defaults();
        let batch = Batch { steps, dir_times: Vec::new(), server: "site-a", filter: &filter };
        apply(&self.root, &self.recycle, &mut self.attributes(), batch)
    }

    pub fn apply_one(&self, act: Act) -> StepResult {
        self.apply(vec![Step { uid: uid(1), act, after: Vec::new() }]).steps.pop().unwrap()
    }

    /// Contents of the recycle area.
    pub fn recycled(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        self.recycle
            .list(&mut |entry| {
                let path = self
                    .file(".polder/recycle")
                    .join(std::ffi::OsStr::from_bytes(entry.name.name().as_bytes()));
                all.push(std::fs::read(path).unwrap_or_default());
                ControlFlow::Continue(())
            })
            .unwrap();
        all.sort();
        all
    }

    /// Names in the root, `.polder` left out.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".polder");
        names.sort();
        names
    }
}

pub const MTIME: Timestamp = Timestamp { secs: 1_600_000_000, nanos: 123_456_789 };

pub fn plain(mode: u16) -> Attrs {
    Attrs { mode, ..Attrs::default() }
}

pub fn is_done(result: &StepResult) -> bool {
    matches!(result, StepResult::Done { .. })
}

pub fn done(result: StepResult) -> Option<Found> {
    match result {
        StepResult::Done { now, .. } => now,
        other => panic!("{other:?}"),
    }
}

/// One test at a time: what one starts (`mount` and the like) is, between its fork and its exec, a child that holds the other's locked
/// root and open files, so that these count as in use.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file system in an image, mounted until dropped.
pub struct Mounted {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Mounted {
    /// Makes a file system of `megabytes` and mounts it; `None`, loudly, where that is not possible.
    pub fn new(kind: &str, megabytes: u64, mkfs: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::create_dir(&path).unwrap();
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let quiet = match kind {
            "ext4" => "-F",
            "xfs" => "-q",
            _ => "-f",
        };
        let made = run(Command::new(format!("mkfs.{kind}")).arg(quiet).args(mkfs).arg(&image));
        if !made || !run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path)) {
            eprintln!("SKIPPED: cannot make and mount {kind} here (root and its tools are needed)");
            return None;
        }
        Some(Self { path, _dir: dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily only if something still holds it: a failed test must not leave mounts behind.
        let umount = |lazy: &[&str]| Command::new("umount").args(lazy).arg(&self.path).status();
        if !umount(&[]).is_ok_and(|status| status.success()) {
            let _ = umount(&["-l"]);
        }
    }
}

/// Waits until something holds, for five seconds at most.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 5, "waited too long for: {what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Processor time of this process, which others on the machine do not lengthen.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
