//! What people read: tables and sentences; and the JSON that scripts read.

use crate::{fake::Fake, shell::Shell};

const SHARES: &str = r#"{"items":[
    {"id":"00000000000000000000000000000002","name":"demo","state":"live","case":"sensitive","used_bytes":1536,
     "nodes":1234,"head":77,"epoch":0,"created_at":"2026-11-23T18:00:00.123Z","a_new_field":1},
    {"id":"00000000000000000000000000000003","name":"projects","state":"restoring","case":"insensitive",
     "quota_bytes":2199023255552,"used_bytes":1099511627776,"nodes":1000000,"head":5,"epoch":1,
     "created_at":"2026-11-20T08:30:00Z"}]}"#;

const ENTRIES: &str = r#"{"items":[
    {"name":"a\u001b[31mred","kind":"file","size":5,"mtime":"2026-11-23T18:00:00Z","mode":"0644","uid":0,"gid":0,
     "owner":"root","group":"root","node":"00000000000000000000000000000011","version":3},
    {"name":{"bytes":"//4="},"kind":"directory","size":0,"mtime":"2026-11-23T18:00:01Z","mode":"0755","uid":1000,
     "gid":1000,"owner":"","group":"users","node":"00000000000000000000000000000012","version":4},
    {"name":"link","kind":"symlink","size":6,"mtime":"2026-11-23T18:00:02Z","mode":"0000","uid":0,"gid":0,
     "owner":"root","group":"root","target":"../x y","node":"00000000000000000000000000000013","version":5}]}"#;

const STATUS: &str = r#"{"at":"2026-11-23T18:00:00Z","version":"0.1.0","in_sync":false,"problems":[
    {"code":"clock_jump","message":"the clock jumped by 370 days; expiry waits","hint":"confirm the time",
     "since":"2026-11-23T17:00:00Z"}],
  "groups":[{"id":"00000000000000000000000000000001","name":"demo","share":"demo","in_sync":false,"nodes":50001,
    "bytes":204800000,"head":99,"endpoints":[
    {"id":"000000000000000000000000000000e1","server_id":"000000000000000000000000000000a1","server":"site-a",
     "path":"/srv/a","state":"syncing","in_sync":false,"reason":"12,000 items are on their way to the share",
     "heard_at":"2026-11-23T18:00:00Z","applied":99,
     "upload":{"items_left":12000,"bytes_left":49152000,"items_per_second":4000,"bytes_per_second":16384000,
       "seconds_left":3},
     "download":{"items_left":0,"bytes_left":0,"items_per_second":0,"bytes_per_second":0},
     "nodes":50001,"local_bytes":204800000,"tiered_bytes":0,"recycled_bytes":0,"errors":2,"held":0,"review":0,
     "problems":[]},
    {"id":"000000000000000000000000000000e2","server_id":"000000000000000000000000000000a2","server":"site-b",
     "path":"/srv/b","state":"stopped","in_sync":false,"reason":"the root folder was replaced by another",
     "applied":40,"upload":{"items_left":0,"bytes_left":0,"items_per_second":0,"bytes_per_second":0},
     "download":{"items_left":38001,"bytes_left":155648000,"items_per_second":0,"bytes_per_second":0},
     "nodes":12000,"local_bytes":49152000,"tiered_bytes":0,"recycled_bytes":0,"errors":0,"held":0,"review":0,
     "problems":[{"code":"root_changed","message":"another file system is mounted at /srv/b",
       "hint":"mount the right one; sync goes on by itself","since":"2026-11-23T17:30:00Z"}]}]}]}"#;

const ERRORS: &str = r#"{"items":[{"endpoint":"000000000000000000000000000000e1","server":"site-a","path":"a/b.sock",
    "direction":"scan","code":"special_file","reason":"is a socket","hint":"sockets are not synced",
    "since":"2026-11-23T18:00:00Z","attempts":1}]"#;

#[test]
fn shares() {
    let fake = Fake::canned(&[("GET /v1/shares", 200, SHARES)]);
    let shell = Shell::with(&fake);
    insta::assert_snapshot!("shares_table", shell.run(&["share", "list"]).all());
    insta::assert_snapshot!("shares_json", shell.run(&["share", "list", "--json"]).all());
}

#[test]
fn status_tells_how_tiering_goes() {
    let tiering = r#""tiering":{"cached_bytes":1073741824,"tiered_files":12,"saved_bytes":3221225472,"opens":200,
        "opens_here":197,"read_bytes":0,"read_bytes_here":0,"low_disk":true,"missing_bytes":0,"orphaned_files":0,
        "programs":[{"program":"cat","reads":3,"bytes":2048,"refused":0},
                    {"program":"updatedb","reads":0,"bytes":0,"refused":1200}],
        "stays":[{"reason":"in_use","files":2,"bytes":1024},{"reason":"too_small","files":1500,"bytes":4096}],
        "notices":[]},"recycled_bytes""#;
    let status = STATUS.replacen("\"recycled_bytes\"", tiering, 1);
    let fake = Fake::canned(&[("GET /v1/status", 200, &status)]);
    let said = Shell::with(&fake).run(&["status"]).out;
    for line in [
        "  site-a: 1.0 GiB here, 3.0 GiB saved by 12 tiered files; hits: 98.5% of opens, none yet of bytes",
        "  site-a: recalls: cat 2.0 KiB (3 reads), updatedb 0 B (0 reads, 1,200 refused)",
        "  site-a: files that stay: 1,500 too small (4.0 KiB), 2 in use (1.0 KiB)",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}\n{said}");
    }
}

/// Scenario 59, in a table.
#[test]
fn a_folder_with_names_that_bite() {
    let fake = Fake::canned(&[("GET /v1/shares/demo/entries", 200, ENTRIES)]);
    let shell = Shell::with(&fake);
    insta::assert_snapshot!("ls_table", shell.run(&["share", "ls", "demo:"]).all());
    insta::assert_snapshot!("ls_json", shell.run(&["share", "ls", "demo", "--json"]).all());
}

#[test]
fn health() {
    let fake = Fake::canned(&[("GET /v1/status?group=demo", 200, STATUS)]);
    let shell = Shell::with(&fake);
    insta::assert_snapshot!("status_text", shell.run(&["status", "--group", "demo"]).all());
    let json = shell.run(&["status", "--group", "demo", "--json"]).out;
    let read: polder_api::rest::Status =
        serde_json::from_str(&json).expect("one document of the API's own type");
    assert_eq!(read.groups[0].endpoints[0].upload.items_left, 12000);
}

#[test]
fn long_lists_go_page_by_page() {
    let first = format!(r#"{ERRORS},"next":"p 2"}}"#);
    let second = format!("{ERRORS}}}");
    let fake = Fake::canned(&[("GET /v1/errors", 200, &first), ("GET /v1/errors?after=p%202", 200, &second)]);
    let shell = Shell::with(&fake);
    insta::assert_snapshot!("errors_table", shell.run(&["errors"]).all());
    let said = shell.run(&["errors", "--json"]);
    let items: Vec<polder_api::rest::ItemError> = serde_json::from_str(&said.out).expect("one array");
    assert_eq!((items.len(), said.err.as_str()), (2, ""));
    let said = shell.run(&["errors", "--limit", "1"]);
    assert_eq!(said.out.lines().count(), 2);
    assert_eq!(said.err, "only the first 1 are shown; --limit shows more\n");
}

#[test]
fn a_service_that_names_the_same_page_for_ever_ends() {
    let same = format!(r#"{ERRORS},"next":"again"}}"#);
    let fake = Fake::canned(&[("GET /v1/errors", 200, &same), ("GET /v1/errors?after=again", 200, &same)]);
    assert_eq!(Shell::with(&fake).run(&["errors", "--json"]).exit, polder_cli::Exit::Done);
    assert_eq!(fake.asked().len(), 2);
}

#[test]
fn one_object_each() {
    let server = r#"{"id":"000000000000000000000000000000a1","name":"site-a","state":"online","version":"0.1.0",
        "heartbeat_at":"2026-11-23T18:00:00Z","registered_at":"2026-11-23T17:00:00Z",
        "certificate_expires_at":"2026-12-23T17:00:00Z","endpoints":["000000000000000000000000000000e1"]}"#;
    let endpoint = r#"{"id":"000000000000000000000000000000e1","group":"demo",
        "group_id":"00000000000000000000000000000001","share":"demo","share_id":"00000000000000000000000000000002",
        "server":"site-a","server_id":"000000000000000000000000000000a1","path":"/srv/a","settings":{"tiering":true,
        "free_space_percent":25,"older_than_days":30,"excludes":["*.iso","tmp/**"]},
        "created_at":"2026-11-23T18:00:00Z"}"#;
    let stat = r#"{"path":"a/b.txt","name":"b.txt","kind":"file","size":1536,"mtime":"2026-11-23T18:00:00.123456789Z",
        "mode":"0640","uid":1000,"gid":100,"owner":"ada","group":"users","node":"00000000000000000000000000000011",
        "version":7,"changed_at":"2026-11-23T18:00:01Z","changed_by":"site-a","xattrs":["user.a",{"bytes":"/w=="}],
        "content_id":"abc"}"#;
    let explain = r#"{"share":"demo","path":"a/b.txt","summary":"is a file of 1536 bytes","endpoints":[
        {"endpoint":"000000000000000000000000000000e1","server":"site-a","path":"/srv/a","state":"excluded",
         "reason":"the pattern *.txt leaves it out","hint":"polder endpoint set"}],
        "history":[{"version":7,"at":"2026-11-23T18:00:01Z","by":"site-a","what":"changed","size":1536},
         {"version":3,"at":"2026-11-23T17:00:01Z","by":"direct","what":"created","size":3}]}"#;
    let token = r#"{"token":"join-me","expires_at":"2026-11-23T19:00:00Z"}"#;
    let fake = Fake::canned(&[
        ("GET /v1/servers/site-a", 200, server),
        ("GET /v1/endpoints/000000000000000000000000000000e1", 200, endpoint),
        ("GET /v1/shares/demo/stat/a/b.txt?at=seq%3A7", 200, stat),
        ("GET /v1/shares/demo/explain/a/b.txt", 200, explain),
        ("POST /v1/join-tokens", 201, token),
    ]);
    let shell = Shell::with(&fake);
    insta::assert_snapshot!("server_show", shell.run(&["server", "show", "site-a"]).all());
    let id = "000000000000000000000000000000e1";
    insta::assert_snapshot!("endpoint_show", shell.run(&["endpoint", "show", id]).all());
    insta::assert_snapshot!(
        "share_stat",
        shell.run(&["share", "stat", "demo:a/b.txt", "--at", "seq:7"]).all()
    );
    insta::assert_snapshot!("explain", shell.run(&["explain", "demo:a/b.txt"]).all());
    insta::assert_snapshot!("server_token", shell.run(&["server", "token", "--expires", "1h"]).all());
    assert_eq!(fake.last_body(), r#"{"expires_seconds":3600}"#);
    insta::assert_snapshot!("server_token_json", shell.run(&["server", "token", "--json", "-q"]).all());
}
