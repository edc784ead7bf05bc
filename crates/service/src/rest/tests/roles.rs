//! Who may what: tokens, roles, and what is written down.

use axum::body::Body;
use axum::http::{Request, header};
use polder_api::rest::routes::ROUTES;
use polder_api::rest::{Role as ApiRole, routes};
use polder_metadata::control::{Acting, AuditOutcome, Role};
use serde_json::json;

use super::World;

/// A path that fits a template.
fn path_of(template: &str) -> String {
    let parts = template.split('/').map(|part| match part {
        part if part.starts_with('{') => "x",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn request(path: &str, authorization: Option<&str>) -> Request<Body> {
    let request = Request::builder().uri(path);
    let request = match authorization {
        Some(value) => request.header(header::AUTHORIZATION, value),
        None => request,
    };
    request.body(Body::empty()).expect("a request")
}

#[tokio::test]
async fn only_good_tokens_pass() {
    let world = World::new();
    let good = world.token(Role::Reader).to_owned();
    let mut forged = good.clone();
    forged.replace_range(forged.len() - 1.., if good.ends_with('0') { "1" } else { "0" });
    let bad = [
        None,
        Some("Bearer ".to_owned()),
        Some(format!("Basic {good}")),
        Some(format!("Bearer {forged}")),
        Some(format!("Bearer {good}0")),
        Some(format!("Bearer {}", good.to_uppercase())),
        Some("Bearer polder_0000000000000000_".to_owned() + &"0".repeat(64)),
    ];
    for authorization in bad {
        let answer = world.send(request(routes::WHOAMI, authorization.as_deref())).await;
        assert_eq!(answer.code(), (401, "unauthorized".into()), "{authorization:?}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
    }
    for scheme in ["Bearer", "bearer"] {
        let answer = world.send(request(routes::WHOAMI, Some(&format!("{scheme} {good}")))).await;
        assert_eq!(answer.ok()["name"], "rita");
    }
}

#[tokio::test]
async fn a_removed_token_is_useless_at_once() {
    let world = World::new();
    assert!(world.call_as(Role::Operator, "GET", routes::WHOAMI, None).await.status.is_success());
    let acting = Acting { who: "token:olga".into(), now: world.host.time() };
    let otto = world.host.rows().token_named(&"otto".parse().expect("a name")).expect("read").expect("there");
    world.host.rows().delete_token(&acting, otto.id).expect("not the last owner");
    assert_eq!(world.call_as(Role::Operator, "GET", routes::WHOAMI, None).await.code().0, 401);
}

#[tokio::test]
async fn tokens_are_made_shown_once_and_ended() {
    let world = World::new();
    let made =
        world.post(routes::TOKENS, json!({"name": "rex", "role": "reader", "expires_seconds": 60})).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let secret = made["token"].as_str().expect("text").to_owned();
    let bearer = format!("Bearer {secret}");
    assert_eq!(world.send(request(routes::WHOAMI, Some(&bearer))).await.ok()["role"], "reader");
    let listed = world.get(routes::TOKENS).await.ok();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(4));
    assert!(!listed.to_string().contains(&secret[7..23]), "no part of the secret");
    assert_eq!(world.post(routes::TOKENS, json!({"name": "REX", "role": "owner"})).await.code().0, 409);
    world.host.wait(60);
    assert_eq!(world.send(request(routes::WHOAMI, Some(&bearer))).await.code().0, 401, "it has ended");
    world.delete("/v1/tokens/otto?dry_run=true").await.ok();
    assert!(world.call_as(Role::Operator, "GET", routes::WHOAMI, None).await.status.is_success());
    world.delete("/v1/tokens/otto").await.ok();
    assert_eq!(world.call_as(Role::Operator, "GET", routes::WHOAMI, None).await.code().0, 401);
    assert_eq!(world.delete("/v1/tokens/olga").await.code().0, 412, "the last owner");
    assert_eq!(world.delete("/v1/tokens/none").await.code().0, 404);
    assert_eq!(world.last_audit().1, "token.delete");
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let world = World::new();
    for route in ROUTES {
        let path = path_of(route.path);
        let bare = Request::builder().method(route.method).uri(&path).body(Body::empty()).expect("a request");
        assert_eq!(world.send(bare).await.code().0, 401, "{} {path} without a token", route.method);
        let below = match route.role {
            ApiRole::Reader => continue,
            ApiRole::Operator => Role::Reader,
            ApiRole::Owner => Role::Operator,
        };
        let answer = world.call_as(below, route.method, &path, None).await;
        assert_eq!(answer.code(), (403, "forbidden".into()), "{} {path} as {below}", route.method);
        let entry = world.host.rows().audit_page(None, 1).expect("read").remove(0);
        assert_eq!((entry.action.as_str(), entry.outcome), ("access.forbidden", AuditOutcome::Refused));
        assert!(entry.object.contains(route.method), "{entry:?}");
    }
}

#[tokio::test]
async fn what_is_no_route_is_said_so() {
    let world = World::new();
    assert_eq!(world.get("/v1/nothing").await.code(), (404, "not_found".into()));
    assert_eq!(world.get("/v1").await.code(), (404, "not_found".into()));
    let answer = world.call("PUT", routes::SHARES, None).await;
    assert_eq!(answer.code(), (405, "method_not_allowed".into()));
    assert!(answer.headers[header::ALLOW].to_str().expect("text").contains("POST"));
    assert_eq!(world.get("/v1/shares?nothing=1").await.code(), (400, "bad_request".into()));
}
