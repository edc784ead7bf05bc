//! Flag over environment over file over default.

use polder_cli::Exit;

use crate::{fake::Fake, shell::Shell};

const WHO: &str = r#"{"name":"owner","role":"owner","version":"0.1.0","now":"2026-11-23T18:00:00Z"}"#;

fn empty(name: &str) -> Fake {
    let _ = name;
    Fake::canned(&[("GET /v1/shares", 200, r#"{"items":[]}"#), ("GET /v1/whoami", 200, WHO)])
}

#[test]
fn the_nearest_wins() {
    let (flag, variable, file) = (empty("flag"), empty("variable"), empty("file"));
    let mut shell = Shell::bare();
    let token = shell.file("token", "t");
    let config = format!("url = \"{}\"\ntoken_file = \"{}\"\n", file.url, token.display());
    shell.file(".config/polder/config.toml", &config);
    assert_eq!(shell.run(&["share", "list"]).exit, Exit::Done);
    shell.vars.insert("POLDER_URL".into(), variable.url.clone().into());
    assert_eq!(shell.run(&["share", "list"]).exit, Exit::Done);
    assert_eq!(shell.run(&["--url", &flag.url, "share", "list"]).exit, Exit::Done);
    assert_eq!(shell.run(&["share", "list", "--url", &flag.url]).exit, Exit::Done);
    assert_eq!((file.asked().len(), variable.asked().len(), flag.asked().len()), (1, 1, 2));
}

#[test]
fn unknown_keys_are_errors() {
    let shell = Shell::bare();
    shell.file(".config/polder/config.toml", "ulr = \"https://x\"\n");
    let said = shell.run(&["share", "list"]);
    assert_eq!(said.exit, Exit::Usage);
    assert!(said.err.contains("unknown field `ulr`"), "{}", said.err);
}

#[test]
fn a_token_is_needed_and_must_be_one() {
    let shell = Shell::bare();
    let said = shell.run(&["share", "list"]);
    assert_eq!(said.exit, Exit::Refused);
    assert!(said.err.contains("polder login"), "{}", said.err);
    let token = shell.file("token", "two\nlines\n");
    let said = shell.run(&["share", "list", "--token-file", token.to_str().expect("text")]);
    assert!(said.err.contains("holds no token"), "{}", said.err);
    assert!(!said.err.contains("two"), "a secret is never repeated: {}", said.err);
}

#[test]
fn login_asks_and_then_remembers() {
    let fake = empty("service");
    let shell = Shell::bare();
    let token = shell.file("token", "t");
    let token = token.to_str().expect("text");
    let said = shell.run(&["login", &fake.url, "--token-file", token]);
    let expected = format!(
        "exit 0\n--- data\nlogged in to {} as \"owner\" (owner)\n--- talk\nwrote \"~/.config/polder/config.toml\"\n",
        fake.url
    );
    assert_eq!(said.all(), expected);
    assert_eq!(shell.run(&["share", "list"]).exit, Exit::Done);
    let kept = std::fs::read_to_string(shell.path(".config/polder/config.toml")).expect("written");
    assert!(!kept.contains("\"t\""), "the token itself is not copied: {kept}");
}

#[test]
fn a_login_that_is_refused_changes_nothing() {
    let fake = Fake::canned(&[]);
    let shell = Shell::bare();
    let token = shell.file("token", "t");
    let said = shell.run(&["login", &fake.url, "--token-file", token.to_str().expect("text")]);
    assert_eq!(said.exit, Exit::NotFound);
    assert!(!shell.path(".config").exists());
}
