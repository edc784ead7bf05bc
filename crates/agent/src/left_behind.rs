//! What is left on this machine when an endpoint has gone: placeholders become whole files again, by a manifest and by their marks.
//!
//! Needs neither the endpoint nor its state database nor an agent: the folder that nobody serves, and somebody who has the share's versions. What
//! counts as a placeholder of the folder is told by its mark alone ([`polder_replica::at_place`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use polder_api::left_behind::{Head, Left, Reader};
use polder_replica::{
    AtPlace, FsError, MarkedFile, Placeholder, Root, RootError, Walker, at_place, each_marked,
};
use polder_types::{Content, NodeUid, RelPath, ShareId, Timestamp};

const LOCK: &str = "no holder of this lock panics";
/// Files that are told of by name.
const LEFT_TOLD_MAX: usize = 1000;
/// Lines that are read ahead for each thread.
const LINES_A_THREAD: usize = 16;

/// Makes the folder of a tiered endpoint changeable again that nobody serves now, so that it can be removed like any other.
pub fn make_changeable(folder: &Path) -> Result<()> {
    if polder_gate::is_mounted(folder) {
        return Ok(());
    }
    polder_replica::unseal_at(folder).with_context(|| format!("make \"{}\" changeable", folder.display()))
}

/// Where bytes come from.
pub trait Versions: Sync {
    /// Gives the bytes of whichever version of a node has this content, from the first to the last, each verified to belong to it.
    fn fetch(
        &self,
        share: ShareId,
        node: NodeUid,
        content: &Content,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;

    /// So many bytes have come.
    fn moved(&self, bytes: u64);
}

/// A recall without an endpoint.
pub struct Recall<'a> {
    /// The list.
    pub manifest: &'a Path,
    /// Where files are written that have no placeholder any more; none: they are told of and left alone.
    pub into: Option<&'a Path>,
    /// Files at once.
    pub threads: usize,
    /// Where bytes come from.
    pub versions: &'a dyn Versions,
}

/// A file that was not brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftFile {
    /// Where it is, below the endpoint.
    pub path: RelPath,
    /// Why, in a sentence.
    pub reason: String,
}

/// What came of a recall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recalled {
    /// Placeholders that are whole files now.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Listed files that had all their bytes, or that a user has made anew: nothing was done about them.
    pub whole: u64,
    /// Listed files that were written into the other folder.
    pub written: u64,
    /// Listed files of which nothing is there any more.
    pub gone: u64,
    /// Placeholders and files that could not be brought.
    pub left_count: u64,
    /// The first of them.
    pub left: Vec<LeftFile>,
    /// Nothing is tiered there any more, and the folder is an ordinary one again.
    pub is_plain: bool,
    /// The list was cut off, or cannot be read on; what it lists before that was looked at.
    pub is_cut_off: bool,
}

/// Carries out a recall.
pub fn recall(options: &Recall<'_>) -> Result<Recalled> {
    let reader = open(options.manifest)?;
    let head = reader.head().clone();
    let root = match folder(&head) {
        Ok(root) => Some(root),
        Err(error) if options.into.is_some() => {
            tracing::info!(
                why = crate::status::sentence(error.chain()),
                "there is no folder with placeholders"
            );
            None
        }
        Err(error) => return Err(error),
    };
    let work = Work { options, head: &head, root: root.as_ref(), done: Done::default() };
    let missing = match work.root {
        Some(root) => {
            let missing = work.listed(reader, None)?;
            work.marked(root)?;
            Some(missing)
        }
        None => None,
    };
    match (options.into, &missing) {
        (Some(_), _) => drop(work.listed(open(options.manifest)?, Some(missing.as_ref()))?),
        (None, Some(missing)) => work.done.gone.store(missing.len() as u64, Ordering::Relaxed),
        (None, None) => (),
    }
    let mut recalled = work.done.recalled();
    if let Some(root) = root {
        recalled.is_plain = lay_back(&root)?;
    }
    Ok(recalled)
}

fn open(manifest: &Path) -> Result<Reader<BufReader<File>>> {
    let file = File::open(manifest).with_context(|| format!("open \"{}\"", manifest.display()))?;
    Reader::begin(BufReader::new(file)).with_context(|| format!("read \"{}\"", manifest.display()))
}

/// The endpoint's folder, if nobody serves it and it is still that endpoint's.
fn folder(head: &Head) -> Result<Root> {
    let path = PathBuf::from(OsStr::from_bytes(&head.path.0));
    if polder_gate::is_mounted(&path) {
        bail!(
            "\"{}\" is mounted: its agent brings files back (`polder recall`); end the agent if it was revoked, or take a dead mount away",
            path.display()
        );
    }
    let open = || Root::open(&path, head.endpoint);
    let root = match open() {
        Err(RootError::Unfinished { .. }) => {
            polder_replica::go_on(&path, &mut |_| true).context("go on with the folder's layout")?;
            open()
        }
        opened => opened,
    };
    let root = match root {
        Err(RootError::OtherEndpoint { found, .. }) => {
            bail!(
                "\"{}\" was taken over by the endpoint {found}, which brings files back (`polder recall`)",
                path.display()
            )
        }
        root => root.context("open the endpoint's folder")?,
    };
    let nonce: String = root.identity().nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        head.nonce.as_ref().is_none_or(|listed| *listed == nonce),
        "\"{}\" was taken in anew since the manifest was made: its marks are others",
        path.display()
    );
    Ok(root)
}

/// Whether the folder is an ordinary one: nothing in it is tiered any more.
fn lay_back(root: &Root) -> Result<bool> {
    if !root.is_tiered() {
        return Ok(true);
    }
    match polder_replica::ensure_unmarked(root) {
        Ok(()) => (),
        Err(RootError::NotForTiering { .. }) => return Ok(false),
        Err(error) => return Err(error).context("look for what is tiered still"),
    }
    polder_replica::lay_back(root, &mut |_| true).context("put the files back to where the mount was")?;
    Ok(true)
}

#[derive(Debug, Default)]
struct Done {
    files: AtomicU64,
    bytes: AtomicU64,
    whole: AtomicU64,
    written: AtomicU64,
    gone: AtomicU64,
    is_cut_off: std::sync::atomic::AtomicBool,
    left: Mutex<(u64, Vec<LeftFile>)>,
    /// Placeholders that failed under their listed name: they are not tried again by their marks.
    failed: Mutex<BTreeSet<RelPath>>,
    /// Nodes that were found under another name than their listed one.
    moved: Mutex<BTreeSet<NodeUid>>,
}

impl Done {
    fn left(&self, path: &RelPath, reason: String) {
        let mut left = self.left.lock().expect(LOCK);
        left.0 += 1;
        if left.1.len() < LEFT_TOLD_MAX {
            left.1.push(LeftFile { path: path.clone(), reason });
        }
    }

    fn recalled(&self) -> Recalled {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (left_count, left) = self.left.lock().expect(LOCK).clone();
        Recalled {
            files: count(&self.files),
            bytes: count(&self.bytes),
            whole: count(&self.whole),
            written: count(&self.written),
            gone: count(&self.gone),
            left_count,
            left,
            is_plain: false,
            is_cut_off: self.is_cut_off.load(Ordering::Relaxed),
        }
    }
}

struct Work<'a> {
    options: &'a Recall<'a>,
    head: &'a Head,
    root: Option<&'a Root>,
    done: Done,
}

/// Which lines are meant: those with these numbers, or all.
type Chosen<'a> = Option<&'a BTreeSet<u64>>;

impl Work<'_> {
    /// Goes through the list. First each line's placeholder is made whole: the numbers of the lines without one. Then, with `beside`, the chosen
    /// lines are written beside.
    fn listed(
        &self,
        mut reader: Reader<BufReader<File>>,
        beside: Option<Chosen<'_>>,
    ) -> Result<BTreeSet<u64>> {
        let missing: Mutex<BTreeSet<u64>> = Mutex::default();
        let (mut number, mut is_over) = (0u64, false);
        while !is_over {
            let mut batch = Vec::new();
            while batch.len() < LINES_A_THREAD * self.options.threads {
                match reader.next_file() {
                    Ok(Some(line)) => {
                        let is_chosen = beside.flatten().is_none_or(|chosen| chosen.contains(&number));
                        if is_chosen {
                            batch.push((number, line));
                        }
                        number += 1;
                    }
                    Ok(None) => {
                        is_over = true;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = crate::status::chain(&error),
                            "the manifest cannot be read on"
                        );
                        is_over = true;
                        break;
                    }
                }
            }
            self.each(&batch, &|walker, (number, line)| match (beside, walker) {
                (Some(_), _) => self.write_beside(line),
                (None, Some(walker)) => {
                    if !self.make_whole_listed(walker, line) {
                        missing.lock().expect(LOCK).insert(*number);
                    }
                }
                (None, None) => self.done.left(&line.path.0, "the folder cannot be looked at".to_owned()),
            });
        }
        if !reader.is_whole() {
            self.done.is_cut_off.store(true, Ordering::Relaxed);
        }
        Ok(missing.into_inner().expect(LOCK))
    }

    /// Does something with each of a batch, on several threads, each with a way through the folder of its own.
    fn each<T: Sync>(&self, batch: &[T], work: &(dyn Fn(Option<&mut Walker>, &T) + Sync)) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.options.threads.min(batch.len()) {
                scope.spawn(|| {
                    let mut walker = self.root.and_then(|root| Walker::new(root).ok());
                    while let Some(one) = batch.get(next.fetch_add(1, Ordering::Relaxed)) {
                        work(walker.as_mut(), one);
                    }
                });
            }
        });
    }

    /// `false`: there is no placeholder of ours at its path, and no whole file either.
    fn make_whole_listed(&self, walker: &mut Walker, line: &Left) -> bool {
        let Some(root) = self.root else { return false };
        let path = &line.path.0;
        match at_place(root, walker, path) {
            Ok(AtPlace::Whole) => {
                self.done.whole.fetch_add(1, Ordering::Relaxed);
                true
            }
            Ok(AtPlace::Placeholder(found)) => {
                // Its mark says what it is; the line tells which node has that by now.
                let nodes = match line.content().as_ref() == Some(&found.content) {
                    true => vec![line.node, found.pledge.node],
                    false => vec![found.pledge.node],
                };
                if let Err(why) = self.make_whole(root, &found, nodes) {
                    self.done.failed.lock().expect(LOCK).insert(path.clone());
                    self.done.left(path, why);
                }
                true
            }
            Ok(AtPlace::Gone | AtPlace::Orphan) => false,
            Err(error) => {
                self.done.failed.lock().expect(LOCK).insert(path.clone());
                self.done.left(path, crate::status::chain(&error));
                true
            }
        }
    }

    fn make_whole(&self, root: &Root, found: &Placeholder, mut nodes: Vec<NodeUid>) -> Result<(), String> {
        nodes.dedup();
        let mut outcome = Ok(());
        for node in nodes {
            let made = found.make_whole(
                root,
                &mut |sink| {
                    self.options.versions.fetch(self.head.share, node, &found.content, &mut |bytes| {
                        self.options.versions.moved(bytes.len() as u64);
                        Ok(sink(bytes)?)
                    })
                },
                &mut |_| true,
            );
            match made {
                Ok(()) => {
                    self.done.files.fetch_add(1, Ordering::Relaxed);
                    self.done.bytes.fetch_add(found.pledge.size, Ordering::Relaxed);
                    return Ok(());
                }
                Err(polder_replica::FillError::Source(error)) => {
                    outcome = Err(crate::status::sentence(error.chain()))
                }
                Err(error) => return Err(crate::status::chain(&error)),
            }
        }
        outcome
    }

    /// What still carries a mark: moved, or not in the list.
    fn marked(&self, root: &Root) -> Result<()> {
        let mut found: Vec<MarkedFile> = Vec::new();
        each_marked(root, &mut |file| -> Result<(), FsError> {
            if !self.done.failed.lock().expect(LOCK).contains(&file.path) {
                found.push(file);
            }
            Ok(())
        })
        .context("look for what the list does not name")?;
        self.each(&found, &|walker, file| {
            let Some(walker) = walker else { return };
            match at_place(root, walker, &file.path) {
                Ok(AtPlace::Placeholder(placeholder)) => {
                    let node = placeholder.pledge.node;
                    match self.make_whole(root, &placeholder, vec![node]) {
                        Ok(()) => drop(self.done.moved.lock().expect(LOCK).insert(node)),
                        Err(why) => self.done.left(&file.path, why),
                    }
                }
                Ok(AtPlace::Whole | AtPlace::Gone) => (),
                Ok(AtPlace::Orphan) => {
                    let why = "its mark is damaged or another file's: nobody knows what it stood for";
                    self.done.left(&file.path, why.to_owned());
                }
                Err(error) => self.done.left(&file.path, crate::status::chain(&error)),
            }
        });
        Ok(())
    }

    /// Writes a listed file beside, if nothing is there.
    fn write_beside(&self, line: &Left) {
        let Some(into) = self.options.into else { return };
        if self.done.moved.lock().expect(LOCK).contains(&line.node) {
            return;
        }
        match self.write_file(into, line) {
            Ok(true) => drop(self.done.written.fetch_add(1, Ordering::Relaxed)),
            Ok(false) => drop(self.done.whole.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.done.left(&line.path.0, crate::status::sentence(error.chain())),
        }
    }

    /// `false`: something is there already, and stays.
    fn write_file(&self, into: &Path, line: &Left) -> Result<bool> {
        let content = line.content().context("its line does not say what it stands for")?;
        let names = line.path.0.names();
        let target =
            names.iter().fold(into.to_owned(), |path, name| path.join(OsStr::from_bytes(name.as_bytes())));
        let (Some(folder), true) = (target.parent(), !names.is_empty()) else {
            bail!("its line names no file")
        };
        if target.symlink_metadata().is_ok() {
            return Ok(false);
        }
        fs::create_dir_all(folder).with_context(|| format!("make \"{}\"", folder.display()))?;
        // Named after its node: two that have one name after a cut do not meet.
        let part = folder.join(format!(".{}.polder-part", line.node));
        let _ = fs::remove_file(&part);
        let written = self.write_part(&part, &content, line).and_then(|()| {
            // A link never takes the place of what is there.
            fs::hard_link(&part, &target).with_context(|| format!("name \"{}\"", target.display()))
        });
        let _ = fs::remove_file(&part);
        written.map(|()| true)
    }

    fn write_part(&self, part: &Path, content: &Content, line: &Left) -> Result<()> {
        let options = &mut fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(part);
        let mut file = file.with_context(|| format!("make \"{}\"", part.display()))?;
        let mut came = 0;
        self.options.versions.fetch(self.head.share, line.node, content, &mut |bytes| {
            came += bytes.len() as u64;
            self.options.versions.moved(bytes.len() as u64);
            file.write_all(bytes).context("write")
        })?;
        ensure!(came == line.size, "{came} bytes came of {}", line.size);
        file.set_modified(system_time(line.mtime.0)).context("set its time")?;
        file.sync_all().context("make it durable")
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 { SystemTime::UNIX_EPOCH - secs } else { SystemTime::UNIX_EPOCH + secs };
    whole + Duration::from_nanos(u64::from(time.nanos))
}
