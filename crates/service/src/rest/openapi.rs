//! The OpenAPI document, made from the table of routes and the types of the contract.
//!
//! It is checked in as `docs/openapi.json`; a test fails when the two differ. Every answer that a handler can give is
//! in it: the successes route by route, the refusals by what a route takes.

use polder_api::rest as api;
use polder_api::rest::routes::{self, ROUTES, Route};
use polder_api::rest::{PAGE_ITEMS_MAX, Role};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{Ref, RefOr, Schema};

/// What a body holds.
enum Payload {
    Json(Value),
    Octets,
}

/// What one route takes and gives, besides what the table of routes says.
struct Shape {
    /// `operationId`, stable: generated clients name their functions after it.
    id: &'static str,
    request: Option<Payload>,
    answers: Vec<(u16, Payload)>,
    /// Refusals that are not [`common_refusals`].
    refusals: &'static [u16],
}

/// Collects the schemas that are named.
#[derive(Default)]
struct Schemas(Map<String, Value>);

impl Schemas {
    fn keep(&mut self, name: String, schema: &RefOr<Schema>) {
        self.0.insert(name, serde_json::to_value(schema).expect("schemas are plain values"));
    }

    /// A reference to a type's schema, which is kept with all that it names.
    fn of<T: ToSchema>(&mut self) -> Value {
        let mut inner = Vec::new();
        T::schemas(&mut inner);
        for (name, schema) in &inner {
            self.keep(name.clone(), schema);
        }
        let name = T::name().into_owned();
        self.keep(name.clone(), &T::schema());
        json!(Ref::from_schema_name(name))
    }

    fn json<T: ToSchema>(&mut self) -> Payload {
        Payload::Json(self.of::<T>())
    }

    fn page<T: ToSchema>(&mut self) -> Payload {
        let items = self.of::<T>();
        Payload::Json(json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": {"type": "array", "items": items, "maxItems": PAGE_ITEMS_MAX},
                "next": {"type": "string", "description": "give this as `after` to get the next page; absent on the last one"},
            },
        }))
    }
}

fn shape(id: &'static str, answers: Vec<(u16, Payload)>, refusals: &'static [u16]) -> Shape {
    Shape { id, request: None, answers, refusals }
}

impl Shape {
    fn takes(mut self, request: Payload) -> Self {
        self.request = Some(request);
        self
    }
}

const SHARE_STATES: &[u16] = &[404, 410];
const PAST: &[u16] = &[404, 410, 412];
const EDIT: &[u16] = &[404, 409, 410, 412];

fn share_shape(schemas: &mut Schemas, method: &str, path: &str) -> Option<Shape> {
    Some(match (method, path) {
        ("GET", routes::SHARES) => shape("share_list", vec![(200, schemas.page::<api::Share>())], &[]),
        ("POST", routes::SHARES) => shape("share_create", vec![(201, schemas.json::<api::Share>())], &[409])
            .takes(schemas.json::<api::ShareCreate>()),
        ("GET", routes::SHARE) => {
            shape("share_show", vec![(200, schemas.json::<api::Share>())], SHARE_STATES)
        }
        ("PATCH", routes::SHARE) => {
            shape("share_change", vec![(200, schemas.json::<api::Share>())], SHARE_STATES)
                .takes(schemas.json::<api::ShareChange>())
        }
        ("DELETE", routes::SHARE) => {
            shape("share_delete", vec![(200, schemas.json::<api::Share>())], &[404, 409, 410])
        }
        ("POST", routes::SHARE_UNDELETE) => {
            shape("share_undelete", vec![(200, schemas.json::<api::Share>())], &[404, 409, 412])
        }
        ("GET", routes::SNAPSHOTS) => {
            shape("snapshot_list", vec![(200, schemas.page::<api::Snapshot>())], SHARE_STATES)
        }
        ("POST", routes::SNAPSHOTS) => {
            shape("snapshot_create", vec![(201, schemas.json::<api::Snapshot>())], &[404, 409, 410])
                .takes(schemas.json::<api::SnapshotCreate>())
        }
        ("DELETE", routes::SNAPSHOT) => {
            shape("snapshot_delete", vec![(200, schemas.json::<api::Snapshot>())], SHARE_STATES)
        }
        _ => return file_shape(schemas, method, path),
    })
}

fn file_shape(schemas: &mut Schemas, method: &str, path: &str) -> Option<Shape> {
    let changed = |schemas: &mut Schemas| {
        vec![(200, schemas.json::<api::Changed>()), (201, schemas.json::<api::Changed>())]
    };
    Some(match (method, path) {
        ("GET", routes::ENTRIES_ROOT) => shape("list_root", vec![(200, schemas.page::<api::Entry>())], PAST),
        ("GET", routes::ENTRIES) => shape("list", vec![(200, schemas.page::<api::Entry>())], PAST),
        ("GET", routes::STAT_ROOT) => shape("stat_root", vec![(200, schemas.json::<api::EntryStat>())], PAST),
        ("GET", routes::STAT) => shape("stat", vec![(200, schemas.json::<api::EntryStat>())], PAST),
        ("GET", routes::CONTENT) => {
            let answers = vec![(200, Payload::Octets), (206, Payload::Octets)];
            shape("get", answers, &[404, 410, 412, 416])
        }
        ("GET", routes::VERSION) => {
            let answers = vec![(200, Payload::Octets), (206, Payload::Octets)];
            shape("version_get", answers, &[404, 410, 416])
        }
        ("PUT", routes::CONTENT) => {
            shape("put", changed(schemas), &[404, 409, 410, 412, 413]).takes(Payload::Octets)
        }
        ("POST", routes::DIRECTORIES) => {
            shape("mkdir", changed(schemas), EDIT).takes(schemas.json::<api::DirectoryCreate>())
        }
        ("POST", routes::SYMLINKS) => {
            shape("symlink", changed(schemas), EDIT).takes(schemas.json::<api::SymlinkCreate>())
        }
        ("DELETE", routes::NODES) => shape("remove", vec![(200, schemas.json::<api::Removed>())], EDIT),
        ("POST", routes::MOVE) => shape("move", vec![(200, schemas.json::<api::Changed>())], EDIT)
            .takes(schemas.json::<api::MoveRequest>()),
        ("GET", routes::EXPLAIN_ROOT) => {
            shape("explain_root", vec![(200, schemas.json::<api::Explain>())], SHARE_STATES)
        }
        ("GET", routes::EXPLAIN) => {
            shape("explain", vec![(200, schemas.json::<api::Explain>())], SHARE_STATES)
        }
        _ => return None,
    })
}

fn server_shape(schemas: &mut Schemas, method: &str, path: &str) -> Option<Shape> {
    Some(match (method, path) {
        ("GET", routes::GROUPS) => shape("group_list", vec![(200, schemas.page::<api::Group>())], &[]),
        ("POST", routes::GROUPS) => {
            shape("group_create", vec![(201, schemas.json::<api::Group>())], &[404, 409, 410])
                .takes(schemas.json::<api::GroupCreate>())
        }
        ("GET", routes::GROUP) => shape("group_show", vec![(200, schemas.json::<api::Group>())], &[404]),
        ("DELETE", routes::GROUP) => {
            shape("group_delete", vec![(200, schemas.json::<api::Group>())], &[404, 409])
        }
        ("POST", routes::JOIN_TOKENS) => {
            shape("join_token_create", vec![(201, schemas.json::<api::JoinToken>())], &[])
                .takes(schemas.json::<api::JoinTokenCreate>())
        }
        ("GET", routes::SERVERS) => shape("server_list", vec![(200, schemas.page::<api::Server>())], &[]),
        ("GET", routes::SERVER) => shape("server_show", vec![(200, schemas.json::<api::Server>())], &[404]),
        ("POST", routes::SERVER_REVOKE) => {
            shape("server_revoke", vec![(200, schemas.json::<api::Server>())], &[404, 412])
        }
        ("GET", routes::ENDPOINTS) => {
            shape("endpoint_list", vec![(200, schemas.page::<api::Endpoint>())], &[404])
        }
        ("POST", routes::ENDPOINTS) => {
            let answers =
                vec![(200, schemas.json::<api::Endpoint>()), (201, schemas.json::<api::Endpoint>())];
            shape("endpoint_create", answers, &[404, 412]).takes(schemas.json::<api::EndpointCreate>())
        }
        ("GET", routes::ENDPOINT) => {
            shape("endpoint_show", vec![(200, schemas.json::<api::Endpoint>())], &[404])
        }
        ("PATCH", routes::ENDPOINT) => {
            shape("endpoint_change", vec![(200, schemas.json::<api::Endpoint>())], &[404, 412])
                .takes(schemas.json::<api::EndpointChange>())
        }
        ("DELETE", routes::ENDPOINT) => {
            shape("endpoint_delete", vec![(200, schemas.json::<api::Endpoint>())], &[404, 412])
        }
        ("GET", routes::ENDPOINT_LEFT_BEHIND) => {
            shape("endpoint_left_behind", vec![(200, Payload::Octets)], &[404, 412])
        }
        ("POST", routes::ENDPOINT_RELEASE) => {
            shape("endpoint_release", vec![(200, schemas.json::<api::Released>())], &[404, 409])
                .takes(schemas.json::<api::ReleaseRequest>())
        }
        _ => return health_shape(schemas, method, path),
    })
}

fn health_shape(schemas: &mut Schemas, method: &str, path: &str) -> Option<Shape> {
    Some(match (method, path) {
        ("GET", routes::WHOAMI) => shape("whoami", vec![(200, schemas.json::<api::WhoAmI>())], &[]),
        ("GET", routes::TOKENS) => shape("token_list", vec![(200, schemas.page::<api::Token>())], &[]),
        ("POST", routes::TOKENS) => {
            shape("token_create", vec![(201, schemas.json::<api::NewToken>())], &[409])
                .takes(schemas.json::<api::TokenCreate>())
        }
        ("DELETE", routes::TOKEN) => {
            shape("token_delete", vec![(200, schemas.json::<api::Token>())], &[404, 412])
        }
        ("GET", routes::STATUS) => shape("status", vec![(200, schemas.json::<api::Status>())], &[404]),
        ("GET", routes::ERRORS) => {
            shape("error_list", vec![(200, schemas.page::<api::ItemError>())], &[404, 409])
        }
        ("GET", routes::CONFLICTS) => {
            shape("conflict_list", vec![(200, schemas.page::<api::Conflict>())], SHARE_STATES)
        }
        ("POST", routes::CONFLICTS_RESOLVE) => {
            shape("conflict_resolve", vec![(200, schemas.json::<api::Conflict>())], EDIT)
                .takes(schemas.json::<api::ConflictResolve>())
        }
        ("GET", routes::REVIEW) => {
            shape("review_list", vec![(200, schemas.page::<api::ReviewItem>())], &[404, 409])
        }
        ("POST", routes::REVIEW) => {
            shape("review_decide", vec![(200, schemas.json::<api::Reviewed>())], &[404, 409])
                .takes(schemas.json::<api::ReviewRequest>())
        }
        ("GET", routes::RECONCILERS) => {
            shape("reconciler_list", vec![(200, schemas.page::<api::Reconciler>())], &[])
        }
        ("POST", routes::RECONCILER_WAKE) => {
            shape("reconciler_wake", vec![(202, schemas.json::<api::Reconciler>())], &[404])
        }
        ("GET", routes::AUDIT) => shape("audit_list", vec![(200, schemas.page::<api::AuditEntry>())], &[]),
        _ => return None,
    })
}

/// Refusals that follow from what the table says of a route.
fn common_refusals(route: &Route, shape: &Shape) -> Vec<u16> {
    let mut found = vec![400, 401, 500, 503];
    if route.role != Role::Reader {
        found.push(403);
    }
    if matches!(shape.request, Some(Payload::Json(_))) {
        found.extend([413, 415]);
    }
    found.extend(shape.refusals);
    found.sort_unstable();
    found.dedup();
    found
}

fn meaning(status: u16) -> &'static str {
    match status {
        200 => "done",
        201 => "created",
        202 => "taken",
        206 => "the range that was asked for",
        400 => "the request is not well-formed or breaks a rule",
        401 => "no valid token",
        403 => "the token's role does not allow this",
        404 => "the thing named does not exist",
        409 => "the state of things forbids it; the code says how",
        410 => "the share is deleted and can be brought back",
        412 => "a precondition does not hold",
        413 => "the body is too large",
        415 => "the body has another type",
        416 => "the range lies outside of the content",
        500 => "the service failed; its log says why",
        503 => "something that comes back by itself is away",
        _ => "see the body",
    }
}

fn content(payload: Payload) -> Value {
    match payload {
        Payload::Json(schema) => json!({"application/json": {"schema": schema}}),
        Payload::Octets => {
            json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}})
        }
    }
}

fn path_parameter(name: &str) -> Value {
    let (description, schema) = match name {
        "path" => {
            ("a path in the share, each name percent-encoded", json!({"type": "string", "minLength": 1}))
        }
        "endpoint" => ("id of an endpoint", json!({"type": "string", "pattern": "^[0-9a-f]{32}$"})),
        "node" => ("id of a node", json!({"type": "string", "pattern": "^[0-9a-f]{32}$"})),
        _ => (
            "a name, or an id of 32 hexadecimal digits",
            json!({"type": "string", "minLength": 1, "maxLength": 63}),
        ),
    };
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
}

fn query_schema(name: &str, schemas: &mut Schemas) -> Value {
    match name {
        "limit" => json!({"type": "integer", "minimum": 1, "maximum": PAGE_ITEMS_MAX}),
        "dry_run" | "deleted" | "recursive" | "create_only" | "parents" | "force" | "forget" => {
            json!({"type": "boolean"})
        }
        "uid" | "gid" => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        "base" => json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}),
        "mtime" => schemas.of::<api::Time>(),
        "mode" => schemas.of::<api::Mode>(),
        "at" => {
            json!({"type": "string", "description": "`seq:N`, a time, or the name of a snapshot", "example": "seq:0"})
        }
        _ => json!({"type": "string"}),
    }
}

fn query_parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let paged = if route.paged { &["limit", "after"][..] } else { &[] };
    let dry_run = if route.dry_run { &["dry_run"][..] } else { &[] };
    let names = paged.iter().chain(dry_run).chain(route.query);
    let parameter = |name: &&str| json!({"name": name, "in": "query", "schema": query_schema(name, schemas)});
    names.map(parameter).collect()
}

/// The path as OpenAPI writes it, and the names of its parameters.
fn template(path: &str) -> (String, Vec<String>) {
    let path = path.replace("{*", "{");
    let names =
        path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}').map(str::to_owned));
    (path.clone(), names.collect())
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let found = share_shape(schemas, route.method, route.path);
    let found = found.or_else(|| server_shape(schemas, route.method, route.path));
    let shape = found.expect("every route of the table is described; a test goes through them");
    let refusals = common_refusals(route, &shape);
    let problem = schemas.of::<api::Problem>();
    let mut responses = Map::new();
    for (status, payload) in shape.answers {
        let answer = json!({"description": meaning(status), "content": content(payload)});
        responses.insert(status.to_string(), answer);
    }
    for status in refusals {
        let body = content(Payload::Json(problem.clone()));
        let answer = json!({"description": meaning(status), "content": body});
        responses.insert(status.to_string(), answer);
    }
    let (_, names) = template(route.path);
    let mut parameters: Vec<_> = names.iter().map(|name| path_parameter(name)).collect();
    parameters.extend(query_parameters(route, schemas));
    let role = serde_json::to_value(route.role).expect("a word");
    let mut operation = json!({
        "operationId": shape.id,
        "summary": route.summary,
        "x-role": role,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(request) = shape.request {
        operation["requestBody"] = json!({"required": true, "content": content(request)});
    }
    operation
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for route in ROUTES {
        let (path, _) = template(route.path);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[route.method.to_lowercase()] = operation(route, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Polder",
            "version": "1",
            "description": "What people, the portal and tools say to a storage sync service.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.0,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the document is checked in.
    const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

    #[test]
    fn the_checked_in_document_is_current() {
        let text = serde_json::to_string_pretty(&document()).expect("plain values") + "\n";
        if std::env::var_os("POLDER_UPDATE").is_some() {
            std::fs::write(CHECKED_IN, &text).expect("written");
        }
        let found = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
        assert!(
            found == text,
            "docs/openapi.json is stale: run the tests with POLDER_UPDATE=1, and look at the difference"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().expect("a map");
        let text = document.to_string();
        let mut found = 0;
        for reference in text.split("\"$ref\":\"").skip(1) {
            let name =
                reference.split('"').next().expect("an end").trim_start_matches("#/components/schemas/");
            assert!(schemas.contains_key(name), "{name}");
            found += 1;
        }
        assert!(found > 100, "{found} references");
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let document = document();
        let mut seen = std::collections::BTreeSet::new();
        for item in document["paths"].as_object().expect("a map").values() {
            for operation in item.as_object().expect("a map").values() {
                let id = operation["operationId"].as_str().expect("a name");
                assert!(seen.insert(id.to_owned()), "{id}");
            }
        }
        assert_eq!(seen.len(), ROUTES.len());
    }
}
