//! Conflict copies: found by their names, and ended by choosing.
//!
//! A conflict copy is an ordinary file whose name says of which server it is (`report-site-a.docx`). No row marks it, so
//! that it stays one when it is moved or restored. To list them, nodes are looked at in the order of their creation;
//! how far that has come is remembered, so that only the first list of a share reads all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use polder_api::rest as api;
use polder_api::rest::ConflictKeep;
use polder_ledger::{self as ledger, At, Rows, TreeChunks};
use polder_metadata::control::{AuditNote, Control};
use polder_types::{Kind, Name, Nid, NodeState, NodeUid, Op, Placed, RelPath, ShareId, Timestamp};

use super::auth::Caller;
use super::body::Body;
use super::convert::api_name;
use super::open::{Change, Opened, node_at};
use super::params::Params;
use super::{Rest, RestError};

/// Nodes that are read in one transaction.
const SCAN_NODES: usize = 1000;
/// Most copies that are remembered for one share; more are found after these are resolved.
const COPIES_MAX: usize = 10_000;
/// The server name of copies of direct changes.
const CLOUD: &str = "Cloud";

/// What the scans of shares have found.
#[derive(Default)]
pub struct Copies(Mutex<BTreeMap<ShareId, Scanned>>);

#[derive(Debug, Clone, Default)]
struct Scanned {
    upto: Option<Nid>,
    candidates: BTreeSet<NodeUid>,
    /// The names of servers that were looked for: with another one, the scan begins anew.
    servers: Vec<String>,
}

/// The original's name and the server, if this is the name of a conflict copy of one of `servers`.
fn original_name(name: &Name, servers: &[String]) -> Option<(Name, String)> {
    let bytes = name.as_bytes();
    // As in `polder_types::conflict_name`: what follows the last dot, unless it leads or is long.
    let dot = bytes.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0 && bytes.len() - at <= 65);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    for server in servers {
        let mut stem = stem;
        // An optional number, `-12`.
        let digits = stem.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 && stem[..stem.len() - digits].ends_with(b"-") {
            let without = &stem[..stem.len() - digits - 1];
            if without.ends_with(server.as_bytes()) {
                stem = without;
            }
        }
        let rest = stem.strip_suffix(server.as_bytes()).and_then(|rest| rest.strip_suffix(b"-"));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty())
            && let Ok(original) = Name::parse(&[rest, extension].concat())
        {
            return Some((original, server.clone()));
        }
    }
    None
}

/// A copy as it stands now; `None` when it is none any more.
fn shown(
    rows: &dyn Rows,
    share: &api::ObjectName,
    uid: NodeUid,
    servers: &[String],
) -> Result<Option<api::Conflict>, RestError> {
    let Some(node) = ledger::stat(rows, uid, At::Now)? else { return Ok(None) };
    let Some(path) = ledger::path_of(rows, uid, At::Now)? else { return Ok(None) };
    let Some((original, server)) = original_name(&node.at.name, servers) else { return Ok(None) };
    let beside = path.split_last().map(|(parent, _)| parent.join(original)).unwrap_or_default();
    let stands = ledger::lookup(rows, &beside, At::Now)?.is_some();
    let made = ledger::versions(rows, uid, polder_types::Seq(0), 1)?;
    let made_at =
        made.first().and_then(|version| version.time_ms).map_or(node.mtime, Timestamp::from_unix_millis);
    Ok(Some(api::Conflict {
        share: share.clone(),
        path: path.into(),
        original: stands.then(|| beside.into()),
        server,
        size: node.content.size(),
        mtime: node.mtime.into(),
        made_at: made_at.into(),
        node: uid,
    }))
}

fn server_names(control: &Control) -> Result<Vec<String>, polder_metadata::control::ControlError> {
    let mut names: Vec<String> =
        control.all_servers()?.into_iter().map(|server| server.name.to_string()).collect();
    names.push(CLOUD.into());
    names.sort();
    names.dedup();
    // The longest first: `site-a` before `a`.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    Ok(names)
}

impl Rest {
    /// Conflict copies of a share, in no order.
    async fn copies(&self, share: &Opened, servers: &[String]) -> Result<Vec<api::Conflict>, RestError> {
        let id = share.row.id;
        let lock = || self.copies.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scanned = lock().get(&id).cloned().unwrap_or_default();
        if scanned.servers != servers {
            scanned = Scanned { servers: servers.to_vec(), ..Scanned::default() };
        }
        loop {
            let (after, names) = (scanned.upto, scanned.servers.clone());
            let page = share.open.read(move |rows| {
                let nodes = rows.nodes(after, SCAN_NODES)?;
                let last = nodes.last().map(|(_, row)| row.nid);
                let found = nodes.into_iter().filter(|(_, row)| {
                    row.kind() != Kind::Directory && original_name(&row.name, &names).is_some()
                });
                Ok((last, found.map(|(uid, _)| uid).collect::<Vec<_>>()))
            });
            let (last, found) = page.await?;
            scanned.candidates.extend(found);
            let Some(last) = last.filter(|_| scanned.candidates.len() < COPIES_MAX) else { break };
            scanned.upto = Some(last);
        }
        let (name, candidates, names) =
            (api_name(&share.row.name), scanned.candidates.clone(), servers.to_vec());
        let control = self.host.control().clone();
        let copies = share.open.read(move |rows| {
            let mut copies = Vec::new();
            for uid in candidates {
                if !control.is_kept_copy(id, uid)? {
                    copies.extend(shown(rows, &name, uid, &names)?);
                }
            }
            Ok(copies)
        });
        let copies = copies.await?;
        scanned.candidates = copies.iter().map(|copy| copy.node).collect();
        lock().insert(id, scanned);
        Ok(copies)
    }
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Conflict>>, RestError> {
    let servers = rest.control(server_names).await?;
    let shares = match params.get::<String>("share")? {
        Some(which) => vec![rest.share(&which).await?],
        None => rest.control(Control::all_shares).await?,
    };
    let mut found = Vec::new();
    for row in shares.into_iter().filter(polder_metadata::control::Share::is_live) {
        let open = rest.host.open_share(row.id).await?;
        found.extend(rest.copies(&Opened { row, open }, &servers).await?);
    }
    // The newest first: the later a copy was made, the lower its key.
    let key = |copy: &api::Conflict| {
        let age = i64::MAX.saturating_sub(copy.made_at.secs().max(0));
        format!("{age:020}-{}", copy.node)
    };
    found.sort_by_cached_key(key);
    Ok(Json(params.page(found, key)?))
}

/// The copy that a decision is about, and the original where it stands.
fn find_copy(
    rows: &dyn Rows,
    path: &RelPath,
    servers: &[String],
) -> Result<(NodeState, Option<NodeState>, Name), RestError> {
    let copy = node_at(rows, path, At::Now)?;
    let named = original_name(&copy.at.name, servers);
    let (name, _) = named.ok_or_else(|| RestError::refused_kind("is not a conflict copy", path))?;
    let (parent, _) = path.split_last().ok_or_else(|| super::open::no_path(path))?;
    let original = ledger::lookup(rows, &parent.join(name.clone()), At::Now)?;
    Ok((copy, original, name))
}

fn plan_resolve(
    rows: &dyn Rows,
    path: &RelPath,
    servers: &[String],
    keep: ConflictKeep,
) -> Result<Change<NodeUid>, RestError> {
    let (copy, original, name) = find_copy(rows, path, servers)?;
    let remove = |node: &NodeState| Op::Delete { uid: node.uid, base: node.since };
    let ops = match (keep, &original) {
        (ConflictKeep::Both, _) => Vec::new(),
        (ConflictKeep::Original, Some(_)) => vec![remove(&copy)],
        (ConflictKeep::Original, None) => {
            return Err(RestError::refused_kind("has no original any more: keep the copy, or both", path));
        }
        (ConflictKeep::Copy, Some(node)) if node.content.kind() == Kind::Directory => {
            return Err(RestError::refused_kind("cannot replace a directory", path));
        }
        (ConflictKeep::Copy, _) => {
            let to = Placed { parent: copy.at.parent, name };
            let mut ops: Vec<_> = original.as_ref().map(remove).into_iter().collect();
            ops.push(Op::Move { uid: copy.uid, base: copy.since, to });
            ops
        }
    };
    Ok(Change { answer: copy.uid, ops, trees: TreeChunks::new() })
}

pub async fn resolve(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Body(body): Body<api::ConflictResolve>,
) -> Result<Json<api::Conflict>, RestError> {
    let share = rest.open(&body.share).await?;
    let servers = rest.control(server_names).await?;
    let (path, keep, name) = (body.path.0, body.keep, api_name(&share.row.name));
    let (looked, names) = (path.clone(), servers.clone());
    let before = share.open.read(move |rows| {
        let node = plan_resolve(rows, &looked, &names, keep)?.answer;
        let copy = shown(rows, &name, node, &names)?;
        copy.ok_or_else(|| RestError::refused_kind("is not a conflict copy", &looked))
    });
    let before = before.await?;
    if params.dry_run()? {
        return Ok(Json(before));
    }
    if keep == ConflictKeep::Both {
        let (acting, id, node) = (caller.acting(rest.now()), share.row.id, before.node);
        rest.control(move |control| control.keep_copy(&acting, id, node, &path)).await?;
        return Ok(Json(before));
    }
    let note =
        AuditNote::new("conflict.resolve", format!("{}:{path}", share.row.name), format!("keep {keep:?}"));
    rest.change(&caller, &share, note, move |rows| plan_resolve(rows, &path, &servers, keep)).await?;
    Ok(Json(before))
}

#[cfg(test)]
mod tests {
    use polder_types::conflict_name;
    use proptest::prelude::*;

    use super::*;

    fn original(name: &str) -> Option<String> {
        let servers = ["site-a-1".to_owned(), "site-a".to_owned(), CLOUD.to_owned()];
        original_name(&name.parse().expect("a name"), &servers).map(|(name, _)| name.to_string())
    }

    #[test]
    fn copies_are_known_by_their_names() {
        let cases = [
            ("report-site-a.docx", Some("report.docx")),
            ("report-site-a-2.docx", Some("report.docx")),
            ("README-Cloud", Some("README")),
            (".bashrc-site-a-1", Some(".bashrc")),
            ("a.tar-site-a.gz", Some("a.tar.gz")),
            ("report.docx", None),
            ("-site-a", None),
            ("report-site-b.docx", None),
            ("reportsite-a.docx", None),
            ("2026-11-23.txt", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(original(name).as_deref(), wanted, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_the_types_name_is_found(stem in "[a-z0-9.-]{1,20}", number in 0u32..3) {
            if let Ok(name) = stem.parse::<Name>() {
                let copy = conflict_name(&name, "srv", number);
                prop_assert!(original_name(&copy, &["srv".to_owned()]).is_some(), "{copy}");
            }
        }
    }
}
