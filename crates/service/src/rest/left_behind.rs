//! What is tiered on a server that nobody can ask any more: the list of it, and the bytes.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, stream};
use polder_api::left_behind::{Head, Left, VERSION, Writer, content_text, parse_content};
use polder_api::rest as api;
use polder_ledger::{self as ledger, At, Rows};
use polder_metadata::control::{Control, ControlError};
use polder_types::{Content, Cursor, EndpointId, Kind, NodeState, NodeUid, RelPath, Seq};

use super::convert::{EndpointFacts, api_name};
use super::open::OpenShare;
use super::params::Params;
use super::{Rest, RestError, content, endpoints};

/// Nodes that are read at once.
const PAGE_NODES: usize = 1000;
/// Versions of one node that are looked through at once.
const VERSIONS_PAGE: usize = 256;

/// The key after which a directory's next page begins.
type PageAfter = Option<Box<[u8]>>;

/// Where the walk through a share stands.
struct Walk {
    share: OpenShare,
    at: Seq,
    /// Directories that are not looked through yet, the first with where its next page begins.
    left: Vec<(NodeUid, RelPath, PageAfter)>,
    writer: Writer<Vec<u8>>,
}

/// The list of files that the endpoint had at the cursor that it had applied last: which of them were tiered is not known here.
pub async fn list(
    State(rest): State<Rest>,
    _: Params,
    Path(id): Path<String>,
) -> Result<Response, RestError> {
    let id = endpoints::parse_id(&id)?;
    let facts = rest.control(move |control| endpoints::find(control, id)).await?;
    let share = rest.host.open_share(facts.share.id).await?;
    let applied = share.read(move |rows| Ok(ledger::applied(rows, id)?)).await?;
    let applied = applied.ok_or_else(|| nothing_applied(id))?;
    let writer = begin(&facts, applied, rest.now().into());
    let writer = writer.map_err(|source| RestError::internal("begin a manifest", source))?;
    let left = vec![(NodeUid::ROOT, RelPath::root(), None)];
    let lines = lines(Walk { share, at: applied.seq, left, writer });
    let mut answer = axum::body::Body::from_stream(lines).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

fn nothing_applied(id: EndpointId) -> RestError {
    RestError::Refused {
        code: api::ProblemCode::PreconditionFailed,
        message: format!("the endpoint {id} never said that it has applied anything of the share"),
        hint: Some("nothing of it can be tiered"),
    }
}

fn begin(facts: &EndpointFacts, applied: Cursor, made_at: api::Time) -> std::io::Result<Writer<Vec<u8>>> {
    let EndpointFacts { endpoint, share, server, .. } = facts;
    let head = Head {
        polder_left_behind: VERSION,
        share: share.id,
        share_name: api_name(&share.name),
        endpoint: endpoint.id,
        server: server.id,
        server_name: api_name(&server.name),
        path: api::JsonBytes(endpoint.path.to_bytes()),
        nonce: None,
        applied,
        known: false,
        made_at,
    };
    Writer::begin(Vec::new(), &head)
}

/// Pieces of the list, each made when the one before was taken. An error breaks the answer off: then the last line is missing.
fn lines(walk: Walk) -> impl Stream<Item = Result<Bytes, RestError>> + Send {
    stream::try_unfold(Some(walk), |walk| async move {
        let Some(mut walk) = walk else { return Ok(None) };
        let failed = |source| RestError::internal("write a manifest", source);
        let Some((uid, path, after)) = walk.left.pop() else {
            let (out, _) = walk.writer.end().map_err(failed)?;
            return Ok(Some((Bytes::from(out), None)));
        };
        let at = At::Seq(walk.at);
        let page =
            walk.share.read(move |rows| Ok(ledger::list(rows, uid, after.as_deref(), PAGE_NODES, at)?));
        let page = page.await.inspect_err(|error| {
            tracing::error!(error = super::error::chain(error), "a manifest breaks off");
        })?;
        if let Some(page) = page {
            if let Some(next) = page.next {
                walk.left.push((uid, path.clone(), Some(next)));
            }
            for node in &page.nodes {
                let below = path.join(node.at.name.clone());
                match node.content.kind() {
                    Kind::Directory => walk.left.push((node.uid, below, None)),
                    Kind::File if node.content.size() > 0 => {
                        walk.writer.add(&left(node, below)).map_err(failed)?
                    }
                    Kind::File | Kind::Symlink => (),
                }
            }
        }
        let out = Bytes::from(std::mem::take(walk.writer.out()));
        Ok(Some((out, Some(walk))))
    })
}

fn left(node: &NodeState, path: RelPath) -> Left {
    Left {
        path: path.into(),
        node: node.uid,
        since: node.since,
        size: node.content.size(),
        mtime: node.mtime.into(),
        content: content_text(&node.content),
    }
}

/// The bytes of a content that some kept version of a node has: the one that it was tiered with may be gone, while a later one, that was
/// renamed or touched, has the same.
pub async fn version(
    State(rest): State<Rest>,
    params: Params,
    Path((share, node)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, RestError> {
    let shown = node.escape_default().take(80).collect::<String>();
    let gone = move || RestError::NotFound { what: "version of a file", which: shown.clone() };
    let node: NodeUid = node.parse().map_err(|_| gone())?;
    let text: String = params.get("content")?.unwrap_or_default();
    let wanted = parse_content(&text).ok_or_else(|| {
        RestError::BadRequest("the parameter \"content\": not the content of a file".into())
    })?;
    let share = rest.open(&share).await?;
    let found = share.open.read(move |rows| with_content(rows, node, &wanted)).await?;
    content::octets(&rest, share.row.id, &found.ok_or_else(gone)?, &headers)
}

fn with_content(rows: &dyn Rows, node: NodeUid, wanted: &Content) -> Result<Option<NodeState>, RestError> {
    let mut after = Seq(0);
    loop {
        let page = ledger::versions(rows, node, after, VERSIONS_PAGE)?;
        let Some(last) = page.last().map(|version| version.until) else { return Ok(None) };
        if let Some(found) = page.into_iter().find(|version| version.state.content == *wanted) {
            return Ok(Some(found.state));
        }
        match last {
            Some(until) if until > after => after = until,
            _ => return Ok(None),
        }
    }
}

/// Removes an endpoint that nobody follows any more: what it pins, and then its row.
pub async fn forget(
    rest: &Rest,
    acting: polder_metadata::control::Acting,
    facts: &EndpointFacts,
) -> Result<(), RestError> {
    let id = facts.endpoint.id;
    // A share that is deleted holds nothing any more.
    if let Ok(share) = rest.host.open_share(facts.share.id).await {
        share.write(move |rows| Ok(ledger::drop_endpoint(rows, id)?)).await?;
    }
    rest.control(move |control: &Control| -> Result<(), ControlError> {
        control.forget_endpoint(&acting, id)
    })
    .await
}
