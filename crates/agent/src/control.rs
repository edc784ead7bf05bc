//! What people ask of this agent: through the service's session, or through the control socket on this machine.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use polder_api::control::{
    AgentEndpoint, AgentInfo, Answer, LocalExplain, NetworkCheck, Request, SOCKET, read_line, write_line,
};
use polder_api::grpc::{answers, pb};
use polder_api::rest::{ItemState, JsonBytes, JsonPath, ObjectName, Problem, ProblemCode, Time};
use polder_engine::Command;
use polder_types::{EndpointId, RelPath, Timestamp};
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::connection;
use crate::endpoint::{Decision, Endpoint, Explained, Input};
use crate::worker::Hub;

/// A worker that ends with this code wants to be replaced at once.
pub(crate) const EXIT_RELOAD: i32 = 79;
/// A client of the socket that says nothing for so long is sent away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Items in one answer, so that it stays below its bound of 1 MiB with paths of ordinary length.
const PROBLEMS_ANSWERED_MAX: usize = 500;
/// How long an endpoint may take to explain a path.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Answers on the control socket until aborted.
pub(crate) fn listen(hub: &Arc<Hub>) -> Result<JoinHandle<()>> {
    let path = hub.state.file(SOCKET);
    // A socket of a worker that died; a live one would hold the endpoints' locks.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("bind \"{}\"", path.display()))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).context("protect the control socket")?;
    let hub = Arc::clone(hub);
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(Arc::clone(&hub), stream))),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control socket failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

async fn serve(hub: Arc<Hub>, stream: UnixStream) {
    let (from, mut to) = stream.into_split();
    let request = tokio::time::timeout(PATIENCE, read_line::<Request>(&mut BufReader::new(from))).await;
    let answers = match request {
        Ok(Ok(Some(
            request @ (Request::Tier { .. }
            | Request::Recall { .. }
            | Request::TierList { .. }
            | Request::RecallList { .. }
            | Request::Pin { .. }
            | Request::Pins),
        ))) => return crate::policy::serve::serve(&hub, request, &mut to).await,
        Ok(Ok(Some(request))) => answer(&hub, request).await,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => vec![problem(ProblemCode::BadRequest, &error.to_string(), None)],
    };
    for answer in answers {
        if write_line(&mut to, &answer).await.is_err() {
            return;
        }
    }
}

fn told(code: ProblemCode, message: &str, hint: Option<&str>) -> Problem {
    Problem { code, message: message.to_owned(), hint: hint.map(str::to_owned) }
}

fn problem(code: ProblemCode, message: &str, hint: Option<&str>) -> Answer {
    Answer::Problem(told(code, message, hint))
}

async fn answer(hub: &Arc<Hub>, request: Request) -> Vec<Answer> {
    match request {
        Request::Info => vec![info(hub)],
        Request::Status => vec![statuses(hub)],
        Request::Pause { endpoint } => vec![set_paused(hub, endpoint, true)],
        Request::Resume { endpoint } => vec![set_paused(hub, endpoint, false)],
        Request::Reload => {
            let answer = info(hub);
            hub.reload.notify_one();
            vec![answer]
        }
        Request::NetworkTest => {
            let mut answers = network_test(hub).await;
            answers.push(Answer::Done);
            answers
        }
        Request::Explain { path } => vec![explain(hub, &path).await],
        Request::Unmount { path, wished } => {
            let hub = Arc::clone(hub);
            let wish = tokio::task::spawn_blocking(move || wish_unmount(&hub, &path, wished)).await;
            vec![wish.unwrap_or_else(|error| problem(ProblemCode::Internal, &error.to_string(), None))]
        }
        // Their answers come line by line: `policy::serve`.
        Request::Tier { .. }
        | Request::Recall { .. }
        | Request::TierList { .. }
        | Request::RecallList { .. }
        | Request::Pin { .. }
        | Request::Pins => Vec::new(),
    }
}

fn info(hub: &Hub) -> Answer {
    info_inner(hub).unwrap_or_else(|why| problem(ProblemCode::Internal, &why, None))
}

fn object_name(text: &str) -> Result<ObjectName, String> {
    text.parse().map_err(|error: polder_api::rest::TextError| error.to_string())
}

fn info_inner(hub: &Hub) -> Result<Answer, String> {
    let secs = hub.started.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    let endpoints = hub.endpoints().into_iter().map(|(id, endpoint)| {
        let assignment = endpoint.assignment.lock().expect("no holder of this lock panics").clone();
        Ok(AgentEndpoint {
            id,
            share: object_name(&assignment.share_name)?,
            path: JsonBytes(assignment.path.clone()),
            paused: assignment.paused || hub.state.is_paused(id),
            watcher: endpoint.shown().watching.to_owned(),
        })
    });
    Ok(Answer::Info(AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: Time(Timestamp::new(secs, 0)),
        server: hub.identity.server_id,
        name: object_name(&hub.identity.server_name)?,
        service: hub.identity.service_url.clone(),
        connected: hub.link().is_some(),
        certificate_expires_at: Time(Timestamp::new(hub.certificate_expires_unix_s(), 0)),
        endpoints: endpoints.collect::<Result<_, String>>()?,
    }))
}

fn statuses(hub: &Hub) -> Answer {
    let endpoints = hub.endpoints().into_iter().map(|(id, endpoint)| {
        let path = endpoint.assignment.lock().expect("no holder of this lock panics").path.clone();
        let mut status = crate::status::rest(id, &hub.identity, path, &endpoint.shown())?;
        status.tiering = polder_api::grpc::convert::tiering_status(&endpoint.message(id));
        if let Some(tiering) = &status.tiering {
            (status.local_bytes, status.tiered_bytes) = (tiering.cached_bytes, tiering.saved_bytes);
        }
        Ok(status)
    });
    match endpoints.collect::<Result<_, String>>() {
        Ok(endpoints) => Answer::Status { endpoints },
        Err(why) => problem(ProblemCode::Internal, &why, None),
    }
}

fn set_paused(hub: &Hub, endpoint: Option<EndpointId>, paused: bool) -> Answer {
    let endpoints = hub.endpoints();
    let wanted: Vec<EndpointId> = match endpoint {
        Some(id) if !endpoints.contains_key(&id) => {
            return problem(
                ProblemCode::NotFound,
                "this server has no such endpoint",
                Some("polder endpoint list"),
            );
        }
        Some(id) => vec![id],
        None => endpoints.keys().copied().collect(),
    };
    for id in wanted {
        if let Err(error) = hub.state.set_paused(id, paused) {
            return problem(ProblemCode::Internal, &crate::status::chain(&error), None);
        }
        let command = if paused { Command::Pause } else { Command::Resume };
        hub.tell_endpoint(id, || Input::Command(command.clone()));
    }
    info(hub)
}

/// Local copies are this server's own affair, as tiering is; that the endpoint goes is the service's.
fn wish_unmount(hub: &Hub, path: &JsonBytes, wished: bool) -> Answer {
    let (id, endpoint) = match find_endpoint(hub, path) {
        Ok((id, endpoint, below)) if below.names().is_empty() => (id, endpoint),
        Ok(_) => {
            return problem(
                ProblemCode::BadRequest,
                "this is a path in an endpoint, and not its folder",
                None,
            );
        }
        Err(why) => return Answer::Problem(*why),
    };
    let assignment = endpoint.assignment.lock().expect("no holder of this lock panics").clone();
    if wished && !crate::worker::is_tiered(&assignment) {
        let hint = Some("`polder endpoint delete` ends it, and leaves the files where they are");
        return problem(
            ProblemCode::PreconditionFailed,
            "nothing is mounted there: its files are whole",
            hint,
        );
    }
    if wished && let Some(who) = crate::tiered::who_uses(&crate::endpoint::path(&assignment)) {
        return problem(ProblemCode::PreconditionFailed, &who, Some("end them, and try again"));
    }
    if let Some(tiered) = endpoint.tiered().filter(|_| !wished) {
        tiered.say(None);
    }
    match hub.state.wish_unmount(id, wished) {
        Ok(()) => Answer::Done,
        Err(error) => problem(ProblemCode::Internal, &crate::status::chain(&error), None),
    }
}

/// The endpoint that a path of this server lies in, and the path below its root.
pub(crate) fn find_endpoint(
    hub: &Hub,
    path: &JsonBytes,
) -> Result<(EndpointId, Arc<Endpoint>, RelPath), Box<Problem>> {
    // The deepest endpoint whose path is above; they do not nest, so there is at most one.
    let found = hub.endpoints().into_iter().find_map(|(id, endpoint)| {
        let root = endpoint.assignment.lock().expect("no holder of this lock panics").path.clone();
        let below = path.0.strip_prefix(root.as_slice())?;
        (below.is_empty() || below.starts_with(b"/")).then(|| (id, endpoint, below.to_vec()))
    });
    let Some((id, endpoint, below)) = found else { return Err(Box::new(unknown_path(hub))) };
    let below = RelPath::parse(&below).map_err(|_| {
        let message = "this is no path below an endpoint".to_owned();
        Box::new(Problem { code: ProblemCode::BadRequest, message, hint: None })
    })?;
    Ok((id, endpoint, below))
}

async fn explain(hub: &Hub, path: &JsonBytes) -> Answer {
    let (id, endpoint, below) = match find_endpoint(hub, path) {
        Ok(found) => found,
        Err(why) => return Answer::Problem(*why),
    };
    match ask_endpoint(endpoint.clone(), below.clone()).await {
        Ok(explained) => {
            let (of_file, path) = (Arc::clone(&endpoint), below.clone());
            let tiering = tokio::task::spawn_blocking(move || crate::policy::serve::explain(&of_file, &path));
            let tiering = tiering.await.ok().flatten();
            match local_explain(id, &endpoint, below, explained) {
                Ok(local) => Answer::Explain(LocalExplain { tiering, ..local }),
                Err(why) => problem(ProblemCode::Internal, &why, None),
            }
        }
        Err(why) => problem(ProblemCode::Unavailable, &why, Some("`polder status` says how the endpoint is")),
    }
}

/// No endpoint has the path, or none is known yet: the service tells which there are.
fn unknown_path(hub: &Hub) -> Problem {
    match hub.unreachable() {
        Some(why) if hub.endpoints().is_empty() => {
            let why = format!("this server knows no endpoint yet: {}", crate::status::unreachable(&why));
            told(ProblemCode::Unavailable, &why, Some("it goes on by itself when the cause is gone"))
        }
        _ => told(
            ProblemCode::NotFound,
            "no endpoint of this server holds the path",
            Some("polder endpoint list"),
        ),
    }
}

async fn ask_endpoint(endpoint: Arc<Endpoint>, path: RelPath) -> Result<Explained, String> {
    if let Some(waiting) = endpoint.shown().waiting {
        return Err(format!("the endpoint waits: {waiting}"));
    }
    let (to, from) = channel();
    endpoint.tell(Input::Explain(path, to));
    let answer = tokio::task::spawn_blocking(move || from.recv_timeout(EXPLAIN_PATIENCE)).await;
    match answer {
        Ok(Ok(explained)) => explained,
        _ => Err("the endpoint does not answer now".to_owned()),
    }
}

fn local_explain(
    id: EndpointId,
    endpoint: &Endpoint,
    path: RelPath,
    found: Explained,
) -> Result<LocalExplain, String> {
    let state = match (found.code, found.synced) {
        (None, _) => ItemState::Synced,
        (Some("waiting"), _) => ItemState::Pending,
        (Some("skipped"), _) => ItemState::Excluded,
        (Some("held"), _) => ItemState::Held,
        (Some("review"), _) => ItemState::Review,
        (Some("unknown"), _) => ItemState::Absent,
        (Some(_), _) => ItemState::Failed,
    };
    let share = endpoint.assignment.lock().expect("no holder of this lock panics").share_name.clone();
    Ok(LocalExplain {
        endpoint: id,
        share: object_name(&share)?,
        path: JsonPath(path),
        state,
        reason: match crate::status::standstill(&endpoint.shown()) {
            Some(why) => format!("{}; nothing moves on this endpoint: {why}", found.reason),
            None => found.reason,
        },
        hint: found.hint,
        synced_version: found.synced.map(|seq| seq.0),
        tiering: None,
    })
}

async fn decide_extras(endpoint: &Endpoint, decision: Decision) -> Result<u64, String> {
    if let Some(waiting) = endpoint.shown().waiting {
        return Err(format!("the endpoint waits: {waiting}"));
    }
    let (to, from) = channel();
    endpoint.tell(Input::Review(decision, to));
    let answer = tokio::task::spawn_blocking(move || from.recv_timeout(EXPLAIN_PATIENCE)).await;
    match answer {
        Ok(Ok(count)) => Ok(count),
        _ => {
            Err("the endpoint does not answer now; look at `polder review list` before you try again"
                .to_owned())
        }
    }
}

/// Tries the ways to the service, one after the other, and stops at the first that fails.
async fn network_test(hub: &Hub) -> Vec<Answer> {
    let began = Instant::now();
    let connected = connection::connect(&hub.state).await;
    let micros = began.elapsed().as_micros() as u64;
    let check = |step: &str, ok: bool, detail: String, hint: Option<&str>, micros: u64| {
        Answer::Network(NetworkCheck {
            step: step.to_owned(),
            ok,
            detail,
            hint: hint.map(str::to_owned),
            micros,
        })
    };
    if let Err(error) = connected {
        let hint = Some("is the address right, does the service run, may this machine reach its port?");
        return vec![check("connect", false, crate::session::told(&error), hint, micros)];
    }
    let mut answers =
        vec![check("connect", true, format!("TLS to {} stands", hub.identity.service_url), None, micros)];
    let session = hub.link().is_some();
    let detail = if session { "the session of this agent stands" } else { "this agent has no session now" };
    answers.push(check(
        "session",
        session,
        detail.to_owned(),
        (!session).then_some("see the agent's log"),
        0,
    ));
    answers
}

/// Carries out what the service hands on from an administrator.
pub(crate) async fn carry_out(hub: &Arc<Hub>, command: pb::Command) -> pb::CommandAnswer {
    let id = command.id;
    let outcome = carry_out_inner(hub, command).await;
    let (done, message, json) = match outcome {
        Ok(json) => (true, String::new(), json),
        Err(message) => (false, message, Vec::new()),
    };
    pb::CommandAnswer { id, done, message, json: json.into() }
}

async fn carry_out_inner(hub: &Arc<Hub>, command: pb::Command) -> Result<Vec<u8>, String> {
    use pb::command::Command as Wire;
    let endpoint = EndpointId::from_slice(&command.endpoint_id).ok_or("the command names no endpoint")?;
    let tell = |command: Command| {
        let told = hub.tell_endpoint(endpoint, || Input::Command(command.clone()));
        if told { Ok(Vec::new()) } else { Err("this server has no such endpoint".to_owned()) }
    };
    match command.command.ok_or("the command is empty")? {
        Wire::Pause(_) => tell(Command::Pause),
        Wire::Resume(_) => tell(Command::Resume),
        Wire::Release(release) => {
            tell(if release.accept { Command::ReleaseAccept } else { Command::ReleaseRevert })
        }
        Wire::Rescan(_) => tell(Command::Rescan(RelPath::root())),
        Wire::Review(review) => {
            let found = hub.endpoints().remove(&endpoint).ok_or("this server has no such endpoint")?;
            let paths = review.paths.iter().map(|path| RelPath::parse(path)).collect::<Result<_, _>>();
            let paths = paths.map_err(|error| error.to_string())?;
            let items = decide_extras(&found, Decision { accept: review.accept, paths }).await?;
            serde_json::to_vec(&answers::Decided { items }).map_err(|error| error.to_string())
        }
        Wire::Detach(detach) => {
            let found = hub.endpoints().remove(&endpoint).ok_or("this server has no such endpoint")?;
            let json = match detach.force {
                true => crate::detach::leave_behind(hub, endpoint, &found).await?,
                false if hub.state.is_unmount_wished(endpoint) => {
                    crate::detach::unmount(&found).await.map(|()| Vec::new())?
                }
                false => crate::detach::recall_all(&found).await.map(|()| Vec::new())?,
            };
            tell(Command::Stop)?;
            Ok(json)
        }
        Wire::Explain(explain) => {
            let path = RelPath::parse(&explain.path).map_err(|error| error.to_string())?;
            let found = hub.endpoints().remove(&endpoint).ok_or("this server has no such endpoint")?;
            let explained = ask_endpoint(Arc::clone(&found), path.clone()).await?;
            let local = local_explain(endpoint, &found, path, explained)?;
            let answer = answers::Explained { state: local.state, reason: local.reason, hint: local.hint };
            serde_json::to_vec(&answer).map_err(|error| error.to_string())
        }
        Wire::ListProblems(list) => {
            let found = hub.endpoints().remove(&endpoint).ok_or("this server has no such endpoint")?;
            let status = found.shown().status.ok_or("the endpoint is not running")?;
            let problems = status.problems.iter().skip(list.offset as usize);
            let problems = problems.take((list.count_max as usize).min(PROBLEMS_ANSWERED_MAX));
            let items = problems.map(crate::status::problem_item).collect();
            let list = answers::ProblemList { total: status.problems.len() as u64, items };
            serde_json::to_vec(&list).map_err(|error| error.to_string())
        }
    }
}
