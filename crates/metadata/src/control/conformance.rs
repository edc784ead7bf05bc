//! What every store of the control plane must do, as one suite: run [`run`] with a maker of empty stores.
//!
//! Shipped with the crate and not in a test folder, so that a store in another crate can be held to it. A failure is
//! a panic that names the rule.

use std::sync::Arc;

use polder_types::{CaseRule, EndpointId, GroupId, InstanceId, ServerId, ShareId, Timestamp};

use super::rows::{ControlPort, LogRow, Row, Table};
use super::*;

type Maker<'a> = &'a dyn Fn() -> Arc<dyn ControlPort>;

/// Runs every case, each on a store of its own.
pub fn run(make: Maker<'_>) {
    for case in [
        rows_are_kept_and_listed,
        names_are_unique_in_their_table,
        a_failed_transaction_leaves_nothing,
        shares_are_deleted_softly,
        what_is_in_use_stays,
        join_tokens_work_once,
        certificates_end,
        endpoints_keep_apart,
        settings_are_checked,
        progress_is_changed_under_one_lock,
        tokens_are_checked,
        the_audit_chain_shows_changes,
        writers_take_turns,
        leases_have_one_holder,
        service_time_never_runs_back,
    ] {
        case(make);
    }
}

fn control(make: Maker<'_>) -> Control {
    Control::new(make())
}

fn at(secs: i64) -> Timestamp {
    Timestamp::new(secs, 0)
}

fn acting(secs: i64) -> Acting {
    Acting { who: "token:test".into(), now: at(secs) }
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("valid in this suite")
}

fn share(id: u8, called: &str) -> Share {
    Share {
        id: ShareId([id; 16]),
        name: name(called),
        case: CaseRule::Sensitive,
        chunker: 1,
        quota_bytes: None,
        keys: WrappedKeys(vec![1, 2, 3]),
        state: ShareState::Live,
        created_at: at(1),
    }
}

fn group(id: u8, called: &str, share: u8) -> Group {
    Group { id: GroupId([id; 16]), name: name(called), share: ShareId([share; 16]), created_at: at(1) }
}

fn server(id: u8, called: &str) -> Server {
    Server {
        id: ServerId([id; 16]),
        name: name(called),
        state: ServerState::Trusted,
        created_at: at(1),
        heartbeat_at: None,
        left_at: None,
        version: "1".into(),
    }
}

fn endpoint(id: u8, group: u8, server: u8, path: &str) -> Endpoint {
    Endpoint {
        id: EndpointId([id; 16]),
        group: GroupId([group; 16]),
        server: ServerId([server; 16]),
        path: ServerPath::parse(path.as_bytes()).expect("valid in this suite"),
        settings: EndpointSettings::default(),
        revision: 1,
        deleting: false,
        force: false,
        left_behind: None,
        release: None,
        created_at: at(1),
    }
}

fn register(control: &Control, id: u8, called: &str) {
    let hash = SecretHash::of(&[id]);
    let token = JoinToken { hash, created_at: at(1), expires_at: at(100), server: None, used: None };
    control.create_join_token(&acting(1), &token).expect("a new token");
    let certificate = Certificate { serial: vec![id], server: ServerId([id; 16]), expires_at: at(1_000_000) };
    control.register_server(&acting(2), &hash, &server(id, called), &certificate).expect("a good token");
}

/// A store with a share, a group and a server, all of id 1.
fn small_world(make: Maker<'_>) -> Control {
    let control = control(make);
    control.create_share(&acting(1), &share(1, "demo")).expect("a new share");
    control.create_group(&acting(1), &group(1, "demo", 1)).expect("a new group");
    register(&control, 1, "site-a");
    control
}

fn row(key: &[u8], name: Option<&str>, parent: Option<&[u8]>) -> Row {
    let doc = [b"doc of ", key].concat();
    Row { key: key.into(), name: name.map(Into::into), parent: parent.map(Into::into), doc }
}

fn rows_are_kept_and_listed(make: Maker<'_>) {
    let store = make();
    let put = [
        row(b"b", Some("bee"), Some(b"p")),
        row(b"a", None, Some(b"p")),
        row(b"c", None, Some(b"q")),
        row(b"\0", None, None),
    ];
    store.write(&mut |rows| put.iter().try_for_each(|row| rows.put(Table::Share, row))).expect("written");
    let other = row(b"a", Some("bee"), None);
    store.write(&mut |rows| rows.put(Table::Group, &other)).expect("another table, another name space");
    store
        .read(&mut |rows| {
            assert_eq!(rows.get(Table::Share, b"b")?.as_ref(), Some(&put[0]));
            assert_eq!(rows.get(Table::Share, b"z")?, None);
            assert_eq!(rows.find(Table::Share, "bee")?.as_ref(), Some(&put[0]));
            assert_eq!(rows.find(Table::Share, "Bee")?, None, "names are compared byte by byte");
            let keys = |rows: Vec<Row>| rows.into_iter().map(|row| row.key).collect::<Vec<_>>();
            assert_eq!(keys(rows.list(Table::Share, None, None, 9)?), [&b"\0"[..], b"a", b"b", b"c"]);
            assert_eq!(keys(rows.list(Table::Share, None, Some(b"a"), 1)?), [b"b"]);
            assert_eq!(keys(rows.list(Table::Share, Some(b"p"), None, 9)?), [b"a", b"b"]);
            assert_eq!(keys(rows.list(Table::Share, Some(b"p"), Some(b"a"), 9)?), [b"b"]);
            assert_eq!(keys(rows.list(Table::Group, None, None, 9)?), [b"a"]);
            Ok(())
        })
        .expect("read");
    store
        .write(&mut |rows| {
            assert!(rows.delete(Table::Share, b"b")?);
            assert!(!rows.delete(Table::Share, b"b")?);
            assert_eq!(rows.find(Table::Share, "bee")?, None);
            assert!(rows.get(Table::Group, b"a")?.is_some());
            Ok(())
        })
        .expect("deleted");
}

fn names_are_unique_in_their_table(make: Maker<'_>) {
    let store = make();
    store.write(&mut |rows| rows.put(Table::Share, &row(b"a", Some("x"), None))).expect("written");
    let taken = store.write(&mut |rows| rows.put(Table::Share, &row(b"b", Some("x"), None)));
    assert!(matches!(taken, Err(ControlError::NameTaken { what: Table::Share, .. })));
    store.write(&mut |rows| rows.put(Table::Share, &row(b"a", Some("x"), Some(b"p")))).expect("the same row");
    store.write(&mut |rows| rows.put(Table::Share, &row(b"a", None, None))).expect("gives its name up");
    store.write(&mut |rows| rows.put(Table::Share, &row(b"b", Some("x"), None))).expect("a free name");

    let control = control(make);
    control.create_share(&acting(1), &share(1, "Demo")).expect("a new share");
    let again = control.create_share(&acting(1), &share(2, "dEMO"));
    assert!(matches!(again, Err(ControlError::NameTaken { .. })), "names differ by more than case");
    assert!(control.create_share(&acting(1), &share(1, "other")).is_err(), "an id is used once");
    assert_eq!(control.share_named(&name("DEMO")).expect("read").expect("found").name.as_str(), "Demo");
}

fn a_failed_transaction_leaves_nothing(make: Maker<'_>) {
    let store = make();
    store.write(&mut |rows| rows.put(Table::Share, &row(b"a", Some("x"), None))).expect("written");
    let failed = store.write(&mut |rows| {
        rows.put(Table::Share, &row(b"a", Some("y"), None))?;
        rows.put(Table::Share, &row(b"b", Some("x"), None))?;
        rows.delete(Table::Share, b"a")?;
        rows.log_append(&LogRow { seq: 1, doc: b"1".to_vec() })?;
        Err(ControlError::BadToken)
    });
    assert!(matches!(failed, Err(ControlError::BadToken)), "the work's own error comes back");
    store
        .read(&mut |rows| {
            assert_eq!(rows.find(Table::Share, "x")?.map(|row| row.key), Some(b"a".to_vec()));
            assert_eq!(rows.list(Table::Share, None, None, 9)?.len(), 1);
            assert_eq!(rows.log_head()?, None);
            Ok(())
        })
        .expect("read");
}

fn shares_are_deleted_softly(make: Maker<'_>) {
    let control = control(make);
    let (first, second) = (share(1, "demo"), share(2, "demo"));
    control.create_share(&acting(1), &first).expect("a new share");
    control.set_quota(&acting(2), first.id, Some(5)).expect("set");
    let deleted = control.delete_share(&acting(10), first.id).expect("not in use");
    assert_eq!(deleted.purge_after(), Some(at(10 + SHARE_KEPT_SECS)));
    assert!(control.share_named(&name("demo")).expect("read").is_none());
    assert!(control.delete_share(&acting(11), first.id).is_err(), "deleted once");
    control.create_share(&acting(11), &second).expect("the name is free");
    assert!(control.undelete_share(&acting(12), first.id).is_err(), "the name is taken");
    control.delete_share(&acting(13), second.id).expect("not in use");
    let found = control.deleted_shares_named(&name("demo")).expect("read");
    assert_eq!(found.iter().map(|share| share.id).collect::<Vec<_>>(), [second.id, first.id]);
    let back = control.undelete_share(&acting(14), first.id).expect("in time");
    assert_eq!((back.quota_bytes, back.is_live()), (Some(5), true));
    assert!(control.undelete_share(&acting(15), first.id).is_err(), "it is not deleted");

    assert!(control.purge_share(&acting(SHARE_KEPT_SECS), second.id).is_err(), "still kept");
    let late = acting(13 + SHARE_KEPT_SECS);
    assert!(control.undelete_share(&late, second.id).is_err(), "too late");
    control.purge_share(&late, second.id).expect("its time is over");
    assert!(control.purge_share(&late, first.id).is_err(), "a live share is never purged");
    assert_eq!(control.shares(None, 9).expect("read").len(), 1);
}

fn what_is_in_use_stays(make: Maker<'_>) {
    let control = small_world(make);
    let again = control.create_group(&acting(3), &group(2, "again", 1));
    assert!(matches!(again, Err(ControlError::InUse { .. })), "a share has one group");
    let end = endpoint(1, 1, 1, "/srv/demo");
    control.create_endpoint(&acting(3), &end).expect("a new endpoint");
    assert!(matches!(control.delete_share(&acting(4), ShareId([1; 16])), Err(ControlError::InUse { .. })));
    assert!(matches!(control.delete_group(&acting(4), GroupId([1; 16])), Err(ControlError::InUse { .. })));
    control.forget_endpoint(&acting(5), end.id).expect("there");
    control.delete_group(&acting(6), GroupId([1; 16])).expect("no endpoint left");
    control.delete_share(&acting(7), ShareId([1; 16])).expect("no group left");
    let orphan = control.create_group(&acting(8), &group(2, "other", 1));
    assert!(matches!(orphan, Err(ControlError::NotFound { .. })), "no group on a deleted share");
}

fn join_tokens_work_once(make: Maker<'_>) {
    let control = control(make);
    let hash = SecretHash::of(b"secret");
    let token = JoinToken { hash, created_at: at(1), expires_at: at(100), server: None, used: None };
    control.create_join_token(&acting(1), &token).expect("a new token");
    let certificate =
        |id: u8| Certificate { serial: vec![id], server: ServerId([id; 16]), expires_at: at(1000) };
    let join = |hash: &SecretHash, when, id: u8, called: &str| {
        control.register_server(&acting(when), hash, &server(id, called), &certificate(id))
    };
    assert!(matches!(join(&SecretHash::of(b"guess"), 2, 1, "a"), Err(ControlError::BadToken)));
    assert!(matches!(join(&hash, 100, 1, "a"), Err(ControlError::BadToken)), "expired");
    assert_eq!(control.join_tokens(at(2)).expect("read").len(), 1);
    join(&hash, 99, 1, "a").expect("in time");
    assert!(matches!(join(&hash, 99, 2, "b"), Err(ControlError::BadToken)), "used");
    assert!(control.join_tokens(at(2)).expect("read").is_empty());

    let second = JoinToken { hash: SecretHash::of(b"second"), ..token.clone() };
    control.create_join_token(&acting(1), &second).expect("a new token");
    assert!(matches!(join(&second.hash, 3, 2, "A"), Err(ControlError::NameTaken { .. })));
    assert_eq!(control.join_tokens(at(2)).expect("read").len(), 1, "a refused registration uses nothing up");
    control.revoke_server(&acting(4), ServerId([1; 16])).expect("trusted until now");
    join(&second.hash, 5, 2, "A").expect("the name of a revoked server is free");

    let bound = JoinToken { hash: SecretHash::of(b"bound"), server: Some(name("c")), ..token };
    control.create_join_token(&acting(5), &bound).expect("a new token");
    assert!(matches!(join(&bound.hash, 6, 3, "b"), Err(ControlError::BadToken)), "bound to a name");
    join(&bound.hash, 6, 3, "C").expect("its name");
}

fn certificates_end(make: Maker<'_>) {
    let control = control(make);
    register(&control, 1, "a");
    let id = ServerId([1; 16]);
    let of = |serial: &[u8], now| {
        control.server_of_certificate(serial, at(now)).expect("read").map(|server| server.id)
    };
    assert_eq!(of(&[1], 5), Some(id));
    assert_eq!(of(&[2], 5), None, "a serial that was never issued");
    assert_eq!(of(&[1], 1_000_000), None, "expired");
    let next = Certificate { serial: vec![9], server: id, expires_at: at(2_000_000) };
    control.add_certificate(&acting(500_000), &next).expect("a renewal");
    assert_eq!((of(&[1], 600_000), of(&[9], 600_000)), (Some(id), Some(id)), "both until the first ends");
    let third = Certificate { serial: vec![10], ..next };
    control.add_certificate(&acting(1_500_000), &third).expect("a renewal");
    assert_eq!(control.certificates(id).expect("read").len(), 2, "the expired one is forgotten");
    control.heartbeat(id, at(7), "2\n").expect("registered");
    control.heartbeat(id, at(6), "3").expect("registered");
    let seen = control.server(id).expect("read").expect("registered");
    assert_eq!((seen.heartbeat_at, seen.version.as_str()), (Some(at(7)), "3"));
    let was_here = |now| control.server(id).expect("read").expect("registered").was_here(at(now), 60);
    assert!(was_here(66) && !was_here(67), "for as long as asked for");
    control.left(id, at(8)).expect("registered");
    assert!(!was_here(9), "who has left is not here");
    control.heartbeat(id, at(10), "3").expect("registered");
    assert!(was_here(11), "and is again with the next sign of life");
    control.revoke_server(&acting(8), id).expect("trusted until now");
    assert_eq!(of(&[9], 600_000), None, "revoked at once");
    let fourth = Certificate { serial: vec![11], server: id, expires_at: at(3_000_000) };
    assert!(control.add_certificate(&acting(9), &fourth).is_err(), "no renewal after that");
    assert!(control.revoke_server(&acting(9), id).is_err(), "revoked once");
}

fn endpoints_keep_apart(make: Maker<'_>) {
    let control = small_world(make);
    register(&control, 2, "site-b");
    control.create_endpoint(&acting(3), &endpoint(1, 1, 1, "/srv/demo")).expect("a new endpoint");
    for path in ["/srv/demo", "/srv", "/srv/demo/x", "//srv//demo/"] {
        let clash = control.create_endpoint(&acting(4), &endpoint(2, 1, 1, path));
        assert!(matches!(clash, Err(ControlError::Refused(_))), "{path} overlaps");
    }
    control.create_endpoint(&acting(4), &endpoint(2, 1, 1, "/srv/demo2")).expect("beside it");
    control.create_endpoint(&acting(4), &endpoint(3, 1, 2, "/srv/demo")).expect("on another server");
    assert!(control.create_endpoint(&acting(4), &endpoint(4, 9, 1, "/x")).is_err(), "no such group");
    assert!(control.create_endpoint(&acting(4), &endpoint(4, 1, 9, "/x")).is_err(), "no such server");
    let page = |after| {
        let page = control.endpoints(Some(GroupId([1; 16])), after, 2).expect("read");
        page.iter().map(|endpoint| endpoint.id.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(page(None), [1, 2]);
    assert_eq!(page(Some(EndpointId([2; 16]))), [3]);
    assert_eq!(control.endpoints_of_server(ServerId([1; 16])).expect("read").len(), 2);
    control.revoke_server(&acting(5), ServerId([2; 16])).expect("trusted until now");
    assert!(control.create_endpoint(&acting(6), &endpoint(5, 1, 2, "/y")).is_err(), "a revoked server");
    let id = EndpointId([1; 16]);
    assert!(control.delete_endpoint(&acting(7), id, false).expect("there").deleting);
    let ordered = control.release_endpoint(&acting(8), id, Release::Revert).expect("there");
    control.release_done(&acting(9), id, ordered.revision - 1).expect("there");
    assert!(control.endpoint(id).expect("read").expect("there").release.is_some(), "an older order was done");
    control.release_done(&acting(9), id, ordered.revision).expect("there");
    assert!(control.endpoint(id).expect("read").expect("there").release.is_none());
    // What has left its server is in nobody's way, and is not removed by a second order.
    let forced = control.delete_endpoint(&acting(10), id, true).expect("there");
    assert!(forced.force && control.delete_endpoint(&acting(10), id, false).expect("there").force);
    let left = LeftBehind { count: None, at: acting(11).now };
    let left = control.leave_endpoint(&acting(11), id, left).expect("there");
    assert!(!left.deleting && !left.force && left.left_behind.is_some());
    assert!(control.delete_endpoint(&acting(12), id, true).is_err());
    control.create_endpoint(&acting(12), &endpoint(6, 1, 1, "/srv/demo")).expect("its place is free");
    assert_eq!(control.endpoints_of_server(ServerId([1; 16])).expect("read").len(), 3);
}

fn settings_are_checked(make: Maker<'_>) {
    let control = small_world(make);
    let mut first = endpoint(1, 1, 1, "/srv/\u{e9}");
    first.path = ServerPath::parse(b"/srv/\xff").expect("any bytes");
    first.settings.initial_download = InitialDownload::NamespaceFirst;
    assert!(control.create_endpoint(&acting(2), &first).is_err(), "names only need tiering");
    first.settings.tiering = true;
    first.settings.cache_quota_bytes = Some(1 << 40);
    control.create_endpoint(&acting(2), &first).expect("with tiering");
    assert_eq!(control.endpoint(first.id).expect("read").as_ref(), Some(&first), "as it was written");

    let glob: Glob = "*.tmp".parse().expect("valid");
    let set = control.set_endpoint(&acting(3), first.id, |settings| {
        settings.excludes = vec![glob.clone()];
        settings.initial_download = InitialDownload::Full;
    });
    let set = set.expect("valid");
    assert_eq!((set.revision, set.settings.excludes.len()), (2, 1));
    assert_eq!(set.settings.initial_download, InitialDownload::NamespaceFirst, "used and over");
    let off =
        control.set_endpoint(&acting(4), first.id, |settings| settings.excludes = vec![glob.clone(); 1001]);
    assert!(off.is_err(), "too many patterns");
    assert_eq!(control.endpoint(first.id).expect("read").expect("there").revision, 2);
    let plain = control.set_endpoint(&acting(5), first.id, |settings| settings.tiering = false);
    assert_eq!(plain.expect("valid").settings.initial_download, InitialDownload::Full, "tiering has an end");
}

fn progress_is_changed_under_one_lock(make: Maker<'_>) {
    let control = small_world(make);
    let id = EndpointId([1; 16]);
    assert!(control.update_progress(id, |_| Ok(())).is_err(), "no such endpoint");
    control.create_endpoint(&acting(2), &endpoint(1, 1, 1, "/srv/a")).expect("a new endpoint");
    let claim = |instance: u8| {
        control.update_progress(id, |progress| {
            let mine = InstanceId([instance; 16]);
            match progress.instance {
                Some(other) if other != mine => Err(ControlError::Refused("a clone".into())),
                _ => {
                    progress.instance = Some(mine);
                    progress.next_batch.0 += 1;
                    Ok(progress.next_batch.0)
                }
            }
        })
    };
    let all = [1, 2, 3, 4];
    let won = std::thread::scope(|scope| {
        let tries = all.map(|instance| scope.spawn(move || claim(instance).is_ok()));
        tries.map(|one| one.join().expect("no panic")).iter().filter(|won| **won).count()
    });
    assert_eq!(won, 1, "one of several claims passes");
    let kept = control.progress(id).expect("read");
    assert_eq!((kept.next_batch.0, kept.instance.is_some()), (1, true));
    let instance = kept.instance.expect("claimed");
    control.forget_endpoint(&acting(3), id).expect("there");
    assert_eq!(control.progress(id).expect("read").instance, None);
    let server = control.server_of_instance(instance).expect("read").expect("history still names it");
    assert_eq!(server.name.as_str(), "site-a");
}

fn tokens_are_checked(make: Maker<'_>) {
    let control = control(make);
    let token = |id: u8, called: &str, role, expires_at| UserToken {
        id: TokenId([id; 8]),
        name: name(called),
        role,
        hash: SecretHash::of(&[id]),
        created_at: at(1),
        expires_at,
    };
    let owner = token(1, "owner", Role::Owner, None);
    control.create_token(&acting(1), &owner).expect("a new token");
    control.create_token(&acting(1), &token(2, "brief", Role::Owner, Some(at(50)))).expect("a new token");
    assert!(control.create_token(&acting(1), &token(3, "OWNER", Role::Reader, None)).is_err());
    let check = |id: u8, secret: u8, now| {
        control.check_token(TokenId([id; 8]), &SecretHash::of(&[secret]), at(now)).map(|token| token.role)
    };
    assert_eq!(check(1, 1, 2).expect("right"), Role::Owner);
    assert!(matches!(check(1, 2, 2), Err(ControlError::BadToken)), "another's secret");
    assert!(matches!(check(9, 1, 2), Err(ControlError::BadToken)), "no such id");
    assert!(check(2, 2, 49).is_ok() && check(2, 2, 50).is_err(), "expires");
    assert!(control.delete_token(&acting(3), owner.id).is_err(), "the last lasting owner");
    control.create_token(&acting(4), &token(4, "second", Role::Owner, None)).expect("a new token");
    control.delete_token(&acting(5), owner.id).expect("another owner is left");
    assert!(check(1, 1, 6).is_err(), "useless at once");
}

fn the_audit_chain_shows_changes(make: Maker<'_>) {
    let store = make();
    let control = Control::new(store.clone());
    assert_eq!(control.audit_verify().expect("read"), Ok(0));
    for number in 0..5 {
        let note = AuditNote::new("share.put", format!("demo:/a\n{number}"), "");
        assert_eq!(control.audit(&acting(number), &note).expect("appended"), number as u64 + 1);
    }
    assert_eq!(control.audit_verify().expect("read"), Ok(5));
    let page = control.audit_page(None, 2).expect("read");
    assert_eq!(page.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [5, 4]);
    assert_eq!(page[1].object, r"demo:/a\n3", "names cannot forge lines");
    let page = control.audit_page(Some(3), 9).expect("read");
    assert_eq!(page.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 1]);
    assert!(control.audit_page(Some(1), 9).expect("read").is_empty());
    assert!(control.audit_page(Some(0), 9).expect("read").is_empty());

    // A forged entry: right number, right predecessor, a hash of something else.
    let head = control.audit_page(None, 1).expect("read").remove(0);
    let forged = AuditEntry { seq: 6, prev: head.hash, who: "token:other".into(), ..head };
    let doc = serde_json::to_vec(&forged).expect("plain values");
    store.write(&mut |rows| rows.log_append(&LogRow { seq: 6, doc: doc.clone() })).expect("appended");
    let broken = control.audit_verify().expect("read").expect_err("a forged entry");
    assert_eq!((broken.seq, broken.why), (6, "it was changed"));
}

fn writers_take_turns(make: Maker<'_>) {
    let control = control(make);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let control = &control;
            scope.spawn(move || {
                for number in 0..25 {
                    let note = AuditNote::new("test", format!("{thread} {number}"), "");
                    control.audit(&acting(1), &note).expect("appended");
                }
            });
        }
    });
    assert_eq!(control.audit_verify().expect("read"), Ok(100), "no gap, no fork");
}

fn leases_have_one_holder(make: Maker<'_>) {
    let control = control(make);
    let take =
        |holder: &str, now, until| control.take_lease("prune", holder, at(now), at(until)).expect("asked");
    let first = take("a", 1, 10).expect("free");
    assert_eq!(take("b", 2, 20), None);
    assert_eq!(take("a", 5, 15).expect("renewed").fence, first.fence);
    let second = take("b", 15, 30).expect("expired");
    assert!(second.fence > first.fence);
    let status = ReconcilerStatus {
        name: "prune".into(),
        subject: "demo".into(),
        started_at: Some(at(1)),
        finished_at: None,
        outcome: "runs".into(),
        error: None,
        items_total: 1,
        runs: 1,
        failures: 0,
        next_at: None,
    };
    let late = control.report_work(&first, &status);
    assert!(matches!(late, Err(ControlError::Fenced { .. })), "a holder that slept too long");
    control.report_work(&second, &status).expect("the holder");
    control.report_work(&second, &ReconcilerStatus { items_total: 2, ..status }).expect("the holder");
    let work = control.work().expect("read");
    assert_eq!((work.len(), work[0].items_total), (1, 2));
    control.drop_lease(&first).expect("not its any more: nothing happens");
    assert_eq!(take("c", 16, 20), None);
    control.drop_lease(&second).expect("given back");
    assert!(take("c", 16, 20).expect("free").fence > second.fence);
}

fn service_time_never_runs_back(make: Maker<'_>) {
    let control = control(make);
    let observe = |clock| control.observe_clock(at(clock)).expect("observed");
    assert_eq!(control.service_time().expect("read"), None);
    assert!(observe(1000).may_expire());
    assert_eq!(observe(900).now, at(1000), "the clock was set back");
    assert!(observe(1000 + CLOCK_JUMP_SECS_MAX).may_expire(), "a day is no jump");
    let far = 1000 + 3 * CLOCK_JUMP_SECS_MAX;
    assert!(!observe(far).may_expire(), "two days are");
    assert!(!observe(far + 60).may_expire(), "until somebody says so");
    let kept = control.confirm_clock(&acting(1), None).expect("confirmed");
    assert_eq!((kept.now, kept.may_expire()), (at(far + 60), true));
    observe(far + 9 * CLOCK_JUMP_SECS_MAX);
    let kept = control.confirm_clock(&acting(1), Some(at(far + 120))).expect("set back");
    assert_eq!((kept.now, kept.may_expire()), (at(far + 120), true));
    assert_eq!(control.audit_verify().expect("read"), Ok(2));
}
