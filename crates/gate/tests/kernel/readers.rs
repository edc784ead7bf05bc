//! Every way of reading a tiered file gives its bytes; or, when they cannot be had, an error. Promises I2, 42, 47, 48.

use crate::support::store::content;
use crate::{Mounted, shell};

const SIZE: u64 = 1_000_003;

const PYTHON: &str = r#"
import os, sys, mmap, shutil, ctypes
how, src, dst = sys.argv[1:4]
def out():
    return open(dst, "wb")
size = os.stat(src).st_size
if how == "shutil":
    shutil.copyfile(src, dst)
elif how == "mmap":
    with open(src, "rb") as f, out() as o:
        o.write(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))
elif how == "mmap_shared_backwards":
    with open(src, "rb") as f, out() as o:
        m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        for at in range((size - 1) // 4096 * 4096, -1, -4096):
            o.seek(at); o.write(m[at:at + 4096])
elif how == "sendfile":
    with open(src, "rb") as f, out() as o:
        at = 0
        while (n := os.sendfile(o.fileno(), f.fileno(), at, 1 << 20)) > 0: at += n
elif how == "splice":
    r, w = os.pipe()
    with open(src, "rb") as f, out() as o:
        while (n := os.splice(f.fileno(), w, 65536)) > 0:
            while n > 0: n -= os.splice(r, o.fileno(), n)
elif how == "copy_file_range":
    with open(src, "rb") as f, out() as o:
        try:
            while os.copy_file_range(f.fileno(), o.fileno(), 1 << 20) > 0: pass
        except OSError as error:
            # To another kind of file system the kernel copies nothing by itself.
            if error.errno != 18: raise
            shutil.copyfileobj(f, o)
elif how == "direct":
    fd = os.open(src, os.O_RDONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 1 << 17)
    with out() as o:
        at = 0
        while (n := os.preadv(fd, [buf], at)) > 0:
            o.write(buf[:n]); at += n
elif how == "small_reads":
    fd = os.open(src, os.O_RDONLY)
    with out() as o:
        while b := os.read(fd, 777): o.write(b)
elif how == "seek_walk":
    fd = os.open(src, os.O_RDONLY)
    with out() as o:
        o.truncate(size)
        at = 0
        while at < size:
            try: data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError: break
            hole = os.lseek(fd, data, os.SEEK_HOLE)
            o.seek(data); o.write(os.pread(fd, hole - data, data))
            at = hole
else:
    sys.exit(3)
"#;

/// Readers as commands of a shell: `$1` is read, `$2` is written.
const COMMANDS: &[&str] = &[
    "cat $1 > $2",
    "dd if=$1 of=$2 bs=64k status=none",
    "dd if=$1 of=$2 bs=128k iflag=direct status=none",
    "cp $1 $2",
    "cp -a $1 $2",
    "cp --sparse=always $1 $2",
    "cp --reflink=auto $1 $2",
    "install -m 600 $1 $2",
    "tar -cf - -C $(dirname $1) $(basename $1) | tar -xOf - > $2",
    "tar --sparse -cf - -C $(dirname $1) $(basename $1) | tar -xOf - > $2",
    "rsync $1 $2",
    "rsync -S $1 $2",
    "head -c 10 $1 > $2; tail -c +11 $1 >> $2",
    "python3 read.py shutil $1 $2",
    "python3 read.py mmap $1 $2",
    "python3 read.py mmap_shared_backwards $1 $2",
    "python3 read.py sendfile $1 $2",
    "python3 read.py splice $1 $2",
    "python3 read.py copy_file_range $1 $2",
    "python3 read.py direct $1 $2",
    "python3 read.py small_reads $1 $2",
    "python3 read.py seek_walk $1 $2",
];

fn read_by(mounted: &Mounted, command: &str, from: &str, to: &str) -> (bool, String) {
    shell(mounted.place(), &format!("set -e; set -- {from} {to}; {command}"))
}

fn prepared() -> Option<Mounted> {
    let mounted = Mounted::new()?;
    std::fs::write(mounted.place().join("read.py"), PYTHON).unwrap();
    Some(mounted)
}

#[test]
fn i2_every_reader_gets_the_right_bytes() {
    let Some(mounted) = prepared() else { return };
    let expected = content(SIZE, SIZE);
    for (number, command) in COMMANDS.iter().enumerate() {
        // Outside of the mount, and into it.
        for to in [format!("out{number}"), format!("mnt/out{number}")] {
            let name = format!("t{number}{}", to.len());
            mounted.tiered(&name, SIZE);
            let (good, said) = read_by(&mounted, command, &format!("mnt/{name}"), &to);
            assert!(good, "{command}: {said}");
            assert!(std::fs::read(mounted.place().join(&to)).unwrap() == expected, "{command} to {to}");
        }
    }
    let (good, _) = read_by(&mounted, "cp --reflink=always $1 $2", "mnt/t00", "mnt/clone");
    assert!(!good, "a clone is refused, not made of zeros");
}

#[test]
fn i2_moved_to_another_file_system_or_executed() {
    let Some(mounted) = prepared() else { return };
    mounted.tiered("moved", SIZE);
    let (good, said) = shell(
        mounted.place(),
        "mv mnt/moved /dev/shm/gate-moved && cat /dev/shm/gate-moved > out; rm /dev/shm/gate-moved",
    );
    assert!(good, "{said}");
    assert_eq!(std::fs::read(mounted.place().join("out")).unwrap(), content(SIZE, SIZE));
    assert!(!mounted.real("moved").exists());
    std::fs::copy("/bin/true", mounted.path("program")).unwrap();
    assert!(shell(mounted.place(), "mnt/program").0);
}

/// Promise 48: bytes that are not the version's are never shown; 47: nor is anything when the store fails.
#[test]
fn i2_what_cannot_be_had_is_an_error() {
    let Some(mounted) = prepared() else { return };
    for fault in ["fail", "wrong"] {
        mounted.store(fault);
        for (number, command) in COMMANDS.iter().enumerate() {
            let name = format!("{fault}{number}");
            mounted.tiered(&name, SIZE);
            let (good, said) = read_by(&mounted, command, &format!("mnt/{name}"), "out");
            assert!(!good || command.starts_with("tar") || command.starts_with("head"), "{command}: {said}");
            let out = std::fs::read(mounted.place().join("out")).unwrap_or_default();
            let zeros = out.chunks(64).any(|chunk| chunk.len() == 64 && chunk.iter().all(|byte| *byte == 0));
            assert!(
                !zeros || command.starts_with("tar") || command.ends_with("seek_walk $1 $2"),
                "{command}"
            );
            let _ = std::fs::remove_file(mounted.place().join("out"));
        }
        mounted.store("ok");
        for number in 0..COMMANDS.len() {
            let name = format!("{fault}{number}");
            assert_eq!(
                std::fs::read(mounted.path(&name)).unwrap(),
                content(SIZE, SIZE),
                "afterwards all is there"
            );
        }
    }
}

/// Promise 47: a full disk is an error to the reader; the placeholder is intact.
#[test]
fn i2_a_full_disk_is_an_error() {
    let Some(mounted) = Mounted::small(8 << 20) else { return };
    std::fs::write(mounted.place().join("read.py"), PYTHON).unwrap();
    let size = 3 << 20;
    mounted.tiered("t", size);
    let (filled, _) = shell(mounted.place(), "head -c 20000000 /dev/zero > mnt/junk");
    assert!(!filled, "the volume is full");
    for command in ["cat $1 > $2", "cp $1 $2", "python3 read.py mmap $1 $2", "python3 read.py direct $1 $2"] {
        let (good, said) = read_by(&mounted, command, "mnt/t", "out");
        assert!(!good, "{command}: {said}");
        let out = std::fs::read(mounted.place().join("out")).unwrap_or_default();
        assert!(content(size, size).starts_with(&out), "{command}");
    }
    assert!(!shell(mounted.place(), "printf x >> mnt/t").0, "nor is it written to");
    std::fs::remove_file(mounted.path("junk")).unwrap();
    assert!(std::fs::read(mounted.path("t")).unwrap() == content(size, size));
}

/// A fill that was begun under a mark comes when the mark is gone: read-ahead goes on after its reader has, and others write. It must not
/// be written. (The store of these tests did, once: old bytes over new ones.)
#[test]
fn regression_a_late_fill_is_not_written() {
    use std::os::unix::fs::FileExt;
    let Some(mounted) = Mounted::new() else { return };
    let size = 500_000;
    mounted.tiered("t", size);
    mounted.store("late");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(mounted.path("t")).unwrap();
    // Some pages of the second block are read ahead; others of it are written.
    let ahead = std::num::NonZeroU64::new(32 << 10);
    rustix::fs::fadvise(&file, 128 << 10, ahead, rustix::fs::Advice::WillNeed).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    file.write_all_at(b"the user's", 200_000).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(800));
    let mut expected = content(size, size);
    expected[200_000..200_010].copy_from_slice(b"the user's");
    assert!(std::fs::read(mounted.real("t")).unwrap() == expected, "on the disk");
    drop(file);
    assert!(std::fs::read(mounted.path("t")).unwrap() == expected);
}

/// Promise 41, in small: many wait at once, for files of their own and for one; all are served, each range is fetched once.
#[test]
fn i2_many_readers_at_once() {
    let Some(mounted) = Mounted::new() else { return };
    const FILES: u64 = 150;
    mounted.store("delay 100");
    (0..FILES).for_each(|number| mounted.tiered(&format!("t{number}"), 150_000 + number));
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        for number in 0..FILES * 2 {
            let size = 150_000 + number % FILES;
            let path = mounted.path(&format!("t{}", number % FILES));
            scope.spawn(move || assert!(std::fs::read(path).unwrap() == content(size, size)));
        }
    });
    // One after the other they would take a minute.
    assert!(begin.elapsed() < std::time::Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// Promise 53: a copy of a placeholder is not one.
#[test]
fn i2_a_copy_of_a_placeholder_is_an_error() {
    let Some(mounted) = prepared() else { return };
    mounted.tiered("t", SIZE);
    let copy = "cp -a --sparse=always tree/t tree/copy && setfattr -n trusted.polder -v \"$(getfattr --only-values -n trusted.polder tree/t)\" tree/copy";
    let (good, said) = shell(mounted.place(), copy);
    assert!(good, "{said}");
    let error = std::fs::read(mounted.path("copy")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let (_, told) = shell(mounted.place(), "getfattr --only-values -n user.polder.residency mnt/copy");
    assert_eq!(told, "orphaned");
    assert_eq!(std::fs::read(mounted.path("t")).unwrap(), content(SIZE, SIZE));
}

/// Promises 43 to 46.
#[test]
fn writing_recalls_first_and_emptying_does_not() {
    let Some(mounted) = prepared() else { return };
    let expected = content(SIZE, SIZE);
    mounted.tiered("w", SIZE);
    mounted.tiered("a", SIZE);
    mounted.tiered("s", SIZE);
    mounted.tiered("e", SIZE);
    mounted.tiered("o", SIZE);
    mounted.store("fail");
    let fails = "dd if=/dev/zero of=mnt/w bs=1 seek=5 count=1 conv=notrunc status=none";
    assert!(!shell(mounted.place(), fails).0, "a failed recall is a failed write");
    assert!(!shell(mounted.place(), "truncate -s 10 mnt/s").0);
    // No bytes are needed for these.
    let free = "set -e; truncate -s 0 mnt/e; : > mnt/o; touch mnt/w; chmod 600 mnt/w; mv mnt/w mnt/w2; ln mnt/w2 mnt/w; rm mnt/w2;\
        setfattr -n user.x -v y mnt/w; stat mnt/w";
    let (good, said) = shell(mounted.place(), free);
    assert!(good, "{said}");
    assert_eq!(std::fs::read(mounted.path("e")).unwrap(), b"");
    assert_eq!(std::fs::read(mounted.path("o")).unwrap(), b"");
    mounted.store("ok");
    let writes = "set -e; printf x | dd of=mnt/w bs=1 seek=5 count=1 conv=notrunc status=none; printf yz >> mnt/a; truncate -s 10 mnt/s";
    let (good, said) = shell(mounted.place(), writes);
    assert!(good, "{said}");
    let mut written = expected.clone();
    written[5] = b'x';
    assert!(std::fs::read(mounted.path("w")).unwrap() == written);
    assert!(std::fs::read(mounted.real("w")).unwrap() == written, "on the disk too");
    assert!(std::fs::read(mounted.path("a")).unwrap() == [expected.as_slice(), b"yz"].concat());
    assert_eq!(std::fs::read(mounted.path("s")).unwrap(), expected[..10]);
}

/// The switch from tiered to resident while the file is open, and the way of later opens.
#[test]
fn a_file_becomes_resident_while_it_is_open() {
    use std::io::{Read, Seek, SeekFrom, Write};
    let Some(mounted) = prepared() else { return };
    let mut expected = content(SIZE, SIZE);
    mounted.tiered("t", SIZE);
    let mut early = std::fs::File::open(mounted.path("t")).unwrap();
    let mut half = vec![0; 500_000];
    early.read_exact(&mut half).unwrap();
    assert_eq!(half, expected[..500_000]);
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(mounted.path("t")).unwrap();
    writer.seek(SeekFrom::Start(600_000)).unwrap();
    writer.write_all(b"changed").unwrap();
    expected[600_000..600_007].copy_from_slice(b"changed");
    let mut rest = Vec::new();
    early.read_to_end(&mut rest).unwrap();
    assert!(rest == expected[500_000..], "the early reader sees the write");
    assert!(std::fs::read(mounted.path("t")).unwrap() == expected, "opened anew while the others are open");
    writer.sync_all().unwrap();
    drop((early, writer));
    assert!(std::fs::read(mounted.path("t")).unwrap() == expected);
    assert!(std::fs::read(mounted.real("t")).unwrap() == expected);
    let (_, told) = shell(mounted.place(), "getfattr --only-values -n user.polder.residency mnt/t");
    assert_eq!(told, "resident");
}

/// Row 2: the worker is killed all the time while each reader reads.
#[test]
fn i2_every_reader_gets_the_right_bytes_though_workers_die() {
    let Some(mounted) = prepared() else { return };
    let expected = content(SIZE, SIZE);
    mounted.store("delay 5");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(60));
                if mounted.is_served() {
                    mounted.kill_worker();
                }
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            for (number, command) in COMMANDS.iter().enumerate() {
                let name = format!("k{number}");
                mounted.tiered(&name, SIZE);
                let (good, said) = read_by(&mounted, command, &format!("mnt/{name}"), "out");
                // `tar` takes it for a change that the change time is another in the next worker.
                assert!(good || said.contains("file changed as we read it"), "{command}: {said}");
                assert!(std::fs::read(mounted.place().join("out")).unwrap() == expected, "{command}");
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(mounted.workers().len() > 10);
}
