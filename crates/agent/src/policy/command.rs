//! Tiering by hand: `polder tier`, `polder recall` and their lists, on a thread of their own, several files at once.
//!
//! A command ends when its client goes away. Pins and what is too small to be worth a placeholder are respected; rules and policies are
//! not, for a person has asked.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use polder_api::control::{Answer, FileResidency, FileRow, Moved, THREADS_MAX};
use polder_api::rest::{JsonBytes, Time};
use polder_tiering::{
    Endpoint as Wants, File, Glob, Heat, Lane, Policy, Stays, Volume, file_bytes_min, listed, recall_order,
};
use polder_types::{NodeUid, RelPath, Timestamp};

use super::clock::{Clock, Moment};
use super::inventory::{self, Pins, Wanted};
use super::volume::Seat;
use crate::tiered::{Cancel, Keep, Outcome, Residency, SMALL_BYTES, TieredError, TieredFile};

/// How often a client is told how far the command is.
const PROGRESS: Duration = Duration::from_millis(500);

/// So many files, and so many of their bytes, are asked for together.
const TOGETHER_FILES: usize = 32;
const TOGETHER_BYTES: u64 = 8 << 20;

/// Takes answers; `false`: the client is gone.
pub(crate) type Say<'a> = &'a mut dyn FnMut(Answer) -> bool;

/// An endpoint, and which of its files a command is about.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    /// The endpoint's files and desk.
    pub seat: Seat,
    /// Absolute path of its root.
    pub root: Vec<u8>,
    /// Below these, or these; the root's: all.
    pub below: Vec<RelPath>,
}

/// What a command does with each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Give its bytes up.
    Tier,
    /// Bring them back.
    Recall,
}

/// One file of a command.
struct Item {
    endpoint: usize,
    node: NodeUid,
    path: RelPath,
    heat: Heat,
    /// What the deed frees or fetches, as far as it was seen.
    bytes: u64,
    size: u64,
    is_here: bool,
}

/// What a command needs besides.
pub(crate) struct Order<'a> {
    /// Only these.
    pub glob: Option<&'a Glob>,
    /// In the order of heat.
    pub by_heat: bool,
    /// So many at once.
    pub threads: u32,
    /// The time.
    pub clock: &'a dyn Clock,
}

fn is_meant(below: &Pins, path: &[u8], order: &Order<'_>) -> bool {
    below.holds(path) && order.glob.is_none_or(|glob| glob.matches(path))
}

impl Chosen {
    fn absolute(&self, path: &RelPath) -> JsonBytes {
        let mut bytes = self.root.clone();
        if !path.names().is_empty() {
            bytes.push(b'/');
            bytes.extend(path.to_bytes());
        }
        JsonBytes(bytes)
    }

    fn row(&self, file: &TieredFile, heat: Heat, (verdict, reason): (&str, &str)) -> FileRow {
        FileRow {
            path: self.absolute(&file.path),
            size: file.size,
            on_disk_bytes: file.on_disk_bytes,
            residency: residency(file),
            used_at: time(heat.used_s()),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// A file's residency as it is told.
pub(crate) fn residency(file: &TieredFile) -> FileResidency {
    match file.residency {
        Residency::Resident => FileResidency::Resident,
        Residency::Tiered { present_bytes: 0 } => FileResidency::Tiered,
        Residency::Tiered { .. } => FileResidency::Partial,
        Residency::Orphaned => FileResidency::Orphaned,
    }
}

/// Seconds since 1970 as they are told.
pub(crate) fn time(secs: i64) -> Time {
    Time(Timestamp::new(secs, 0))
}

fn word(policy: Policy) -> (&'static str, &'static str) {
    match policy {
        Policy::Rule => ("rule", "a rule wants it to leave"),
        Policy::Date => ("date", "nobody has used it for long"),
        Policy::Quota => ("quota", "the endpoint holds more than its quota"),
        Policy::FreeSpace => ("free_space", "the volume has too little free"),
    }
}

/// Everything of these endpoints and of the others on their volume, as the policies see it.
struct Everything {
    volume: Volume,
    wants: Vec<Wants>,
    files: Vec<File>,
}

fn look(all: &[Seat], now: Moment) -> Result<Everything, TieredError> {
    let volume = all.first().ok_or(TieredError::NotMounted)?.port.volume()?;
    let (mut wants, mut files) = (Vec::new(), Vec::new());
    for (index, seat) in all.iter().enumerate() {
        let policy = seat.desk.wants();
        let mut each = |file: File, _: &TieredFile| files.push(File { endpoint: index, ..file });
        let refusals = &seat.desk.refusals;
        inventory::take(&*seat.port, &policy, &volume, now, refusals, Wanted::All, &mut each)?;
        wants.push(policy);
    }
    Ok(Everything { volume, wants, files })
}

/// Lists files in the order of leaving or of coming back. `all` are the endpoints of one volume; of `chosen`, with the same numbers, those
/// that are asked for.
pub(crate) fn list(
    deed: Deed,
    all: &[Seat],
    chosen: &BTreeMap<usize, Chosen>,
    order: &Order<'_>,
    count_max: u64,
    say: Say<'_>,
) -> Result<u64, TieredError> {
    let now = order.clock.now();
    let Everything { volume, wants, files } = look(all, now)?;
    let rows: Vec<(usize, (&str, &str))> = match deed {
        Deed::Tier => listed(&volume, &wants, &files, now.unix_s)
            .into_iter()
            .map(|row| (row.file, row.verdict.map_or_else(|why| (why.word(), why.text()), word)))
            .collect(),
        Deed::Recall => {
            let order = recall_order(&volume, &wants, &files, now.unix_s);
            order.into_iter().map(|file| (file, ("recall", "it would come back"))).collect()
        }
    };
    let pins: BTreeMap<usize, Pins> =
        chosen.iter().map(|(index, one)| (*index, Pins::new(one.below.clone()))).collect();
    let mut count = 0;
    for (file, verdict) in rows {
        let file = &files[file];
        let Some(one) = chosen.get(&file.endpoint) else { continue };
        // Gone since it was looked at.
        let Ok(shown) = one.seat.port.file(file.node) else { continue };
        if is_meant(&pins[&file.endpoint], &shown.path.to_bytes(), order) {
            if count >= count_max || !say(Answer::File(one.row(&shown, file.heat, verdict))) {
                break;
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Tiers or recalls the chosen files.
pub(crate) fn carry_out(
    deed: Deed,
    chosen: &[Chosen],
    order: &Order<'_>,
    say: Say<'_>,
) -> Result<Moved, TieredError> {
    let now = order.clock.now();
    let mut items = Vec::new();
    for (endpoint, one) in chosen.iter().enumerate() {
        select(deed, endpoint, one, order, now, &mut items)?;
    }
    if order.by_heat {
        match deed {
            Deed::Tier => items.sort_by_key(|item| (item.heat, item.node)),
            Deed::Recall => items.sort_by_key(|item| std::cmp::Reverse((item.heat, item.node))),
        }
    }
    let mut moved = Moved { files: items.len() as u64, ..Moved::default() };
    moved.bytes = items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes));
    let (next, cancel) = (AtomicUsize::new(0), Cancel::default());
    let (to, from) = channel();
    let threads = order.threads.clamp(1, THREADS_MAX) as usize;
    let goes_alone = |item: &Item| deed == Deed::Recall && order.by_heat && item.size > SMALL_BYTES;
    let parts = parts(&items, threads, goes_alone);
    let work = |to: std::sync::mpsc::Sender<_>| {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cancel.is_cancelled() {
                return;
            }
            let outcomes = together(deed, &chosen[part[0].endpoint].seat, part, &cancel);
            if part.iter().zip(outcomes).any(|done| to.send(done).is_err()) {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(parts.len()) {
            let to = to.clone();
            scope.spawn(move || work(to));
        }
        drop(to);
        let mut told = Instant::now();
        loop {
            let mut is_there = match from.recv_timeout(PROGRESS.saturating_sub(told.elapsed())) {
                Ok((item, outcome)) => note(&chosen[item.endpoint], item, outcome, &mut moved, say),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // Also while one file follows the other without a pause.
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                is_there &= say(Answer::Moved(moved));
            }
            if !is_there {
                // What is under way is ended; what is to come is not begun.
                cancel.cancel();
                break;
            }
        }
    });
    Ok(moved)
}

/// Items that are carried out together: neighbours of one endpoint. Small enough that each thread gets some. Small files of a part come back before
/// its large ones: where there is an order, large ones are parts of their own.
fn parts(items: &[Item], threads: usize, goes_alone: impl Fn(&Item) -> bool) -> Vec<&[Item]> {
    let count_max = items.len().div_ceil(threads).clamp(1, TOGETHER_FILES);
    let mut parts = Vec::new();
    let mut rest = items;
    while let Some(first) = rest.first() {
        let mut bytes = first.bytes;
        let is_alone = goes_alone(first);
        let more = rest[1..].iter().take(count_max - 1).take_while(|item| {
            bytes = bytes.saturating_add(item.bytes);
            item.endpoint == first.endpoint && bytes <= TOGETHER_BYTES && !is_alone && !goes_alone(item)
        });
        let (part, after) = rest.split_at(1 + more.count());
        parts.push(part);
        rest = after;
    }
    parts
}

/// Files of one endpoint that the deed is for.
fn select(
    deed: Deed,
    endpoint: usize,
    one: &Chosen,
    order: &Order<'_>,
    now: Moment,
    items: &mut Vec<Item>,
) -> Result<(), TieredError> {
    let volume = one.seat.port.volume()?;
    let below = Pins::new(one.below.clone());
    let allowed: Option<Vec<NodeUid>> = match (deed, order.by_heat) {
        (Deed::Recall, true) => {
            let seats = std::slice::from_ref(&one.seat);
            let Everything { volume, wants, files } = look(seats, now)?;
            let order = recall_order(&volume, &wants, &files, now.unix_s);
            let mut nodes: Vec<_> = order.into_iter().map(|file| files[file].node).collect();
            nodes.sort_unstable();
            Some(nodes)
        }
        _ => None,
    };
    let mut each = |file: File, shown: &TieredFile| {
        let is_here = matches!(shown.residency, Residency::Resident);
        let has_some = shown.on_disk_bytes > volume.cluster_bytes.saturating_mul(2);
        let wanted = match deed {
            Deed::Tier => is_here || has_some,
            Deed::Recall => !is_here,
        };
        let allowed = allowed.as_ref().is_none_or(|nodes| nodes.binary_search(&shown.node).is_ok());
        if wanted && allowed && is_meant(&below, &shown.path.to_bytes(), order) {
            let bytes = match deed {
                Deed::Tier => shown.on_disk_bytes,
                Deed::Recall => shown.size.saturating_sub(shown.on_disk_bytes),
            };
            let path = shown.path.clone();
            let (node, size) = (shown.node, shown.size);
            items.push(Item { endpoint, node, path, heat: file.heat, bytes, size, is_here });
        }
    };
    // A person who asks again is not told of what stayed a while ago.
    let forgotten = Mutex::default();
    let policy = one.seat.desk.wants();
    inventory::take(&*one.seat.port, &policy, &volume, now, &forgotten, Wanted::All, &mut each)?;
    Ok(())
}

/// What came of one file: bytes, or why it is as it was.
type Done = Result<u64, (String, String)>;

fn failed(error: TieredError) -> (String, String) {
    ("failed".to_owned(), crate::status::chain(&error))
}

/// Carries the deed out on files of one endpoint; the answers are in their order.
fn together(deed: Deed, seat: &Seat, items: &[Item], cancel: &Cancel) -> Vec<Done> {
    let outcome = match deed {
        Deed::Tier => tier(seat, items),
        Deed::Recall => recall(seat, items, cancel),
    };
    outcome.unwrap_or_else(|error| items.iter().map(|_| Err(failed(error.clone()))).collect())
}

fn tier(seat: &Seat, items: &[Item]) -> Result<Vec<Done>, TieredError> {
    let stays = |why: Stays| Err((why.word().to_owned(), why.text().to_owned()));
    let volume = seat.port.volume()?;
    let pins = Pins::new(seat.port.pins()?);
    let why_not = |item: &Item| {
        if pins.holds(&item.path.to_bytes()) {
            return Some(Stays::Pinned);
        }
        (item.is_here && item.size < file_bytes_min(volume.cluster_bytes)).then_some(Stays::TooSmall)
    };
    let asked: Vec<NodeUid> =
        items.iter().filter(|item| why_not(item).is_none()).map(|item| item.node).collect();
    let mut outcomes = seat.port.tier_files(&asked).into_iter();
    let each = |item: &Item| match why_not(item) {
        Some(why) => stays(why),
        None => match outcomes.next().expect("one answer a node").map_err(failed)? {
            Outcome::Tiered { freed_bytes } => Ok(freed_bytes),
            Outcome::Stays(why) => stays(why),
        },
    };
    Ok(items.iter().map(each).collect())
}

fn recall(seat: &Seat, items: &[Item], cancel: &Cancel) -> Result<Vec<Done>, TieredError> {
    let volume = seat.port.volume()?;
    // The last of the room is for users, and for what every recall needs beside the file itself.
    let low = Volume::free_percent(&[seat.desk.wants()]).map_or(0, |percent| volume.low_disk_bytes(percent));
    let mut room = volume.free_bytes.saturating_sub(low);
    let fits: Vec<bool> = items
        .iter()
        .map(|item| {
            let left = room.checked_sub(item.bytes);
            room = left.unwrap_or(room);
            left.is_some()
        })
        .collect();
    let asked: Vec<NodeUid> =
        items.iter().zip(&fits).filter(|(_, fits)| **fits).map(|(item, _)| item.node).collect();
    let mut outcomes = seat.port.recall_files(&asked, Lane::Command, Keep::Resident, cancel).into_iter();
    let each = |(item, fits): (&Item, &bool)| {
        if !fits {
            let text = format!("it needs {} bytes, and the volume would be nearly full", item.bytes);
            return Err(("no_space".to_owned(), text));
        }
        let recalled = outcomes.next().expect("one answer a node").map_err(failed)?;
        match recalled.residency {
            Residency::Resident => Ok(recalled.fetched_bytes),
            _ => Err(("failed".to_owned(), "not all of it came".to_owned())),
        }
    };
    Ok(items.iter().zip(&fits).map(each).collect())
}

fn note(one: &Chosen, item: &Item, outcome: Done, moved: &mut Moved, say: Say<'_>) -> bool {
    moved.files_done += 1;
    match outcome {
        Ok(bytes) => {
            moved.bytes_done = moved.bytes_done.saturating_add(bytes);
            true
        }
        Err((verdict, reason)) => {
            moved.files_failed += 1;
            let Ok(file) = one.seat.port.file(item.node) else { return true };
            say(Answer::File(one.row(&file, item.heat, (&verdict, &reason))))
        }
    }
}
