//! A file's bytes on their way in: chunked and packed as they arrive, stored, and only then committed.
//!
//! One blocking thread a request chunks, hashes and seals; the bytes come to it through a short channel, which is the
//! back-pressure. Packs are stored by that thread as they fill. A request that breaks leaves packs that nothing refers to,
//! which prune collects.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use polder_api::rest as api;
use polder_chunk::{BuildError, ContentBuilder, NewChunk, PackBuilder, PackNonce, Reserved, Scratch};
use polder_ledger::{self as ledger, At, Rows, TreeChunks};
use polder_metadata::control::AuditNote;
use polder_types::{
    Attrs, Body as Extents, ChunkId, Content, Kind, NodeUid, Op, PackId, Placed, RelPath, Seq, Timestamp,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::content::{etag, names_version};
use super::edit::{directory, plain_attrs, split};
use super::open::{Change, Opened, new_uid, random};
use super::params::Params;
use super::tree::Place;
use super::{Rest, RestError};

/// Largest file that one request brings. Its chunks' ids are held in memory until the commit: 256 MiB of them.
const PUT_BYTES_MAX: u64 = 1 << 40;
/// Pieces of the body between the connection and the thread that chunks.
const PIECES_MAX: usize = 16;

/// What was stored.
struct Stored {
    content: Content,
    trees: TreeChunks,
    size: u64,
}

/// Chunks and packs one body.
struct Intake {
    rest: Rest,
    share: Opened,
    runtime: Handle,
    pack: PackBuilder,
    scratch: Scratch,
    /// Every chunk of the file and of the tree, for the commit.
    ids: Vec<ChunkId>,
}

impl Intake {
    fn new(rest: &Rest, share: &Opened) -> Result<Self, RestError> {
        Ok(Self {
            rest: rest.clone(),
            share: share.clone(),
            runtime: Handle::current(),
            pack: new_pack(share)?,
            scratch: Scratch::new(),
            ids: Vec::new(),
        })
    }

    fn run(mut self, mut pieces: mpsc::Receiver<Result<Bytes, RestError>>) -> Result<Stored, RestError> {
        let keys = self.share.open.keys.clone();
        let mut builder = ContentBuilder::new(keys.chunk_rules(), keys.chunk_ids());
        let mut size = 0;
        let mut ended = false;
        // The channel ends without its last word when the request was dropped: then nothing is committed.
        while let Some(piece) = pieces.blocking_recv() {
            let piece = piece?;
            if piece.is_empty() {
                ended = true;
                break;
            }
            size += piece.len() as u64;
            if size > PUT_BYTES_MAX {
                return Err(RestError::TooLarge { limit_bytes: PUT_BYTES_MAX });
            }
            builder.push(&piece, &mut |chunk| self.take(chunk)).map_err(built)?;
        }
        if !ended {
            return Err(RestError::BadRequest("the body ends early".into()));
        }
        let content = builder.finish(&mut |chunk| self.take(chunk)).map_err(built)?;
        self.flush()?;
        let mut trees = TreeChunks::new();
        if let Content::File { body: Extents::Tree { root, .. }, .. } = &content {
            self.ids.retain(|id| id != root);
            trees.insert(*root, self.ids);
        }
        Ok(Stored { content, trees, size })
    }

    fn take(&mut self, chunk: NewChunk<'_>) -> Result<(), RestError> {
        self.ids.push(chunk.id);
        let id = chunk.id;
        // Only what lies in a verified pack need not be stored again.
        if self.share.open.db.read(|rows| ledger::have(rows, &[id]))? == [true] {
            return Ok(());
        }
        let mut seal = |pack: &mut PackBuilder| {
            let sealed = pack.seal(id, chunk.bytes, &mut self.scratch);
            sealed.map_err(|source| RestError::internal("seal a chunk", source))
        };
        if let Reserved::Full = seal(&mut self.pack)? {
            let mut next = new_pack(&self.share)?;
            seal(&mut next)?;
            let full = std::mem::replace(&mut self.pack, next);
            self.store(full)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), RestError> {
        let last = std::mem::replace(&mut self.pack, new_pack(&self.share)?);
        self.store(last)
    }

    fn store(&mut self, pack: PackBuilder) -> Result<(), RestError> {
        let pack = pack.finish().map_err(|source| RestError::internal("finish a pack", source))?;
        let Some(pack) = pack else { return Ok(()) };
        self.runtime.block_on(self.rest.host.put_pack(self.share.row.id, pack))?;
        Ok(())
    }
}

fn new_pack(share: &Opened) -> Result<PackBuilder, RestError> {
    Ok(PackBuilder::new(&share.open.keys, PackId(random()?), PackNonce(random()?)))
}

fn built(error: BuildError<RestError>) -> RestError {
    match error {
        BuildError::Sink(error) => error,
        BuildError::TooLarge => RestError::TooLarge { limit_bytes: PUT_BYTES_MAX },
    }
}

/// Feeds the body to the thread that chunks it, and waits for what it made of it.
async fn store(rest: &Rest, share: &Opened, body: Body) -> Result<Stored, RestError> {
    let (send, receive) = mpsc::channel(PIECES_MAX);
    let intake = Intake::new(rest, share)?;
    let work = tokio::task::spawn_blocking(move || intake.run(receive));
    let mut body = body;
    loop {
        let piece = match body.frame().await {
            // An empty piece is the last word.
            None => Ok(Bytes::new()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => Ok(data),
                _ => continue,
            },
            Some(Err(_)) => Err(RestError::BadRequest("the body ends early".into())),
        };
        let is_last = piece.as_ref().map_or(true, Bytes::is_empty);
        if send.send(piece).await.is_err() || is_last {
            break;
        }
    }
    work.await.map_err(|source| RestError::internal("store a file", source))?
}

/// What the request says about the file, besides its bytes.
struct Wish {
    path: RelPath,
    mtime: Option<Timestamp>,
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    base: Option<u64>,
    create_only: bool,
    parents: bool,
    if_match: Option<axum::http::HeaderValue>,
    if_none_match: Option<axum::http::HeaderValue>,
}

impl Wish {
    fn parse(path: RelPath, params: &Params, headers: &HeaderMap) -> Result<Self, RestError> {
        split(&path)?;
        Ok(Self {
            path,
            mtime: params.get::<api::Time>("mtime")?.map(|time| time.0),
            mode: params.get::<api::Mode>("mode")?.map(api::Mode::bits),
            uid: params.get("uid")?,
            gid: params.get("gid")?,
            base: params.get("base")?,
            create_only: params.flag("create_only")?,
            parents: params.flag("parents")?,
            if_match: headers.get(header::IF_MATCH).cloned(),
            if_none_match: headers.get(header::IF_NONE_MATCH).cloned(),
        })
    }

    /// Checks the conditions against the version that stands there.
    fn ensure(&self, now: Option<Seq>) -> Result<(), RestError> {
        if self.if_match.as_ref().is_some_and(|tags| !names_version(tags, now)) {
            return Err(RestError::Condition { header: "If-Match" });
        }
        if self.if_none_match.as_ref().is_some_and(|tags| names_version(tags, now)) {
            return Err(RestError::Condition { header: "If-None-Match" });
        }
        match (now, self.base) {
            (Some(_), _) if self.create_only => {
                Err(RestError::exists(&self.path, "leave \"create_only\" off to replace it"))
            }
            (Some(now), Some(base)) if now != Seq(base) => Err(RestError::changed(&self.path, now)),
            (None, Some(_)) => Err(RestError::changed(&self.path, Seq(0))),
            _ => Ok(()),
        }
    }

    fn attrs(&self, over: &Attrs) -> Attrs {
        let mut new = over.clone();
        new.mode = self.mode.unwrap_or(new.mode);
        // A number that somebody chooses is not the name that came with another number.
        if let Some(uid) = self.uid.filter(|uid| *uid != new.uid) {
            (new.uid, new.owner) = (uid, "".into());
        }
        if let Some(gid) = self.gid.filter(|gid| *gid != new.gid) {
            (new.gid, new.group) = (gid, "".into());
        }
        new
    }
}

/// What became of a put.
struct Put {
    node: NodeUid,
    created: bool,
    ops: usize,
}

fn plan_put(rows: &dyn Rows, wish: &Wish, stored: Stored, now: Timestamp) -> Result<Change<Put>, RestError> {
    let (parent, name) = split(&wish.path)?;
    let mut ops = Vec::new();
    let parent = directory(rows, &parent, wish.parents, now, &mut ops)?;
    let old = if ops.is_empty() { ledger::lookup(rows, &wish.path, At::Now)? } else { None };
    wish.ensure(old.as_ref().map(|old| old.since))?;
    let mtime = wish.mtime.unwrap_or(now);
    let (node, created) = match old {
        Some(old) if old.content.kind() != Kind::File => {
            return Err(RestError::exists(&wish.path, "it is not a file: remove it first"));
        }
        Some(old) => {
            let attrs = Some(wish.attrs(&old.attrs)).filter(|new| *new != old.attrs);
            let (mtime, content) = (Some(mtime), Some(stored.content));
            ops.push(Op::Update { uid: old.uid, base: old.since, mtime, attrs, content });
            (old.uid, false)
        }
        None => {
            let uid = new_uid(now)?;
            let (at, attrs) = (Placed { parent, name }, wish.attrs(&plain_attrs(0o644)));
            ops.push(Op::Create { uid, at, mtime, attrs, content: stored.content });
            (uid, true)
        }
    };
    Ok(Change { answer: Put { node, created, ops: ops.len() }, ops, trees: stored.trees })
}

pub async fn put(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Place { share, path }: Place,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, [(header::HeaderName, String); 1], Json<api::Changed>), RestError> {
    let wish = Wish::parse(path, &params, &headers)?;
    let share = rest.open(&share).await?;
    // Refused early, before a terabyte is sent; and again in the transaction, where it counts.
    let now = rest.now();
    let wish = std::sync::Arc::new(wish);
    let early = wish.clone();
    share
        .open
        .read(move |rows| {
            let empty = Stored { content: Content::empty_file(), trees: TreeChunks::new(), size: 0 };
            plan_put(rows, &early, empty, now).map(drop)
        })
        .await?;
    let stored = store(&rest, &share, body).await?;
    let size = stored.size;
    let path = wish.path.clone();
    let note = AuditNote::new("share.put", format!("{}:{path}", share.row.name), format!("{size} bytes"));
    let taken = rest.change(&caller, &share, note, move |rows| plan_put(rows, &wish, stored, now)).await?;
    let Put { node, created, ops } = taken.answer;
    let version = Seq(taken.first.0 + ops as u64 - 1);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let changed = api::Changed { path: path.into(), node, version, created, size };
    Ok((status, [(header::ETAG, etag(version))], Json(changed)))
}
