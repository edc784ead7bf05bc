//! Shares, groups, servers, endpoints: made, shown, changed, removed, written down.

use polder_api::rest::{Endpoint, Group, Page, Share, routes};
use polder_metadata::control::Role;
use serde_json::{Value, json};

use super::World;
use crate::rest::host::Order;

async fn share_and_group(world: &World) {
    world.post(routes::SHARES, json!({"name": "demo"})).await.ok();
    world.post(routes::GROUPS, json!({"name": "demo", "share": "demo"})).await.ok();
}

#[tokio::test]
async fn a_share_lives_and_comes_back() {
    let world = World::new();
    let made =
        world.post(routes::SHARES, json!({"name": "demo", "quota_bytes": 5, "case": "insensitive"})).await;
    assert_eq!(made.status, 201);
    let share: Share = serde_json::from_value(made.ok()).expect("a share");
    assert_eq!(world.last_audit(), ("token:olga".into(), "share.create".into(), "demo".into()));
    for which in ["demo".to_owned(), "DEMO".to_owned(), share.id.to_string()] {
        let shown = world.get(&format!("/v1/shares/{which}")).await.ok();
        assert_eq!((shown["name"].as_str(), shown["quota_bytes"].as_u64()), (Some("demo"), Some(5)));
    }
    let changed =
        world.call("PATCH", "/v1/shares/demo?dry_run=true", Some(json!({"quota_bytes": null}))).await;
    assert_eq!(changed.ok().get("quota_bytes"), None);
    assert_eq!(world.get("/v1/shares/demo").await.ok()["quota_bytes"], 5, "a dry run changes nothing");
    world.call("PATCH", "/v1/shares/demo", Some(json!({"quota_bytes": null}))).await.ok();
    assert_eq!(world.get("/v1/shares/demo").await.ok().get("quota_bytes"), None);

    world.delete("/v1/shares/demo?dry_run=true").await.ok();
    assert_eq!(world.delete("/v1/shares/demo").await.ok()["state"], "deleted");
    assert_eq!(world.get("/v1/shares/demo").await.code(), (410, "deleted".into()));
    assert_eq!(world.get(routes::SHARES).await.ok()["items"], json!([]));
    let listed = world.get("/v1/shares?deleted=true").await.ok();
    assert_eq!(listed["items"][0]["purge_at"], "2027-01-29T08:00:00Z");
    world.call("POST", "/v1/shares/demo/undelete?dry_run=true", None).await.ok();
    assert_eq!(world.call("POST", "/v1/shares/demo/undelete", None).await.ok()["state"], "live");
    assert_eq!(world.call("POST", "/v1/shares/demo/undelete", None).await.code().0, 404);
    assert_eq!(world.last_audit().1, "share.undelete");
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let world = World::new();
    share_and_group(&world).await;
    let cases = [
        ("POST", routes::SHARES, json!({"name": "../x"}), 400, "bad_request"),
        ("POST", routes::SHARES, json!({"name": "a", "qouta": 1}), 400, "bad_request"),
        ("POST", routes::SHARES, json!({"name": "a", "quota_bytes": -1}), 400, "bad_request"),
        ("POST", routes::SHARES, json!(["a"]), 400, "bad_request"),
        ("POST", routes::JOIN_TOKENS, json!([null, null]), 400, "bad_request"),
        ("POST", routes::SHARES, json!({"name": "a", "quota_bytes": 1u64 << 63}), 400, "bad_request"),
        ("POST", routes::SHARES, json!({"name": "Demo"}), 409, "exists"),
        ("POST", routes::GROUPS, json!({"name": "b", "share": "none"}), 404, "not_found"),
        ("POST", routes::GROUPS, json!({"name": "b", "share": "demo"}), 409, "not_empty"),
        ("POST", routes::JOIN_TOKENS, json!({"expires_seconds": 0}), 400, "bad_request"),
        ("POST", routes::JOIN_TOKENS, json!({"expires_seconds": 86_401}), 400, "bad_request"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = world.call(method, path, Some(body.clone())).await;
        assert_eq!(answer.code(), (status, code.to_owned()), "{method} {path} {body}");
    }
    assert_eq!(world.delete("/v1/shares/demo").await.code(), (409, "not_empty".into()));
    assert_eq!(world.delete("/v1/shares/demo?dry_run=true").await.code(), (409, "not_empty".into()));
    assert_eq!(world.get("/v1/shares/none").await.code(), (404, "not_found".into()));
    assert_eq!(world.call("POST", routes::SHARES, None).await.code(), (415, "unsupported_media_type".into()));
    let long = json!({"name": "a".repeat(2 * 1024 * 1024)});
    assert_eq!(world.post(routes::SHARES, long).await.code(), (413, "too_large".into()));
}

#[tokio::test]
async fn groups_are_listed_page_by_page() {
    let world = World::new();
    for name in ["b", "a", "c"] {
        world.post(routes::SHARES, json!({"name": name})).await.ok();
        world.post(routes::GROUPS, json!({"name": name, "share": name})).await.ok();
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/v1/groups?limit=2{after}")).await.ok();
        let page: Page<Group> = serde_json::from_value(page).expect("a page");
        names.extend(page.items.iter().map(|group| group.name.to_string()));
        let Some(next) = page.next else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(world.delete("/v1/groups/b").await.ok()["name"], "b");
    assert_eq!(world.get("/v1/groups/b").await.code().0, 404);
    assert_eq!(world.last_audit().1, "group.delete");
}

#[tokio::test]
async fn join_tokens_are_shown_once_and_kept_as_hashes() {
    let world = World::new();
    let made = world.post(routes::JOIN_TOKENS, json!({"server": "site-a"})).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(made["expires_at"], "2027-01-15T09:00:00Z");
    let secret = made["token"].as_str().expect("text");
    let kept = world.host.rows().join_tokens(world.host.time()).expect("read");
    assert_eq!(kept[0].hash, polder_metadata::control::SecretHash::of(secret.as_bytes()));
    let audit = world.get(routes::AUDIT).await.ok().to_string();
    assert!(!audit.contains(secret), "no secret in the log");
    let by_operator = world.call_as(Role::Operator, "POST", routes::JOIN_TOKENS, Some(json!({}))).await;
    assert_eq!(by_operator.code().0, 403);
}

#[tokio::test]
async fn servers_are_shown_and_revoked() {
    let world = World::new();
    let id = world.host.register("site-a");
    assert_eq!(world.get("/v1/servers/site-a").await.ok()["state"], "offline");
    world.host.told(|told| told.online.push(id));
    assert_eq!(world.get(&format!("/v1/servers/{id}")).await.ok()["state"], "online");
    let dry = world.call("POST", "/v1/servers/site-a/revoke?dry_run=true", None).await;
    assert_eq!(dry.ok()["state"], "online");
    assert!(world.host.told(|told| told.revoked.is_empty()));
    assert_eq!(world.call("POST", "/v1/servers/site-a/revoke", None).await.ok()["state"], "revoked");
    assert_eq!(world.host.told(|told| told.revoked.clone()), [id]);
    assert_eq!(world.last_audit().1, "server.revoke");
    assert_eq!(world.call("POST", "/v1/servers/site-a/revoke", None).await.code().0, 412);
    world.host.register("site-a");
    assert_eq!(world.get(routes::SERVERS).await.ok()["items"].as_array().expect("a list").len(), 2);
    assert_eq!(
        world.get("/v1/servers/site-a").await.ok()["state"],
        "offline",
        "the trusted one has the name"
    );
}

fn endpoint(path: Value, settings: Value) -> Value {
    json!({"group": "demo", "server": "site-a", "path": path, "settings": settings})
}

#[tokio::test]
async fn endpoints_are_made_set_and_removed() {
    let world = World::new();
    share_and_group(&world).await;
    let server = world.host.register("site-a");
    let body = endpoint(json!({"bytes": "L3Nydi//"}), json!({"excludes": ["*.tmp"]}));
    let dry = world.post("/v1/endpoints?dry_run=true", body.clone()).await;
    assert_eq!(dry.status, 200);
    assert_eq!(world.get(routes::ENDPOINTS).await.ok()["items"], json!([]));
    let made = world.post(routes::ENDPOINTS, body.clone()).await;
    assert_eq!(made.status, 201);
    let made: Endpoint = serde_json::from_value(made.ok()).expect("an endpoint");
    assert_eq!((made.path.0.as_slice(), made.server_id), (&b"/srv/\xff"[..], server));
    assert_eq!(world.host.told(|told| told.assignments.clone()), [server]);
    assert_eq!(world.post(routes::ENDPOINTS, body).await.code(), (412, "precondition_failed".into()));
    let id = format!("/v1/endpoints/{}", made.id);
    let change = json!({"older_than_days": 30, "excludes": []});
    world.call("PATCH", &format!("{id}?dry_run=true"), Some(change.clone())).await.ok();
    assert_eq!(world.get(&id).await.ok()["settings"]["excludes"], json!(["*.tmp"]));
    let changed = world.call("PATCH", &id, Some(change)).await.ok();
    assert_eq!(
        (&changed["settings"]["older_than_days"], &changed["settings"]["excludes"]),
        (&json!(30), &json!([]))
    );
    assert_eq!(world.last_audit().1, "endpoint.set");
    let rules = json!({
        "file_bytes_min": 65536, "new_files": "full",
        "tier_rules": [{"action": "tier", "after_days": 2, "glob": "*.iso", "size_bytes_min": 1}],
        "program_rules": [{"name": "clamd", "action": "serve", "bytes_per_hour": 7, "counts": false}],
    });
    let changed = world.call("PATCH", &id, Some(rules.clone())).await.ok();
    for (name, value) in rules.as_object().expect("an object") {
        assert_eq!(&changed["settings"][name], value, "{name}");
    }
    let cleared =
        world.call("PATCH", &id, Some(json!({"file_bytes_min": null, "tier_rules": []}))).await.ok();
    assert_eq!(
        (&cleared["settings"]["file_bytes_min"], &cleared["settings"]["tier_rules"]),
        (&json!(null), &json!([]))
    );
    assert_eq!(cleared["settings"]["program_rules"], rules["program_rules"], "what is not named stays");
    for (query, count) in [("?group=demo", 1), ("?server=site-a", 1), ("?group=demo&limit=1", 1)] {
        let listed = world.get(&format!("/v1/endpoints{query}")).await.ok();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(count), "{query}");
    }
    assert_eq!(world.get("/v1/endpoints?group=none").await.code().0, 404);
    assert_eq!(world.delete("/v1/groups/demo").await.code(), (409, "not_empty".into()));
    world.delete(&format!("{id}?dry_run=true")).await.ok();
    world.delete(&id).await.ok();
    assert_eq!(world.get(&id).await.code().0, 404, "no agent had opened it: nothing to wait for");
}

#[tokio::test]
async fn what_this_version_cannot_do_is_said() {
    let world = World::new();
    share_and_group(&world).await;
    world.host.register("site-a");
    let cases = [
        (json!({"initial_download": "namespace_only"}), 412, "cloud tiering"),
        (json!({"initial_download": "namespace_first"}), 412, "cloud tiering"),
        (json!({"teiring": true}), 400, "teiring"),
        (json!({"free_space_percent": 100}), 400, "percentage"),
        (json!({"excludes": [""]}), 400, "pattern"),
        (json!({"tier_rules": [{"action": "keep", "glob": "/a"}]}), 400, "relative"),
        (json!({"tier_rules": [{"action": "keep", "after_days": 1}]}), 400, "after_days"),
        (
            json!({"tier_rules": [{"action": "tier", "size_bytes_min": 2, "size_bytes_max": 1}]}),
            400,
            "no file",
        ),
        (json!({"tier_rules": vec![json!({"action": "keep"}); 201]}), 412, "rules"),
        (json!({"program_rules": [{"name": "a/b", "action": "serve"}]}), 400, "program"),
    ];
    for (settings, status, says) in cases {
        let answer = world.post(routes::ENDPOINTS, endpoint(json!("/srv/a"), settings.clone())).await;
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(answer.status == status && text.contains(says), "{settings}: {text}");
    }
    let names_first = json!({"tiering": true, "initial_download": "namespace_first"});
    let dry = world.post("/v1/endpoints?dry_run=true", endpoint(json!("/srv/a"), names_first)).await;
    assert_eq!(dry.status, 200, "with tiering names may come first");
    let names_first = json!({"tiering": true, "initial_download": "namespace_only"});
    let made = world.post(routes::ENDPOINTS, endpoint(json!("/srv/b"), names_first)).await.ok();
    let path = format!("/v1/endpoints/{}", made["id"].as_str().expect("an id"));
    let plain = world.call("PATCH", &path, Some(json!({"tiering": false}))).await.ok();
    assert_eq!(plain["settings"]["initial_download"], "full", "how it began does not stand against its end");
    for path in ["srv", "/", "/a/../b", ""] {
        let answer = world.post(routes::ENDPOINTS, endpoint(json!(path), json!({}))).await;
        assert_eq!(answer.code().0, 400, "{path}");
    }
}

#[tokio::test]
async fn a_release_reaches_the_agent_now_or_later() {
    let world = World::new();
    share_and_group(&world).await;
    let server = world.host.register("site-a");
    let made = world.post(routes::ENDPOINTS, endpoint(json!("/srv/a"), json!({}))).await.ok();
    let id: polder_types::EndpointId = serde_json::from_value(made["id"].clone()).expect("an id");
    let path = format!("/v1/endpoints/{id}/release");
    let pending = || world.host.rows().endpoint(id).expect("read").expect("there").release;
    world.post(&format!("{path}?dry_run=true"), json!({"decision": "accept"})).await.ok();
    assert_eq!(pending(), None);
    world.post(&path, json!({"decision": "revert"})).await.ok();
    assert!(pending().is_some(), "kept for an agent that is away");
    world.host.told(|told| told.online.push(server));
    world.post(&path, json!({"decision": "revert"})).await.ok();
    assert_eq!(pending(), None);
    world.post(&path, json!({"decision": "accept"})).await.ok();
    assert!(pending().is_some(), "the service lets go as well, until the endpoint has settled");
    let orders = [false, true].map(|accept| (id, Order::Release { accept }));
    assert_eq!(world.host.told(|told| told.orders.clone()), orders);
}

#[tokio::test]
async fn the_audit_log_is_paged_from_the_newest() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.post(routes::SHARES, json!({"name": name})).await.ok();
    }
    let first = world.get("/v1/audit?limit=2").await.ok();
    assert_eq!((&first["items"][0]["object"], &first["items"][1]["object"]), (&json!("c"), &json!("b")));
    let next = first["next"].as_str().expect("more");
    let second = world.get(&format!("/v1/audit?limit=2&after={next}")).await.ok();
    assert_eq!(second["items"][0]["object"], "a");
    assert_eq!(world.get("/v1/audit?after=x").await.code().0, 400);
    assert_eq!(world.host.rows().audit_verify().expect("read").expect("whole"), 6);
}
