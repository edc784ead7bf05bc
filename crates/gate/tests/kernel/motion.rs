//! The real tree is changed beneath the mount, and the kernel is told of it later. Promise I1: what a program changes by a name is what it can see there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::Mounted;

impl Mounted {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| format!("{:?}", error.kind()))
    }

    fn read_real(&self, name: &str) -> String {
        fs::read_to_string(self.real(name)).unwrap_or_else(|error| format!("{:?}", error.kind()))
    }

    /// Puts other bytes under a name of the real tree, in one exchange, as sync does; what was there goes elsewhere.
    fn exchange_beneath(&self, name: &str, text: &str) {
        let staged = self.place().join("tree/.polder/staged");
        fs::create_dir_all(staged.parent().unwrap()).unwrap();
        fs::write(&staged, text).unwrap();
        renameat_with(CWD, &staged, CWD, self.real(name), RenameFlags::EXCHANGE).unwrap();
        fs::rename(&staged, self.place().join("tree/.polder/displaced")).unwrap();
    }

    /// Runs `change` beneath the mount while names are in motion, `meanwhile` before the kernel is told.
    fn in_motion(&self, names: &str, change: impl FnOnce(), meanwhile: impl FnOnce()) {
        let (told, answer) = (self.place().join("motion"), self.place().join("in-motion"));
        fs::write(self.place().join("motion.new"), names).unwrap();
        fs::rename(self.place().join("motion.new"), &told).unwrap();
        self.wait_for(|| answer.exists());
        change();
        meanwhile();
        fs::remove_file(&told).unwrap();
        self.wait_for(|| !answer.exists());
    }

    fn exchange(&self, one: &str, other: &str) {
        renameat_with(CWD, self.path(one), CWD, self.path(other), RenameFlags::EXCHANGE).unwrap();
    }
}

#[test]
fn i1_what_is_renamed_is_what_is_shown() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.path("f"), "old").unwrap();
    fs::write(mounted.path("mine"), "mine").unwrap();
    assert_eq!(mounted.read("f"), "old");
    let change = || mounted.exchange_beneath("f", "from elsewhere");
    // An office program's save: the old file is kept under another name.
    mounted.in_motion("f", change, || mounted.exchange("f", "mine"));
    assert_eq!((mounted.read_real("f"), mounted.read_real("mine")), ("mine".into(), "from elsewhere".into()));
    assert_eq!((mounted.read("f"), mounted.read("mine")), ("mine".into(), "from elsewhere".into()));

    let change = || mounted.exchange_beneath("f", "from elsewhere again");
    mounted.in_motion("f", change, || fs::rename(mounted.path("f"), mounted.path("f.bak")).unwrap());
    assert_eq!(mounted.read("f.bak"), "from elsewhere again");
    assert_eq!(mounted.read("f"), "NotFound");

    let change = || mounted.exchange_beneath("f.bak", "and again");
    mounted
        .in_motion("f.bak", change, || fs::hard_link(mounted.path("f.bak"), mounted.path("link")).unwrap());
    let (link, real) =
        (fs::metadata(mounted.path("link")).unwrap(), fs::metadata(mounted.real("link")).unwrap());
    assert_eq!(link.ino(), real.ino(), "a link is to a file, whatever its name is by now");
}

#[test]
fn what_is_gone_beneath_is_not_found_and_what_came_is() {
    let Some(mounted) = Mounted::new() else { return };
    for name in ["gone", "moved", "d"] {
        assert_eq!(mounted.read(name), "NotFound");
    }
    fs::write(mounted.path("gone"), "").unwrap();
    fs::write(mounted.path("moved"), "moved").unwrap();
    assert_eq!(mounted.read("elsewhere"), "NotFound");
    let change = || {
        fs::remove_file(mounted.real("gone")).unwrap();
        fs::rename(mounted.real("moved"), mounted.real("elsewhere")).unwrap();
        fs::create_dir(mounted.real("d")).unwrap();
    };
    let meanwhile = || {
        let kind = |done: std::io::Result<()>| done.map_err(|error| error.kind());
        assert_eq!(kind(fs::remove_file(mounted.path("gone"))), Err(std::io::ErrorKind::NotFound));
        let renamed = fs::rename(mounted.path("moved"), mounted.path("x"));
        assert_eq!(kind(renamed), Err(std::io::ErrorKind::NotFound));
        assert_eq!(kind(fs::create_dir(mounted.path("d"))), Err(std::io::ErrorKind::AlreadyExists));
        fs::OpenOptions::new().append(true).create(true).open(mounted.path("elsewhere")).unwrap();
        fs::remove_dir(mounted.path("d")).unwrap();
    };
    mounted.in_motion("gone\nmoved\nelsewhere\nd", change, meanwhile);
    assert_eq!((mounted.read("elsewhere"), mounted.read("d")), ("moved".into(), "NotFound".into()));
}

/// A program saves all the time, and keeps what was there; files come from elsewhere all the time, and the kernel is told of that name alone. After
/// each of them the mount shows what is there.
#[test]
fn names_that_change_from_both_sides_end_as_they_are() {
    let Some(mounted) = Mounted::new() else { return };
    for name in ["saved", "kept"] {
        fs::write(mounted.path(name), "first").unwrap();
    }
    let staged = mounted.place().join("staged");
    fs::create_dir(&staged).unwrap();
    let (is_done, saves, turn) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(()));
    let save = || {
        let (one, other) = (mounted.path("saved"), mounted.path("kept"));
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Ok(()) => saves.fetch_add(1, Ordering::Relaxed),
            // Twice in one call: the kernel looks anew once.
            Err(errno) => {
                assert_eq!(errno, rustix::io::Errno::STALE);
                0
            }
        }
    };
    std::thread::scope(|scope| {
        let program = scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let turn = turn.lock().unwrap();
                save();
                drop(turn);
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        for round in 0..100 {
            fs::write(staged.join("saved"), format!("{round}")).unwrap();
            let before = saves.load(Ordering::Relaxed);
            mounted.in_motion("saved", || (), || mounted.wait_for(|| saves.load(Ordering::Relaxed) > before));
            // It stays a file, so that the kernel may go on showing it.
            fs::rename(staged.join("saved"), staged.join(format!("{round}"))).unwrap();
            let _turn = turn.lock().unwrap();
            for name in ["saved", "kept"] {
                let inode = |path| fs::metadata(path).unwrap().ino();
                assert_eq!(inode(mounted.path(name)), inode(mounted.real(name)), "{name} in round {round}");
                assert_eq!(mounted.read(name), mounted.read_real(name));
            }
        }
        is_done.store(true, Ordering::Relaxed);
        program.join().unwrap();
    });
}

/// What a worker changed and told nobody of, because it died, is looked up again: at once from Linux 6.16 on.
#[test]
fn what_was_changed_before_a_death_is_seen_after_it() {
    let Some(mounted) = Mounted::new() else { return };
    fs::write(mounted.path("f"), "old").unwrap();
    assert_eq!((mounted.read("f"), mounted.read("new")), ("old".into(), "NotFound".into()));
    let before = mounted.workers().len();
    mounted.exchange_beneath("f", "from elsewhere");
    fs::write(mounted.real("new"), "new").unwrap();
    mounted.kill_worker();
    mounted.wait_for(|| mounted.workers().len() > before && mounted.is_served());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(16)) {
        println!("SKIPPED: Linux {release} keeps names over a worker's death");
        return;
    }
    assert_eq!((mounted.read("f"), mounted.read("new")), ("from elsewhere".into(), "new".into()));
}
