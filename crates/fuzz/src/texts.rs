//! What people and their programs write: REST bodies and paths, globs, arguments.

use clap::Parser;
use polder_api::rest::{
    self, At, ConflictResolve, DirectoryCreate, EndpointChange, EndpointCreate, GroupCreate, JoinTokenCreate,
    JsonBytes, JsonName, JsonPath, Mode, MoveRequest, ObjectName, ReleaseRequest, ReviewRequest, ShareChange,
    ShareCreate, SnapshotCreate, SymlinkCreate, Time, TokenCreate,
};
use polder_sync::Filter;
use polder_types::Name;
use serde::de::DeserializeOwned;

fn body<T: DeserializeOwned>(bytes: &[u8]) {
    let _ = serde_json::from_slice::<T>(bytes);
}

/// Bodies, and texts in addresses.
pub(crate) fn rest(bytes: &[u8]) {
    body::<ShareCreate>(bytes);
    body::<ShareChange>(bytes);
    body::<SnapshotCreate>(bytes);
    body::<GroupCreate>(bytes);
    body::<EndpointCreate>(bytes);
    body::<EndpointChange>(bytes);
    body::<ReleaseRequest>(bytes);
    body::<JoinTokenCreate>(bytes);
    body::<TokenCreate>(bytes);
    body::<MoveRequest>(bytes);
    body::<DirectoryCreate>(bytes);
    body::<SymlinkCreate>(bytes);
    body::<ConflictResolve>(bytes);
    body::<ReviewRequest>(bytes);
    body::<JsonName>(bytes);
    body::<JsonBytes>(bytes);
    if let Ok(path) = serde_json::from_slice::<JsonPath>(bytes) {
        let again = serde_json::to_vec(&path).expect("a path is written as JSON");
        assert!(serde_json::from_slice::<JsonPath>(&again).is_ok());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(path) = rest::decode_path(text) {
        assert_eq!(rest::decode_path(&rest::encode_path(&path)), Ok(path));
    }
    if let Ok(raw) = rest::percent_decode(text) {
        assert_eq!(rest::percent_decode(&rest::percent_encode(&raw)), Ok(raw));
    }
    let _ = (text.parse::<ObjectName>(), text.parse::<Mode>(), text.parse::<At>());
    if let Ok(time) = text.parse::<Time>() {
        let _ = time.to_string();
    }
}

pub(crate) fn rest_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"name":"data"}"#,
        r#"{"name":"data","share":"data"}"#,
        r#"{"group":"data","server":"a","path":"/srv/data","settings":{}}"#,
        r#"{"text":"a/b"}"#,
        r#"{"base64":"YS9i"}"#,
        r#"{"from":"a/b","to":"c"}"#,
        "2026-01-31T12:00:00.123456789Z",
        "-009999-01-01T00:00:00Z",
        "a%2Fb/c%00",
        "docs/%C3%A4/x",
        "0755",
        "latest",
        "\"a/b\"",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// One pattern a line, the last line is a path that is compared with them. Matching is bounded: a pattern with many stars against
/// a long name must not take for ever (the fuzzer and the tests would hang).
pub(crate) fn globs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines: Vec<&str> = text.lines().take(20).collect();
    let path = lines.pop().unwrap_or_default();
    let Ok(filter) = Filter::parse(&lines) else { return };
    let names: Vec<Name> = path.split('/').filter_map(|part| part.parse().ok()).take(50).collect();
    if let Some((name, dir)) = names.split_last() {
        filter.excludes(dir, name, false);
        filter.excludes(dir, name, true);
    }
}

pub(crate) fn glob_seeds() -> Vec<Vec<u8>> {
    let stars = format!("{}b\n{}", "*a".repeat(60), "a".repeat(250));
    let deep = format!("{}x\n{}", "**/".repeat(30), "a/".repeat(40));
    ["*.tmp\n/build/\n**/x/**\na/b.tmp", "a?c\n~$*.*\n~$x.docx", &stars, &deep]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// A command line, one argument a line.
pub(crate) fn arguments(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words = std::iter::once("polder").chain(text.lines().take(30));
    let _ = polder_cli::Cli::try_parse_from(words);
}

pub(crate) fn argument_seeds() -> Vec<Vec<u8>> {
    [
        "endpoint\nset\nsite-a\n--cache-quota\n10GiB\n--free-space\n20%\n--older-than\n30d",
        "share\ncreate\ndata\n--quota\n1.5TiB",
        "share\nls\n-r\ndata:/a/b",
        "status\n--json",
        "server\ntoken\n--expires\n2h",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
