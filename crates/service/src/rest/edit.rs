//! Direct changes without content: directories, symlinks, removals, moves.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_ledger::{self as ledger, At, Rows, TreeChunks};
use polder_metadata::control::AuditNote;
use polder_types::{Attrs, Content, Kind, Name, NodeState, NodeUid, Op, Placed, RelPath, Seq, Timestamp};

use super::auth::Caller;
use super::body::Body;
use super::open::{Change, Opened, Taken, new_uid, no_path, node_at};
use super::params::Params;
use super::tree::Place;
use super::{Rest, RestError};

/// Nodes that one commit of a removal takes: a removal of more is several commits, children before parents.
const REMOVE_OPS: usize = 10_000;

impl RestError {
    /// Something at the path is not of the kind that the request needs.
    pub(super) fn refused_kind(what: &'static str, path: &RelPath) -> Self {
        let message = format!("\"{path}\" {what}");
        Self::Refused { code: api::ProblemCode::PreconditionFailed, message, hint: None }
    }

    /// The name is taken.
    pub(super) fn exists(path: &RelPath, hint: &'static str) -> Self {
        let message = format!("\"{path}\" exists already");
        Self::Refused { code: api::ProblemCode::Exists, message, hint: Some(hint) }
    }

    /// The version is not the one that the caller has seen.
    pub(super) fn changed(path: &RelPath, now: Seq) -> Self {
        let message = format!("\"{path}\" has changed: its version is {now}");
        Self::Refused { code: api::ProblemCode::Changed, message, hint: Some("look at it, then try again") }
    }

    fn root() -> Self {
        Self::BadRequest("this cannot be done to the root of a share".into())
    }
}

/// The directory and the name of a path; the root has none.
pub fn split(path: &RelPath) -> Result<(RelPath, Name), RestError> {
    let (parent, name) = path.split_last().ok_or_else(RestError::root)?;
    Ok((parent, name.clone()))
}

/// Attributes of what a direct change makes.
pub fn plain_attrs(mode: u16) -> Attrs {
    Attrs { mode, ..Attrs::default() }
}

/// Finds the directory at `path`. With `make`, the missing ones on the way are created by `ops`.
pub fn directory(
    rows: &dyn Rows,
    path: &RelPath,
    make: bool,
    now: Timestamp,
    ops: &mut Vec<Op>,
) -> Result<NodeUid, RestError> {
    let mut at = NodeUid::ROOT;
    let mut walked = RelPath::root();
    for name in path.names() {
        walked = walked.join(name.clone());
        // Below a directory that is about to be made there is nothing to look up.
        let found = if ops.is_empty() { ledger::lookup(rows, &walked, At::Now)? } else { None };
        at = match found {
            Some(node) if node.content.kind() == Kind::Directory => node.uid,
            Some(_) => return Err(RestError::refused_kind("is not a directory", &walked)),
            None if make => {
                let uid = new_uid(now)?;
                let place = Placed { parent: at, name: name.clone() };
                ops.push(Op::Create {
                    uid,
                    at: place,
                    mtime: now,
                    attrs: plain_attrs(0o755),
                    content: Content::Directory,
                });
                uid
            }
            None => return Err(no_path(&walked)),
        };
    }
    Ok(at)
}

/// A node to be made: what a mkdir and a symlink have in common.
struct New {
    path: RelPath,
    content: Content,
    mode: u16,
    mtime: Option<Timestamp>,
    parents: bool,
    /// Whether what has the name may be taken as it is (a directory) or is replaced (a file, a symlink).
    lenient: bool,
}

fn plan_new(rows: &dyn Rows, new: New, now: Timestamp) -> Result<Change<(NodeUid, bool)>, RestError> {
    let New { path, content, mode, mtime, parents, lenient } = new;
    let (parent, name) = split(&path)?;
    let mut ops = Vec::new();
    let parent = directory(rows, &parent, parents, now, &mut ops)?;
    let found = if ops.is_empty() { ledger::lookup(rows, &path, At::Now)? } else { None };
    if let Some(old) = found {
        match (old.content.kind(), content.kind()) {
            (Kind::Directory, Kind::Directory) if lenient => {
                return Ok(Change { answer: (old.uid, false), ops: Vec::new(), trees: TreeChunks::new() });
            }
            (Kind::File | Kind::Symlink, Kind::Symlink) if lenient => {
                ops.push(Op::Delete { uid: old.uid, base: old.since });
            }
            _ => return Err(RestError::exists(&path, "choose another name, or remove it first")),
        }
    }
    let uid = new_uid(now)?;
    let at = Placed { parent, name };
    ops.push(Op::Create { uid, at, mtime: mtime.unwrap_or(now), attrs: plain_attrs(mode), content });
    Ok(Change { answer: (uid, true), ops, trees: TreeChunks::new() })
}

/// Number of the last operation of a change that has `ops` of them.
fn last_of(taken_first: Seq, ops: usize) -> Seq {
    Seq(taken_first.0 + ops.saturating_sub(1) as u64)
}

impl Rest {
    async fn make(
        &self,
        caller: &Caller,
        share: &Opened,
        new: New,
        action: &'static str,
        dry_run: bool,
    ) -> Result<(StatusCode, Json<api::Changed>), RestError> {
        let now = self.now();
        let path = new.path.clone();
        if dry_run {
            let planned = share.open.read(move |rows| plan_new(rows, new, now)).await?;
            let (node, created) = planned.answer;
            return Ok((StatusCode::OK, Json(changed(path, node, Seq(0), created))));
        }
        let note = AuditNote::new(action, format!("{}:{path}", share.row.name), "");
        let looked = path.clone();
        let taken = self.change(caller, share, note, move |rows| {
            let Change { answer, ops, trees } = plan_new(rows, new, now)?;
            let count = ops.len();
            let version = ledger::lookup(rows, &looked, At::Now)?.map(|node| node.since);
            Ok(Change { answer: (answer, count, version), ops, trees })
        });
        let Taken { answer: ((node, created), count, before), cursor, first } = taken.await?;
        let version = if cursor.is_some() { last_of(first, count) } else { before.unwrap_or(first) };
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        Ok((status, Json(changed(path, node, version, created))))
    }
}

fn changed(path: RelPath, node: NodeUid, version: Seq, created: bool) -> api::Changed {
    api::Changed { path: path.into(), node, version, created, size: 0 }
}

pub async fn mkdir(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Place { share, path }: Place,
    Body(body): Body<api::DirectoryCreate>,
) -> Result<(StatusCode, Json<api::Changed>), RestError> {
    let new = New {
        path,
        content: Content::Directory,
        mode: body.mode.map_or(0o755, api::Mode::bits),
        mtime: body.mtime.map(|time| time.0),
        parents: body.parents,
        lenient: body.parents,
    };
    let share = rest.open(&share).await?;
    rest.make(&caller, &share, new, "share.mkdir", params.dry_run()?).await
}

pub async fn symlink(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Place { share, path }: Place,
    Body(body): Body<api::SymlinkCreate>,
) -> Result<(StatusCode, Json<api::Changed>), RestError> {
    let content = Content::Symlink(body.target.0.into());
    content
        .ensure_valid()
        .map_err(|_| RestError::BadRequest("the field \"target\": 1 to 4,095 bytes without NUL".into()))?;
    let new = New {
        path,
        content,
        mode: 0,
        mtime: body.mtime.map(|time| time.0),
        parents: body.parents,
        lenient: body.replace,
    };
    let share = rest.open(&share).await?;
    rest.make(&caller, &share, new, "share.symlink", params.dry_run()?).await
}

pub async fn rename(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(share): Path<String>,
    Body(body): Body<api::MoveRequest>,
) -> Result<Json<api::Changed>, RestError> {
    let (from, to) = (body.from.0, body.to.0);
    split(&from)?;
    let share = rest.open(&share).await?;
    let answered = to.clone();
    let note = AuditNote::new("share.mv", format!("{}:{from}", share.row.name), format!("to {to}"));
    let plan = move |rows: &dyn Rows| plan_move(rows, &from, &to, body.base, body.replace);
    if params.dry_run()? {
        let planned = share.open.read(plan).await?;
        return Ok(Json(changed(answered, planned.answer.0, Seq(0), false)));
    }
    let taken = rest.change(&caller, &share, note, plan).await?;
    let (node, count) = taken.answer;
    Ok(Json(changed(answered, node, last_of(taken.first, count), false)))
}

fn plan_move(
    rows: &dyn Rows,
    from: &RelPath,
    to: &RelPath,
    base: Option<u64>,
    replace: bool,
) -> Result<Change<(NodeUid, usize)>, RestError> {
    let node = node_at(rows, from, At::Now)?;
    if base.is_some_and(|base| Seq(base) != node.since) {
        return Err(RestError::changed(from, node.since));
    }
    let (parent, name) = split(to)?;
    let parent = directory(rows, &parent, false, Timestamp::default(), &mut Vec::new())?;
    let mut ops = Vec::new();
    // In a case-insensitive share the node itself may stand there under another spelling.
    if let Some(old) = ledger::lookup(rows, to, At::Now)?.filter(|old| old.uid != node.uid) {
        let both_files = old.content.kind() != Kind::Directory && node.content.kind() != Kind::Directory;
        if !(replace && both_files) {
            return Err(RestError::exists(to, "choose another name, or remove it first"));
        }
        ops.push(Op::Delete { uid: old.uid, base: old.since });
    }
    ops.push(Op::Move { uid: node.uid, base: node.since, to: Placed { parent, name } });
    Ok(Change { answer: (node.uid, ops.len()), ops, trees: TreeChunks::new() })
}

/// What a removal has found so far.
#[derive(Default)]
struct Found {
    nodes: Vec<(NodeUid, Seq)>,
    bytes: u64,
}

/// Nodes below and including `top`, children before parents, at most `limit`. Every node that is named has all that is
/// below it named before it.
fn below(rows: &dyn Rows, top: &NodeState, limit: usize) -> Result<Found, RestError> {
    /// A directory that is being listed.
    struct Open {
        node: (NodeUid, Seq),
        bytes: u64,
        waiting: Vec<NodeState>,
        after: Option<Box<[u8]>>,
        listed: bool,
    }
    let open = |node: &NodeState| Open {
        node: (node.uid, node.since),
        bytes: node.content.size(),
        waiting: Vec::new(),
        after: None,
        listed: node.content.kind() != Kind::Directory,
    };
    let mut found = Found::default();
    let mut stack = vec![open(top)];
    while let Some(last) = stack.last_mut() {
        if found.nodes.len() >= limit {
            break;
        }
        if let Some(child) = last.waiting.pop() {
            stack.push(open(&child));
        } else if last.listed {
            found.nodes.push(last.node);
            found.bytes += last.bytes;
            stack.pop();
        } else {
            let page = ledger::list(rows, last.node.0, last.after.as_deref(), 1000, At::Now)?;
            let (nodes, next) = page.map_or((Vec::new(), None), |page| (page.nodes, page.next));
            last.listed = next.is_none();
            (last.waiting, last.after) = (nodes, next);
        }
    }
    Ok(found)
}

/// The node to be removed, after all checks.
fn removable(
    rows: &dyn Rows,
    path: &RelPath,
    base: Option<u64>,
    recursive: bool,
) -> Result<NodeState, RestError> {
    split(path)?;
    let node = node_at(rows, path, At::Now)?;
    if base.is_some_and(|base| Seq(base) != node.since) {
        return Err(RestError::changed(path, node.since));
    }
    let is_empty = match node.content.kind() {
        Kind::Directory => {
            ledger::list(rows, node.uid, None, 1, At::Now)?.is_none_or(|page| page.nodes.is_empty())
        }
        Kind::File | Kind::Symlink => true,
    };
    if is_empty || recursive {
        return Ok(node);
    }
    let message = format!("the directory \"{path}\" is not empty");
    let hint = Some("remove it with all that it holds: recursive=true");
    Err(RestError::Refused { code: api::ProblemCode::NotEmpty, message, hint })
}

pub async fn remove(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Place { share, path }: Place,
) -> Result<Json<api::Removed>, RestError> {
    let (recursive, base) = (params.flag("recursive")?, params.get::<u64>("base")?);
    let share = rest.open(&share).await?;
    let mut removed = api::Removed { path: path.clone().into(), nodes: 0, bytes: 0, version: None };
    if params.dry_run()? {
        let found = share.open.read(move |rows| {
            let node = removable(rows, &path, base, recursive)?;
            below(rows, &node, usize::MAX)
        });
        let found = found.await?;
        (removed.nodes, removed.bytes) = (found.nodes.len() as u64, found.bytes);
        return Ok(Json(removed));
    }
    let mut base = base;
    let mut top: Option<NodeUid> = None;
    loop {
        let looked = path.clone();
        let note = AuditNote::new(
            "share.rm",
            format!("{}:{path}", share.row.name),
            format!("recursive {recursive}"),
        );
        let taken = rest.change(&caller, &share, note, move |rows| {
            let node = match top {
                None => removable(rows, &looked, base, recursive)?,
                // Further commits follow the node, not the name: another may stand there by now.
                Some(uid) => match ledger::stat(rows, uid, At::Now)? {
                    Some(node) => node,
                    None => {
                        return Ok(Change {
                            answer: (uid, 0, 0, true),
                            ops: Vec::new(),
                            trees: TreeChunks::new(),
                        });
                    }
                },
            };
            let found = below(rows, &node, REMOVE_OPS)?;
            let ends = found.nodes.last().is_some_and(|(uid, _)| *uid == node.uid);
            let count = found.nodes.len() as u64;
            let ops = found.nodes.into_iter().map(|(uid, base)| Op::Delete { uid, base }).collect();
            Ok(Change { answer: (node.uid, count, found.bytes, ends), ops, trees: BTreeMap::new() })
        });
        let taken = taken.await?;
        let (uid, count, bytes, ends) = taken.answer;
        removed.nodes += count;
        removed.bytes += bytes;
        removed.version = taken.cursor.map(|cursor| cursor.seq).or(removed.version);
        if ends {
            return Ok(Json(removed));
        }
        (top, base) = (Some(uid), None);
    }
}
