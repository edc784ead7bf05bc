//! Applying: get the contents, build the files in staging, hand the batch to `replica`, translate what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use polder_chunk::{ExtentWalk, VerifiedChunk, WalkStep};
use polder_engine::{
    Apply, ApplyAct, ApplyOver, ApplyResult, ApplyStep, Failure, FailureClass, Place, SeenDir,
};
use polder_replica::{Act, Batch, DirAt, Found, FsError, Over, Pledge, Staged, Step, StepResult};
use polder_types::{Attrs, Body, ChunkId, Content, Extent, ExtentSource, Name, NodeUid, Stamp, Timestamp};

use super::changes::Changes;
use super::disk::{Disk, Hands, dir_at, failure, seen_entry};
use super::displaced::Displaced;
use crate::chunks::{FetchError, Fetcher};

/// Chunks of one large file that are fetched together.
const WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// One thread that applies.
pub(crate) struct Applier {
    /// The disk.
    pub disk: Arc<Disk>,
    /// This thread's way into the tree.
    pub hands: Hands,
    /// Gets chunks.
    pub fetcher: Fetcher,
}

/// What came of a batch, for the engine.
pub(crate) struct Applied {
    /// One a step.
    pub results: Vec<ApplyResult>,
    /// The directories touched.
    pub dirs: Vec<SeenDir>,
    /// What lies in the recycle area now.
    pub displaced: Vec<Displaced>,
    /// Lines for the log about displaced bytes that nobody knew and that could not be given a name.
    pub held: Vec<String>,
}

/// Why a step has nothing to apply.
enum Unstaged {
    Failed(Failure),
}

impl From<FetchError> for Unstaged {
    fn from(error: FetchError) -> Self {
        // A full disk met while writing what was fetched is told as such.
        let sink = match &error {
            FetchError::Sink(cause) => cause.downcast_ref::<FsError>().map(failure),
            _ => None,
        };
        Self::Failed(sink.unwrap_or_else(|| error.failure()))
    }
}

impl From<FsError> for Unstaged {
    fn from(error: FsError) -> Self {
        Self::Failed(failure(&error))
    }
}

/// Files of a batch that are still being written, by the chunks that they need.
#[derive(Default)]
struct Small {
    files: BTreeMap<usize, Staged>,
    wants: BTreeMap<ChunkId, Vec<Want>>,
}

struct Want {
    step: usize,
    offset: u64,
    skip: usize,
    len: usize,
}

impl Applier {
    /// Carries out a batch.
    pub(crate) fn apply(&mut self, apply: Apply) -> Applied {
        let mut staged = self.stage(&apply.steps);
        let mut places: BTreeMap<_, _> = apply.steps.iter().filter_map(displaces).collect();
        let changes = self.disk.tiered.as_ref().map(|tiered| Changes::of(&apply, tiered));
        let mut results: Vec<Option<ApplyResult>> = apply.steps.iter().map(|_| None).collect();
        // Steps whose content could not be had are left out; the numbers that others wait for move accordingly.
        let mut number: Vec<Option<u32>> = Vec::with_capacity(apply.steps.len());
        let mut steps = Vec::with_capacity(apply.steps.len());
        for (at, step) in apply.steps.into_iter().enumerate() {
            let after: Option<Vec<u32>> =
                step.after.iter().map(|earlier| number.get(*earlier as usize).copied().flatten()).collect();
            let (result, step) = match (staged.remove(&at), after) {
                (Some(Err(Unstaged::Failed(why))), _) => (Some(ApplyResult::Failed(why)), None),
                (_, None) => (Some(ApplyResult::Skipped), None),
                (built, Some(after)) => (None, Some((built.and_then(Result::ok), after, step))),
            };
            results[at] = result;
            number.push(step.is_some().then_some(steps.len() as u32));
            if let Some((built, after, step)) = step {
                steps.push(Step { uid: step.uid, act: act(step.act, built), after });
            }
        }
        let filter = self.disk.filter();
        let dir_times = apply.dir_times.iter().map(|(dir, time)| (Arc::new(dir_at(dir)), *time)).collect();
        let batch = Batch { steps, dir_times, server: &self.disk.server_name, filter: &filter };
        let alone = |step: &mut dyn FnMut()| match &changes {
            Some(changes) => changes.alone(step),
            None => step(),
        };
        let (root, recycle) = (&self.disk.root, &self.disk.recycle);
        let done = polder_replica::apply_alone(root, recycle, &mut self.hands.attributes, batch, &alone);
        if let (Some(tiered), Some(changes)) = (&self.disk.tiered, changes) {
            changes.tell(tiered, &done);
        }
        let mut held = Vec::new();
        let mut found = done.steps.into_iter();
        for (at, number) in number.iter().enumerate() {
            if number.is_some() {
                let result = found.next().expect("one result a step");
                results[at] = Some(translate(result, &mut held));
            }
        }
        let results =
            results.into_iter().map(|result| result.expect("every step was left out or carried out"));
        let displaced =
            done.displaced.into_iter().map(|(uid, entry)| Displaced { entry, uid, at: places.remove(&uid) });
        let dirs = done.dirs.into_iter().map(|(stamp, attrs)| SeenDir { stamp, attrs }).collect();
        Applied { results: results.collect(), dirs, displaced: displaced.collect(), held }
    }

    /// Builds everything that the steps need, keyed by the number of the step.
    fn stage(&mut self, steps: &[ApplyStep]) -> BTreeMap<usize, Result<Staged, Unstaged>> {
        let mut built = BTreeMap::new();
        let mut small = Small::default();
        for (at, step) in steps.iter().enumerate() {
            let Some((content, base)) = content_of(&step.act) else { continue };
            if self.disk.arrives_tiered(content, replaced(&step.act)) {
                let pledge = Pledge::new(step.uid, step.since, content, Timestamp::default());
                let staged = self.disk.staging.placeholder(pledge, content);
                built.insert(at, staged.map_err(Unstaged::from));
                continue;
            }
            match self.begin(at, content, base, &mut small) {
                Ok(None) => (),
                Ok(Some(staged)) => drop(built.insert(at, Ok(staged))),
                Err(why) => drop(built.insert(at, Err(why))),
            }
        }
        self.fill(small, &mut built);
        for (at, step) in steps.iter().enumerate() {
            let Some((attrs, mtime)) = meta_of(&step.act) else { continue };
            if let Some(Ok(staged)) = built.get_mut(&at)
                && let Err(error) = staged.finish(&mut self.hands.attributes, attrs, mtime)
            {
                built.insert(at, Err(error.into()));
            }
        }
        built
    }

    /// Builds one node, or says what chunks its file waits for.
    fn begin(
        &mut self,
        at: usize,
        content: &Content,
        base: Option<(&Place, &Content)>,
        small: &mut Small,
    ) -> Result<Option<Staged>, Unstaged> {
        let staging = &self.disk.staging;
        match content {
            Content::Directory => Ok(Some(staging.directory()?)),
            Content::Symlink(target) => Ok(Some(staging.symlink(target)?)),
            Content::File { size, body: Body::Inline(extents) } => {
                let data_bytes = extents.iter().map(data_bytes).fold(0, u64::saturating_add);
                let staged = staging.file(*size, data_bytes)?;
                if data_bytes == 0 {
                    return Ok(Some(staged));
                }
                small.want(at, extents);
                small.files.insert(at, staged);
                Ok(None)
            }
            Content::File { size, .. } => self.large(*size, content, base).map(Some),
        }
    }

    /// Fetches what the small files of a batch want, all together.
    fn fill(&mut self, mut small: Small, built: &mut BTreeMap<usize, Result<Staged, Unstaged>>) {
        let wanted: Vec<ChunkId> = small.wants.keys().copied().collect();
        let mut broken: BTreeMap<usize, Unstaged> = BTreeMap::new();
        let fetched = self.fetcher.fetch(wanted, &mut |chunk| {
            for want in small.wants.remove(&chunk.id()).unwrap_or_default() {
                let Some(file) = small.files.get_mut(&want.step) else { continue };
                if let Err(why) = write(file, want.offset, &chunk, want.skip, want.len) {
                    broken.insert(want.step, Unstaged::Failed(why));
                    small.files.remove(&want.step);
                }
            }
            Ok(())
        });
        // What was not fetched stays wanted: those files fail, the others do not.
        if let Err(error) = fetched {
            let why = error.failure();
            for want in small.wants.into_values().flatten() {
                small.files.remove(&want.step);
                broken.entry(want.step).or_insert_with(|| Unstaged::Failed(why.clone()));
            }
        }
        built.extend(broken.into_iter().map(|(at, why)| (at, Err(why))));
        built.extend(small.files.into_iter().map(|(at, file)| (at, Ok(file))));
    }

    /// Builds a large file window by window. Chunks that the file on disk has are taken from there.
    fn large(
        &mut self,
        size: u64,
        content: &Content,
        base: Option<(&Place, &Content)>,
    ) -> Result<Staged, Unstaged> {
        let local = match base {
            Some((_, base)) if base != content => self.local_chunks(base)?,
            _ => BTreeMap::new(),
        };
        let data_bytes = self.data_bytes(content)?;
        let mut staged = self.disk.staging.file(size, data_bytes)?;
        let mut walk = ExtentWalk::new(content).map_err(|error| damaged(&error))?;
        let mut window: BTreeMap<ChunkId, Vec<Want>> = BTreeMap::new();
        let (mut offset, mut window_bytes) = (0, 0);
        while let Some(step) = walk.step() {
            match step {
                WalkStep::Node { id, .. } => {
                    let node = self.fetcher.fetch_one(id)?;
                    walk.supply(&node).map_err(|error| damaged(&error))?;
                }
                WalkStep::Extent { offset: at, extent } => {
                    offset = at;
                    if let ExtentSource::Chunk { id, skip } = extent.source {
                        let len = extent.len as usize;
                        window.entry(id).or_default().push(Want {
                            step: 0,
                            offset,
                            skip: skip as usize,
                            len,
                        });
                        window_bytes += extent.len;
                    }
                    if window_bytes >= WINDOW_BYTES {
                        self.fill_window(&mut staged, std::mem::take(&mut window), &local, base)?;
                        window_bytes = 0;
                    }
                }
            }
        }
        debug_assert!(offset <= size);
        self.fill_window(&mut staged, window, &local, base)?;
        Ok(staged)
    }

    /// Bytes of a content that are no holes.
    fn data_bytes(&self, content: &Content) -> Result<u64, Unstaged> {
        let mut total = 0u64;
        self.each_extent(content, &mut |_, extent| total = total.saturating_add(data_bytes(&extent)))?;
        Ok(total)
    }

    /// All extents of a content with where they begin, in order. Nodes of its tree are fetched.
    fn each_extent(&self, content: &Content, each: &mut dyn FnMut(u64, Extent)) -> Result<(), Unstaged> {
        let mut walk = ExtentWalk::new(content).map_err(|error| damaged(&error))?;
        while let Some(step) = walk.step() {
            match step {
                WalkStep::Node { id, .. } => {
                    let node = self.fetcher.fetch_one(id)?;
                    walk.supply(&node).map_err(|error| damaged(&error))?;
                }
                WalkStep::Extent { offset, extent } => each(offset, extent),
            }
        }
        Ok(())
    }

    fn fill_window(
        &mut self,
        staged: &mut Staged,
        mut window: BTreeMap<ChunkId, Vec<Want>>,
        local: &BTreeMap<ChunkId, (u64, u64)>,
        base: Option<(&Place, &Content)>,
    ) -> Result<(), Unstaged> {
        if let Some((place, _)) = base {
            let here: Vec<(ChunkId, u64, u64)> = window
                .keys()
                .filter_map(|id| local.get(id).map(|(offset, len)| (*id, *offset, *len)))
                .collect();
            for chunk in self.read_local(place, &here)? {
                for want in window.remove(&chunk.id()).unwrap_or_default() {
                    write(staged, want.offset, &chunk, want.skip, want.len).map_err(Unstaged::Failed)?;
                }
            }
        }
        let wanted: Vec<ChunkId> = window.keys().copied().collect();
        self.fetcher.fetch(wanted, &mut |chunk| {
            for want in window.remove(&chunk.id()).unwrap_or_default() {
                write(staged, want.offset, &chunk, want.skip, want.len).map_err(|why| anyhow!(why.text))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Where the whole chunks of `base` lie in the file on disk.
    fn local_chunks(&self, base: &Content) -> Result<BTreeMap<ChunkId, (u64, u64)>, Unstaged> {
        let mut found = BTreeMap::new();
        self.each_extent(base, &mut |offset, extent| {
            if let ExtentSource::Chunk { id, skip: 0 } = extent.source {
                found.insert(id, (offset, extent.len));
            }
        })?;
        Ok(found)
    }

    /// Reads chunks from the file on disk. One that does not have its hash any more is left out: it is then fetched.
    fn read_local(
        &mut self,
        place: &Place,
        wanted: &[(ChunkId, u64, u64)],
    ) -> Result<Vec<VerifiedChunk>, Unstaged> {
        let ids = self.fetcher.share.ids;
        let ranges: Vec<(u64, usize)> =
            wanted.iter().map(|(_, offset, len)| (*offset, *len as usize)).collect();
        let read = self.hands.read_ranges(place, &ranges);
        let bytes = match read {
            Ok(bytes) => bytes,
            // It is an optimisation: what cannot be read here is fetched.
            Err(_) => return Ok(Vec::new()),
        };
        Ok(wanted
            .iter()
            .zip(bytes)
            .filter_map(|((id, ..), bytes)| bytes.and_then(|bytes| ids.verify(*id, bytes).ok()))
            .collect())
    }
}

impl Small {
    fn want(&mut self, step: usize, extents: &[Extent]) {
        let mut offset = 0;
        for extent in extents {
            if let ExtentSource::Chunk { id, skip } = extent.source {
                let want = Want { step, offset, skip: skip as usize, len: extent.len as usize };
                self.wants.entry(id).or_default().push(want);
            }
            offset += extent.len;
        }
    }
}

/// Bytes of an extent that are written.
fn data_bytes(extent: &Extent) -> u64 {
    match extent.source {
        ExtentSource::Chunk { .. } => extent.len,
        ExtentSource::Hole => 0,
    }
}

/// Writes the part of a chunk that an extent names.
fn write(
    file: &mut Staged,
    offset: u64,
    chunk: &VerifiedChunk,
    skip: usize,
    len: usize,
) -> Result<(), Failure> {
    let part = chunk.bytes().get(skip..).and_then(|bytes| bytes.get(..len));
    let part = part.ok_or_else(|| Failure {
        class: FailureClass::Damaged,
        text: "an extent reaches beyond its chunk".into(),
    })?;
    file.write_at(offset, part).map_err(|error| failure(&error))
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Unstaged {
    Unstaged::Failed(Failure { class: FailureClass::Damaged, text: crate::status::chain(error).into() })
}

/// What a step builds, and the file on disk that has much of it.
fn content_of(act: &ApplyAct) -> Option<(&Content, Option<(&Place, &Content)>)> {
    match act {
        ApplyAct::Place { content, .. } => Some((content, None)),
        ApplyAct::Replace { content, base, at, .. } => Some((content, base.as_ref().map(|base| (at, base)))),
        _ => None,
    }
}

/// What must stand where a step puts something in its place.
fn replaced(act: &ApplyAct) -> Option<&Stamp> {
    match act {
        ApplyAct::Replace { expect, .. } => Some(expect),
        _ => None,
    }
}

/// The place that a step may displace something from, and whose it is.
fn displaces(step: &ApplyStep) -> Option<(NodeUid, (DirAt, Name))> {
    let (uid, at) = match &step.act {
        ApplyAct::Place { at, over: Some(over), .. } => (over.uid, at),
        ApplyAct::Replace { at, .. } | ApplyAct::Remove { at, .. } => (step.uid, at),
        _ => return None,
    };
    Some((uid, (dir_at(&at.dir), at.name.clone())))
}

fn meta_of(act: &ApplyAct) -> Option<(&Attrs, Timestamp)> {
    match act {
        ApplyAct::Place { attrs, mtime, .. } | ApplyAct::Replace { attrs, mtime, .. } => {
            Some((attrs, *mtime))
        }
        _ => None,
    }
}

fn place(at: &Place) -> polder_replica::Place {
    polder_replica::Place { dir: Arc::new(dir_at(&at.dir)), name: at.name.clone() }
}

fn over(over: &ApplyOver) -> Over {
    Over { uid: over.uid, expect: over.expect, to: over.to.as_ref().map(place) }
}

/// The step in `replica`'s words.
fn act(act: ApplyAct, staged: Option<Staged>) -> Act {
    let built = || staged.expect("what has a content was staged, or its step was left out");
    match act {
        ApplyAct::Place { at, over: what, .. } => {
            Act::Place { at: place(&at), staged: built(), over: what.as_ref().map(over) }
        }
        ApplyAct::Replace { at, expect, keep, .. } => {
            Act::Replace { at: place(&at), expect, staged: built(), keep: keep.as_ref().map(place) }
        }
        ApplyAct::Touch { at, kind, expect, attrs, mtime } => {
            Act::Touch { at: place(&at), kind, expect, attrs, mtime }
        }
        ApplyAct::Move { from, expect, to } => Act::Move { from: place(&from), expect, to: place(&to) },
        ApplyAct::Exchange { from, expect, to, expect_with } => {
            Act::Exchange { from: place(&from), expect, to: place(&to), expect_with }
        }
        ApplyAct::Remove { at, kind, expect } => Act::Remove { at: place(&at), kind, expect },
    }
}

fn translate(result: StepResult, held: &mut Vec<String>) -> ApplyResult {
    let entry = |found: Option<Found>| found.map(seen_entry);
    match result {
        StepResult::Done { now, other, unknown, exact } => {
            if let Some(polder_replica::Unknown::Held(name)) = &unknown {
                held.push(name.name().to_string());
            }
            ApplyResult::Done { now: entry(now), other: entry(other), exact }
        }
        StepResult::Refused { found } => ApplyResult::Refused { found: entry(found) },
        StepResult::Failed(error) => ApplyResult::Failed(failure(&error)),
        StepResult::Skipped => ApplyResult::Skipped,
    }
}
