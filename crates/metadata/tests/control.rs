//! The stores of the control plane under their suite, and what is SQLite's alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use polder_metadata::control::{
    Acting, AuditNote, Control, ControlError, MemoryRows, SqliteRows, conformance,
};
use polder_types::Timestamp;

fn acting() -> Acting {
    Acting { who: "service".into(), now: Timestamp::new(1, 0) }
}

#[test]
fn memory_conforms() {
    conformance::run(&|| Arc::new(MemoryRows::default()));
}

#[test]
fn sqlite_conforms() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let number = AtomicUsize::new(0);
    conformance::run(&|| {
        let path = dir.path().join(format!("{}.db", number.fetch_add(1, Ordering::Relaxed)));
        Arc::new(SqliteRows::open(&path).expect("a new database"))
    });
}

#[test]
fn sqlite_keeps_what_was_written_and_two_processes_share_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("control.db");
    let open = || Control::new(Arc::new(SqliteRows::open(&path).expect("opened")));
    let (one, two) = (open(), open());
    // Two connections of one process lock the file as two processes do.
    std::thread::scope(|scope| {
        for control in [&one, &two] {
            scope.spawn(move || {
                for _ in 0..25 {
                    control.audit(&acting(), &AuditNote::new("test", "x", "")).expect("appended");
                }
            });
        }
    });
    drop((one, two));
    assert_eq!(open().audit_verify().expect("read"), Ok(50));
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("control.db");
    drop(SqliteRows::open(&path).expect("a new database"));
    let db = rusqlite::Connection::open(&path).expect("opened");
    db.pragma_update(None, "user_version", 99).expect("written");
    assert!(matches!(SqliteRows::open(&path), Err(ControlError::Newer { found: 99, .. })));
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("read");
    assert_eq!(version, 99);
}

#[test]
fn the_audit_log_cannot_be_rewritten_through_the_database_either() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("control.db");
    let control = Control::new(Arc::new(SqliteRows::open(&path).expect("a new database")));
    control.audit(&acting(), &AuditNote::new("test", "x", "")).expect("appended");
    control.audit(&acting(), &AuditNote::new("test", "y", "")).expect("appended");
    let db = rusqlite::Connection::open(&path).expect("opened");
    assert!(db.execute("DELETE FROM audit", []).is_err());
    assert!(db.execute("UPDATE audit SET doc = x'00'", []).is_err());
    // Whoever owns the file can remove the triggers; the chain still shows it.
    db.execute_batch("DROP TRIGGER audit_no_delete; DELETE FROM audit WHERE seq = 1").expect("forced");
    assert_eq!(control.audit_verify().expect("read").expect_err("a gap").seq, 1);
}

/// A file that cannot be written at the moment is not opened for reading alone: the connection would stay so for ever.
#[test]
fn a_file_that_cannot_be_written_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.db");
    drop(polder_metadata::control::SqliteRows::open(&path).unwrap());
    let chattr = |flag| std::process::Command::new("chattr").arg(flag).arg(&path).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot set the immutable flag here");
        return;
    }
    let refused = polder_metadata::control::SqliteRows::open(&path);
    assert!(chattr("-i").unwrap().success());
    assert!(refused.is_err());
    drop(polder_metadata::control::SqliteRows::open(&path).unwrap());
}
