//! A database of every version of the tables is kept and read for ever.
//!
//! `cargo test -p polder-metadata --test share -- --ignored make_golden` writes the one of the present version. A file of a
//! released version is never written again.

use std::path::PathBuf;

use polder_ledger::{At, changes, create_snapshot, have, pack_verified, snapshot};
use polder_metadata::share::{SHARE_DB_VERSION, ShareDb};
use polder_types::{Attrs, CaseRule, Cursor, Epoch, Op, Seq, Tag, Timestamp};

use crate::support::*;

fn golden(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/share-v{version}.db"))
}

/// The history that every golden file tells.
fn tell(share: &mut Share) {
    share.pack(7, &[1, 2]);
    let mut attrs = Attrs { mode: 0o4750, uid: 7, owner: "ö".into(), ..Attrs::default() };
    let mut dos = vec![0, 0, 5, 0, 5, 0, 0, 0, 17, 0, 0, 0, 32, 0, 0, 0];
    dos.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    attrs.xattrs.insert(b"user.DOSATTRIB".as_slice().into(), dos.into());
    attrs.xattrs.insert(b"user.x".as_slice().into(), b"y".as_slice().into());
    let at = place(uid(1), "Straße");
    let mtime = Timestamp::new(i64::MAX, 7);
    share.ok(vec![mkdir(1, ROOT, "Dir"), Op::Create { uid: uid(2), at, mtime, attrs, content: bytes(1) }]);
    share.edit(|rows| create_snapshot(rows, "first", "note", 5)).unwrap();
    let (d, f) = (share.get("Dir").since, share.get("dir/STRAßE").since);
    share.ok(vec![update(2, f, bytes(2)), mv(1, d, ROOT, "dIR"), file(3, ROOT, "gone")]);
    let gone = share.get("gone").since;
    share.ok(vec![rm(3, gone)]);
    share.no(vec![rm(3, gone)]);
    share.edit(|rows| pack_verified(rows, polder_types::PackId([7; 16]), &[], 9)).unwrap();
}

fn check(db: &ShareDb) {
    let node = |path: &str, at| {
        let path = polder_types::RelPath::parse(path.as_bytes()).unwrap();
        db.read(|rows| polder_ledger::lookup(rows, &path, at)).unwrap()
    };
    let head = db.read(|rows| polder_ledger::share_row(rows)).unwrap().head;
    assert_eq!((head.epoch, head.seq), (Epoch(0), Seq(9)));
    let now = node("DIR/straße", At::Now).unwrap();
    assert_eq!((now.uid, now.content, now.by, now.attrs.mode), (uid(2), bytes(2), A, 0o4750));
    assert_eq!(now.mtime, Timestamp::new(i64::MAX, 7));
    assert_eq!(now.attrs.xattrs[b"user.DOSATTRIB".as_slice()][16..], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(node("dir", At::Now).unwrap().at.name, name("dIR"));
    let first = db.read(|rows| snapshot(rows, "first")).unwrap();
    assert_eq!((first.cursor.seq, first.time_ms, &*first.note), (Seq(3), 5, "note"));
    let then = node("dir/straße", At::Seq(first.cursor.seq)).unwrap();
    assert_eq!(
        (then.content, node("dir", At::Seq(first.cursor.seq)).unwrap().at.name),
        (bytes(1), name("Dir"))
    );
    assert_eq!(db.read(|rows| changes(rows, first.cursor, None, 10)).unwrap().rows.len(), 3);
    let forged = Cursor { tag: Tag(0), ..first.cursor };
    assert!(db.read(|rows| changes(rows, forged, None, 10)).is_err());
    assert_eq!(db.read(|rows| have(rows, &[chunk(1), chunk(3)])).unwrap(), [true, false]);
    let kept =
        db.read(|rows| polder_ledger::kept_answers(rows, A, &[1, 2, 3, 4, 5].map(polder_types::BatchNo)));
    assert_eq!(kept.unwrap().len(), 4);
}

#[test]
fn databases_of_all_versions_are_read() {
    for version in 1..=SHARE_DB_VERSION {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("share.db");
        std::fs::copy(golden(version), &path).unwrap();
        let db = ShareDb::open(&path).unwrap();
        check(&db);
        // And written.
        db.write(|rows| create_snapshot(rows, "second", "", 6)).unwrap();
        drop(db);
        check(&ShareDb::open(&path).unwrap());
    }
}

#[test]
fn the_golden_history_is_what_we_write_today() {
    let mut share = Share::sqlite(CaseRule::Insensitive);
    tell(&mut share);
    share.reopen();
    check(&share.db);
}

#[test]
#[ignore = "writes the golden file of the present version"]
fn make_golden() {
    let mut share = Share::sqlite(CaseRule::Insensitive);
    tell(&mut share);
    let path = share.path().unwrap();
    share.db = ShareDb::memory();
    // Small pages and no log: the file goes into the repository.
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; VACUUM;").unwrap();
    drop(raw);
    let golden = golden(SHARE_DB_VERSION);
    std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
    std::fs::copy(path, golden).unwrap();
}
