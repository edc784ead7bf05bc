//! Direct access to a share: put and get, lists, moments, moves, removals.

use polder_api::rest::{Changed, Entry, Page, Removed, encode_path};
use polder_types::{RelPath, Seq};
use serde_json::json;

use super::World;

const CONTENT: &str = "/v1/shares/demo/content";

async fn world() -> World {
    let world = World::new();
    world.post("/v1/shares", json!({"name": "demo"})).await.ok();
    world
}

fn changed(answer: &super::Answer) -> Changed {
    serde_json::from_value(answer.ok()).expect("what changed")
}

/// Bytes that do not repeat, so that every chunk is its own.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

async fn names(world: &World, path: &str) -> Vec<String> {
    let page: Page<Entry> = serde_json::from_value(world.get(path).await.ok()).expect("a page");
    page.items.iter().map(|entry| entry.name.as_ref().expect("no root in a list").to_string()).collect()
}

#[tokio::test]
async fn what_is_put_is_got() {
    let world = world().await;
    let big = noise(3_000_000, 1);
    let mut sparse = noise(100_000, 2);
    sparse.extend(vec![0; 5_000_000]);
    sparse.extend(noise(10, 3));
    for (name, bytes) in [("empty", &[][..]), ("small", b"hello"), ("big", &big), ("sparse", &sparse)] {
        let put = world.put(&format!("{CONTENT}/{name}"), bytes).await;
        assert_eq!(put.status, 201, "{name}");
        let put_version = changed(&put);
        assert_eq!((put_version.size, put_version.created), (bytes.len() as u64, true));
        let got = world.get(&format!("{CONTENT}/{name}")).await;
        assert!(got.status == 200 && got.bytes == bytes, "{name} comes back as it was");
        assert_eq!(got.headers["content-length"], bytes.len().to_string());
        assert_eq!(got.headers["etag"], put.headers["etag"]);
        assert_eq!(world.last_audit(), ("token:otto".into(), "share.put".into(), format!("demo:{name}")));
    }
    let summary = world.get("/v1/shares/demo").await.ok();
    assert_eq!(summary["used_bytes"], (5 + big.len() + sparse.len()) as u64);
    assert_eq!(summary["nodes"], 4);
    assert_eq!(world.host.told(|told| told.heads.len()), 4, "agents hear of each");
}

#[tokio::test]
async fn the_same_bytes_are_stored_once() {
    let world = world().await;
    let bytes = noise(1_000_000, 4);
    world.put(&format!("{CONTENT}/one"), &bytes).await.ok();
    let before = world.host.packs();
    world.put(&format!("{CONTENT}/two"), &bytes).await.ok();
    assert_eq!(world.host.packs(), before);
    let id = |name: &str| format!("/v1/shares/demo/stat/{name}");
    let (one, two) = (world.get(&id("one")).await.ok(), world.get(&id("two")).await.ok());
    assert!(one["content_id"].is_string() && one["content_id"] == two["content_id"]);
}

#[tokio::test]
async fn ranges_come_alone() {
    let world = world().await;
    let bytes = noise(2_000_000, 5);
    world.put(&format!("{CONTENT}/f"), &bytes).await.ok();
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1234567-1345678", 1_234_567, 1_345_679),
        ("bytes=-7", 1_999_993, 2_000_000),
    ] {
        let got = world.get_with(&format!("{CONTENT}/f"), &[("range", range)]).await;
        assert!(got.status == 206 && got.bytes == bytes[from..to], "{range}");
        assert_eq!(got.headers["content-range"], format!("bytes {from}-{}/2000000", to - 1));
    }
    let outside = world.get_with(&format!("{CONTENT}/f"), &[("range", "bytes=2000000-")]).await;
    assert_eq!(outside.code(), (416, "range_not_satisfiable".into()));
    assert_eq!(outside.headers["content-range"], "bytes */2000000");
    let stale =
        world.get_with(&format!("{CONTENT}/f"), &[("range", "bytes=0-0"), ("if-range", "\"1\"")]).await;
    assert_eq!(stale.status, 200, "another version than the range was meant for");
}

#[tokio::test]
async fn any_name_goes_round() {
    let world = world().await;
    let names: [&[u8]; 6] =
        [b"\xff\xfe", b"a b?c#d%e&f", b"new\nline", "日本".as_bytes(), b"%2e%2e", &[b'x'; 255]];
    for name in names {
        let path = RelPath::parse(name).expect("a legal name");
        let url = format!("{CONTENT}/{}", encode_path(&path));
        assert_eq!(world.put(&url, name).await.status, 201, "{path}");
        assert_eq!(world.get(&url).await.bytes, name, "{path}");
        let stat = world.get(&format!("/v1/shares/demo/stat/{}", encode_path(&path))).await.ok();
        let entry: Entry = serde_json::from_value(stat).expect("an entry");
        assert_eq!(entry.name.expect("no root").0.as_bytes(), name);
    }
    let page: Page<Entry> =
        serde_json::from_value(world.get("/v1/shares/demo/entries").await.ok()).expect("a page");
    let listed: Vec<_> =
        page.items.iter().map(|entry| entry.name.as_ref().expect("no root").0.as_bytes().to_vec()).collect();
    let mut wanted: Vec<_> = names.iter().map(|name| name.to_vec()).collect();
    wanted.sort();
    assert_eq!(listed, wanted);
    let long = "x".repeat(256);
    for bad in ["..", "%2e%2e", "a/../b", "a%00b", "%zz", long.as_str(), ""] {
        let answer = world.put(&format!("{CONTENT}/{bad}"), b"x").await;
        assert!(matches!(answer.code().0, 400 | 404), "{bad}: {}", answer.status);
    }
}

#[tokio::test]
async fn lists_are_paged() {
    let world = world().await;
    for number in 0..5 {
        world.put(&format!("{CONTENT}/d/{number}?parents=true"), b"").await.ok();
    }
    let first = world.get("/v1/shares/demo/entries/d?limit=3").await.ok();
    let next = first["next"].as_str().expect("more").to_owned();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(names(&world, &format!("/v1/shares/demo/entries/d?limit=3&after={next}")).await, ["3", "4"]);
    assert_eq!(world.get("/v1/shares/demo/entries/d/1").await.code(), (412, "precondition_failed".into()));
    assert_eq!(world.get("/v1/shares/demo/entries/none").await.code().0, 404);
}

#[tokio::test]
async fn a_put_is_conditional() {
    let world = world().await;
    let url = format!("{CONTENT}/f");
    let first = changed(&world.put(&url, b"1").await);
    let tag = format!("\"{}\"", first.version);
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Headers<'_>, u16, &str); 6] = [
        ("?create_only=true", &[], 409, "exists"),
        ("?base=9999", &[], 409, "changed"),
        ("", &[("if-match", "\"9999\"")], 412, "precondition_failed"),
        ("", &[("if-none-match", "*")], 412, "precondition_failed"),
        ("?mode=999", &[], 400, "bad_request"),
        ("?colour=red", &[], 400, "bad_request"),
    ];
    for (query, headers, status, code) in cases {
        let answer = world.put_with(&format!("{url}{query}"), b"2", headers).await;
        assert_eq!(answer.code(), (status, code.into()), "{query} {headers:?}");
    }
    assert_eq!(world.put_with(&format!("{CONTENT}/none"), b"", &[("if-match", "*")]).await.code().0, 412);
    assert_eq!(world.put(&format!("{CONTENT}/none?base=1"), b"").await.code().0, 409);
    let second = world.put_with(&url, b"2", &[("if-match", &tag)]).await;
    assert_eq!(second.status, 200);
    let second = changed(&second);
    assert_eq!((second.node, second.created), (first.node, false), "the same node in a new version");
    let third = changed(&world.put(&format!("{url}?base={}&mode=0600&uid=7", second.version), b"3").await);
    let stat = world.get("/v1/shares/demo/stat/f").await.ok();
    assert_eq!((stat["mode"].as_str(), stat["uid"].as_u64()), (Some("0600"), Some(7)));
    assert_eq!(
        (stat["version"].as_u64(), stat["changed_by"].as_str()),
        (Some(third.version.0), Some("direct"))
    );
    assert_eq!(world.put(&format!("{CONTENT}/a/b"), b"").await.code(), (404, "not_found".into()));
    assert_eq!(world.put(&format!("{CONTENT}/f/b"), b"").await.code().0, 412, "below a file");
    world.post("/v1/shares/demo/directories/d", json!({})).await.ok();
    assert_eq!(world.put(&format!("{CONTENT}/d"), b"").await.code(), (409, "exists".into()));
}

#[tokio::test]
async fn a_quota_holds() {
    let world = world().await;
    world.call("PATCH", "/v1/shares/demo", Some(json!({"quota_bytes": 10}))).await.ok();
    world.put(&format!("{CONTENT}/a"), b"12345678").await.ok();
    assert_eq!(world.put(&format!("{CONTENT}/b"), b"12345678").await.code(), (409, "quota".into()));
    world.put(&format!("{CONTENT}/a"), b"1234567890").await.ok();
}

#[tokio::test]
async fn the_past_can_be_read() {
    let world = world().await;
    world.put(&format!("{CONTENT}/f"), b"old").await.ok();
    let snapshot = world.post("/v1/shares/demo/snapshots", json!({"name": "before"})).await;
    assert_eq!(snapshot.status, 201);
    assert_eq!(snapshot.ok()["created_by"], "olga");
    world.host.wait(60);
    world.put(&format!("{CONTENT}/f"), b"new").await.ok();
    world.put(&format!("{CONTENT}/g"), b"new").await.ok();
    for at in ["before", "2027-01-15T08:00:30Z"] {
        assert_eq!(world.get(&format!("{CONTENT}/f?at={at}")).await.bytes, b"old", "{at}");
        assert_eq!(names(&world, &format!("/v1/shares/demo/entries?at={at}")).await, ["f"], "{at}");
        assert_eq!(world.get(&format!("/v1/shares/demo/stat/g?at={at}")).await.code().0, 404, "{at}");
    }
    assert_eq!(world.get(&format!("{CONTENT}/f")).await.bytes, b"new");
    for at in ["none", "2000-01-01T00:00:00Z", "seq:999999"] {
        assert_eq!(
            world.get(&format!("{CONTENT}/f?at={at}")).await.code(),
            (404, "not_found".into()),
            "{at}"
        );
    }
    assert_eq!(world.get(&format!("{CONTENT}/f?at=a%20b")).await.code().0, 400);

    assert_eq!(world.post("/v1/shares/demo/snapshots", json!({"name": "before"})).await.code().0, 409);
    let unnamed = world.post("/v1/shares/demo/snapshots", json!({})).await.ok();
    assert_eq!(unnamed["name"], "2027-01-15T08.01.00Z");
    assert_eq!(
        world.post("/v1/shares/demo/snapshots", json!({})).await.ok()["name"],
        "2027-01-15T08.01.00Z-1"
    );
    let listed = world.get("/v1/shares/demo/snapshots?limit=1").await.ok();
    assert_eq!(listed["items"][0]["name"], "before");
    assert!(listed["next"].is_string());
    world.delete("/v1/shares/demo/snapshots/before?dry_run=true").await.ok();
    world.delete("/v1/shares/demo/snapshots/before").await.ok();
    assert_eq!(world.delete("/v1/shares/demo/snapshots/before").await.code().0, 404);
    assert_eq!(world.last_audit().2, "demo@before");
}

#[tokio::test]
async fn directories_and_symlinks_are_made() {
    let world = world().await;
    let at = |path: &str| format!("/v1/shares/demo/directories/{path}");
    assert_eq!(world.post(&at("a/b/c"), json!({})).await.code().0, 404);
    let dry = world.post(&format!("{}?dry_run=true", at("a/b/c")), json!({"parents": true})).await;
    assert_eq!(dry.status, 200);
    assert_eq!(names(&world, "/v1/shares/demo/entries").await, Vec::<String>::new());
    let made = world.post(&at("a/b/c"), json!({"parents": true, "mode": "0700"})).await;
    assert_eq!(made.status, 201);
    let made = changed(&made);
    let stat = world.get("/v1/shares/demo/stat/a/b/c").await.ok();
    assert_eq!((stat["mode"].as_str(), stat["version"].as_u64()), (Some("0700"), Some(made.version.0)));
    assert_eq!(world.post(&at("a/b"), json!({})).await.code(), (409, "exists".into()));
    let again = world.post(&at("a/b/c"), json!({"parents": true})).await;
    assert_eq!((again.status.as_u16(), changed(&again).version), (200, made.version));
    assert_eq!(world.post(&at("/"), json!({})).await.code().0, 400, "the root is there");

    let link = |path: &str| format!("/v1/shares/demo/symlinks/{path}");
    let target = json!({"bytes": "Li4v/w=="});
    assert_eq!(world.post(&link("l"), json!({"target": target})).await.status, 201);
    let stat = world.get("/v1/shares/demo/stat/l").await.ok();
    assert_eq!((&stat["kind"], &stat["target"]), (&json!("symlink"), &target));
    assert_eq!(world.post(&link("l"), json!({"target": "x"})).await.code().0, 409);
    world.post(&link("l"), json!({"target": "x", "replace": true})).await.ok();
    assert_eq!(world.get("/v1/shares/demo/stat/l").await.ok()["target"], "x");
    assert_eq!(world.post(&link("m"), json!({"target": ""})).await.code().0, 400);
    assert_eq!(world.get(&format!("{CONTENT}/l")).await.code().0, 412, "a symlink is never followed");
}

#[tokio::test]
async fn moves_keep_the_node() {
    let world = world().await;
    let node = changed(&world.put(&format!("{CONTENT}/d/f?parents=true"), b"1").await).node;
    world.put(&format!("{CONTENT}/g"), b"2").await.ok();
    let rename = |from: &str, to: &str| json!({"from": from, "to": to});
    let url = "/v1/shares/demo/move";
    assert_eq!(world.post(url, rename("d/f", "g")).await.code(), (409, "exists".into()));
    assert_eq!(world.post(url, rename("d", "d/e")).await.code(), (412, "precondition_failed".into()));
    assert_eq!(world.post(url, rename("none", "e")).await.code().0, 404);
    assert_eq!(world.post(url, rename("", "e")).await.code().0, 400);
    assert_eq!(
        world.post(url, json!({"from": "g", "to": "h", "base": 1})).await.code(),
        (409, "changed".into())
    );
    world.post(&format!("{url}?dry_run=true"), rename("d/f", "h")).await.ok();
    let mut replace = rename("d/f", "g");
    replace["replace"] = json!(true);
    let moved = changed(&world.post(url, replace).await);
    assert_eq!(moved.node, node);
    assert_eq!(world.get(&format!("{CONTENT}/g")).await.bytes, b"1");
    assert_eq!(world.get("/v1/shares/demo/stat/g").await.ok()["version"], moved.version.0);
    world.post(url, rename("d", "e")).await.ok();
    assert_eq!(names(&world, "/v1/shares/demo/entries").await, ["e", "g"]);
    assert_eq!(world.last_audit().1, "share.mv");
}

#[tokio::test]
async fn a_case_can_be_changed_where_cases_are_one() {
    let world = World::new();
    world.post("/v1/shares", json!({"name": "demo", "case": "insensitive"})).await.ok();
    let first = changed(&world.put(&format!("{CONTENT}/Readme"), b"1").await);
    assert_eq!(changed(&world.put(&format!("{CONTENT}/README"), b"2").await).node, first.node);
    world.post("/v1/shares/demo/move", json!({"from": "readme", "to": "README"})).await.ok();
    assert_eq!(names(&world, "/v1/shares/demo/entries").await, ["README"]);
}

/// Scenario 112: a removal through the service is told first, conditional, audited, and in the history.
#[tokio::test]
async fn removals_are_guarded() {
    let world = world().await;
    for path in ["d/a", "d/e/b", "d/e/c", "f"] {
        world.put(&format!("{CONTENT}/{path}?parents=true"), b"xx").await.ok();
    }
    let at = |path: &str| format!("/v1/shares/demo/nodes/{path}");
    assert_eq!(world.delete(&at("d")).await.code(), (409, "not_empty".into()));
    assert_eq!(world.delete(&at("d?recursive=true&base=1")).await.code(), (409, "changed".into()));
    assert_eq!(world.delete(&at("/?recursive=true")).await.code().0, 400, "never the root");
    assert_eq!(world.delete(&at("none")).await.code().0, 404);
    let dry: Removed = serde_json::from_value(world.delete(&at("d?recursive=true&dry_run=true")).await.ok())
        .expect("a removal");
    assert_eq!((dry.nodes, dry.bytes, dry.version), (5, 6, None));
    let gone: Removed =
        serde_json::from_value(world.delete(&at("d?recursive=true")).await.ok()).expect("a removal");
    assert_eq!((gone.nodes, gone.bytes), (5, 6));
    let before = Seq(gone.version.expect("it happened").0 - 6);
    assert_eq!(names(&world, "/v1/shares/demo/entries").await, ["f"]);
    assert_eq!(world.get(&format!("{CONTENT}/d/e/c?at=seq:{before}")).await.bytes, b"xx", "the past has it");
    world.delete(&at("f")).await.ok();
    assert_eq!(world.last_audit(), ("token:olga".into(), "share.rm".into(), "demo:f".into()));
}
