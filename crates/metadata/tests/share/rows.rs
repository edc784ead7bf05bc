//! The port itself: what one form of rows answers, every other answers too.

use std::sync::Arc;

use polder_ledger::{EntryRow, LedgerError, NodeRow, RowsError, RowsMut};
use polder_types::{Attrs, Nid, Op, Seq, Timestamp};

use crate::support::*;

fn ntacl(time: u8) -> Box<[u8]> {
    let mut acl = vec![4, 0, 4, 0, 0, 0, 2, 0, 4, 0, 2, 0, 1, 0];
    acl.extend([9; 64]);
    acl.extend(b"posix_acl\0");
    acl.extend([time; 8]);
    acl.extend([1; 164]);
    acl.into()
}

fn write(
    share: &Share,
    job: impl FnOnce(&mut dyn RowsMut) -> Result<(), RowsError> + Send + 'static,
) -> RowsError {
    rows_error(share.edit(move |rows| job(rows).map_err(LedgerError::from)).unwrap_err())
}

on_all_forms! {
    fn attributes_and_times_come_back_exactly(share) {
        let odd: Vec<(&[u8], Box<[u8]>)> = vec![
            (b"security.NTACL", ntacl(1)),
            (b"security.NTACL", ntacl(2)),
            (b"security.NTACL", Box::new([4, 0, 4])),
            (b"user.DOSATTRIB", Box::from(&[0, 0, 5, 0, 5, 0, 0, 0, 17, 0, 0, 0, 32, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8][..])),
            (b"user.DOSATTRIB", Box::new([])),
            (b"user.x", Box::new([0; 65_000])),
        ];
        let times = [
            Timestamp::new(0, 0), Timestamp::new(-1, 999_999_999), Timestamp::new(i64::MAX, 999_999_999),
            Timestamp::new(i64::MIN, 0), Timestamp::new(9_223_372_036, 854_775_807), Timestamp::new(-9_223_372_037, 145_224_192),
        ];
        let mut want = Vec::new();
        for (n, (name, value)) in odd.iter().enumerate() {
            let mut attrs = Attrs { mode: 0o4755, uid: 7, gid: 8, owner: "ö".into(), group: "g".into(), ..Attrs::default() };
            attrs.xattrs.insert((*name).into(), value.clone());
            attrs.xattrs.insert(b"user.same".as_slice().into(), b"same".as_slice().into());
            if n == 1 {
                attrs.xattrs.insert(b"user.DOSATTRIB".as_slice().into(), odd[3].1.clone());
            }
            want.push((attrs, times[n]));
        }
        let ops = want.iter().zip(1u8..).map(|((attrs, mtime), n)| Op::Create {
            uid: uid(n), at: place(ROOT, &format!("f{n}")), mtime: *mtime, attrs: attrs.clone(), content: hole(1),
        });
        share.ok(ops.collect());
        share.reopen();
        for ((attrs, mtime), n) in want.iter().zip(1u8..) {
            let node = share.get(&format!("f{n}"));
            assert_eq!((&node.attrs, node.mtime), (attrs, *mtime), "{n}");
        }
    }

    fn attributes_beyond_their_bounds_are_refused(share) {
        let mut attrs = Attrs { mode: 0o644, ..Attrs::default() };
        attrs.xattrs.insert(vec![b'x'; 256].into(), Box::new([]));
        let op = |attrs| Op::Create { uid: uid(1), at: place(ROOT, "a"), mtime: Timestamp::default(), attrs, content: hole(1) };
        assert!(matches!(share.no(vec![op(attrs)]).1, polder_types::Refusal::Invalid(_)));
        assert!(matches!(share.no(vec![op(Attrs { mode: 0o10000, ..Attrs::default() })]).1, polder_types::Refusal::Invalid(_)));
        assert!(matches!(share.no(vec![op(Attrs { owner: "x".repeat(256).into(), ..Attrs::default() })]).1, polder_types::Refusal::Invalid(_)));
    }

    fn rows_that_contradict_each_other_are_damage(share) {
        let seq = share.ok(vec![file(1, ROOT, "a")]);
        let nid = Nid(seq.0);
        let row = NodeRow {
            nid, since: Seq(9), up: Nid(0), name: name("a"), mtime: Timestamp::default(), attrs: Arc::default(), content: hole(1),
        };
        let entry = EntryRow { since: Seq(9), nid, name: name("a") };
        let (twin, ghost, second) = (row.clone(), NodeRow { nid: Nid(77), ..row }, entry.clone());
        let errors = [
            write(share, move |rows| rows.insert_node(&twin)),
            write(share, move |rows| rows.replace_node(&ghost, Seq(9))),
            write(share, move |rows| rows.close_node(Nid(77), Seq(9))),
            write(share, move |rows| rows.insert_entry(Nid(0), b"a", &second)),
            write(share, move |rows| rows.close_entry(Nid(0), b"zzz", Seq(9))),
            write(share, move |rows| rows.insert_ident(Nid(77), uid(1))),
            write(share, move |rows| rows.put_gone(Nid(77), None)),
            write(share, move |rows| rows.remove_past_node(Seq(77))),
            write(share, move |rows| rows.merge_past_node(Seq(77), Seq(78))),
            write(share, move |rows| rows.remove_change(Seq(77))),
            write(share, move |rows| rows.insert_change(Seq(2), nid, polder_ledger::What::Update)),
        ];
        for (error, nth) in errors.into_iter().zip(0..) {
            assert!(matches!(error, RowsError::Corrupt { .. }), "{nth}: {error}");
        }
        assert_eq!(share.paths(polder_ledger::At::Now), ["/a"]);
    }

    fn a_panic_in_a_job_voids_the_job_alone(share) {
        share.ok(vec![file(1, ROOT, "a")]);
        let died = share.edit(|rows| -> Result<(), LedgerError> {
            rows.remove_change(Seq(2))?;
            panic!("on purpose");
        });
        assert!(matches!(died, Err(LedgerError::Rows(RowsError::Failed { .. }))));
        share.ok(vec![file(2, ROOT, "b")]);
        let page = share.db.read(|rows| polder_ledger::changes(rows, Default::default(), None, 10)).unwrap();
        assert_eq!(page.rows.len(), 2);
    }
}
