//! Errors and states as people read them.

use polder_api::grpc::{answers, limits, pb};
use polder_api::rest::{Direction, EndpointState, EndpointStatus, Flow, JsonBytes, JsonPath, Time};
use polder_engine::{FailureClass, Phase, Pin, Problem, Reason, Status, Unreachable};
use polder_types::{EndpointId, NodeUid, Seq, Timestamp};

const _: () = assert!(polder_engine::BEHIND_MAX <= limits::PINNED_VERSIONS_MAX);

/// An error with its causes, on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    sentence(std::iter::successors(Some(error), |error| (*error).source()))
}

/// Errors, each the cause of the one before, on one line.
pub(crate) fn sentence<'a>(errors: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut text = String::new();
    for error in errors {
        let more = error.to_string();
        // Transparent errors repeat their cause's text.
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
    }
    text
}

/// What the service is told of an endpoint.
pub(crate) fn message(
    endpoint: EndpointId,
    status: &Status,
    watching: &str,
    extra: &Extra,
) -> pb::EndpointStatus {
    let (state, why) = state(status);
    pb::EndpointStatus {
        endpoint_id: endpoint.0.to_vec().into(),
        state: state.into(),
        why: cut(why),
        nodes: extra.nodes,
        bytes: extra.bytes,
        upload_nodes: status.up.count,
        upload_bytes: status.up.bytes,
        download_nodes: status.down.count,
        download_bytes: status.down.bytes,
        upload_bytes_per_s: extra.sent_bytes_per_s,
        download_bytes_per_s: extra.received_bytes_per_s,
        upload_nodes_per_s: extra.sent_nodes_per_s,
        download_nodes_per_s: extra.received_nodes_per_s,
        applied: Some(status.cursor.into()),
        problem_count: status.problem_count,
        review_count: status.review_count,
        problems: status.problems.iter().take(limits::PROBLEMS_MAX).map(problem).collect(),
        held_nodes: status.held.map_or(0, |held| held.deletes + held.overwrites + held.renames),
        watching: watching.to_owned(),
        sent_bytes: extra.sent_bytes,
        received_bytes: extra.received_bytes,
        last_sync_unix_ms: extra.last_sync_unix_ms,
        recycled_bytes: extra.recycled_bytes,
        pin: Some(status.pin.as_ref().map_or_else(pb::Pin::default, pin)),
        ..pb::EndpointStatus::default()
    }
}

fn pin(pin: &Pin) -> pb::Pin {
    let version =
        |(uid, since): &(NodeUid, Seq)| pb::PinnedVersion { uid: uid.0.to_vec().into(), since: since.0 };
    pb::Pin { cursor: Some(pin.cursor.into()), behind: pin.behind.iter().map(version).collect() }
}

/// What the engine does not know of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extra {
    /// Bytes sent since the start.
    pub sent_bytes: u64,
    /// Bytes received since the start.
    pub received_bytes: u64,
    /// Mean of the last seconds.
    pub sent_bytes_per_s: u64,
    /// Mean of the last seconds.
    pub received_bytes_per_s: u64,
    /// Mean of the last seconds.
    pub sent_nodes_per_s: u64,
    /// Mean of the last seconds.
    pub received_nodes_per_s: u64,
    /// Items below the root that both sides have agreed on.
    pub nodes: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// When the endpoint was last in sync; 0: never.
    pub last_sync_unix_ms: i64,
    /// Bytes in the recycle area.
    pub recycled_bytes: u64,
}

fn state(status: &Status) -> (pb::EndpointState, String) {
    let held = || {
        let Some(held) = status.held else { return "held by the mass-change brake".to_owned() };
        format!(
            "the mass-change brake holds {} deletes, {} overwrites and {} renames (allowed: {}): \
             `polder endpoint release` lets them go or throws them back",
            held.deletes, held.overwrites, held.renames, held.allowed
        )
    };
    match status.phase {
        Phase::Starting => (pb::EndpointState::Starting, String::new()),
        Phase::RootLost => (pb::EndpointState::Stopped, status.root_lost.as_deref().unwrap_or("").to_owned()),
        Phase::Paused => (pb::EndpointState::Paused, "paused by a person".to_owned()),
        Phase::Refused | Phase::Unreachable => {
            (pb::EndpointState::Stopped, status.unreachable.as_ref().map_or_else(String::new, unreachable))
        }
        Phase::Held => (pb::EndpointState::Held, held()),
        Phase::Syncing if status.answer_refused.is_some() => {
            let why = status.answer_refused.as_deref().unwrap_or("");
            (pb::EndpointState::Syncing, format!("what the service says of the share is refused: {why}"))
        }
        Phase::Syncing if status.scanning => (pb::EndpointState::Scanning, String::new()),
        Phase::Syncing => (pb::EndpointState::Syncing, status.rebaseline.as_deref().unwrap_or("").to_owned()),
        Phase::Problems => {
            (pb::EndpointState::Syncing, format!("{} items have problems", status.problem_count))
        }
        Phase::InSync => (pb::EndpointState::InSync, String::new()),
    }
}

/// Why there is no session, as a sentence.
pub(crate) fn unreachable(why: &Unreachable) -> String {
    match why {
        Unreachable::Network(text) => format!("the service is not reachable: {text}"),
        Unreachable::Revoked(text) => format!("the service no longer accepts this server: {text}"),
        Unreachable::Clone => {
            "another live agent has the same identity: register one of the two anew".to_owned()
        }
        Unreachable::Version(text) => format!("the service speaks another version of the protocol: {text}"),
    }
}

fn problem(problem: &Problem) -> pb::Problem {
    let (code, hint) = words(problem.reason);
    let reason = if problem.text.is_empty() { hint.to_owned() } else { format!("{}: {hint}", problem.text) };
    pb::Problem {
        uid: problem.uid.0.to_vec().into(),
        path: path_bytes(&problem.path).into(),
        code: code.to_owned(),
        reason: cut(reason),
        since_unix_ms: problem.since_unix_ms as i64,
        attempts: problem.tries,
    }
}

/// A stable word and a hint for each reason.
pub(crate) fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::Busy => ("busy", "it changes all the time or is open for writing; it is taken once it rests"),
        Reason::DirUnreadable => (
            "unreadable",
            "this directory cannot be read; nothing below it is deleted or overwritten meanwhile",
        ),
        Reason::Read(class) | Reason::Store(class) | Reason::Apply(class) => class_words(class),
        Reason::ShareQuota => ("share_quota", "the share's quota is reached: raise it or delete something"),
        Reason::BadName => ("bad_name", "this share cannot have the name: rename the item"),
        Reason::Invalid => ("invalid", "the service refuses it by a rule that waiting does not change"),
        Reason::Refused => ("refused", "it was refused again and again; it is tried again after a while"),
        Reason::Held => ("held", "held by the mass-change brake: `polder endpoint release`"),
        Reason::Untrue => (
            "untrue",
            "nothing of it was written here; the service is damaged or not to be trusted: look at its log",
        ),
        Reason::Review => ("review", "only this server has it after a long absence: `polder review list`"),
    }
}

fn class_words(class: FailureClass) -> (&'static str, &'static str) {
    match class {
        FailureClass::NoSpace => ("no_space", "the volume is full: make room"),
        FailureClass::DiskQuota => ("disk_quota", "a quota of this file system is used up"),
        FailureClass::ReadOnly => ("read_only", "the volume is mounted read-only, perhaps after an error"),
        FailureClass::Denied => {
            ("permission", "the agent is not allowed to; look at `lsattr` and the security module")
        }
        FailureClass::Io => ("io", "the disk or file system fails: look at the kernel's log"),
        FailureClass::Unsupported => ("unsupported", "this file system cannot have it"),
        FailureClass::NotHere => (
            "not_here",
            "tiered here, and the share does not have its bytes any more: ends by itself when another server has them; else delete the name, or put \
             the file back from a backup",
        ),
        FailureClass::Exhausted => {
            ("exhausted", "too many open files or too little memory; tried again by itself")
        }
        FailureClass::Damaged => {
            ("damaged", "the share's bytes do not match their hash; `polder errors` on the service")
        }
        FailureClass::Unreachable => {
            ("unreachable", "the service or its store does not answer; tried again by itself")
        }
        FailureClass::Other => ("other", "tried again by itself"),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > limits::TEXT_BYTES_MAX {
        let end = (0..=limits::TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// A path within the bounds of a message; a longer one loses its end.
fn path_bytes(path: &polder_types::RelPath) -> Vec<u8> {
    let mut bytes = path.to_bytes();
    bytes.truncate(limits::PATH_BYTES_MAX);
    bytes
}

/// What the service is told of an endpoint, alive or waiting.
pub(crate) fn message_of(endpoint: EndpointId, shown: &crate::endpoint::Shown) -> pb::EndpointStatus {
    let layout = cut(shown.layout.as_deref().unwrap_or("").to_owned());
    match (&shown.status, &shown.waiting) {
        (Some(status), _) => {
            pb::EndpointStatus { layout, ..message(endpoint, status, shown.watching, &shown.extra) }
        }
        (None, waiting) => pb::EndpointStatus {
            endpoint_id: endpoint.0.to_vec().into(),
            state: if waiting.is_some() { pb::EndpointState::Stopped } else { pb::EndpointState::Starting }
                .into(),
            why: cut(waiting.as_deref().unwrap_or("").to_owned()),
            applied: Some(polder_types::Cursor::default().into()),
            pin: Some(pb::Pin::default()),
            watching: shown.watching.to_owned(),
            ..pb::EndpointStatus::default()
        },
    }
}

/// An item with a problem, as the service lists it.
pub(crate) fn problem_item(problem: &Problem) -> answers::ProblemItem {
    let (code, hint) = words(problem.reason);
    let direction = match problem.reason {
        Reason::DirUnreadable | Reason::Busy | Reason::Read(_) => Direction::Scan,
        Reason::Apply(_) => Direction::Download,
        _ => Direction::Upload,
    };
    let reason = if problem.text.is_empty() { hint } else { &*problem.text };
    answers::ProblemItem {
        path: JsonPath(problem.path.clone()),
        direction: Some(direction),
        code: code.to_owned(),
        reason: reason.to_owned(),
        hint: Some(hint.to_owned()),
        since: Time(Timestamp::from_unix_millis(problem.since_unix_ms)),
        attempts: problem.tries,
        next_at: None,
        found: problem.found.map(|found| answers::FoundItem {
            kind: found.kind,
            size: found.size,
            mtime: Time(found.mtime),
        }),
    }
}

/// Why nothing moves on an endpoint, if it is not moving: for whoever asks about one of its items.
pub(crate) fn standstill(shown: &crate::endpoint::Shown) -> Option<String> {
    let Some(status) = shown.status.as_deref() else {
        return Some(shown.waiting.as_deref().unwrap_or("it is starting").to_owned());
    };
    let moves = matches!(status.phase, Phase::Syncing | Phase::Problems | Phase::InSync);
    (!moves).then(|| state(status).1).filter(|why| !why.is_empty())
}

/// Health of an endpoint for the command line on this machine.
pub(crate) fn rest(
    id: EndpointId,
    identity: &crate::Identity,
    path: Vec<u8>,
    shown: &crate::endpoint::Shown,
) -> Result<EndpointStatus, String> {
    let flow = |left: polder_engine::Remaining, per_second: (u64, u64), bytes_moved: u64| Flow {
        items_left: left.count,
        bytes_left: left.bytes,
        items_per_second: per_second.0,
        bytes_per_second: per_second.1,
        bytes_moved,
        ..Flow::default()
    };
    let extra = &shown.extra;
    let status = shown.status.as_deref();
    let (up, down) = status.map_or_else(Default::default, |status| (status.up, status.down));
    let (phase, reason) = match status {
        Some(status) => (rest_state(status), state(status).1),
        None => (EndpointState::Stopped, shown.waiting.as_deref().unwrap_or("starting").to_owned()),
    };
    Ok(EndpointStatus {
        id,
        server_id: identity.server_id,
        server: identity
            .server_name
            .parse()
            .map_err(|error: polder_api::rest::TextError| error.to_string())?,
        path: JsonBytes(path),
        state: phase,
        in_sync: phase == EndpointState::InSync,
        reason: Some(reason)
            .filter(|reason| !reason.is_empty())
            .or(shown.layout.as_deref().map(str::to_owned)),
        heard_at: None,
        applied: status.map_or(0, |status| status.cursor.seq.0),
        upload: flow(up, (extra.sent_nodes_per_s, extra.sent_bytes_per_s), extra.sent_bytes),
        download: flow(down, (extra.received_nodes_per_s, extra.received_bytes_per_s), extra.received_bytes),
        nodes: extra.nodes,
        local_bytes: extra.bytes,
        tiered_bytes: 0,
        tiering: None,
        recycled_bytes: shown.extra.recycled_bytes,
        errors: status.map_or(0, |status| status.problem_count - status.review_count),
        held: status
            .and_then(|status| status.held)
            .map_or(0, |held| held.deletes + held.overwrites + held.renames),
        review: status.map_or(0, |status| status.review_count),
        problems: Vec::new(),
    })
}

fn rest_state(status: &Status) -> EndpointState {
    match status.phase {
        Phase::Starting => EndpointState::Pending,
        Phase::RootLost | Phase::Refused => EndpointState::Stopped,
        Phase::Unreachable => EndpointState::Offline,
        Phase::Paused => EndpointState::Paused,
        Phase::Held => EndpointState::Held,
        Phase::Syncing if status.scanning => EndpointState::Scanning,
        Phase::Syncing | Phase::Problems => EndpointState::Syncing,
        Phase::InSync => EndpointState::InSync,
    }
}
