//! Every route under `/v1`: the one table that handlers, client and OpenAPI document agree on.
//!
//! `{share}`, `{group}` and `{server}` take a name or an id (32 hexadecimal digits), `{endpoint}` an id, `{snapshot}`
//! a name. `{*path}` is the rest of the URL: a path in the share, each name percent-encoded
//! ([`super::encode_path`], [`super::decode_path`]); the route without it is the share's root. Because a path need
//! not be UTF-8, handlers take it from the undecoded URI with [`tail`], never from the router.
//!
//! Requests carry `Authorization: Bearer TOKEN`. Every list takes `limit` and `after` where [`Route::paged`] says so and
//! answers with a [`super::Page`]. Every change takes `dry_run=true` where [`Route::dry_run`] says so: then all
//! checks are made and nothing else happens. Every refusal has a [`super::Problem`] as its body.

use super::Role;

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// Path template, in the router's form.
    pub path: &'static str,
    /// Least role that it needs.
    pub role: Role,
    /// Whether it answers with pages.
    pub paged: bool,
    /// Whether it takes `dry_run`.
    pub dry_run: bool,
    /// Other query parameters that it takes.
    pub query: &'static [&'static str],
    /// What it does; its body and answer.
    pub summary: &'static str,
}

const fn get(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, role: Role::Reader, paged: false, dry_run: false, query: &[], summary }
}

const fn change(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    Route { method, path, role: Role::Operator, paged: false, dry_run: false, query: &[], summary }
}

impl Route {
    const fn paged(mut self) -> Self {
        self.paged = true;
        self
    }

    const fn dry(mut self) -> Self {
        self.dry_run = true;
        self
    }

    const fn owner(mut self) -> Self {
        self.role = Role::Owner;
        self
    }

    const fn query(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }
}

/// Who am I.
pub const WHOAMI: &str = "/v1/whoami";
/// Tokens of people and tools.
pub const TOKENS: &str = "/v1/tokens";
/// One token.
pub const TOKEN: &str = "/v1/tokens/{token}";
/// Shares.
pub const SHARES: &str = "/v1/shares";
/// One share.
pub const SHARE: &str = "/v1/shares/{share}";
/// Brings a deleted share back.
pub const SHARE_UNDELETE: &str = "/v1/shares/{share}/undelete";
/// Root directory of a share.
pub const ENTRIES_ROOT: &str = "/v1/shares/{share}/entries";
/// Directory of a share.
pub const ENTRIES: &str = "/v1/shares/{share}/entries/{*path}";
/// Root of a share.
pub const STAT_ROOT: &str = "/v1/shares/{share}/stat";
/// Node of a share.
pub const STAT: &str = "/v1/shares/{share}/stat/{*path}";
/// Content of a file.
pub const CONTENT: &str = "/v1/shares/{share}/content/{*path}";
/// A directory to make.
pub const DIRECTORIES: &str = "/v1/shares/{share}/directories/{*path}";
/// A symlink to make.
pub const SYMLINKS: &str = "/v1/shares/{share}/symlinks/{*path}";
/// A node to remove.
pub const NODES: &str = "/v1/shares/{share}/nodes/{*path}";
/// A move inside a share.
pub const MOVE: &str = "/v1/shares/{share}/move";
/// Reasons of the root.
pub const EXPLAIN_ROOT: &str = "/v1/shares/{share}/explain";
/// Reasons of a path.
pub const EXPLAIN: &str = "/v1/shares/{share}/explain/{*path}";
/// Snapshots of a share.
pub const SNAPSHOTS: &str = "/v1/shares/{share}/snapshots";
/// One snapshot.
pub const SNAPSHOT: &str = "/v1/shares/{share}/snapshots/{snapshot}";
/// Sync groups.
pub const GROUPS: &str = "/v1/groups";
/// One sync group.
pub const GROUP: &str = "/v1/groups/{group}";
/// Join tokens.
pub const JOIN_TOKENS: &str = "/v1/join-tokens";
/// Registered servers.
pub const SERVERS: &str = "/v1/servers";
/// One registered server.
pub const SERVER: &str = "/v1/servers/{server}";
/// Ends the trust in a server.
pub const SERVER_REVOKE: &str = "/v1/servers/{server}/revoke";
/// Server endpoints.
pub const ENDPOINTS: &str = "/v1/endpoints";
/// One server endpoint.
pub const ENDPOINT: &str = "/v1/endpoints/{endpoint}";
/// What was left behind of an endpoint.
pub const ENDPOINT_LEFT_BEHIND: &str = "/v1/endpoints/{endpoint}/left-behind";
/// Bytes of a node's version.
pub const VERSION: &str = "/v1/shares/{share}/versions/{node}";
/// What the brake holds at an endpoint.
pub const ENDPOINT_RELEASE: &str = "/v1/endpoints/{endpoint}/release";
/// Health.
pub const STATUS: &str = "/v1/status";
/// Items that are not in sync.
pub const ERRORS: &str = "/v1/errors";
/// Conflict copies.
pub const CONFLICTS: &str = "/v1/conflicts";
/// Ends a conflict.
pub const CONFLICTS_RESOLVE: &str = "/v1/conflicts/resolve";
/// Extras under review.
pub const REVIEW: &str = "/v1/review";
/// Background work.
pub const RECONCILERS: &str = "/v1/reconcilers";
/// Wakes a piece of background work.
pub const RECONCILER_WAKE: &str = "/v1/reconcilers/{reconciler}/wake";
/// The audit log.
pub const AUDIT: &str = "/v1/audit";

/// Every route under `/v1`.
pub const ROUTES: &[Route] = &[
    get(WHOAMI, "name and role of the token: WhoAmI"),
    get(TOKENS, "tokens by name, without their secrets: Page<Token>").paged().owner(),
    change("POST", TOKENS, "makes a token: TokenCreate to 201 NewToken").owner(),
    change("DELETE", TOKEN, "ends a token, by name, at once; the last lasting owner's stays: Token")
        .owner()
        .dry(),
    get(SHARES, "shares by name; deleted ones with `deleted=true`: Page<Share>").paged().query(&["deleted"]),
    change("POST", SHARES, "creates a share: ShareCreate to 201 Share"),
    get(SHARE, "a share: Share"),
    change("PATCH", SHARE, "changes a share: ShareChange to Share").dry(),
    change("DELETE", SHARE, "deletes a share softly; `not_empty` while a group has it: Share").owner().dry(),
    change("POST", SHARE_UNDELETE, "brings a deleted share back, by name or id: Share").owner().dry(),
    get(ENTRIES_ROOT, "the root directory, by name in byte order: Page<Entry>").paged().query(&["at"]),
    get(ENTRIES, "a directory, by name in byte order: Page<Entry>").paged().query(&["at"]),
    get(STAT_ROOT, "the root: EntryStat").query(&["at"]),
    get(STAT, "one node: EntryStat").query(&["at"]),
    get(CONTENT, "a file's bytes; one range with `Range`, `ETag` is the version: 200 or 206 octets")
        .query(&["at"]),
    get(VERSION, "the bytes of whichever kept version of the node has this `content`: 200 or 206 octets")
        .query(&["content"]),
    change(
        "PUT",
        CONTENT,
        "creates or replaces a file with the body's octets: PutQuery to 200 or 201 Changed",
    )
    .query(&["mtime", "mode", "uid", "gid", "base", "create_only", "parents"]),
    change("POST", DIRECTORIES, "makes a directory: DirectoryCreate to 200 or 201 Changed").dry(),
    change("POST", SYMLINKS, "makes a symlink: SymlinkCreate to 200 or 201 Changed").dry(),
    change(
        "DELETE",
        NODES,
        "removes a node, with `recursive=true` all below it; `base` names the version: Removed",
    )
    .dry()
    .query(&["recursive", "base"]),
    change("POST", MOVE, "moves or renames a node: MoveRequest to Changed").dry(),
    get(EXPLAIN_ROOT, "why the root is as it is: Explain"),
    get(EXPLAIN, "why a path is as it is: Explain"),
    get(SNAPSHOTS, "snapshots, oldest first: Page<Snapshot>").paged(),
    change("POST", SNAPSHOTS, "takes a snapshot: SnapshotCreate to 201 Snapshot"),
    change("DELETE", SNAPSHOT, "forgets a snapshot; what only it held may go: Snapshot").dry(),
    get(GROUPS, "sync groups by name: Page<Group>").paged(),
    change("POST", GROUPS, "creates a sync group: GroupCreate to 201 Group"),
    get(GROUP, "a sync group: Group"),
    change("DELETE", GROUP, "deletes a sync group; `not_empty` while it has endpoints: Group").dry(),
    change("POST", JOIN_TOKENS, "makes a one-time join token: JoinTokenCreate to 201 JoinToken").owner(),
    get(SERVERS, "registered servers by name: Page<Server>").paged(),
    get(SERVER, "a registered server: Server"),
    change("POST", SERVER_REVOKE, "ends the trust in a server, from its next request on: Server")
        .owner()
        .dry(),
    get(ENDPOINTS, "server endpoints: Page<Endpoint>").paged().query(&["group", "server"]),
    change("POST", ENDPOINTS, "creates a server endpoint: EndpointCreate to 201 Endpoint").dry(),
    get(ENDPOINT, "a server endpoint: Endpoint"),
    change("PATCH", ENDPOINT, "changes its settings: EndpointChange to Endpoint").dry(),
    change(
        "DELETE",
        ENDPOINT,
        "removes it; the server keeps its files, tiered ones are recalled first, or listed with `force=true`; \
         `forget=true` lets go of what is held for the listed: Endpoint",
    )
    .dry()
    .query(&["force", "forget"]),
    get(ENDPOINT_LEFT_BEHIND, "files that may be tiered there, by its pin: 200 lines of `docs/formats/left-behind.md`"),
    change("POST", ENDPOINT_RELEASE, "decides about what the brake holds: ReleaseRequest to Released").dry(),
    get(STATUS, "health of all groups or of one: Status").query(&["group"]),
    get(ERRORS, "items that are not in sync, by endpoint and path: Page<ItemError>")
        .paged()
        .query(&["endpoint"]),
    get(CONFLICTS, "conflict copies, newest first: Page<Conflict>").paged().query(&["share"]),
    change("POST", CONFLICTS_RESOLVE, "ends a conflict: ConflictResolve to Conflict").dry(),
    get(REVIEW, "extras under review, by endpoint and path: Page<ReviewItem>").paged().query(&["endpoint"]),
    change("POST", REVIEW, "decides about extras: ReviewRequest to Reviewed").dry(),
    get(RECONCILERS, "background work by name: Page<Reconciler>").paged(),
    change("POST", RECONCILER_WAKE, "wakes a piece of background work: 202 Reconciler"),
    get(AUDIT, "the audit log, newest first: Page<AuditEntry>").paged().owner(),
];

/// What of an undecoded URI path fills the `{*path}` of `template`; empty for the root. `None` when the path is
/// too short for the template.
pub fn tail<'a>(template: &str, uri_path: &'a str) -> Option<&'a str> {
    let segments = template.split('/').filter(|part| !part.starts_with("{*")).count();
    let mut rest = uri_path;
    for _ in 1..segments {
        rest = rest.strip_prefix('/')?;
        rest = rest.find('/').map_or("", |at| &rest[at..]);
    }
    Some(rest.strip_prefix('/').unwrap_or(rest))
}

/// Fills a template: each `{…}` with the next of `parts`, percent-encoded. `{*path}` is left out: append it.
pub fn fill(template: &str, parts: &[&str]) -> String {
    let mut parts = parts.iter();
    let mut out = String::new();
    for segment in template.split('/').skip(1).filter(|segment| !segment.starts_with("{*")) {
        out.push('/');
        if segment.starts_with('{') {
            let part = parts.next().copied().unwrap_or_default();
            out.push_str(&super::percent_encode(part.as_bytes()));
        } else {
            out.push_str(segment);
        }
    }
    debug_assert!(parts.next().is_none(), "{template} has fewer places than parts");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_cut_where_the_template_says() {
        assert_eq!(tail(STAT, "/v1/shares/demo/stat/a/b%2Fc"), Some("a/b%2Fc"));
        assert_eq!(tail(STAT, "/v1/shares/demo/stat"), Some(""));
        assert_eq!(tail(STAT, "/v1/shares/demo/stat/"), Some(""));
        assert_eq!(tail(STAT_ROOT, "/v1/shares/demo/stat"), Some(""));
    }

    #[test]
    fn templates_are_filled() {
        assert_eq!(fill(SHARE, &["a b"]), "/v1/shares/a%20b");
        assert_eq!(fill(CONTENT, &["demo"]), "/v1/shares/demo/content");
        assert_eq!(fill(SNAPSHOT, &["demo", "x/y"]), "/v1/shares/demo/snapshots/x%2Fy");
    }

    #[test]
    fn no_route_is_listed_twice() {
        for (at, route) in ROUTES.iter().enumerate() {
            let again =
                ROUTES[at + 1..].iter().any(|other| (other.method, other.path) == (route.method, route.path));
            assert!(!again, "{} {}", route.method, route.path);
        }
    }
}
