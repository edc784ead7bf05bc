//! The same operations on the real file system and through the gate give the same results.

use crate::{Mounted, shell};

/// Prints what each operation gives. Run as root in an empty directory.
const PROGRAM: &str = include_str!("posix.py");

#[test]
fn the_gate_gives_what_the_real_file_system_gives() {
    compare(Mounted::new());
}

#[test]
fn so_it_does_without_passthrough() {
    compare(Mounted::without_passthrough());
}

fn compare(mounted: Option<Mounted>) {
    let Some(mounted) = mounted else { return };
    std::fs::write(mounted.place().join("posix.py"), PROGRAM).unwrap();
    let place = mounted.place();
    shell(place, "chmod 755 . tree mnt; mkdir -m 755 plain");
    let (good, raw) = shell(place, "cd plain && python3 ../posix.py");
    assert!(good, "{raw}");
    let (good, through) = shell(place, "cd mnt && python3 ../posix.py");
    assert!(good, "{through}");
    let differ: Vec<_> = raw.lines().zip(through.lines()).filter(|(raw, through)| raw != through).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(raw.lines().count(), through.lines().count());
    assert!(raw.lines().count() > 80, "{raw}");
}

#[test]
fn what_is_the_trees_own_is_hidden() {
    let Some(mounted) = Mounted::new() else { return };
    std::fs::create_dir(mounted.real(".polder")).unwrap();
    mounted.tiered("t", 5000);
    let script = "ls -a mnt | grep -c polder; cat mnt/.polder/x; mkdir mnt/.polder; mv mnt/t mnt/.polder; ls mnt/.polder;\
        getfattr -n trusted.polder mnt/t; setfattr -n trusted.polder -v x mnt/t; setfattr -x trusted.polder mnt/t; getfattr -d -m - mnt/t";
    let (_, said) = shell(mounted.place(), script);
    assert!(said.starts_with("0\n"), "{said}");
    assert!(!said.contains("trusted.polder="), "{said}");
    assert!(mounted.real("t").exists() && std::fs::read_dir(mounted.real(".polder")).unwrap().count() == 0);
    let (_, marked) = shell(mounted.place(), "getfattr -n trusted.polder tree/t");
    assert!(marked.contains("trusted.polder"), "the mark stands: {marked}");
    std::fs::create_dir_all(mounted.path("below/.polder")).unwrap();
    assert!(mounted.real("below/.polder").exists(), "below the root it is a name like others");
}

#[test]
fn a_large_directory_is_listed_once_each() {
    let Some(mounted) = Mounted::new() else { return };
    std::fs::create_dir(mounted.real("d")).unwrap();
    let names: std::collections::BTreeSet<String> =
        (0..5000).map(|n| format!("file-with-a-name-{n}")).collect();
    names.iter().for_each(|name| std::fs::write(mounted.real("d").join(name), b"").unwrap());
    for round in 0..3 {
        let listed: Vec<String> = std::fs::read_dir(mounted.path("d"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(listed.len(), names.len(), "round {round}");
        assert!(listed.into_iter().collect::<std::collections::BTreeSet<_>>() == names);
        mounted.kill_worker();
    }
}
