//! What is tiered on a server that nobody can ask: the list of it, its bytes, and how long they are held.

use std::collections::BTreeMap;
use std::io::Cursor as Bytes;

use polder_api::grpc::pb;
use polder_api::left_behind::{Left, Reader};
use polder_api::rest::Endpoint;
use polder_ledger::{self as ledger, LedgerError};
use polder_metadata::control::{Acting, LeftBehind};
use polder_types::{BatchNo, Cursor, EndpointId, InstanceId, ServerId};
use serde_json::json;

use super::World;
use crate::rest::Host as _;

const CONTENT: &str = "/v1/shares/demo/content";

struct Site {
    world: World,
    server: ServerId,
    endpoint: Endpoint,
}

impl Site {
    /// A tiered endpoint that has applied three files.
    async fn new() -> Self {
        let world = World::new();
        world.post("/v1/shares", json!({"name": "demo"})).await.ok();
        world.post("/v1/groups", json!({"name": "demo", "share": "demo"})).await.ok();
        let server = world.host.register("site-a");
        let body =
            json!({"group": "demo", "server": "site-a", "path": "/srv/a", "settings": {"tiering": true}});
        let endpoint =
            serde_json::from_value(world.post("/v1/endpoints", body).await.ok()).expect("an endpoint");
        let site = Self { world, server, endpoint };
        site.world.post("/v1/shares/demo/directories/dir", json!({})).await.ok();
        for (name, bytes) in [("one", "first"), ("dir/two", "second"), ("dir/three", "third"), ("empty", "")]
        {
            assert_eq!(site.world.put(&format!("{CONTENT}/{name}"), bytes.as_bytes()).await.status, 201);
        }
        site
    }

    fn path(&self, end: &str) -> String {
        format!("/v1/endpoints/{}{end}", self.endpoint.id)
    }

    /// The agent has opened it, and applied what the share has now.
    async fn applied(&self) {
        let id = self.endpoint.id;
        let claimed = self.world.host.rows().update_progress(id, |progress| {
            (progress.instance, progress.next_batch) = (Some(InstanceId([1; 16])), BatchNo(1));
            Ok(())
        });
        claimed.expect("there");
        let share = self.world.host.open_share(self.endpoint.share_id).await.expect("there");
        let pinned: Result<(), LedgerError> = share.db.write(move |rows| {
            let head = ledger::share_row(rows)?.head;
            ledger::set_applied(rows, id, head)
        });
        pinned.expect("a cursor of this history");
    }

    async fn pin(&self) -> Option<Cursor> {
        let (id, share) =
            (self.endpoint.id, self.world.host.open_share(self.endpoint.share_id).await.expect("there"));
        let pin: Result<_, LedgerError> = share.db.read(|rows| ledger::applied(rows, id));
        pin.expect("rows in memory")
    }

    async fn list(&self) -> BTreeMap<String, Left> {
        let answer = self.world.get(&self.path("/left-behind")).await;
        assert_eq!(answer.status, 200);
        let mut reader = Reader::begin(Bytes::new(answer.bytes)).expect("a manifest");
        let head = reader.head().clone();
        assert_eq!(
            (head.endpoint, head.share, head.server),
            (self.endpoint.id, self.endpoint.share_id, self.server)
        );
        assert!(!head.known && head.nonce.is_none() && head.path.0 == b"/srv/a");
        let mut found = BTreeMap::new();
        while let Some(left) = reader.next_file().expect("lines") {
            found.insert(left.path.to_string(), left);
        }
        assert!(reader.is_whole());
        found
    }

    async fn bytes(&self, left: &Left) -> super::Answer {
        self.world.get(&format!("/v1/shares/demo/versions/{}?content={}", left.node, left.content)).await
    }
}

#[tokio::test]
async fn the_list_is_as_of_what_was_applied() {
    let site = Site::new().await;
    assert_eq!(site.world.get(&site.path("/left-behind")).await.code().0, 412, "nothing was applied");
    site.applied().await;
    let before = site.list().await;
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        ["dir/three", "dir/two", "one"],
        "without what has no bytes"
    );
    // The share moves on.
    site.world.put(&format!("{CONTENT}/one"), b"newer").await.ok();
    site.world.delete("/v1/shares/demo/nodes/dir/two").await.ok();
    site.world.post("/v1/shares/demo/move", json!({"from": "dir/three", "to": "moved"})).await.ok();
    site.world.put(&format!("{CONTENT}/later"), b"later").await;
    assert_eq!(site.list().await, before);
    for (path, bytes) in [("one", "first"), ("dir/two", "second"), ("dir/three", "third")] {
        let answer = site.bytes(&before[path]).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.as_slice()), (200, bytes.as_bytes()), "{path}");
    }
    // Of the node that is named, and of no other.
    let mixed = Left { node: before["one"].node, ..before["dir/two"].clone() };
    assert_eq!(site.bytes(&mixed).await.code().0, 404);
    let nobody = Left { content: "AQ".into(), ..mixed };
    assert_eq!(site.bytes(&nobody).await.code().0, 400);
    assert_eq!(site.world.get("/v1/shares/demo/versions/nonsense?content=AQ").await.code().0, 404);
}

#[tokio::test]
async fn a_revoked_server_keeps_what_it_may_have_tiered() {
    let site = Site::new().await;
    site.applied().await;
    let id = site.path("");
    let world = &site.world;
    assert_eq!(
        world.call("DELETE", &format!("{id}?forget=true"), None).await.code().0,
        412,
        "it is followed"
    );
    let applied = Some(Cursor::default().into());
    let report = pb::EndpointStatus { tiered_nodes: 2, tiered_bytes: 11, applied, ..Default::default() };
    world.host.told(|told| told.reports.push((site.endpoint.id, report)));
    let said = world.call("POST", "/v1/servers/site-a/revoke?dry_run=true", None).await.ok();
    assert_eq!((&said["tiered_files"], &said["tiered_bytes"]), (&json!(2), &json!(11)), "who asks is told");
    let said = world.call("POST", "/v1/servers/site-a/revoke", None).await.ok();
    assert_eq!((&said["tiered_files"], &said["tiered_bytes"]), (&json!(2), &json!(11)));
    for how in ["", "?force=true", "?dry_run=true"] {
        assert_eq!(world.call("DELETE", &format!("{id}{how}"), None).await.code().0, 412, "{how}");
    }
    assert!(site.pin().await.is_some());
    assert_eq!(site.list().await.len(), 3);
    world.call("DELETE", &format!("{id}?forget=true&dry_run=true"), None).await.ok();
    assert!(site.pin().await.is_some());
    world.call("DELETE", &format!("{id}?forget=true"), None).await.ok();
    assert_eq!((world.get(&id).await.code().0, site.pin().await), (404, None));
}

#[tokio::test]
async fn an_endpoint_that_left_is_held_until_it_is_forgotten() {
    let site = Site::new().await;
    site.applied().await;
    let (id, world) = (site.path(""), &site.world);
    world.call("DELETE", &format!("{id}?force=true"), None).await.ok();
    let row = || world.host.rows().endpoint(site.endpoint.id).expect("read").expect("there");
    assert!(row().deleting && row().force);
    assert_eq!(world.get(&id).await.ok()["removing"], json!(true));
    world.delete(&id).await.ok();
    assert!(row().force, "an order without force takes nothing back");
    let acting = Acting { who: "service".into(), now: world.host.time() };
    let left = LeftBehind { count: Some((2, 11)), at: world.host.time() };
    world.host.rows().leave_endpoint(&acting, site.endpoint.id, left).expect("there");
    let shown = world.get(&id).await.ok();
    assert_eq!((&shown["left_behind"]["files"], &shown["left_behind"]["bytes"]), (&json!(2), &json!(11)));
    assert_eq!(world.get("/v1/status").await.ok()["groups"][0]["endpoints"], json!([]), "it has no health");
    // Its place is free for another one.
    let body = json!({"group": "demo", "server": "site-a", "path": "/srv/a", "settings": {"tiering": true}});
    let again: Endpoint =
        serde_json::from_value(world.post("/v1/endpoints", body).await.ok()).expect("an endpoint");
    assert_ne!(again.id, site.endpoint.id);
    for how in ["", "?force=true"] {
        assert_eq!(world.call("DELETE", &format!("{id}{how}"), None).await.code().0, 412, "{how}");
    }
    assert!(site.pin().await.is_some());
    world.call("DELETE", &format!("{id}?forget=true"), None).await.ok();
    assert_eq!(site.pin().await, None);
    let rows = world.get("/v1/endpoints").await.ok();
    assert_eq!(rows["items"].as_array().map(Vec::len), Some(1), "the other one stays");
    assert!(world.host.rows().endpoint(EndpointId(again.id.0)).expect("read").is_some());
}
