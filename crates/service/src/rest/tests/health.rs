//! Health, single items, conflicts, explanations: from what agents report and answer.

use polder_api::grpc::pb;
use polder_api::rest::Status;
use polder_types::{EndpointId, InstanceId, ServerId};
use serde_json::{Value, json};

use super::World;
use crate::rest::host::Order;

struct Site {
    world: World,
    server: ServerId,
    endpoint: EndpointId,
}

async fn site() -> Site {
    let world = World::new();
    world.post("/v1/shares", json!({"name": "demo"})).await.ok();
    world.post("/v1/groups", json!({"name": "demo", "share": "demo"})).await.ok();
    let server = world.host.register("site-a");
    let body = json!({"group": "demo", "server": "site-a", "path": "/srv/demo"});
    let made = world.post("/v1/endpoints", body).await.ok();
    let endpoint = serde_json::from_value(made["id"].clone()).expect("an id");
    Site { world, server, endpoint }
}

impl Site {
    fn report(&self, status: pb::EndpointStatus) {
        self.world.host.told(|told| told.reports.push((self.endpoint, status)));
    }

    fn answer(&self, answers: Vec<Value>) {
        self.world.host.told(|told| told.answers = answers);
    }

    fn online(&self) {
        self.world.host.told(|told| told.online.push(self.server));
    }

    /// State, whether in sync, and the reason.
    async fn state(&self) -> (String, bool, String) {
        let status: Status =
            serde_json::from_value(self.world.get("/v1/status").await.ok()).expect("a status");
        let one = &status.groups[0].endpoints[0];
        assert_eq!((status.in_sync, status.groups[0].in_sync), (one.in_sync, one.in_sync));
        let state = serde_json::to_value(one.state).expect("a word");
        (state.as_str().expect("a word").into(), one.in_sync, one.reason.clone().unwrap_or_default())
    }
}

fn in_sync(seq: u64) -> pb::EndpointStatus {
    pb::EndpointStatus {
        state: pb::EndpointState::InSync.into(),
        applied: Some(pb::Cursor { epoch: 0, seq, tag: 0 }),
        ..pb::EndpointStatus::default()
    }
}

#[tokio::test]
async fn health_is_told_in_sentences() {
    let site = site().await;
    let world = &site.world;
    assert_eq!(site.state().await.0, "pending");
    site.report(in_sync(0));
    assert_eq!(site.state().await.0, "offline");
    site.online();
    assert_eq!(site.state().await, ("in_sync".into(), true, String::new()));
    world.put("/v1/shares/demo/content/f", b"x").await.ok();
    let (state, _, reason) = site.state().await;
    assert_eq!(
        (state.as_str(), reason.as_str()),
        ("syncing", "changes of the share are on their way to the server")
    );
    site.report(in_sync(2));
    assert!(site.state().await.1, "the head is applied");
    let cases = [
        (pb::EndpointStatus { upload_nodes: 3, ..in_sync(2) }, "syncing", "3 items wait to be uploaded"),
        (pb::EndpointStatus { upload_nodes: 1, ..in_sync(2) }, "syncing", "1 item waits to be uploaded"),
        (
            pb::EndpointStatus { upload_nodes: 1, download_nodes: 2, ..in_sync(2) },
            "syncing",
            "1 item waits to be uploaded and 2 to be downloaded",
        ),
        (pb::EndpointStatus { problem_count: 2, ..in_sync(2) }, "syncing", "2 items are not in sync"),
        (pb::EndpointStatus { review_count: 4, ..in_sync(2) }, "review", "4 items wait for a decision"),
        (
            pb::EndpointStatus { state: 7, why: "too many deletions".into(), ..in_sync(2) },
            "held",
            "too many deletions",
        ),
        (
            pb::EndpointStatus { state: 8, why: "the root is gone".into(), ..in_sync(2) },
            "stopped",
            "the root is gone",
        ),
        (pb::EndpointStatus { state: 2, ..in_sync(2) }, "scanning", "compared"),
    ];
    for (status, state, says) in cases {
        site.report(status);
        let found = site.state().await;
        assert!(found.0 == state && !found.1 && found.2.contains(says), "{state}: {found:?}");
    }
    assert_eq!(world.get("/v1/status?group=none").await.code().0, 404);
    world.call("POST", "/v1/servers/site-a/revoke", None).await.ok();
    assert_eq!(site.state().await.0, "stopped");
}

#[tokio::test]
async fn tiering_is_told_with_what_needs_attention() {
    let site = site().await;
    site.online();
    site.report(in_sync(0));
    let status = site.world.get("/v1/status").await.ok();
    assert_eq!(status["groups"][0]["endpoints"][0].get("tiering"), None, "it does not tier");
    let stays = pb::StayingFiles { reason: "in_use".into(), nodes: 2, bytes: 30 };
    let program = pb::TieringProgram { name: "cat".into(), reads: 1, bytes: 9, refused: 0 };
    let tiering = pb::TieringStatus {
        opens: 4,
        opens_here: 3,
        low_disk: true,
        missing_bytes: 77,
        looked_unix_ms: 5000,
        programs: vec![program],
        stays: vec![stays],
        notices: vec!["a budget".into()],
        ..Default::default()
    };
    let report = pb::EndpointStatus {
        bytes: 100,
        cached_bytes: 40,
        tiered_bytes: 60,
        tiered_nodes: 2,
        tiering: Some(tiering),
        ..in_sync(0)
    };
    site.report(report);
    let status = site.world.get("/v1/status").await.ok();
    let endpoint = &status["groups"][0]["endpoints"][0];
    assert_eq!((&endpoint["local_bytes"], &endpoint["tiered_bytes"]), (&json!(40), &json!(60)));
    let told = &endpoint["tiering"];
    assert_eq!((&told["saved_bytes"], &told["opens_here"]), (&json!(60), &json!(3)));
    assert_eq!(told["stays"], json!([{"reason": "in_use", "files": 2, "bytes": 30}]));
    assert_eq!(told["programs"], json!([{"program": "cat", "reads": 1, "bytes": 9, "refused": 0}]));
    let codes: Vec<_> =
        endpoint["problems"].as_array().expect("a list").iter().map(|one| one["code"].clone()).collect();
    assert_eq!(codes, [json!("low_disk"), json!("free_space"), json!("tiering")]);
}

#[tokio::test]
async fn rates_give_a_time_that_is_left() {
    let site = site().await;
    site.online();
    site.report(pb::EndpointStatus {
        download_nodes: 2,
        download_bytes: 1001,
        download_bytes_per_s: 100,
        ..in_sync(0)
    });
    let status = site.world.get("/v1/status").await.ok();
    let flow = &status["groups"][0]["endpoints"][0]["download"];
    assert_eq!((&flow["items_left"], &flow["seconds_left"]), (&json!(2), &json!(11)));
}

fn item(path: &str, code: &str) -> Value {
    json!({"path": path, "code": code, "reason": "why", "since": "2027-01-15T08:00:00Z", "attempts": 3})
}

#[tokio::test]
async fn errors_come_from_the_agent_or_its_last_report() {
    let site = site().await;
    let mut problem =
        pb::Problem { path: b"a/\xff".to_vec().into(), code: "permission".into(), ..Default::default() };
    problem.reason = "not allowed".into();
    site.report(pb::EndpointStatus { problem_count: 1, problems: vec![problem], ..in_sync(0) });
    let listed = site.world.get("/v1/errors").await.ok();
    assert_eq!(
        listed["items"][0]["path"],
        json!({"bytes": "YS//"}),
        "an agent that is away has said so before"
    );
    assert_eq!(listed["items"][0]["server"], "site-a");

    site.online();
    let page = |items: Vec<Value>| json!({"total": 3, "items": items});
    let all = || page(vec![item("a", "io"), item("b", "review"), item("c", "io")]);
    site.answer(vec![all(), page(vec![item("c", "io")])]);
    let first = site.world.get("/v1/errors?limit=1").await.ok();
    assert_eq!(first["items"][0]["path"], "a");
    let next = first["next"].as_str().expect("more").to_owned();
    site.answer(vec![page(vec![item("b", "review"), item("c", "io")])]);
    let second = site.world.get(&format!("/v1/errors?limit=1&after={next}")).await.ok();
    assert_eq!((&second["items"][0]["path"], second.get("next")), (&json!("c"), None));
    site.answer(vec![all()]);
    let review = site.world.get(&format!("/v1/review?endpoint={}", site.endpoint)).await.ok();
    assert_eq!(
        (&review["items"][0]["path"], review["items"].as_array().map(Vec::len)),
        (&json!("b"), Some(1))
    );
    assert_eq!(site.world.get("/v1/errors?after=x").await.code().0, 400);
    assert_eq!(site.world.get("/v1/errors?endpoint=x").await.code().0, 404);
}

#[tokio::test]
async fn a_review_is_decided_at_the_agent() {
    let site = site().await;
    let body = |paths: Value| json!({"endpoint": site.endpoint, "decision": "accept", "paths": paths});
    assert_eq!(site.world.post("/v1/review", body(json!([]))).await.code().0, 400);
    assert_eq!(site.world.post("/v1/review", body(json!(["a"]))).await.code(), (503, "unavailable".into()));
    site.online();
    site.answer(vec![json!({"total": 2, "items": [item("a/b", "review"), item("c", "review")]})]);
    let dry = site.world.post("/v1/review?dry_run=true", body(json!(["a"]))).await.ok();
    assert_eq!(dry["items"], 1);
    site.answer(vec![json!({"items": 7})]);
    assert_eq!(site.world.post("/v1/review", body(json!(["a"]))).await.ok()["items"], 7);
    assert_eq!(site.world.last_audit().1, "review.accept");
    site.world.post("/v1/review", body(json!([""]))).await.ok();
    let orders = site.world.host.told(|told| told.orders.clone());
    assert!(matches!(&orders[1].1, Order::Review { accept: true, paths } if paths.len() == 1));
    assert!(matches!(&orders[2].1, Order::Review { accept: true, paths } if paths.is_empty()), "all of them");
}

#[tokio::test]
async fn conflicts_are_listed_and_ended() {
    let site = site().await;
    let world = &site.world;
    let put =
        async |path: &str| world.put(&format!("/v1/shares/demo/content/{path}"), path.as_bytes()).await.ok();
    for path in ["a.txt", "a-site-a.txt", "b", "b-Cloud", "c-site-a-1", "d-site-b"] {
        put(path).await;
        world.host.wait(1);
    }
    let list = async || {
        let page = world.get("/v1/conflicts?share=demo").await.ok();
        let items = page["items"].as_array().expect("a list").clone();
        items.iter().map(|item| (item["path"].clone(), item.get("original").cloned())).collect::<Vec<_>>()
    };
    let found = list().await;
    assert_eq!(
        found,
        [
            (json!("c-site-a-1"), None),
            (json!("b-Cloud"), Some(json!("b"))),
            (json!("a-site-a.txt"), Some(json!("a.txt"))),
        ]
    );
    let first = world.get("/v1/conflicts?limit=2").await.ok();
    let next = first["next"].as_str().expect("more");
    let second = world.get(&format!("/v1/conflicts?limit=2&after={next}")).await.ok();
    assert_eq!(second["items"][0]["path"], "a-site-a.txt");

    let resolve = async |path: &str, keep: &str, query: &str| {
        let body = json!({"share": "demo", "path": path, "keep": keep});
        world.post(&format!("/v1/conflicts/resolve{query}"), body).await
    };
    assert_eq!(resolve("a.txt", "copy", "").await.code().0, 412, "no conflict copy");
    assert_eq!(resolve("c-site-a-1", "original", "").await.code().0, 412, "there is no original");
    resolve("a-site-a.txt", "copy", "?dry_run=true").await.ok();
    assert_eq!(list().await.len(), 3);
    resolve("a-site-a.txt", "copy", "").await.ok();
    assert_eq!(world.get("/v1/shares/demo/content/a.txt").await.bytes, b"a-site-a.txt");
    assert_eq!(world.last_audit().1, "conflict.resolve");
    resolve("b-Cloud", "original", "").await.ok();
    assert_eq!(world.get("/v1/shares/demo/stat/b-Cloud").await.code().0, 404);
    resolve("c-site-a-1", "both", "").await.ok();
    assert!(list().await.is_empty());
    assert_eq!(world.get("/v1/shares/demo/content/c-site-a-1").await.bytes, b"c-site-a-1");
    put("e-site-a").await;
    assert_eq!(list().await.len(), 1, "later ones are found");
}

#[tokio::test]
async fn a_path_is_explained() {
    let site = site().await;
    let world = &site.world;
    let url = "/v1/shares/demo/explain/f";
    world.put("/v1/shares/demo/content/f", b"1").await.ok();
    world.put("/v1/shares/demo/content/f", b"22").await.ok();
    let told = world.get(url).await.ok();
    assert_eq!(told["endpoints"][0]["state"], "unknown");
    assert!(told["endpoints"][0]["hint"].as_str().is_some_and(|hint| hint.contains("start the agent")));
    site.online();
    site.answer(vec![json!({"state": "pending", "reason": "it is on its way"})]);
    let told = world.get(url).await.ok();
    let here = &told["endpoints"][0];
    assert_eq!((&here["state"], &here["path"]), (&json!("pending"), &json!("/srv/demo/f")));
    let what = |told: &Value| {
        let lines = told["history"].as_array().expect("a list").clone();
        lines.iter().map(|line| line["what"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(what(&told), ["changed", "created"]);
    assert_eq!(told["entry"]["size"], 2);
    world.delete("/v1/shares/demo/nodes/f").await.ok();
    let told = world.get(url).await.ok();
    assert_eq!(
        (what(&told), told.get("entry")),
        (vec!["deleted".into(), "changed".into(), "created".into()], None)
    );
    assert!(told["summary"].as_str().is_some_and(|text| text.contains("deleted")));
    let told = world.get("/v1/shares/demo/explain").await.ok();
    assert_eq!(told["entry"]["kind"], "directory");
}

#[tokio::test]
async fn a_version_names_its_author() {
    let site = site().await;
    let instance = InstanceId([9; 16]);
    let rows = site.world.host.rows();
    rows.update_progress(site.endpoint, |progress| {
        progress.instance = Some(instance);
        Ok(())
    })
    .expect("there");
    let named = crate::rest::tree::author(rows, instance).expect("read");
    assert_eq!(named, "site-a");
    assert_eq!(crate::rest::tree::author(rows, InstanceId([1; 16])).expect("read"), "a server that is gone");
}
