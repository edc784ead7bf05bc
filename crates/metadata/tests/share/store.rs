//! What only files can show: versions, damage, other processes, many threads.

use std::sync::{Arc, Barrier, mpsc};

use polder_ledger::{At, CommitContext, LedgerError, RowsError, ShareSettings, commit, create_share};
use polder_metadata::share::{OpenError, SHARE_DB_VERSION, ShareDb};
use polder_types::{
    Author, BatchNo, CaseRule, Cursor, Group, GroupAnswer, InstanceId, RelPath, ShareId, Tag,
};
use rusqlite::Connection;

use crate::support::*;

fn new_share(path: &std::path::Path) -> ShareDb {
    let db = ShareDb::open(path).unwrap();
    let settings = ShareSettings { id: ShareId([1; 16]), case: CaseRule::Sensitive, chunker: 1 };
    db.write(move |rows| create_share(rows, &settings, 0)).unwrap();
    db
}

/// Commits one file without a name for the batch.
fn put(db: &ShareDb, n: u8) -> Result<GroupAnswer, LedgerError> {
    db.write(move |rows| {
        let trees = Default::default();
        let context = CommitContext {
            time_ms: 1,
            tag: Tag(n.into()),
            known: Cursor::default(),
            announced: BatchNo(0),
            quota_bytes: None,
            brake: None,
            trees: &trees,
        };
        let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
        let groups = [Group { ops: vec![file(n, ROOT, &format!("f{n}"))] }];
        Ok(commit(rows, &context, author, &groups)?.groups.remove(0))
    })
}

fn count(db: &ShareDb) -> usize {
    let listed = db.read(|rows| polder_ledger::list(rows, ROOT, None, 1000, At::Now)).unwrap();
    listed.unwrap().nodes.len()
}

/// Scenario 106: an older program finds the database of a newer one.
#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("share.db");
    put(&new_share(&path), 1).unwrap();
    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", SHARE_DB_VERSION + 1).unwrap();
    let Err(OpenError::Newer { found, known, .. }) = ShareDb::open(&path) else { panic!("opened") };
    assert_eq!((found, known), (SHARE_DB_VERSION + 1, SHARE_DB_VERSION));
    raw.pragma_update(None, "user_version", SHARE_DB_VERSION).unwrap();
    drop(raw);
    assert_eq!(count(&ShareDb::open(&path).unwrap()), 1);
}

#[test]
fn another_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(ShareDb::open(&path), Err(OpenError::Foreign { .. })));
    let path = dir.path().join("text");
    std::fs::write(&path, "not a database, but long enough to be looked at as one".repeat(50)).unwrap();
    assert!(matches!(ShareDb::open(&path), Err(OpenError::Failed { .. })));
}

#[test]
fn damaged_rows_are_errors() {
    let damages = [
        "UPDATE node SET content = x'ff' WHERE nid > 0",
        "UPDATE node SET name = x'2f' WHERE nid > 0",
        "UPDATE node SET attrs = x'6f' WHERE nid > 0",
        "UPDATE node SET mtime = x'00' WHERE nid > 0",
        "UPDATE node SET volatile = x'00' WHERE nid > 0",
        "UPDATE attr SET piece = x'02016101' ",
        "DELETE FROM node WHERE nid > 0",
        "DELETE FROM ident WHERE nid > 0",
        "UPDATE entry SET nid = -1",
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("share.db");
        put(&new_share(&path), 1).unwrap();
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let db = ShareDb::open(&path).unwrap();
        let answer = db.read(|rows| polder_ledger::list(rows, ROOT, None, 10, At::Now));
        assert!(matches!(answer, Err(LedgerError::Rows(RowsError::Corrupt { .. }))), "{damage}: {answer:?}");
    }
}

#[test]
fn two_handles_on_one_file_are_two_processes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("share.db");
    let one = new_share(&path);
    let two = ShareDb::open(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..50).for_each(|n| drop(put(&one, n + 1).unwrap())));
        scope.spawn(|| (0..50).for_each(|n| drop(put(&two, n + 101).unwrap())));
    });
    assert_eq!((count(&one), count(&two)), (100, 100));
    // Each had written a file of the same attributes, whose numbers both remember.
    drop((one, two));
    assert_eq!(count(&ShareDb::open(&path).unwrap()), 100);
}

#[test]
fn many_threads_share_transactions_and_fail_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = new_share(&dir.path().join("share.db"));
    let (sender, receiver) = mpsc::channel();
    let gate = Arc::new(Barrier::new(2));
    let held = gate.clone();
    // The writer is kept busy until all others wait, so that they fall into one transaction.
    let slow = {
        let db = db.clone();
        std::thread::spawn(move || {
            db.write(move |_| -> Result<(), RowsError> {
                held.wait();
                Ok(())
            })
        })
    };
    for n in 1..=60u8 {
        let sender = sender.clone();
        let job = move |rows: &mut dyn polder_ledger::RowsMut| -> Result<u8, LedgerError> {
            let trees = Default::default();
            let context = CommitContext {
                time_ms: 1,
                tag: Tag(n.into()),
                known: Cursor::default(),
                announced: BatchNo(0),
                quota_bytes: None,
                brake: None,
                trees: &trees,
            };
            let author = Author { by: A, batch: BatchNo(n.into()) };
            let groups = [Group { ops: vec![file(n, ROOT, &format!("f{n}"))] }];
            commit(rows, &context, author, &groups)?;
            // Every third fails after it wrote; its attributes and rows must go, the others' must not.
            if n % 3 == 0 { Err(LedgerError::FenceLost) } else { Ok(n) }
        };
        db.submit(job, move |answer| sender.send(answer.map_err(|error| (n, error))).unwrap());
    }
    gate.wait();
    slow.join().unwrap().unwrap();
    let answers: Vec<_> = receiver.into_iter().take(60).collect();
    let failed =
        answers.iter().filter(|answer| matches!(answer, Err((n, LedgerError::FenceLost)) if n % 3 == 0));
    assert_eq!(failed.count(), 20);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 40);
    assert_eq!(count(&db), 40);
    drop(db);
}

#[test]
fn readers_see_one_moment_while_writers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let db = new_share(&dir.path().join("share.db"));
    put(&db, 1).unwrap();
    let writer = db.clone();
    let seen = db.read(|rows| {
        let before = polder_ledger::share_row(rows)?.head;
        put(&writer, 2).unwrap();
        assert_eq!(polder_ledger::share_row(rows)?.head, before);
        polder_ledger::lookup(rows, &RelPath::parse(b"f2").unwrap(), At::Now)
    });
    assert_eq!(seen.unwrap(), None);
    assert_eq!(count(&db), 2);
}

#[test]
fn more_readers_than_connections_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let db = new_share(&dir.path().join("share.db"));
    put(&db, 1).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(count(&db), 1)));
        }
    });
    // A reader that panics gives its place back.
    for _ in 0..8 {
        let died = std::thread::scope(|scope| {
            scope.spawn(|| db.read(|_| -> Result<(), RowsError> { panic!("on purpose") })).join()
        });
        assert!(died.is_err());
    }
    assert_eq!(count(&db), 1);
}

/// A file that cannot be written at the moment is not opened for reading alone: the connection would stay so for ever.
#[test]
fn a_file_that_cannot_be_written_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.db");
    drop(polder_metadata::share::ShareDb::open(&path).unwrap());
    let chattr = |flag| std::process::Command::new("chattr").arg(flag).arg(&path).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot set the immutable flag here");
        return;
    }
    let refused = polder_metadata::share::ShareDb::open(&path);
    assert!(chattr("-i").unwrap().success());
    assert!(refused.is_err());
    drop(polder_metadata::share::ShareDb::open(&path).unwrap());
}
