//! Looking at a share: lists and single nodes, now and as it was.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use polder_api::rest as api;
use polder_api::rest::routes::{self, Route};
use polder_api::rest::{At, Mode};
use polder_ledger::{self as ledger, Rows};
use polder_metadata::control::Control;
use polder_types::{Body, Content, InstanceId, NodeState, NodeUid, RelPath, Timestamp};

use super::open::{moment, no_path, node_at};
use super::params::Params;
use super::{Rest, RestError};

/// Share and path of a request, from the undecoded URI: a path is bytes, and the router would refuse those that are
/// not UTF-8.
pub struct Place {
    /// Name or id of the share.
    pub share: String,
    /// The rest of the URI.
    pub path: RelPath,
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = RestError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        let route = parts.extensions.get::<&'static Route>().ok_or(RestError::NoRoute)?;
        // /v1/shares/{share}/…
        let share = parts.uri.path().split('/').nth(3).ok_or(RestError::NoRoute)?;
        let share = String::from_utf8_lossy(&api::percent_decode(share)?).into_owned();
        let tail = routes::tail(route.path, parts.uri.path()).ok_or(RestError::NoRoute)?;
        Ok(Self { share, path: api::decode_path(tail)? })
    }
}

/// An entry as the contract shows it.
pub fn entry(node: &NodeState) -> api::Entry {
    api::Entry {
        name: (node.uid != NodeUid::ROOT).then(|| node.at.name.clone().into()),
        kind: node.content.kind(),
        size: node.content.size(),
        mtime: node.mtime.into(),
        mode: Mode::new(node.attrs.mode),
        uid: node.attrs.uid,
        gid: node.attrs.gid,
        owner: node.attrs.owner.to_string(),
        group: node.attrs.group.to_string(),
        target: match &node.content {
            Content::Symlink(target) => Some(api::JsonBytes(target.to_vec())),
            _ => None,
        },
        node: node.uid,
        version: node.since,
    }
}

/// A hash that is equal for equal files of one share. Needs no key: the ids that it covers are keyed.
fn content_id(content: &Content) -> Option<String> {
    let canonical = match content {
        Content::File { body: Body::Tree { canonical, .. }, .. } => *canonical,
        Content::File { body: Body::Inline(extents), .. } => extents
            .iter()
            .all(|extent| !matches!(extent.source, polder_types::ExtentSource::Chunk { skip: 1.., .. })),
        Content::Directory | Content::Symlink(_) => false,
    };
    let hash = || aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content.encode());
    canonical.then(|| hash().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Who made a version, for people.
pub fn author(control: &Control, by: InstanceId) -> Result<String, RestError> {
    if by == InstanceId::ZERO {
        return Ok("direct".into());
    }
    let server = control.server_of_instance(by)?;
    Ok(server.map_or_else(|| "a server that is gone".into(), |server| server.name.to_string()))
}

/// A node with what a list leaves out, but for its author's name.
pub fn stat_in(rows: &dyn Rows, path: RelPath, node: &NodeState) -> Result<api::EntryStat, RestError> {
    let commit = rows.commit_at(node.since)?;
    let changed_at = commit.map_or(node.mtime, |commit| Timestamp::from_unix_millis(commit.time_ms));
    Ok(api::EntryStat {
        path: path.into(),
        entry: entry(node),
        changed_at: changed_at.into(),
        changed_by: String::new(),
        xattrs: node.attrs.xattrs.keys().map(|name| api::JsonBytes(name.to_vec())).collect(),
        content_id: content_id(&node.content),
    })
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
    Place { share, path }: Place,
) -> Result<Json<api::Page<api::Entry>>, RestError> {
    let at: Option<At> = params.get("at")?;
    let limit = params.limit()?;
    let after = params.after().map(api::percent_decode).transpose()?;
    let share = rest.open(&share).await?;
    let page = share.open.read(move |rows| {
        let at = moment(rows, at.as_ref())?;
        let directory = node_at(rows, &path, at)?;
        let page = ledger::list(rows, directory.uid, after.as_deref(), limit, at)?;
        page.ok_or_else(|| RestError::refused_kind("is not a directory", &path))
    });
    let page = page.await?;
    let next = page.next.map(|key| api::percent_encode(&key));
    Ok(Json(api::Page { items: page.nodes.iter().map(entry).collect(), next }))
}

pub async fn stat(
    State(rest): State<Rest>,
    params: Params,
    Place { share, path }: Place,
) -> Result<Json<api::EntryStat>, RestError> {
    let at: Option<At> = params.get("at")?;
    let share = rest.open(&share).await?;
    let found = share.open.read(move |rows| {
        let node = ledger::lookup(rows, &path, moment(rows, at.as_ref())?)?.ok_or_else(|| no_path(&path))?;
        Ok((stat_in(rows, path, &node)?, node.by))
    });
    let (mut stat, by) = found.await?;
    stat.changed_by = rest.author(by).await?;
    Ok(Json(stat))
}

impl Rest {
    /// Who made a version, for people.
    pub(super) async fn author(&self, by: InstanceId) -> Result<String, RestError> {
        self.control(move |control| Ok(author(control, by))).await?
    }
}
