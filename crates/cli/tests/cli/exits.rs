//! Exit codes and the words of failures.

use polder_cli::Exit;

use crate::{
    fake::{Fake, Reply},
    shell::Shell,
};

#[test]
fn each_refusal_has_its_exit_code() {
    let cases = [
        (400, "bad_request", Exit::Usage),
        (401, "unauthorized", Exit::Refused),
        (403, "forbidden", Exit::Refused),
        (404, "not_found", Exit::NotFound),
        (409, "exists", Exit::Refused),
        (409, "changed", Exit::Refused),
        (409, "not_empty", Exit::Refused),
        (409, "held", Exit::Refused),
        (410, "deleted", Exit::Refused),
        (412, "precondition_failed", Exit::Refused),
        (507, "quota", Exit::Refused),
        (429, "too_many_requests", Exit::Unreachable),
        (503, "unavailable", Exit::Unreachable),
        (500, "internal", Exit::Failed),
        (418, "a_code_of_tomorrow", Exit::Failed),
    ];
    for (status, code, exit) in cases {
        let fake = Fake::new(move |_| Reply::problem(status, code, "it cannot be"));
        let said = Shell::with(&fake).run(&["share", "show", "demo"]);
        assert_eq!(said.exit, exit, "{code}");
        assert_eq!(said.err, "error: it cannot be\nhint: the hint\n", "{code}");
        assert_eq!(said.out, "", "{code}");
    }
}

#[test]
fn a_proxy_in_between_is_understood() {
    let fake = Fake::new(|_| Reply { status: 502, body: b"<html>".to_vec(), length: None });
    assert_eq!(Shell::with(&fake).run(&["share", "list"]).exit, Exit::Unreachable);
}

#[test]
fn nobody_there_is_six() {
    let mut shell = Shell::bare();
    let token = shell.file("token", "t");
    shell.vars.insert("POLDER_TOKEN_FILE".into(), token.into());
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let said = shell.run(&["status", "--url", &format!("http://{port}")]);
    assert_eq!(said.exit, Exit::Unreachable);
    assert!(
        said.err.starts_with(&format!("error: the service at http://{port} cannot be reached")),
        "{}",
        said.err
    );
    assert!(said.err.contains("\nhint: "), "{}", said.err);
    assert_eq!(shell.run(&["pause", "--state", "/nonexistent"]).exit, Exit::Unreachable);
}

#[test]
fn wrong_usage_is_two_and_help_is_data() {
    let shell = Shell::bare();
    for wrong in [
        &["share"][..],
        &["nonsense"],
        &["share", "create", "not a name"],
        &["share", "create", "x", "--quota", "huge"],
        &["endpoint", "release", "x"],
        &["endpoint", "release", "x", "--accept", "--revert"],
        &["agent", "register", "--service", "https://x", "--state", "/tmp/x"],
        &["status", "--url", "ftp://x", "--token-file", "/dev/null"],
    ] {
        let said = shell.run(wrong);
        let expected = if wrong[0] == "status" { Exit::Failed } else { Exit::Usage };
        assert_eq!(said.exit, expected, "{wrong:?}: {}", said.err);
        assert!(said.out.is_empty() && !said.err.is_empty(), "{wrong:?}");
    }
    let help = shell.run(&["share", "create", "--help"]);
    assert_eq!(help.exit, Exit::Done);
    assert!(help.out.contains("Example:") && help.err.is_empty());
}

#[test]
fn the_token_travels_in_its_header_alone() {
    let fake = Fake::canned(&[("GET /v1/shares", 200, r#"{"items":[]}"#)]);
    let said = Shell::with(&fake).run(&["share", "list", "--json"]);
    assert_eq!(said.all(), "exit 0\n--- data\n[]\n--- talk\n");
    let requests = fake.requests.lock().expect("no test panics with it");
    assert_eq!(requests[0].authorization, "Bearer secret-token");
    assert!(!requests[0].target.contains("secret"));
}
