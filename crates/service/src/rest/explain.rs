//! Why a path is as it is: the share's side, each endpoint's side, and the last versions.

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use polder_api::grpc::answers::Explained;
use polder_api::rest as api;
use polder_ledger::{self as ledger, At, Rows, Version};
use polder_metadata::control as rows;
use polder_types::{InstanceId, NodeUid, RelPath, Seq, Timestamp};

use super::convert::api_name;
use super::host::Order;
use super::params::Params;
use super::tree::{Place, stat_in};
use super::{HostError, Rest, RestError};

/// Versions that are shown.
const VERSIONS_MAX: usize = 20;
/// Closed rows of one name, or pages of one node's versions, that are looked at: more would be a search, not an answer.
const LOOKS_MAX: usize = 1000;

/// The share's side.
struct ShareSide {
    stat: Option<api::EntryStat>,
    by: InstanceId,
    versions: Vec<Version>,
}

/// The node that stands or last stood at a path whose directory lives.
fn node_of(rows: &dyn Rows, path: &RelPath) -> Result<Option<NodeUid>, RestError> {
    if let Some(node) = ledger::lookup(rows, path, At::Now)? {
        return Ok(Some(node.uid));
    }
    let Some((parent, name)) = path.split_last() else { return Ok(None) };
    let Some(parent) = ledger::lookup(rows, &parent, At::Now)? else { return Ok(None) };
    let Some(parent) = rows.ident(parent.uid)? else { return Ok(None) };
    let case = ledger::share_row(rows)?.case;
    let key = case.key(name.as_bytes());
    let (mut after, mut last) = (Seq(0), None);
    for _ in 0..LOOKS_MAX {
        let Some(past) = rows.past_entry(parent.nid, &key, after)? else { break };
        (after, last) = (past.until, Some(past.entry.nid));
    }
    Ok(match last {
        Some(nid) => rows.ident_of(nid)?.map(|ident| ident.uid),
        None => None,
    })
}

/// The last versions of a node, oldest first.
fn last_versions(rows: &dyn Rows, uid: NodeUid) -> Result<Vec<Version>, RestError> {
    let (mut after, mut found) = (Seq(0), Vec::new());
    for _ in 0..LOOKS_MAX {
        let page = ledger::versions(rows, uid, after, 1000)?;
        let next = page.last().and_then(|version| version.until);
        let is_last = page.len() < 1000;
        found.extend(page);
        let extra = found.len().saturating_sub(VERSIONS_MAX + 1);
        found.drain(..extra);
        match next {
            Some(until) if !is_last => after = until,
            _ => break,
        }
    }
    Ok(found)
}

fn share_side(rows: &dyn Rows, path: &RelPath) -> Result<ShareSide, RestError> {
    let live = ledger::lookup(rows, path, At::Now)?;
    let stat = live.as_ref().map(|node| stat_in(rows, path.clone(), node)).transpose()?;
    let versions = match node_of(rows, path)? {
        Some(uid) => last_versions(rows, uid)?,
        None => Vec::new(),
    };
    let by = live.map_or(InstanceId::ZERO, |node| node.by);
    Ok(ShareSide { stat, by, versions })
}

fn what(before: Option<&Version>, version: &Version) -> &'static str {
    match before {
        None => "created",
        Some(before) if before.until.is_some_and(|until| until < version.state.since) => "revived",
        Some(before) if before.state.at != version.state.at => "moved",
        Some(_) => "changed",
    }
}

impl Rest {
    async fn history(&self, versions: &[Version]) -> Result<Vec<api::ExplainVersion>, RestError> {
        let mut lines = Vec::new();
        for (at, version) in versions.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &versions[at]);
            // The oldest of those at hand was only made then if nothing older was cut off.
            let cut = before.is_none() && versions.len() > VERSIONS_MAX;
            let time = version.time_ms.map_or(version.state.mtime, Timestamp::from_unix_millis);
            lines.push(api::ExplainVersion {
                version: version.state.since.0,
                at: time.into(),
                by: self.author(version.state.by).await?,
                what: if cut { "changed" } else { what(before, version) }.into(),
                size: Some(version.state.content.size()),
            });
        }
        if let Some(Version { until: Some(until), state, .. }) = versions.last() {
            let by = state.by;
            lines.push(api::ExplainVersion {
                version: until.0,
                at: state.mtime.into(),
                by: self.author(by).await?,
                what: "deleted".into(),
                size: None,
            });
        }
        lines.reverse();
        lines.truncate(VERSIONS_MAX);
        Ok(lines)
    }

    async fn explain_at(
        &self,
        endpoint: rows::Endpoint,
        server: rows::Server,
        path: &RelPath,
    ) -> api::ExplainEndpoint {
        let order = Order::Explain { path: path.clone() };
        let said = match self.host.order(server.id, endpoint.id, order).await {
            Ok(json) => serde_json::from_value::<Explained>(json)
                .map_err(|_| ("the server's answer cannot be read".to_owned(), None)),
            Err(HostError::Offline) => Err((
                "the server is not connected".into(),
                Some("start the agent on the server, or wait for it"),
            )),
            Err(error) => Err((error.to_string(), None)),
        };
        let said = said.unwrap_or_else(|(reason, hint)| Explained {
            state: api::ItemState::Unknown,
            reason,
            hint: hint.map(Into::into),
        });
        let mut names = endpoint.path.to_bytes();
        if !path.names().is_empty() {
            names.push(b'/');
            names.extend(path.to_bytes());
        }
        api::ExplainEndpoint {
            endpoint: endpoint.id,
            server: api_name(&server.name),
            path: api::JsonBytes(names),
            state: said.state,
            reason: said.reason,
            hint: said.hint,
        }
    }
}

fn summary(stat: Option<&api::EntryStat>, any_past: bool) -> String {
    match stat {
        Some(stat) => {
            let by = if stat.changed_by == "direct" { "a direct change" } else { stat.changed_by.as_str() };
            format!(
                "it is in the share, in version {} made by {by} at {}",
                stat.entry.version, stat.changed_at
            )
        }
        None if any_past => "it was in the share and is deleted; its history can still be read".into(),
        None => "nothing is or was at this path of the share, as far as is still known".into(),
    }
}

pub async fn explain(
    State(rest): State<Rest>,
    _: Params,
    Place { share, path }: Place,
) -> Result<Json<api::Explain>, RestError> {
    let share = rest.open(&share).await?;
    let looked = path.clone();
    let side = share.open.read(move |rows| share_side(rows, &looked)).await?;
    let mut stat = side.stat;
    if let Some(stat) = &mut stat {
        stat.changed_by = rest.author(side.by).await?;
    }
    let id = share.row.id;
    let endpoints = rest.control(move |control| {
        let group = control.all_groups()?.into_iter().find(|group| group.share == id);
        let Some(group) = group else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for endpoint in control.endpoints(Some(group.id), None, rows::PAGE_ROWS_MAX)? {
            if let Some(server) = control.server(endpoint.server)? {
                found.push((endpoint, server));
            }
        }
        Ok(found)
    });
    let asked = endpoints.await?.into_iter();
    let endpoints = join_all(asked.map(|(endpoint, server)| rest.explain_at(endpoint, server, &path))).await;
    Ok(Json(api::Explain {
        share: api_name(&share.row.name),
        summary: summary(stat.as_ref(), !side.versions.is_empty()),
        path: path.into(),
        entry: stat,
        endpoints,
        history: rest.history(&side.versions).await?,
    }))
}
