//! Heat and pins in the state database: small, batched, and nothing that anybody depends on.

use polder_replica::{HeatBefore, HeatRow, PINS_MAX, StateDb};
use polder_sync::{SyncedNode, TreeStore};
use polder_types::{AttrsHash, CaseRule, Content, Name, NodeUid, Placed, Seq, Stamp, Timestamp};

fn node(number: u64) -> NodeUid {
    let mut id = [0x11; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    NodeUid(id)
}

fn row(parent: NodeUid, name: &str, mtime_s: i64, content: Content) -> SyncedNode {
    let mtime = Timestamp::new(mtime_s, 0);
    SyncedNode {
        at: Placed { parent, name: Name::parse(name.as_bytes()).expect("a plain name") },
        content,
        attrs_share: AttrsHash::default(),
        attrs_here: AttrsHash::default(),
        mtime_share: mtime,
        stamp: Stamp { mtime, ..Stamp::default() },
        since: Seq(1),
    }
}

/// What a use makes of what was known, simple enough to be checked by eye.
fn after(before: HeatBefore, used: u32) -> HeatRow {
    match before {
        HeatBefore::Noted(row) => HeatRow { warm: row.warm + 1, used },
        HeatBefore::Modified(mtime_s) => HeatRow { warm: mtime_s, used },
    }
}

#[test]
fn uses_are_noted_of_agreed_nodes_and_go_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = StateDb::open(&dir.path().join("state.db"), CaseRule::Sensitive).unwrap();
    for number in 1..4 {
        let row = row(NodeUid::ROOT, &format!("f{number}"), 100 + number as i64, Content::empty_file());
        db.put_synced(node(number), Some(&row)).unwrap();
    }
    db.note_uses(&[(node(1), 7), (node(2), 8), (node(9), 9)], after).unwrap();
    db.note_uses(&[(node(2), 10)], after).unwrap();
    let reader = db.reader().unwrap();
    assert_eq!(reader.heat(node(1)).unwrap(), None, "not before the commit");
    db.commit(false).unwrap();
    let first = HeatRow { warm: 101, used: 7 };
    let second = HeatRow { warm: 103, used: 10 };
    assert_eq!(reader.heat(node(1)).unwrap(), Some(first));
    assert_eq!(reader.heat(node(9)).unwrap(), None, "nobody has agreed on it");
    assert_eq!(reader.heat_between(None, node(9)).unwrap(), [(node(1), first), (node(2), second)]);
    assert_eq!(reader.heat_between(Some(node(1)), node(2)).unwrap(), [(node(2), second)]);
    assert_eq!(reader.heat_between(Some(node(2)), node(9)).unwrap(), []);
    db.put_synced(node(2), None).unwrap();
    db.commit(false).unwrap();
    assert_eq!(reader.heat(node(2)).unwrap(), None, "a node that is gone leaves no heat");
}

#[test]
fn pins_are_by_node_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    db.put_synced(node(1), Some(&row(NodeUid::ROOT, "d", 1, Content::Directory))).unwrap();
    db.put_synced(node(2), Some(&row(node(1), "f", 1, Content::empty_file()))).unwrap();
    assert!(db.set_pin(node(2), true).unwrap());
    assert!(!db.set_pin(node(2), true).unwrap(), "it is pinned already");
    db.commit(true).unwrap();
    drop(db);
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    let reader = db.reader().unwrap();
    assert_eq!(reader.pins().unwrap(), [node(2)]);
    let names = ["d", "f"].map(|name| Name::parse(name.as_bytes()).unwrap());
    assert_eq!(reader.path(node(2)).unwrap(), Some(names.to_vec()));
    assert_eq!(reader.path(node(7)).unwrap(), None);
    // It is the node that is kept, wherever it goes.
    db.put_synced(node(2), Some(&row(NodeUid::ROOT, "g", 1, Content::empty_file()))).unwrap();
    for number in 0..PINS_MAX as u64 - 1 {
        assert!(db.set_pin(node(1000 + number), true).unwrap());
    }
    assert!(!db.set_pin(node(5), true).unwrap(), "there is a bound");
    assert!(db.set_pin(node(2), false).unwrap());
    assert!(db.set_pin(node(5), true).unwrap());
    db.commit(false).unwrap();
    assert_eq!(reader.pins().unwrap().len(), PINS_MAX);
}

/// A lost table costs the order of tiering: the endpoint opens, and notes anew.
#[test]
fn a_lost_table_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    db.put_synced(node(1), Some(&row(NodeUid::ROOT, "f", 5, Content::empty_file()))).unwrap();
    db.note_uses(&[(node(1), 7)], after).unwrap();
    db.commit(true).unwrap();
    drop(db);
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("DROP TABLE heat; DROP TABLE pin").unwrap();
    drop(raw);
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    assert_eq!(db.reader().unwrap().heat(node(1)).unwrap(), None);
    db.note_uses(&[(node(1), 7)], after).unwrap();
    assert!(db.set_pin(node(1), true).unwrap());
}

#[test]
fn a_row_takes_at_most_64_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    const ROWS: u64 = 20_000;
    for number in 0..ROWS {
        let row = row(NodeUid::ROOT, &format!("{number}"), 1_700_000_000, Content::empty_file());
        db.put_synced(node(number), Some(&row)).unwrap();
    }
    db.commit(true).unwrap();
    let pages = || {
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap()
    };
    let before = pages();
    // In no order: pages are then as full as they are in real life.
    let uses: Vec<_> = (0..ROWS).map(|number| (node(number * 7919 % ROWS), 1_800_000_000)).collect();
    for batch in uses.chunks(1000) {
        db.note_uses(batch, after).unwrap();
    }
    db.commit(true).unwrap();
    let bytes = (pages() - before) * 4096 / ROWS as i64;
    assert!(bytes <= 64, "{bytes} bytes a row");
}

#[test]
fn files_are_listed_with_their_paths() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = StateDb::open(&dir.path().join("state.db"), CaseRule::Sensitive).unwrap();
    db.put_synced(node(1), Some(&row(NodeUid::ROOT, "d", 1, Content::Directory))).unwrap();
    db.put_synced(node(2), Some(&row(node(1), "f", 1, Content::empty_file()))).unwrap();
    db.put_synced(node(3), Some(&row(NodeUid::ROOT, "g", 1, Content::empty_file()))).unwrap();
    db.put_synced(node(4), Some(&row(node(9), "of nobody", 1, Content::empty_file()))).unwrap();
    db.commit(true).unwrap();
    let reader = db.reader().unwrap();
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let (files, last) = reader.files_after(after, 2).unwrap();
        let path = |names: Vec<Name>| names.iter().map(Name::to_string).collect::<Vec<_>>().join("/");
        found.extend(files.into_iter().map(|file| (file.row.uid, path(file.path))));
        pages += 1;
        match last {
            Some(_) => after = last,
            None => break,
        }
    }
    let wanted = [(node(2), "d/f".to_owned()), (node(3), "g".to_owned())];
    assert_eq!((found.as_slice(), pages), (wanted.as_slice(), 3));
}
