//! The state database against the store of maps, operation by operation.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeSet;

use polder_replica::{HeatRow, StateDb, StateError};
use polder_sync::mem::MemStore;
use polder_sync::{CloudNode, Offer, SyncedNode, TreeStore};
use polder_types::{
    Attrs, AttrsHash, BatchNo, Body, CaseRule, ChunkId, Content, Cursor, Epoch, Extent, ExtentSource,
    FileIdent, Name, NodeUid, Placed, Seq, Stamp, Tag, Timestamp,
};
use proptest::prelude::*;

const NAMES: [&str; 5] = ["a", "A", "b", "Straße", "c d"];

fn node(number: u8) -> NodeUid {
    if number == 0 { NodeUid::ROOT } else { NodeUid([number; 16]) }
}

fn content(number: u8) -> Content {
    match number % 4 {
        0 => Content::Directory,
        1 => Content::Symlink(b"else/where".as_slice().into()),
        2 => Content::empty_file(),
        _ => {
            let source = ExtentSource::Chunk { id: ChunkId([number; 32]), skip: 0 };
            let extent = Extent { len: u64::from(number) + 1, source };
            Content::File { size: extent.len, body: Body::Inline(vec![extent]) }
        }
    }
}

fn time(number: i64) -> Timestamp {
    // One in eight lies outside the range of 64-bit nanoseconds.
    let secs = if number % 8 == 0 { number.wrapping_mul(1 << 58) } else { number };
    Timestamp { secs, nanos: number.unsigned_abs() as u32 % 1_000_000_000 }
}

fn attrs(number: u8) -> Attrs {
    Attrs { mode: number.into(), ..Attrs::default() }
}

prop_compose! {
    fn synced()(parent in 0u8..5, name in 0usize..5, kind: u8, here in 0u8..3, share in 0u8..3, times: [i64; 3],
                ino: u64, generation in 0u32..3, since in 0u64..1 << 60) -> SyncedNode {
        let content = content(kind);
        let ino = if kind % 2 == 0 { ino % 4 } else { ino };
        let size = content.size();
        SyncedNode {
            at: Placed { parent: node(parent), name: NAMES[name].parse().unwrap() },
            content,
            attrs_share: attrs(share).hash(),
            attrs_here: attrs(here).hash(),
            mtime_share: time(times[0]),
            stamp: Stamp { ident: FileIdent { ino, generation }, ctime: time(times[1]), mtime: time(times[2]), size },
            since: Seq(since),
        }
    }
}

fn cloud() -> impl Strategy<Value = CloudNode> {
    synced().prop_map(|row| as_cloud(&row))
}

fn as_cloud(row: &SyncedNode) -> CloudNode {
    CloudNode {
        at: row.at.clone(),
        content: row.content.clone(),
        attrs: row.attrs_share,
        mtime: row.mtime_share,
        since: row.since,
    }
}

#[derive(Debug, Clone)]
enum Write {
    Synced(u8, Option<SyncedNode>),
    Cloud(u8, Option<CloudNode>),
    /// What the synced row says.
    CloudAsSynced(u8),
    Forget,
    Attrs(u8),
    Cursor(u64, u64, u64),
    Batch(u64),
    Offer(u8, Option<SyncedNode>, u32),
    DropOffer(u8),
    Supersede(u8, CloudNode),
    DropSuperseded(u8),
    Note(u8, Vec<u8>),
    Commit(bool),
    /// Opens the database again: what was not committed is gone from both.
    Reopen,
}

fn write() -> impl Strategy<Value = Write> {
    let uid = 0u8..6;
    prop_oneof![
        6 => (uid.clone(), prop::option::weighted(0.8, synced())).prop_map(|(uid, row)| Write::Synced(uid, row)),
        6 => (uid.clone(), prop::option::weighted(0.8, cloud())).prop_map(|(uid, row)| Write::Cloud(uid, row)),
        3 => uid.clone().prop_map(Write::CloudAsSynced),
        1 => Just(Write::Forget),
        2 => (0u8..3).prop_map(Write::Attrs),
        1 => (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(e, s, t)| Write::Cursor(e >> 1, s >> 1, t)),
        1 => any::<u64>().prop_map(Write::Batch),
        2 => (uid.clone(), prop::option::of(synced()), any::<u32>()).prop_map(|(uid, row, n)| Write::Offer(uid, row, n)),
        1 => uid.clone().prop_map(Write::DropOffer),
        2 => (uid.clone(), cloud()).prop_map(|(uid, version)| Write::Supersede(uid, version)),
        1 => uid.prop_map(Write::DropSuperseded),
        1 => (0u8..2, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(key, value)| Write::Note(key, value)),
        3 => any::<bool>().prop_map(Write::Commit),
        1 => Just(Write::Reopen),
    ]
}

fn run(store: &mut dyn TreeStore, write: &Write) {
    match write.clone() {
        Write::Synced(uid, row) => store.put_synced(node(uid), row.as_ref()).unwrap(),
        Write::Cloud(uid, row) => store.put_cloud(node(uid), row.as_ref()).unwrap(),
        Write::CloudAsSynced(uid) => {
            let row = store.synced(node(uid)).unwrap();
            store.put_cloud(node(uid), row.as_ref().map(as_cloud).as_ref()).unwrap();
        }
        Write::Forget => store.forget_cloud().unwrap(),
        Write::Attrs(number) => drop(store.put_attrs(&attrs(number)).unwrap()),
        Write::Cursor(epoch, seq, tag) => {
            store.put_cursor(Cursor { epoch: Epoch(epoch), seq: Seq(seq), tag: Tag(tag) }).unwrap();
        }
        Write::Batch(next) => store.put_next_batch(BatchNo(next)).unwrap(),
        Write::Offer(uid, becomes, n) => {
            let offer = Offer { uid: node(uid), batch: BatchNo(n.into()), group: n, op: n / 2, becomes };
            store.put_offer(&offer).unwrap();
        }
        Write::DropOffer(uid) => store.drop_offer(node(uid)).unwrap(),
        Write::Supersede(uid, version) => store.put_superseded(node(uid), &version).unwrap(),
        Write::DropSuperseded(uid) => store.drop_superseded(node(uid)).unwrap(),
        Write::Note(key, value) => store.put_note(&key.to_string(), &value).unwrap(),
        Write::Commit(durable) => store.commit(durable).unwrap(),
        Write::Reopen => unreachable!("done by the caller"),
    }
}

/// Everything that the port can be asked.
fn assert_equal(db: &dyn TreeStore, model: &dyn TreeStore) {
    for uid in (0..6).map(node) {
        assert_eq!(db.synced(uid).unwrap(), model.synced(uid).unwrap());
        assert_eq!(db.cloud(uid).unwrap(), model.cloud(uid).unwrap());
        for key in NAMES.iter().map(|name| name.as_bytes()).chain(["strasse".as_bytes(), "straße".as_bytes()])
        {
            assert_eq!(db.synced_at(uid, key).unwrap(), model.synced_at(uid, key).unwrap());
            assert_eq!(db.synced_all_at(uid, key).unwrap(), model.synced_all_at(uid, key).unwrap());
            assert_eq!(db.cloud_at(uid, key).unwrap(), model.cloud_at(uid, key).unwrap());
            for count in [1, 9] {
                let after = Some(key);
                let pair = (db.synced_children(uid, after, count), model.synced_children(uid, after, count));
                assert_eq!(pair.0.unwrap(), pair.1.unwrap());
                let pair = (db.cloud_children(uid, after, count), model.cloud_children(uid, after, count));
                assert_eq!(pair.0.unwrap(), pair.1.unwrap());
            }
        }
        assert_eq!(db.synced_children(uid, None, 9).unwrap(), model.synced_children(uid, None, 9).unwrap());
        assert_eq!(db.cloud_children(uid, None, 9).unwrap(), model.cloud_children(uid, None, 9).unwrap());
        if let Some(row) = model.synced(uid).unwrap() {
            let ident = row.stamp.ident;
            assert_eq!(db.synced_by_ident(ident).unwrap(), model.synced_by_ident(ident).unwrap());
            assert_eq!(db.synced_all_by_ident(ident).unwrap(), model.synced_all_by_ident(ident).unwrap());
        }
    }
    assert_eq!(db.cloud_changed_count().unwrap(), model.cloud_changed_count().unwrap());
    let class = |store: &dyn TreeStore, uid| match store.cloud(uid).unwrap() {
        Some(CloudNode { content: Content::Directory, .. }) => (0, None),
        Some(node) => (1, Some(std::cmp::Reverse(node.mtime))),
        None => (2, None),
    };
    let changed = db.cloud_changed(&|_| false, 99).unwrap();
    // Times far outside the range of nanoseconds are all the same for the order.
    let near = |uid: &NodeUid| class(db, *uid).1.is_none_or(|mtime| mtime.0.secs.unsigned_abs() < 1 << 33);
    assert!(changed.iter().filter(|uid| near(uid)).is_sorted_by_key(|uid| class(db, *uid)));
    let expected: BTreeSet<_> = model.cloud_changed(&|_| false, 99).unwrap().into_iter().collect();
    assert_eq!(changed.iter().copied().collect::<BTreeSet<_>>(), expected);
    for skipped in expected {
        let rest: Vec<_> = changed.iter().copied().filter(|uid| *uid != skipped).take(2).collect();
        assert_eq!(db.cloud_changed(&|uid| uid == skipped, 2).unwrap(), rest);
    }
    for hash in (0..3).map(|number| attrs(number).hash()) {
        assert_eq!(db.attrs(hash).unwrap(), model.attrs(hash).unwrap());
    }
    assert_eq!(db.cursor().unwrap(), model.cursor().unwrap());
    assert_eq!(db.next_batch().unwrap(), model.next_batch().unwrap());
    assert_eq!(db.offers().unwrap(), model.offers().unwrap());
    assert_eq!(db.superseded().unwrap(), model.superseded().unwrap());
    for key in ["0", "1", "2"] {
        assert_eq!(db.note(key).unwrap(), model.note(key).unwrap());
    }
}

/// In memory where there is such a place: these databases are made by the hundred.
fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn case() -> impl Strategy<Value = CaseRule> {
    prop_oneof![Just(CaseRule::Sensitive), Just(CaseRule::Insensitive)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Promise I8: the database does what the model does, also across restarts.
    #[test]
    fn behaves_like_the_store_of_maps(case in case(), writes in prop::collection::vec(write(), 1..40)) {
        let dir = folder();
        let path = dir.path().join("state.db");
        let mut db = StateDb::open(&path, case).unwrap();
        let mut model = MemStore::new(case);
        for write in &writes {
            if matches!(write, Write::Reopen) {
                drop(db);
                db = StateDb::open(&path, case).unwrap();
                model.crash(usize::MAX);
                // Attributes are by hash and never taken back in the model; bring them again.
                for number in 0..3 {
                    if model.attrs(attrs(number).hash()).unwrap().is_some() {
                        db.put_attrs(&attrs(number)).unwrap();
                    }
                }
            } else {
                run(&mut db, write);
                run(&mut model, write);
            }
        }
        assert_equal(&db, &model);
        db.commit(true).unwrap();
        db.verify().unwrap();
        let below_root = (0..6).map(node).filter(|uid| *uid != NodeUid::ROOT);
        let count = below_root.filter(|uid| model.synced(*uid).unwrap().is_some()).count() as u64;
        prop_assert_eq!(db.agreed().0, count);
        drop(db);
        prop_assert_eq!(StateDb::open(&path, case).unwrap().agreed().0, count);
    }
}

fn a_row(name: &str) -> SyncedNode {
    SyncedNode {
        at: Placed { parent: NodeUid::ROOT, name: Name::parse(name.as_bytes()).unwrap() },
        content: content(3),
        attrs_share: AttrsHash::default(),
        attrs_here: AttrsHash::default(),
        mtime_share: Timestamp::default(),
        stamp: Stamp { ident: FileIdent { ino: u64::MAX, generation: u32::MAX }, ..Stamp::default() },
        since: Seq(1),
    }
}

#[test]
fn readers_see_whole_transactions_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = StateDb::open(&dir.path().join("state.db"), CaseRule::Sensitive).unwrap();
    let reader = db.reader().unwrap();
    db.put_synced(node(1), Some(&a_row("x"))).unwrap();
    assert_eq!(reader.children(NodeUid::ROOT, None, 9).unwrap(), []);
    db.commit(false).unwrap();
    let children = reader.children(NodeUid::ROOT, None, 9).unwrap();
    assert_eq!(children.len(), 1);
    assert_eq!(children[0].stamp, a_row("x").stamp);
    assert_eq!(reader.child(NodeUid::ROOT, b"x").unwrap().as_ref(), children.first());
}

/// Whoever gives a file up asks whether the share still has that version.
#[test]
fn a_file_is_current_until_the_share_is_known_to_have_another_content() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = StateDb::open(&dir.path().join("state.db"), CaseRule::Sensitive).unwrap();
    let number = (0..9).find(|number| matches!(content(*number), Content::File { .. })).unwrap();
    let row = SyncedNode { content: content(number), ..a_row("x") };
    db.put_synced(node(1), Some(&row)).unwrap();
    db.commit(false).unwrap();
    let reader = db.reader().unwrap();
    let file = reader.file(node(1)).unwrap().expect("a file");
    let other = (0..99).map(content).find(|other| *other != row.content).unwrap();
    let moved = CloudNode { at: a_row("y").at, ..as_cloud(&row) };
    let edited = CloudNode { content: other, ..as_cloud(&row) };
    let cases = [(Some(as_cloud(&row)), true), (Some(moved), true), (Some(edited), false), (None, false)];
    for (there, is_current) in cases {
        db.put_cloud(node(1), there.as_ref()).unwrap();
        db.commit(false).unwrap();
        assert_eq!(reader.is_current(&file).unwrap(), is_current, "{there:?}");
    }
}

/// Also when there is nothing to make durable, and with readers coming and going.
#[test]
fn a_durable_commit_of_nothing_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    for round in 0..3 {
        let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
        db.commit(true).unwrap();
        drop(db.reader().unwrap().children(NodeUid::ROOT, None, 1).unwrap());
        db.commit(true).unwrap();
        db.put_note("round", &[round]).unwrap();
        db.commit(round == 1).unwrap();
        drop(db.reader().unwrap());
        db.commit(true).unwrap();
    }
}

/// Promise I20: a database from the future is refused, not repaired.
#[test]
fn a_newer_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    drop(StateDb::open(&path, CaseRule::Sensitive).unwrap());
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(StateDb::open(&path, CaseRule::Sensitive), Err(StateError::Newer { found: 99 })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// Scenario 87: damage is told as damage, so that the agent re-baselines; nothing panics.
#[test]
fn damage_is_told_and_never_panics() {
    let dir = folder();
    let path = dir.path().join("state.db");
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    for number in 1..200 {
        let mut row = a_row(&format!("file {number}"));
        row.stamp.ident.ino = number.into();
        db.put_synced(node(number), Some(&row)).unwrap();
    }
    db.commit(true).unwrap();
    drop(db);
    let good = std::fs::read(&path).unwrap();
    let mut told = 0;
    for at in (0..good.len()).step_by(617) {
        let mut bad = good.clone();
        for byte in bad.iter_mut().skip(at).take(40) {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &bad).unwrap();
        let all = StateDb::open(&path, CaseRule::Sensitive).and_then(|db| {
            db.verify()?;
            for number in 1..200 {
                let row = db.synced(node(number));
                let state = |error: &polder_sync::TreeError| {
                    StateError::of(error).is_some_and(StateError::is_corrupt)
                };
                if let Err(error) = row {
                    assert!(state(&error), "{error:?}");
                    return Err(StateError::Corrupt { what: String::new() });
                }
            }
            Ok(())
        });
        told += u32::from(
            all.is_err_and(|error| error.is_corrupt() || matches!(error, StateError::Newer { .. })),
        );
    }
    assert!(told > 20, "{told}");
    std::fs::write(&path, b"this is no database, and long enough to be taken for one by its size").unwrap();
    assert!(StateDb::open(&path, CaseRule::Sensitive).is_err_and(|error| error.is_corrupt()));
}

fn some_uid(n: u64) -> NodeUid {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    NodeUid::from_parts(1_800_000_000_000 + n / 40, random)
}

fn some_row(n: u64) -> SyncedNode {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let extent = Extent { len: 4096, source: ExtentSource::Chunk { id: ChunkId(id), skip: 0 } };
    let time = Timestamp::new(1_700_000_000 + n as i64, 123_456_789);
    let ident = FileIdent { ino: 1_000_000 + n, generation: 77_777_777 };
    SyncedNode {
        at: Placed { parent: some_uid(n / 1000 * 1000), name: format!("document-{n:07}").parse().unwrap() },
        content: Content::File { size: 4096, body: Body::Inline(vec![extent]) },
        attrs_share: attrs(1).hash(),
        attrs_here: attrs(1).hash(),
        mtime_share: time,
        stamp: Stamp { ident, ctime: time, mtime: time, size: 4096 },
        since: Seq(n),
    }
}

/// Figures: `cargo test --release -p polder-replica --test statedb -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn a_million_rows() {
    let dir = tempfile::tempdir_in(std::env::var_os("POLDER_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
    let path = dir.path().join("state.db");
    let count: u64 = std::env::var("POLDER_BENCH_NODES").map_or(1_000_000, |n| n.parse().unwrap());
    let mut db = StateDb::open(&path, CaseRule::Sensitive).unwrap();
    let clock = std::time::Instant::now();
    for n in 0..count {
        let node = as_cloud(&some_row(n));
        db.put_cloud(some_uid(n), Some(&node)).unwrap();
        if n % 1000 == 999 {
            db.commit(false).unwrap();
        }
    }
    db.commit(true).unwrap();
    println!("put_cloud: {:.2} us", clock.elapsed().as_secs_f64() * 1e6 / count as f64);
    let clock = std::time::Instant::now();
    assert_eq!(db.cloud_changed(&|_| false, 1000).unwrap().len(), 1000);
    println!("cloud_changed(1000): {:?}", clock.elapsed());
    let clock = std::time::Instant::now();
    for n in 0..count {
        let row = some_row(n);
        db.put_synced(some_uid(n), Some(&row)).unwrap();
        db.put_cloud(some_uid(n), Some(&as_cloud(&row))).unwrap();
        if n % 1000 == 999 {
            db.commit(n % 10_000 == 9999).unwrap();
        }
    }
    db.commit(true).unwrap();
    println!(
        "put_synced and drop of the cloud row: {:.2} us",
        clock.elapsed().as_secs_f64() * 1e6 / count as f64
    );
    let clock = std::time::Instant::now();
    for n in 0..count {
        assert!(db.synced(some_uid(n)).unwrap().is_some());
    }
    println!("synced: {:.2} us", clock.elapsed().as_secs_f64() * 1e6 / count as f64);
    let reader = db.reader().unwrap();
    let clock = std::time::Instant::now();
    let listed: usize = (0..count)
        .step_by(1000)
        .map(|n| reader.children(some_uid(n), None, usize::MAX >> 1).unwrap().len())
        .sum();
    println!("children: {:.2} us a row, {listed} rows", clock.elapsed().as_secs_f64() * 1e6 / listed as f64);
    drop(db);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let mut statement = raw.prepare("SELECT count(*) FROM synced").unwrap();
    let rows: i64 = statement.query_row([], |row| row.get(0)).unwrap();
    let (pages, free): (i64, i64) = (
        raw.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap(),
        raw.pragma_query_value(None, "freelist_count", |row| row.get(0)).unwrap(),
    );
    println!("bytes a synced node: {} (file {} MB)", (pages - free) * 4096 / rows, pages * 4096 / 1_000_000);
}

/// The rows that the golden database holds.
fn golden_rows() -> Vec<(NodeUid, SyncedNode)> {
    let file = |number: u8, name: &str| {
        let mut row = some_row(u64::from(number));
        row.at = Placed { parent: NodeUid::ROOT, name: name.parse().unwrap() };
        (node(number), row)
    };
    let mut odd = file(2, "Größe");
    odd.1.attrs_here = attrs(2).hash();
    odd.1.mtime_share = Timestamp { secs: i64::MIN, nanos: 999_999_999 };
    odd.1.stamp.ident = FileIdent { ino: u64::MAX, generation: u32::MAX };
    let mut link = file(3, "link");
    link.1.content = content(1);
    vec![file(1, "plain.txt"), odd, link]
}

/// I20: a database of each version that was ever released is read. `golden/state-1.sql` was dumped from one that was
/// written by the first version; it is never changed. The second has heat and pins, the third superseded versions.
/// Scenario 106.
#[test]
fn i20_databases_of_all_versions_are_read() {
    let warm = HeatRow { warm: 1_700_000_900, used: 1_700_000_000 };
    let version = as_cloud(&golden_rows()[0].1);
    is_read(include_str!("golden/state-1.sql"), None, &[], &[]);
    is_read(include_str!("golden/state-2.sql"), Some(warm), &[node(3)], &[]);
    is_read(include_str!("golden/state-3.sql"), Some(warm), &[node(3)], &[(node(5), version)]);
}

fn is_read(golden: &str, heat: Option<HeatRow>, pins: &[NodeUid], superseded: &[(NodeUid, CloudNode)]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(golden).unwrap();
    drop(raw);
    let db = StateDb::open(&path, CaseRule::Insensitive).unwrap();
    db.verify().unwrap();
    let reader = db.reader().unwrap();
    assert_eq!(reader.heat(node(1)).unwrap(), heat);
    assert_eq!(reader.pins().unwrap(), pins);
    assert_eq!(db.superseded().unwrap(), superseded);
    let rows = golden_rows();
    for (uid, row) in &rows {
        assert_eq!(db.synced(*uid).unwrap().as_ref(), Some(row));
    }
    assert_eq!(db.synced_at(NodeUid::ROOT, "größe".as_bytes()).unwrap(), Some(node(2)));
    assert_eq!(db.cloud(node(1)).unwrap(), None);
    assert_eq!(db.cloud(node(4)).unwrap(), Some(as_cloud(&rows[1].1)));
    assert_eq!(db.cloud_changed_count().unwrap(), (2, 4096));
    assert_eq!(db.attrs(attrs(1).hash()).unwrap().as_deref(), Some(&attrs(1)));
    assert_eq!(db.cursor().unwrap(), Cursor { epoch: Epoch(1), seq: Seq(2), tag: Tag(u64::MAX) });
    assert_eq!(db.next_batch().unwrap(), BatchNo(77));
    assert_eq!(db.note("phase").unwrap().as_deref(), Some(&b"first"[..]));
    let offer = Offer { uid: node(1), batch: BatchNo(76), group: 3, op: 4, becomes: Some(rows[0].1.clone()) };
    assert_eq!(db.offers().unwrap(), [offer]);
}

/// Writes what the golden file was dumped from, to `POLDER_GOLDEN_DB`.
#[test]
#[ignore = "makes the golden file of a new version"]
fn write_a_golden_database() {
    let path = std::path::PathBuf::from(std::env::var_os("POLDER_GOLDEN_DB").expect("where to"));
    let mut db = StateDb::open(&path, CaseRule::Insensitive).unwrap();
    for number in 0..3 {
        db.put_attrs(&attrs(number)).unwrap();
    }
    let rows = golden_rows();
    for (uid, row) in &rows {
        db.put_synced(*uid, Some(row)).unwrap();
    }
    db.put_cloud(node(1), None).unwrap();
    db.put_cloud(node(4), Some(&as_cloud(&rows[1].1))).unwrap();
    db.put_cursor(Cursor { epoch: Epoch(1), seq: Seq(2), tag: Tag(u64::MAX) }).unwrap();
    db.put_next_batch(BatchNo(77)).unwrap();
    db.put_note("phase", b"first").unwrap();
    db.put_offer(&Offer {
        uid: node(1),
        batch: BatchNo(76),
        group: 3,
        op: 4,
        becomes: Some(rows[0].1.clone()),
    })
    .unwrap();
    let warm = HeatRow { warm: 1_700_000_900, used: 1_700_000_000 };
    db.note_uses(&[(node(1), 1_700_000_000)], |_, _| warm).unwrap();
    db.set_pin(node(3), true).unwrap();
    db.put_superseded(node(5), &as_cloud(&rows[0].1)).unwrap();
    db.commit(true).unwrap();
}

/// A file that cannot be written at the moment is not opened for reading alone: the connection would stay so for ever.
#[test]
fn a_file_that_cannot_be_written_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.db");
    drop(polder_replica::StateDb::open(&path, polder_types::CaseRule::default()).unwrap());
    let chattr = |flag| std::process::Command::new("chattr").arg(flag).arg(&path).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot set the immutable flag here");
        return;
    }
    let refused = polder_replica::StateDb::open(&path, polder_types::CaseRule::default());
    assert!(chattr("-i").unwrap().success());
    assert!(refused.is_err());
    drop(polder_replica::StateDb::open(&path, polder_types::CaseRule::default()).unwrap());
}
