//! What destroys asks first.

use polder_cli::Exit;

use crate::{fake::Fake, shell::Shell};

const GROUP: &str = r#"{"id":"00000000000000000000000000000001","name":"demo","share":"demo",
    "share_id":"00000000000000000000000000000002","endpoints":[],"created_at":"2026-11-23T18:00:00Z"}"#;
const ENDPOINT: &str = r#"{"id":"000000000000000000000000000000e1","group":"demo",
    "group_id":"00000000000000000000000000000001","share":"demo","share_id":"00000000000000000000000000000002",
    "server":"site-a","server_id":"000000000000000000000000000000a1","path":"/srv/a",
    "settings":{},"created_at":"2026-11-23T18:00:00Z"}"#;

#[test]
fn nobody_to_ask_means_no() {
    let fake = Fake::canned(&[("DELETE /v1/groups/demo", 200, GROUP)]);
    let said = Shell::with(&fake).run(&["group", "delete", "demo"]);
    insta::assert_snapshot!(said.all(), @r#"
    exit 5
    --- data
    --- talk
    error: this deletes the sync group "demo", and nobody can be asked
    hint: give --yes if it is meant, or --dry-run to see what would happen
    "#);
    assert!(fake.asked().is_empty());
}

#[test]
fn the_name_must_be_typed() {
    let fake = Fake::canned(&[("DELETE /v1/groups/demo", 200, GROUP)]);
    let mut shell = Shell::with(&fake);
    shell.types = Some("yes".to_owned());
    assert_eq!(shell.run(&["group", "delete", "demo"]).exit, Exit::Refused);
    assert!(fake.asked().is_empty());
    shell.types = Some("demo".to_owned());
    let said = shell.run(&["group", "delete", "demo"]);
    insta::assert_snapshot!(said.all(), @r#"
    exit 0
    --- data
    --- talk
    This deletes the sync group "demo".
    Type "demo" to go on: deleted the sync group "demo"
    "#);
    assert_eq!(fake.asked(), ["DELETE /v1/groups/demo"]);
}

#[test]
fn a_dry_run_says_so_to_the_service() {
    let fake = Fake::canned(&[("DELETE /v1/groups/demo?dry_run=true", 200, GROUP)]);
    let said = Shell::with(&fake).run(&["group", "delete", "demo", "--dry-run"]);
    assert_eq!((said.exit, said.err.as_str()), (Exit::Done, "would delete the sync group \"demo\"\n"));
}

#[test]
fn every_destructive_command_asks() {
    let endpoints = format!(r#"{{"items":[{ENDPOINT}]}}"#);
    let fake = Fake::canned(&[("GET /v1/endpoints", 200, &endpoints)]);
    let shell = Shell::with(&fake);
    for command in [
        &["share", "delete", "demo"][..],
        &["share", "rm", "-r", "demo:a"],
        &["group", "delete", "demo"],
        &["server", "revoke", "site-a"],
        &["endpoint", "delete", "site-a"],
        &["endpoint", "release", "site-a", "--accept"],
        &["endpoint", "release", "demo/site-a", "--revert"],
        &["review", "discard", "--endpoint", "site-a:/srv/a", "--all"],
        &["snapshot", "delete", "demo", "first"],
        &["conflicts", "resolve", "demo:a-site-a", "--keep-copy"],
    ] {
        let said = shell.run(command);
        assert_eq!(said.exit, Exit::Refused, "{command:?}: {}", said.err);
        assert!(said.err.contains("nobody can be asked"), "{command:?}: {}", said.err);
    }
    let changes = fake.asked().into_iter().filter(|asked| !asked.starts_with("GET ")).collect::<Vec<_>>();
    assert_eq!(changes, Vec::<String>::new());
}

/// How an endpoint is removed travels as it was said, and what has left its server is told from what follows it there.
#[test]
fn a_removal_says_how() {
    let endpoints = format!(r#"{{"items":[{ENDPOINT}]}}"#);
    let path = "DELETE /v1/endpoints/000000000000000000000000000000e1";
    for (flags, query) in [
        (&["--yes"][..], ""),
        (&["--yes", "--force"], "?force=true"),
        (&["--yes", "--forget"], "?forget=true"),
        (&["--force", "--dry-run"], "?dry_run=true&force=true"),
    ] {
        let asked = format!("{path}{query}");
        let fake = Fake::canned(&[("GET /v1/endpoints", 200, &endpoints), (&asked, 200, ENDPOINT)]);
        let said = Shell::with(&fake).run(&[&["endpoint", "delete", "site-a"], flags].concat());
        assert_eq!(said.exit, Exit::Done, "{flags:?}: {}", said.err);
        assert!(fake.asked().contains(&asked), "{:?}", fake.asked());
    }
    let fake = Fake::canned(&[("GET /v1/endpoints", 200, &endpoints)]);
    let both = ["endpoint", "delete", "site-a", "--yes", "--force", "--forget"];
    assert_eq!(Shell::with(&fake).run(&both).exit, Exit::Usage);
    assert_eq!(Shell::with(&fake).run(&["recall"]).exit, Exit::Usage, "of nothing");
    assert_eq!(Shell::with(&fake).run(&["recall", "--into", "/x", "/y"]).exit, Exit::Usage);
}

#[test]
fn settings_that_are_cleared_travel_as_null() {
    let endpoints = format!(r#"{{"items":[{ENDPOINT}]}}"#);
    let fake = Fake::canned(&[
        ("GET /v1/endpoints", 200, &endpoints),
        ("PATCH /v1/endpoints/000000000000000000000000000000e1", 200, ENDPOINT),
    ]);
    let arguments =
        ["endpoint", "set", "site-a", "--older-than", "none", "--free-space", "30%", "--exclude", "*.iso"];
    assert_eq!(Shell::with(&fake).run(&arguments).exit, Exit::Done);
    assert_eq!(fake.last_body(), r#"{"free_space_percent":30,"older_than_days":null,"excludes":["*.iso"]}"#);
    let arguments = [
        "endpoint",
        "set",
        "site-a",
        "--tiering",
        "off",
        "--file-size-min",
        "1M",
        "--new-files",
        "full",
        "--tier-rule",
        "keep,glob=*.db",
        "--program-rule",
        "none",
    ];
    assert_eq!(Shell::with(&fake).run(&arguments).exit, Exit::Done);
    assert_eq!(
        fake.last_body(),
        r#"{"tiering":false,"file_bytes_min":1048576,"new_files":"full","tier_rules":[{"action":"keep","after_days":0,"glob":"*.db"}],"program_rules":[]}"#
    );
}

#[test]
fn an_endpoint_must_be_meant_alone() {
    let other =
        ENDPOINT.replace("000e1", "000e2").replace("/srv/a", "/srv/b").replace("\"demo\"", "\"other\"");
    let endpoints = format!(r#"{{"items":[{ENDPOINT},{other}]}}"#);
    let fake = Fake::canned(&[("GET /v1/endpoints", 200, &endpoints)]);
    let shell = Shell::with(&fake);
    assert_eq!(shell.run(&["endpoint", "show", "site-a"]).exit, Exit::Usage);
    assert_eq!(shell.run(&["endpoint", "show", "site-a:/srv/b/"]).exit, Exit::Done);
    assert_eq!(shell.run(&["endpoint", "show", "demo/site-a"]).exit, Exit::Done);
    assert_eq!(shell.run(&["endpoint", "show", "site-c"]).exit, Exit::NotFound);
}
