//! Copies to and from a share that is a map.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    sync::{Arc, Mutex},
};

use polder_api::rest::{decode_path, percent_decode, routes};
use polder_cli::Exit;

use crate::{
    fake::{Fake, Reply, Request},
    shell::Shell,
};

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Folder,
    File(Vec<u8>, String),
    Link(String),
}

/// A share of one level of truth: paths as they stand in URLs.
#[derive(Clone, Default)]
struct Share(Arc<Mutex<BTreeMap<Vec<u8>, Node>>>);

impl Share {
    fn answer(&self, request: &Request) -> Reply {
        let mut nodes = self.0.lock().expect("no test panics with it");
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let noun = path.split('/').nth(4).unwrap_or_default();
        let key =
            decode_path(routes::tail(routes::STAT, path).expect("long enough")).expect("legal").to_bytes();
        let name = serde_json::to_value(polder_api::rest::JsonBytes(key.clone())).expect("plain");
        let changed = format!(
            r#"{{"path":{name},"node":"{:032x}","version":2,"created":true,"size":{}}}"#,
            1,
            request.body.len()
        );
        match (request.method.as_str(), noun) {
            ("PUT", "content") => {
                let mtime = query.split('&').find_map(|part| part.strip_prefix("mtime=")).unwrap_or_default();
                let mtime = String::from_utf8(percent_decode(mtime).expect("encoded")).expect("text");
                nodes.insert(key, Node::File(request.body.clone(), mtime));
                Reply::json(201, &changed)
            }
            ("POST", "directories") => {
                nodes.insert(key, Node::Folder);
                Reply::json(201, &changed)
            }
            ("POST", "symlinks") => {
                let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
                nodes.insert(key, Node::Link(body["target"].as_str().expect("text").to_owned()));
                Reply::json(201, &changed)
            }
            ("GET", "content") => match nodes.get(&key) {
                Some(Node::File(bytes, _)) => Reply { status: 200, body: bytes.clone(), length: None },
                _ => Reply::problem(404, "not_found", "no such file"),
            },
            ("GET", "stat") => match nodes.get(&key) {
                _ if key.is_empty() => Reply::json(200, &stat(&key, &Node::Folder)),
                Some(node) => Reply::json(200, &stat(&key, node)),
                None => Reply::problem(404, "not_found", "no such path"),
            },
            ("GET", "entries") => {
                let prefix = if key.is_empty() { Vec::new() } else { [&key[..], b"/"].concat() };
                let inside = nodes.iter().filter_map(|(path, node)| {
                    let rest = path.strip_prefix(prefix.as_slice())?;
                    (!rest.is_empty() && !rest.contains(&b'/')).then(|| entry(rest, node))
                });
                Reply::json(200, &format!(r#"{{"items":[{}]}}"#, inside.collect::<Vec<_>>().join(",")))
            }
            other => Reply::problem(405, "method_not_allowed", &format!("{other:?}")),
        }
    }
}

fn entry(name: &[u8], node: &Node) -> String {
    let name = serde_json::to_value(polder_api::rest::JsonBytes(name.to_vec())).expect("plain");
    let (kind, size, mtime, more) = match node {
        Node::Folder => ("directory", 0, "2001-02-03T04:05:06Z", String::new()),
        Node::File(bytes, mtime) => ("file", bytes.len(), mtime.as_str(), String::new()),
        Node::Link(target) => {
            ("symlink", target.len(), "2001-02-03T04:05:06Z", format!(r#""target":"{target}","#))
        }
    };
    format!(
        r#"{{"name":{name},"kind":"{kind}","size":{size},"mtime":"{mtime}",{more}"mode":"0750","uid":0,"gid":0,
        "owner":"","group":"","node":"{:032x}","version":1}}"#,
        7
    )
}

fn stat(path: &[u8], node: &Node) -> String {
    let name = path.rsplit(|byte| *byte == b'/').next().expect("one at least");
    let path = serde_json::to_value(polder_api::rest::JsonBytes(path.to_vec())).expect("plain");
    let entry = entry(if name.is_empty() { b"root" } else { name }, node);
    let more =
        format!(r#"{{"path":{path},"changed_at":"2026-11-23T18:00:00Z","changed_by":"direct","xattrs":[],"#);
    entry.replacen('{', &more, 1)
}

fn start() -> (Share, Fake) {
    let share = Share::default();
    let answering = share.clone();
    (share, Fake::new(move |request| answering.answer(request)))
}

#[test]
fn a_tree_goes_there_and_comes_back() {
    let (share, fake) = start();
    let shell = Shell::with(&fake);
    shell.file("tree/a.txt", "alpha");
    shell.file("tree/sub/empty", "");
    let odd = shell.path("tree").join(OsString::from_vec(b"odd \xff%?#".to_vec()));
    fs::write(&odd, "odd").expect("any byte is legal");
    let large: Vec<u8> = (0..700_000u32).map(|number| number as u8).collect();
    fs::write(shell.path("tree/sub/large"), &large).expect("written");
    symlink("../a.txt", shell.path("tree/sub/link")).expect("made");
    let local = shell.path("tree");
    let said = shell.run(&["share", "put", "-r", local.to_str().expect("text"), "demo:"]);
    assert_eq!(said.all(), "exit 0\n--- data\ncopied 4 files (683.6 KiB), 2 folders, 1 symlink\n--- talk\n");
    let kept = share.0.lock().expect("no test panics with it").clone();
    assert_eq!(kept.len(), 7);
    assert!(matches!(&kept[&b"tree/sub/large"[..]], Node::File(bytes, _) if *bytes == large));
    assert!(matches!(&kept[&b"tree/odd \xff%?#"[..]], Node::File(bytes, _) if bytes == b"odd"));
    assert_eq!(kept[&b"tree/sub/link"[..]], Node::Link("../a.txt".to_owned()));

    let back = shell.path("back");
    let said = shell.run(&["share", "get", "-r", "demo:tree", back.to_str().expect("text")]);
    assert_eq!(said.exit, Exit::Done, "{}", said.err);
    assert_eq!(fs::read(back.join("sub/large")).expect("there"), large);
    assert_eq!(fs::read(back.join(odd.file_name().expect("named"))).expect("there"), b"odd");
    assert_eq!(fs::read_link(back.join("sub/link")).expect("there").to_str(), Some("../a.txt"));
    let modified = |path: &std::path::Path| path.metadata().expect("there").modified().expect("known");
    assert_eq!(modified(&back.join("a.txt")), modified(&shell.path("tree/a.txt")));
    assert_eq!(back.join("a.txt").metadata().expect("there").permissions().mode() & 0o777, 0o750);
    let leftover = fs::read_dir(back.join("sub")).expect("there").flatten().count();
    assert_eq!(leftover, 3, "no parts stay behind");
}

#[test]
fn put_takes_either_order_and_standard_input() {
    let (share, fake) = start();
    let mut shell = Shell::with(&fake);
    let local = shell.file("one", "1");
    let local = local.to_str().expect("text");
    assert_eq!(shell.run(&["share", "put", local, "demo:x"]).exit, Exit::Done);
    assert_eq!(shell.run(&["share", "put", "demo:y", local]).exit, Exit::Done);
    shell.input = b"from a pipe".to_vec();
    assert_eq!(shell.run(&["share", "put", "-", "demo:z"]).exit, Exit::Done);
    assert_eq!(shell.run(&["share", "put", "-", "demo:"]).exit, Exit::Usage);
    let kept = share.0.lock().expect("no test panics with it");
    assert!(matches!(&kept[&b"z"[..]], Node::File(bytes, _) if bytes == b"from a pipe"));
    assert_eq!(kept.keys().cloned().collect::<Vec<_>>(), [b"x", b"y", b"z"]);
}

#[test]
fn cat_gives_bytes_and_nothing_else() {
    let (share, fake) = start();
    share
        .0
        .lock()
        .expect("free")
        .insert(b"f".to_vec(), Node::File(b"a\nb".to_vec(), "2001-02-03T04:05:06Z".into()));
    let said = Shell::with(&fake).run(&["share", "cat", "demo:f"]);
    assert_eq!(said.all(), "exit 0\n--- data\na\nb--- talk\n");
    assert_eq!(Shell::with(&fake).run(&["share", "cat", "demo:none"]).exit, Exit::NotFound);
}

#[test]
fn a_content_that_ends_early_leaves_no_file() {
    let fake = Fake::new(|request| {
        if request.target.contains("/content/") {
            Reply { status: 200, body: b"half".to_vec(), length: Some(8) }
        } else {
            Reply::json(200, &stat(b"f", &Node::File(vec![0; 8], "2001-02-03T04:05:06Z".into())))
        }
    });
    let shell = Shell::with(&fake);
    let to = shell.path("f");
    let said = shell.run(&["share", "get", "demo:f", to.to_str().expect("text")]);
    assert_eq!(said.exit, Exit::Unreachable, "{}", said.err);
    let left: Vec<_> =
        fs::read_dir(shell.path("")).expect("home").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["token"]);
}

#[test]
fn what_fails_is_listed_and_the_rest_is_done() {
    let (share, fake) = start();
    let shell = Shell::with(&fake);
    shell.file("tree/good", "good");
    let _socket = std::os::unix::net::UnixListener::bind(shell.path("tree/socket")).expect("bound");
    let local = shell.path("tree");
    let said = shell.run(&["share", "put", "-r", local.to_str().expect("text"), "demo:"]);
    insta::assert_snapshot!(said.all(), @r"
    exit 3
    --- data
    copied 1 file (4 B), 1 folder; 1 failed
    --- talk
    warning: ~/tree/socket: is neither file, folder nor symlink and is left out
    ");
    assert_eq!(share.0.lock().expect("free").len(), 2);
}

#[test]
fn a_symlink_in_the_way_is_not_followed() {
    let (share, fake) = start();
    {
        let mut nodes = share.0.lock().expect("free");
        nodes.insert(b"d".to_vec(), Node::Folder);
        nodes.insert(b"d/sub".to_vec(), Node::Folder);
        nodes.insert(b"d/sub/f".to_vec(), Node::File(b"x".to_vec(), "2001-02-03T04:05:06Z".into()));
    }
    let shell = Shell::with(&fake);
    shell.file("outside/kept", "kept");
    fs::create_dir_all(shell.path("to")).expect("made");
    symlink(shell.path("outside"), shell.path("to/sub")).expect("made");
    let to = shell.path("to");
    let target = to.to_str().expect("text").to_owned();
    // `to` exists, so the folder's name is kept below it: make the trap there.
    fs::create_dir(to.join("d")).expect("made");
    symlink(shell.path("outside"), to.join("d/sub")).expect("made");
    let said = shell.run(&["share", "get", "-r", "demo:d", &target]);
    assert_eq!(said.exit, Exit::Partial, "{}", said.err);
    assert!(said.err.contains("in the way"), "{}", said.err);
    assert!(!shell.path("outside/f").exists());
}

#[test]
fn a_folder_needs_the_flag() {
    let (_share, fake) = start();
    let shell = Shell::with(&fake);
    shell.file("tree/a", "a");
    let local = shell.path("tree");
    assert_eq!(shell.run(&["share", "put", local.to_str().expect("text"), "demo:"]).exit, Exit::Usage);
    assert_eq!(shell.run(&["share", "get", "demo:"]).exit, Exit::Usage);
    assert_eq!(shell.run(&["share", "mv", "demo:a", "other:a"]).exit, Exit::Usage);
    assert_eq!(shell.run(&["share", "rm", "--yes", "demo:"]).exit, Exit::Usage);
}
