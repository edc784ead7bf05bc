//! A service that lies, and a real agent that listens to it: what cannot be true is refused, said loudly, and nothing of
//! it reaches the disk. What is sound goes on.

mod agent;
mod service;

use agent::Agent;
use polder_api::grpc::convert::FeedEncoder;
use polder_api::grpc::pb;
use polder_types::{
    Attrs, Content, Cursor, Epoch, InstanceId, Name, NodeState, NodeUid, Placed, Seq, Tag, Timestamp,
};
use service::{Liar, Packed};

const SECRET: &[u8] = b"bytes that are in the share";

/// A row that a sound service could send.
fn state(uid: NodeUid, parent: NodeUid, name: &str, seq: u64, content: Content) -> NodeState {
    let directory = content == Content::Directory;
    NodeState {
        uid,
        at: Placed { parent, name: Name::parse(name.as_bytes()).expect("a name") },
        mtime: Timestamp::new(1_700_000_000, 7),
        attrs: Attrs { mode: if directory { 0o755 } else { 0o644 }, ..Attrs::default() },
        content,
        since: Seq(seq),
        by: InstanceId::ZERO,
    }
}

fn uid(n: u8) -> NodeUid {
    NodeUid([n; 16])
}

fn cursor(seq: u64) -> Cursor {
    Cursor { epoch: Epoch(1), seq: Seq(seq), tag: Tag(seq) }
}

/// A page with these rows, ending at a cut.
fn page(rows: &[NodeState], seq: u64) -> pb::FeedRows {
    let mut encoder = FeedEncoder::new();
    rows.iter().for_each(|row| encoder.live(row, &[]));
    let page = encoder.take(Some(cursor(seq)), false, bytes::Bytes::new());
    let Some(pb::feed_page::Body::Rows(rows)) = page.body else { panic!("no rows") };
    rows
}

fn rename(page: &mut pb::FeedRows, uid: NodeUid, name: &[u8]) {
    let row = page.rows.iter_mut().find(|row| row.uid[..] == uid.0).expect("in the page");
    row.name = bytes::Bytes::copy_from_slice(name);
}

fn root(seq: u64) -> NodeState {
    state(NodeUid::ROOT, NodeUid::ROOT, "root", seq, Content::Directory)
}

const LIES: [&[u8]; 10] =
    [b"../x", b"a/b", b"/x", b".", b"..", b"", b"with\0nul", &[b'n'; 256], &[b'n'; 4000], b"../../x"];

/// Row 14, I19: names that are paths, or none, are refused one by one; what is sound beside them arrives; the agent says
/// so in its status and its log, also after a restart, until the service says something sound.
/// Scenario 109.
#[test]
fn names_that_lead_out_are_refused_and_the_rest_goes_on() {
    let liar = Liar::start();
    let mut rows = vec![root(1), state(uid(1), NodeUid::ROOT, "sound", 2, Content::empty_file())];
    for n in 0..LIES.len() as u8 {
        let content = if n % 2 == 0 { Content::Directory } else { Content::empty_file() };
        rows.push(state(uid(100 + n), NodeUid::ROOT, "lie", 3, content));
        // What is below a directory that is not believed in has no place.
        rows.push(state(uid(150 + n), uid(100 + n), "below", 3, Content::empty_file()));
    }
    let mut tree = page(&rows, 3);
    for (n, name) in LIES.iter().enumerate() {
        rename(&mut tree, uid(100 + n as u8), name);
    }
    liar.set_tree(tree, cursor(3));
    let mut agent = Agent::start(&liar);
    agent.until("what is sound arrives", |agent| agent.root().join("sound").exists());
    let all_told = |agent: &Agent| {
        let status = agent.liar.status();
        (0..LIES.len() as u8).all(|n| has(&status, uid(100 + n), "untrue"))
    };
    agent.until("every lie is told", all_told);
    assert_eq!(agent.names(), ["sound"]);
    for n in 0..LIES.len() as u8 {
        let node = uid(100 + n).to_string();
        agent.ensure_logged(&["ERROR", "cannot be true", &node]);
    }
    agent.ensure_nothing_outside();

    agent.restart();
    agent.until("every lie is told after a restart", all_told);
    // A sound word about one of them ends it.
    let healed = page(&[state(uid(100), NodeUid::ROOT, "healed", 4, Content::Directory)], 4);
    liar.tell(healed, cursor(4));
    agent.until("what is sound now arrives", |agent| agent.root().join("healed").is_dir());
    agent.until("it is no problem any more", |agent| !has(&agent.liar.status(), uid(100), "untrue"));
    agent.until("what waited for it arrives", |agent| agent.root().join("healed/below").exists());
    assert_eq!(agent.names(), ["healed", "sound"]);
    agent.ensure_nothing_outside();
}

/// Row 14: trees that are none: cycles, a node in itself, a node without a parent, a root that is a file, two nodes in one
/// place, one node twice.
#[test]
fn trees_that_are_none_are_refused_and_the_rest_goes_on() {
    let liar = Liar::start();
    let dir = Content::Directory;
    let file = Content::empty_file();
    let rows = [
        root(1),
        state(uid(1), NodeUid::ROOT, "sound", 2, file.clone()),
        state(uid(10), uid(11), "cycle-a", 3, dir.clone()),
        state(uid(11), uid(10), "cycle-b", 3, dir.clone()),
        state(uid(12), uid(11), "below-a-cycle", 3, file.clone()),
        state(uid(20), uid(20), "in-itself", 3, dir.clone()),
        state(uid(30), uid(99), "adrift", 3, file.clone()),
        state(uid(40), uid(1), "below-a-file", 3, file.clone()),
        state(uid(50), NodeUid::ROOT, "one-place", 3, file.clone()),
        state(uid(51), NodeUid::ROOT, "one-place", 3, dir.clone()),
        state(uid(60), NodeUid::ROOT, "twice-a", 3, file.clone()),
        state(uid(60), NodeUid::ROOT, "twice-b", 3, file.clone()),
    ];
    liar.set_tree(page(&rows, 3), cursor(3));
    let agent = Agent::start(&liar);
    agent.until("what is sound arrives", |agent| agent.root().join("sound").exists());
    agent.until("what stands in itself is told", |agent| has(&agent.liar.status(), uid(20), "untrue"));
    // A root that is a file: the row is refused, the root stays.
    let mut bad_root = root(4);
    bad_root.content = Content::empty_file();
    let next = [bad_root, state(uid(2), NodeUid::ROOT, "later", 4, Content::empty_file())];
    liar.tell(page(&next, 4), cursor(4));
    agent.until("what came later arrives", |agent| agent.root().join("later").exists());
    agent.until("the root is told", |agent| has(&agent.liar.status(), NodeUid::ROOT, "untrue"));
    agent.ensure_logged(&["ERROR", "the root is no directory"]);
    agent.until("one node has one name", |agent| {
        let names = agent.names();
        names.iter().filter(|name| name.starts_with("twice")).count() == 1
            && names.iter().filter(|name| **name == "one-place").count() == 1
    });
    let allowed = ["later", "one-place", "sound", "twice-a", "twice-b"];
    let names = agent.names();
    assert!(names.iter().all(|name| allowed.contains(&name.as_str())), "{names:?}");
    agent.ensure_nothing_outside();
    agent.ensure_no_panic();
}

/// Row 14: a page that is mostly lies is no page. It is refused as a whole and asked for again; the endpoint says why.
#[test]
fn a_page_full_of_lies_is_refused_as_a_whole() {
    let liar = Liar::start();
    let mut rows = vec![root(1), state(uid(1), NodeUid::ROOT, "sound", 2, Content::empty_file())];
    rows.extend((0..101).map(|n| state(uid(50 + n), NodeUid::ROOT, "lie", 3, Content::empty_file())));
    let mut tree = page(&rows, 3);
    for n in 0..101 {
        rename(&mut tree, uid(50 + n), b"../x");
    }
    liar.set_tree(tree, cursor(3));
    let agent = Agent::start(&liar);
    agent.until("it is told", |agent| agent.liar.status().why.contains("is refused"));
    assert_eq!(agent.names(), [""; 0]);
    agent.ensure_logged(&["ERROR", "is refused", "bad rows"]);
    liar.set_tree(page(&rows[..2], 3), cursor(3));
    agent.until("what is sound arrives", |agent| agent.root().join("sound").exists());
    agent.until("it is over", |agent| agent.liar.status().why.is_empty());
    agent.ensure_nothing_outside();
}

/// Row 14, I9: a pack of other bytes, and a pack of another share's keys, are never shown; the item says why.
/// Scenario 103, on the way down.
#[test]
fn forged_and_foreign_packs_are_refused_on_their_way_down() {
    let liar = Liar::start();
    let packed = [
        Packed::sound(&liar, SECRET),
        Packed::forged(&liar, b"other bytes in it"),
        Packed::foreign(&liar, SECRET),
    ];
    let mut encoder = FeedEncoder::new();
    encoder.live(&root(1), &[]);
    for (n, (packed, name)) in packed.iter().zip(["sound", "forged", "foreign"]).enumerate() {
        let mut place = packed.place.clone();
        place.pack_index = encoder.pack(&packed.pack);
        encoder.live(&state(uid(n as u8 + 1), NodeUid::ROOT, name, 2, packed.content.clone()), &[place]);
    }
    let tree = encoder.take(Some(cursor(2)), false, bytes::Bytes::new());
    let Some(pb::feed_page::Body::Rows(tree)) = tree.body else { panic!("no rows") };
    liar.set_tree(tree, cursor(2));
    let agent = Agent::start(&liar);
    agent.until("the sound file arrives", |agent| agent.root().join("sound").exists());
    assert_eq!(std::fs::read(agent.root().join("sound")).expect("read"), SECRET);
    for n in [2, 3] {
        agent.until("it is told", |agent| has(&agent.liar.status(), uid(n), "damaged"));
        agent.ensure_logged(&["ERROR", "are not what the share says", &uid(n).to_string()]);
    }
    assert_eq!(agent.names(), ["sound"]);
    agent.ensure_nothing_outside();
}

fn has(status: &pb::EndpointStatus, uid: NodeUid, code: &str) -> bool {
    status.problems.iter().any(|problem| problem.uid[..] == uid.0 && problem.code == code)
}
