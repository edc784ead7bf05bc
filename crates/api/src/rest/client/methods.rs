//! One method a route.

use http::Method;
use polder_types::{EndpointId, RelPath};

use super::{Client, ClientError, NONE, Query};
use crate::rest::{
    At, AuditEntry, Changed, Conflict, ConflictResolve, DirectoryCreate, Endpoint, EndpointChange,
    EndpointCreate, EndpointRemoval, Entry, EntryStat, Explain, Group, GroupCreate, ItemError, JoinToken,
    JoinTokenCreate, MoveRequest, Page, Reconciler, Release, ReleaseRequest, Released, Removed, ReviewItem,
    ReviewRequest, Reviewed, Server, Share, ShareChange, ShareCreate, Snapshot, SnapshotCreate, Status,
    SymlinkCreate, WhoAmI, encode_path, routes,
};

/// Result of a request.
type Answer<T> = Result<T, ClientError>;

fn dry(dry_run: bool) -> Query {
    Query::default().flag("dry_run", dry_run)
}

/// A route that ends with a path of the share.
fn at_path(template: &str, share: &str, path: &RelPath) -> String {
    let front = routes::fill(template, &[share]);
    if path.names().is_empty() { front } else { format!("{front}/{}", encode_path(path)) }
}

/// The token, shares, snapshots.
impl Client {
    /// Name and role of the token.
    pub async fn whoami(&self) -> Answer<WhoAmI> {
        self.get(routes::WHOAMI, Query::default()).await
    }

    /// All shares; with those that are deleted and can be brought back, if `deleted`.
    pub async fn shares(&self, deleted: bool) -> Answer<Vec<Share>> {
        self.all(routes::SHARES, Query::default().flag("deleted", deleted)).await
    }

    /// Creates a share.
    pub async fn share_create(&self, share: &ShareCreate) -> Answer<Share> {
        self.change(Method::POST, routes::SHARES, Query::default(), Some(share)).await
    }

    /// One share, by name or id.
    pub async fn share(&self, share: &str) -> Answer<Share> {
        self.get(&routes::fill(routes::SHARE, &[share]), Query::default()).await
    }

    /// Changes a share.
    pub async fn share_change(&self, share: &str, change: &ShareChange, dry_run: bool) -> Answer<Share> {
        self.change(Method::PATCH, &routes::fill(routes::SHARE, &[share]), dry(dry_run), Some(change)).await
    }

    /// Deletes a share softly.
    pub async fn share_delete(&self, share: &str, dry_run: bool) -> Answer<Share> {
        self.change(Method::DELETE, &routes::fill(routes::SHARE, &[share]), dry(dry_run), NONE).await
    }

    /// Brings a deleted share back.
    pub async fn share_undelete(&self, share: &str, dry_run: bool) -> Answer<Share> {
        let path = routes::fill(routes::SHARE_UNDELETE, &[share]);
        self.change(Method::POST, &path, dry(dry_run), NONE).await
    }

    /// Snapshots of a share.
    pub async fn snapshots(&self, share: &str) -> Answer<Vec<Snapshot>> {
        self.all(&routes::fill(routes::SNAPSHOTS, &[share]), Query::default()).await
    }

    /// Takes a snapshot.
    pub async fn snapshot_create(&self, share: &str, snapshot: &SnapshotCreate) -> Answer<Snapshot> {
        let path = routes::fill(routes::SNAPSHOTS, &[share]);
        self.change(Method::POST, &path, Query::default(), Some(snapshot)).await
    }

    /// Forgets a snapshot.
    pub async fn snapshot_delete(&self, share: &str, snapshot: &str, dry_run: bool) -> Answer<Snapshot> {
        let path = routes::fill(routes::SNAPSHOT, &[share, snapshot]);
        self.change(Method::DELETE, &path, dry(dry_run), NONE).await
    }
}

/// Direct access to the files of a share; contents are in `content.rs`.
impl Client {
    /// One page of a directory, by name in byte order.
    pub async fn entries(
        &self,
        share: &str,
        path: &RelPath,
        at: Option<&At>,
        after: Option<&str>,
    ) -> Answer<Page<Entry>> {
        let at = at.map(At::to_string);
        let query = Query::default().maybe("at", at.as_deref()).maybe("after", after);
        self.get(&at_path(routes::ENTRIES, share, path), query).await
    }

    /// One node.
    pub async fn stat(&self, share: &str, path: &RelPath, at: Option<&At>) -> Answer<EntryStat> {
        let at = at.map(At::to_string);
        let query = Query::default().maybe("at", at.as_deref());
        self.get(&at_path(routes::STAT, share, path), query).await
    }

    /// Makes a directory.
    pub async fn mkdir(
        &self,
        share: &str,
        path: &RelPath,
        directory: &DirectoryCreate,
        dry_run: bool,
    ) -> Answer<Changed> {
        let path = at_path(routes::DIRECTORIES, share, path);
        self.change(Method::POST, &path, dry(dry_run), Some(directory)).await
    }

    /// Makes a symlink.
    pub async fn symlink(
        &self,
        share: &str,
        path: &RelPath,
        symlink: &SymlinkCreate,
        dry_run: bool,
    ) -> Answer<Changed> {
        self.change(Method::POST, &at_path(routes::SYMLINKS, share, path), dry(dry_run), Some(symlink)).await
    }

    /// Removes a node, with everything below it if `recursive`; only the version `base`, if given.
    pub async fn remove(
        &self,
        share: &str,
        path: &RelPath,
        recursive: bool,
        base: Option<u64>,
        dry_run: bool,
    ) -> Answer<Removed> {
        let base = base.map(|base| base.to_string());
        let query = dry(dry_run).flag("recursive", recursive).maybe("base", base.as_deref());
        self.change(Method::DELETE, &at_path(routes::NODES, share, path), query, NONE).await
    }

    /// Moves a node inside its share.
    pub async fn rename(&self, share: &str, request: &MoveRequest, dry_run: bool) -> Answer<Changed> {
        self.change(Method::POST, &routes::fill(routes::MOVE, &[share]), dry(dry_run), Some(request)).await
    }

    /// Why a path is as it is.
    pub async fn explain(&self, share: &str, path: &RelPath) -> Answer<Explain> {
        self.get(&at_path(routes::EXPLAIN, share, path), Query::default()).await
    }
}

/// Groups, servers, endpoints.
impl Client {
    /// All sync groups.
    pub async fn groups(&self) -> Answer<Vec<Group>> {
        self.all(routes::GROUPS, Query::default()).await
    }

    /// Creates a sync group.
    pub async fn group_create(&self, group: &GroupCreate) -> Answer<Group> {
        self.change(Method::POST, routes::GROUPS, Query::default(), Some(group)).await
    }

    /// One sync group, by name or id.
    pub async fn group(&self, group: &str) -> Answer<Group> {
        self.get(&routes::fill(routes::GROUP, &[group]), Query::default()).await
    }

    /// Deletes a sync group without endpoints.
    pub async fn group_delete(&self, group: &str, dry_run: bool) -> Answer<Group> {
        self.change(Method::DELETE, &routes::fill(routes::GROUP, &[group]), dry(dry_run), NONE).await
    }

    /// Makes a one-time join token.
    pub async fn join_token(&self, token: &JoinTokenCreate) -> Answer<JoinToken> {
        self.change(Method::POST, routes::JOIN_TOKENS, Query::default(), Some(token)).await
    }

    /// All registered servers.
    pub async fn servers(&self) -> Answer<Vec<Server>> {
        self.all(routes::SERVERS, Query::default()).await
    }

    /// One registered server, by name or id.
    pub async fn server(&self, server: &str) -> Answer<Server> {
        self.get(&routes::fill(routes::SERVER, &[server]), Query::default()).await
    }

    /// Ends the trust in a server.
    pub async fn server_revoke(&self, server: &str, dry_run: bool) -> Answer<Server> {
        let path = routes::fill(routes::SERVER_REVOKE, &[server]);
        self.change(Method::POST, &path, dry(dry_run), NONE).await
    }

    /// Server endpoints: all, or those of a group or a server.
    pub async fn endpoints(&self, group: Option<&str>, server: Option<&str>) -> Answer<Vec<Endpoint>> {
        let query = Query::default().maybe("group", group).maybe("server", server);
        self.all(routes::ENDPOINTS, query).await
    }

    /// Creates a server endpoint.
    pub async fn endpoint_create(&self, endpoint: &EndpointCreate, dry_run: bool) -> Answer<Endpoint> {
        self.change(Method::POST, routes::ENDPOINTS, dry(dry_run), Some(endpoint)).await
    }

    /// One server endpoint.
    pub async fn endpoint(&self, endpoint: EndpointId) -> Answer<Endpoint> {
        self.get(&routes::fill(routes::ENDPOINT, &[&endpoint.to_string()]), Query::default()).await
    }

    /// Changes the settings of a server endpoint.
    pub async fn endpoint_change(
        &self,
        endpoint: EndpointId,
        change: &EndpointChange,
        dry_run: bool,
    ) -> Answer<Endpoint> {
        let path = routes::fill(routes::ENDPOINT, &[&endpoint.to_string()]);
        self.change(Method::PATCH, &path, dry(dry_run), Some(change)).await
    }

    /// Removes a server endpoint.
    pub async fn endpoint_delete(&self, endpoint: EndpointId, how: EndpointRemoval) -> Answer<Endpoint> {
        let path = routes::fill(routes::ENDPOINT, &[&endpoint.to_string()]);
        let query = dry(how.dry_run).flag("force", how.force).flag("forget", how.forget);
        self.change(Method::DELETE, &path, query, NONE).await
    }

    /// Decides about what the mass-change brake holds.
    pub async fn endpoint_release(
        &self,
        endpoint: EndpointId,
        decision: Release,
        dry_run: bool,
    ) -> Answer<Released> {
        let path = routes::fill(routes::ENDPOINT_RELEASE, &[&endpoint.to_string()]);
        self.change(Method::POST, &path, dry(dry_run), Some(&ReleaseRequest { decision })).await
    }
}

/// Health, single items, background work.
impl Client {
    /// Health of everything, or of one group.
    pub async fn status(&self, group: Option<&str>) -> Answer<Status> {
        self.get(routes::STATUS, Query::default().maybe("group", group)).await
    }

    /// One page of the items that are not in sync: of all endpoints, or of one.
    pub async fn errors(&self, endpoint: Option<EndpointId>, after: Option<&str>) -> Answer<Page<ItemError>> {
        let endpoint = endpoint.map(|id| id.to_string());
        let query = Query::default().maybe("endpoint", endpoint.as_deref()).maybe("after", after);
        self.get(routes::ERRORS, query).await
    }

    /// One page of the conflict copies, newest first: of all shares, or of one.
    pub async fn conflicts(&self, share: Option<&str>, after: Option<&str>) -> Answer<Page<Conflict>> {
        self.get(routes::CONFLICTS, Query::default().maybe("share", share).maybe("after", after)).await
    }

    /// Ends a conflict.
    pub async fn conflict_resolve(&self, request: &ConflictResolve, dry_run: bool) -> Answer<Conflict> {
        self.change(Method::POST, routes::CONFLICTS_RESOLVE, dry(dry_run), Some(request)).await
    }

    /// One page of the extras under review: of all endpoints, or of one.
    pub async fn review(
        &self,
        endpoint: Option<EndpointId>,
        after: Option<&str>,
    ) -> Answer<Page<ReviewItem>> {
        let endpoint = endpoint.map(|id| id.to_string());
        let query = Query::default().maybe("endpoint", endpoint.as_deref()).maybe("after", after);
        self.get(routes::REVIEW, query).await
    }

    /// Decides about extras.
    pub async fn review_decide(&self, request: &ReviewRequest, dry_run: bool) -> Answer<Reviewed> {
        self.change(Method::POST, routes::REVIEW, dry(dry_run), Some(request)).await
    }

    /// Background work of the service.
    pub async fn reconcilers(&self) -> Answer<Vec<Reconciler>> {
        self.all(routes::RECONCILERS, Query::default()).await
    }

    /// Wakes a piece of background work.
    pub async fn reconciler_wake(&self, reconciler: &str) -> Answer<Reconciler> {
        let path = routes::fill(routes::RECONCILER_WAKE, &[reconciler]);
        self.change(Method::POST, &path, Query::default(), NONE).await
    }

    /// One page of the audit log, newest first.
    pub async fn audit(&self, after: Option<&str>) -> Answer<Page<AuditEntry>> {
        self.get(routes::AUDIT, Query::default().maybe("after", after)).await
    }
}
