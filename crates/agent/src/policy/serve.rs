//! Commands about tiering on the control socket: from absolute paths to endpoints, and answers line by line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use polder_api::control::{
    Answer, FILES_LISTED_MAX, FileChoice, FileTiering, LastRecall, PinRow, Request, write_line,
};
use polder_api::rest::{JsonBytes, Problem, ProblemCode};
use polder_tiering::{Glob, Heat, Stays, why_stays};
use polder_types::{Escaped, RelPath};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::clock::{Clock, SystemClock};
use super::command::{self, Chosen, Deed, Order, residency, time};
use super::inventory::{self, Pins};
use super::volume::Seat;
use crate::control::find_endpoint;
use crate::endpoint::{Endpoint, Input, Pinned};
use crate::tiered::Tiered;
use crate::worker::Hub;

/// Answers that wait for a slow client.
const ANSWERS_WAITING: usize = 256;
/// How long an endpoint may take to write a pin down.
const PIN_PATIENCE: Duration = Duration::from_secs(10);

/// Answers a request about tiering, line by line.
pub(crate) async fn serve(hub: &Arc<Hub>, request: Request, to: &mut (impl AsyncWrite + Unpin)) {
    let (answers, mut waiting) = mpsc::channel(ANSWERS_WAITING);
    let hub = Arc::clone(hub);
    let job = tokio::task::spawn_blocking(move || {
        let mut say = |answer: Answer| answers.blocking_send(answer).is_ok();
        let last = match carry_out(&hub, request, &mut say) {
            Ok(last) => last,
            Err(why) => Answer::Problem(*why),
        };
        say(last);
    });
    while let Some(answer) = waiting.recv().await {
        if write_line(to, &answer).await.is_err() {
            // The job learns it from the channel, and ends what is under way.
            waiting.close();
            break;
        }
    }
    drop(waiting);
    let _ = job.await;
}

type Refused = Box<Problem>;

fn refuse(code: ProblemCode, message: &str, hint: Option<&str>) -> Refused {
    Box::new(Problem { code, message: message.to_owned(), hint: hint.map(str::to_owned) })
}

fn failed(error: &crate::tiered::TieredError) -> Refused {
    refuse(ProblemCode::Internal, &crate::status::chain(error), Some("the agent's log says more"))
}

fn carry_out(hub: &Hub, request: Request, say: command::Say<'_>) -> Result<Answer, Refused> {
    match request {
        Request::Tier { choice } => moved(hub, Deed::Tier, &choice, 8, say),
        Request::Recall { choice, threads } => moved(hub, Deed::Recall, &choice, threads, say),
        Request::TierList { choice, count_max } => listed(hub, Deed::Tier, &choice, count_max, say),
        Request::RecallList { choice, count_max } => listed(hub, Deed::Recall, &choice, count_max, say),
        Request::Pin { path, pinned } => pin(hub, &path, pinned),
        Request::Pins => pins(hub, say),
        _ => Err(refuse(ProblemCode::BadRequest, "this is no request about tiering", None)),
    }
}

fn glob(choice: &FileChoice) -> Result<Option<Glob>, Refused> {
    let parse = |text: &String| {
        Glob::parse(text.as_bytes())
            .map_err(|error| refuse(ProblemCode::BadRequest, &crate::status::chain(&error), None))
    };
    choice.pattern.as_ref().map(parse).transpose()
}

/// An endpoint that tiers, ready to be worked with.
fn seat(endpoint: &Endpoint) -> Result<(Seat, Tiered), Refused> {
    let Some(tiered) = endpoint.tiered() else {
        let (message, hint) = match endpoint.desk.is_enabled() {
            true => {
                ("the endpoint's files cannot be reached now", "`polder status` says how the endpoint is")
            }
            false => ("the endpoint does not tier", "turn it on with `polder endpoint set E --tiering true`"),
        };
        return Err(refuse(ProblemCode::PreconditionFailed, message, Some(hint)));
    };
    let seat = Seat { port: Arc::new(tiered.clone()), desk: Arc::clone(&endpoint.desk) };
    Ok((seat, tiered))
}

fn root(endpoint: &Endpoint) -> Vec<u8> {
    endpoint.assignment.lock().expect("no holder of this lock panics").path.clone()
}

/// The endpoints that the paths lie in, with the paths below them; without a path every endpoint that tiers.
fn choose(hub: &Hub, choice: &FileChoice) -> Result<Vec<(Chosen, Tiered)>, Refused> {
    let mut chosen: BTreeMap<_, (Chosen, Tiered)> = BTreeMap::new();
    if choice.paths.is_empty() {
        for (id, endpoint) in hub.endpoints() {
            if let Ok((seat, tiered)) = seat(&endpoint) {
                let root = root(&endpoint);
                chosen.insert(id, (Chosen { seat, root, below: vec![RelPath::root()] }, tiered));
            }
        }
    }
    for path in &choice.paths {
        let (id, endpoint, below) = find_endpoint(hub, path)?;
        match chosen.get_mut(&id) {
            Some((one, _)) => one.below.push(below),
            None => {
                let (seat, tiered) = seat(&endpoint)?;
                // One path alone is a wish for that path: a misspelt one is said.
                let is_there =
                    below.names().is_empty() || tiered.node_at(&below).map_err(|e| failed(&e))?.is_some();
                if !is_there {
                    return Err(no_such());
                }
                chosen.insert(id, (Chosen { seat, root: root(&endpoint), below: vec![below] }, tiered));
            }
        }
    }
    if chosen.is_empty() {
        return Err(refuse(
            ProblemCode::NotFound,
            "no endpoint of this server tiers",
            Some("polder endpoint list"),
        ));
    }
    Ok(chosen.into_values().collect())
}

fn no_such() -> Refused {
    let hint = "if it was just made, it is on its way; `polder explain PATH` says how it is";
    refuse(ProblemCode::NotFound, "this server and the share have not agreed on such an item", Some(hint))
}

fn moved(
    hub: &Hub,
    deed: Deed,
    choice: &FileChoice,
    threads: u32,
    say: command::Say<'_>,
) -> Result<Answer, Refused> {
    let (glob, clock) = (glob(choice)?, SystemClock::new());
    if choice.paths.is_empty() {
        return Err(refuse(ProblemCode::BadRequest, "name at least one path", None));
    }
    let chosen: Vec<Chosen> = choose(hub, choice)?.into_iter().map(|(one, _)| one).collect();
    let order = Order { glob: glob.as_ref(), by_heat: choice.by_heat, threads, clock: &clock };
    let moved = command::carry_out(deed, &chosen, &order, say).map_err(|error| failed(&error))?;
    chosen.iter().for_each(|one| one.seat.desk.wish());
    say(Answer::Moved(moved));
    Ok(Answer::Done)
}

fn listed(
    hub: &Hub,
    deed: Deed,
    choice: &FileChoice,
    count_max: u64,
    say: command::Say<'_>,
) -> Result<Answer, Refused> {
    let (glob, clock) = (glob(choice)?, SystemClock::new());
    let order = Order { glob: glob.as_ref(), by_heat: true, threads: 1, clock: &clock };
    let mut volumes: BTreeMap<u64, Vec<(Chosen, Tiered)>> = BTreeMap::new();
    for (one, tiered) in choose(hub, choice)? {
        volumes.entry(tiered.device()).or_default().push((one, tiered));
    }
    let endpoints: Vec<(Seat, Tiered)> =
        hub.endpoints().values().filter_map(|endpoint| seat(endpoint).ok()).collect();
    let mut left = count_max.min(FILES_LISTED_MAX);
    for (device, mine) in volumes {
        // All endpoints of the volume take part in the order, also those that are not asked for.
        let all: Vec<&(Seat, Tiered)> =
            endpoints.iter().filter(|(_, tiered)| tiered.device() == device).collect();
        let place = |tiered: &Tiered| all.iter().position(|(_, other)| other.is_same(tiered));
        let chosen = mine.into_iter().filter_map(|(one, tiered)| Some((place(&tiered)?, one))).collect();
        let seats: Vec<Seat> = all.iter().map(|(seat, _)| seat.clone()).collect();
        let count = command::list(deed, &seats, &chosen, &order, left, say);
        left -= count.map_err(|error| failed(&error))?;
    }
    Ok(Answer::Done)
}

fn pin(hub: &Hub, path: &JsonBytes, pinned: bool) -> Result<Answer, Refused> {
    let (_, endpoint, below) = find_endpoint(hub, path)?;
    let (to, from) = channel();
    endpoint.tell(Input::Pin(below, pinned, to));
    match from.recv_timeout(PIN_PATIENCE) {
        Ok(Ok(Pinned::Changed)) => {
            endpoint.desk.wish();
            Ok(Answer::Pinned { changed: true })
        }
        Ok(Ok(Pinned::Already)) => Ok(Answer::Pinned { changed: false }),
        Ok(Ok(Pinned::NoSuch)) => Err(no_such()),
        Ok(Ok(Pinned::TooMany)) => Err(refuse(
            ProblemCode::PreconditionFailed,
            "the endpoint has as many pins as it may have",
            Some("pin a folder instead of its files, or use a rule: `polder endpoint set --tier-rule`"),
        )),
        Ok(Err(why)) => Err(refuse(ProblemCode::Internal, &why, None)),
        Err(_) => Err(refuse(
            ProblemCode::Unavailable,
            "the endpoint does not answer now",
            Some("`polder status` says how the endpoint is"),
        )),
    }
}

fn pins(hub: &Hub, say: command::Say<'_>) -> Result<Answer, Refused> {
    for endpoint in hub.endpoints().values() {
        let Ok((seat, _)) = seat(endpoint) else { continue };
        let root = root(endpoint);
        for path in seat.port.pins().map_err(|error| failed(&error))? {
            let below = path.to_bytes();
            let slash: &[u8] = if below.is_empty() { b"" } else { b"/" };
            if !say(Answer::Pin(PinRow { path: JsonBytes([&root, slash, &below].concat()) })) {
                return Ok(Answer::Done);
            }
        }
    }
    Ok(Answer::Done)
}

/// What is known of one file's tiering; none where it is no file or the endpoint does not tier. Waits for the disk.
pub(crate) fn explain(endpoint: &Endpoint, path: &RelPath) -> Option<FileTiering> {
    let (seat, tiered) = seat(endpoint).ok()?;
    let node = tiered.node_at(path).ok()??;
    let file = seat.port.file(node).ok()?;
    let now = SystemClock::new().now();
    let noted = tiered.readers().get().ok().and_then(|reader| {
        let reader: &polder_replica::StateReader = std::borrow::Borrow::borrow(&reader);
        reader.heat(node).ok().flatten()
    });
    let noted = noted.map(|row| Heat::from_parts(row.warm, row.used));
    let wants = seat.desk.wants();
    let pins = Pins::new(seat.port.pins().ok()?);
    let mut seen = inventory::seen(&file, &path.to_bytes(), noted, &wants, &pins, now);
    if seen.stays.is_none() {
        // The volume's own clock began elsewhere: what stayed lately is told whatever is left of its wait.
        seen.stays = seat.desk.refusals.lock().expect("no holder of this lock panics").last(node);
    }
    let why = why_stays(&seen, &seat.port.volume().ok()?, std::slice::from_ref(&wants));
    let last_recall = seat.desk.book.last_recall(node).map(|last| LastRecall {
        program: Escaped(last.program.as_bytes()).to_string(),
        user: last.user,
        at: time(last.at_s),
        bytes: last.bytes,
    });
    let may_leave = why == Stays::NotNeeded;
    Some(FileTiering {
        residency: residency(&file),
        size: file.size,
        on_disk_bytes: file.on_disk_bytes,
        used_at: time(seen.heat.used_s()),
        warm_at: time(seen.heat.parts().0),
        stays: (!may_leave && why != Stays::Tiered).then(|| why.word().to_owned()),
        reason: match why {
            Stays::NotNeeded => {
                "it leaves when a policy wants it; until then there is room for it".to_owned()
            }
            Stays::Tiered => "its bytes are in the share and come when they are read".to_owned(),
            why => format!("it stays because {}", why.text()),
        },
        last_recall,
    })
}
