//! The endpoint's disk: what `replica` needs to be called, and its words turned into the engine's.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use polder_api::grpc::convert::{Assignment, InitialDownload, NewFiles};
use polder_engine::{Dir, Failure, FailureClass, Look, LookAt, LookFound, Place, SeenEntry};
use polder_replica::{
    AttrPolicy, Attributes, DirAt, ErrorClass, Found, FsError, Owners, Piece, Read, ReadOptions, Recycle,
    Root, Staging, Walker,
};
use polder_sync::{Filter, StandsFor};
use polder_types::{Content, Name, Stamp};

use crate::tiered::{Known, Tiered, may_be_placeholder};

/// What all threads of an endpoint share of its disk.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The root, open and locked.
    pub root: Arc<Root>,
    /// Where files are built.
    pub staging: Staging,
    /// Where displaced files lie.
    pub recycle: Arc<Recycle>,
    /// Bytes that lie there, as of the last look.
    pub recycled_bytes: AtomicU64,
    /// Which names are left out; settings may change it.
    pub filter: RwLock<Arc<Filter>>,
    /// For conflict names.
    pub server_name: Box<str>,
    /// Which attributes are taken and applied.
    pub policy: AttrPolicy,
    /// Names of owners here.
    pub owners: Arc<Owners>,
    /// Where the endpoint tiers: its files, and the gate in front of them.
    pub tiered: Option<Tiered>,
    /// Whether what comes from the share arrives as placeholders.
    arrives_tiered: AtomicBool,
}

/// One thread's way into the tree.
#[derive(Debug)]
pub(crate) struct Hands {
    root: Arc<Root>,
    walker: Option<Walker>,
    /// Reads and applies attributes.
    pub attributes: Attributes,
    /// What files hold that were recalled and did not change since.
    known: Option<Arc<Known>>,
}

impl Disk {
    /// The disk of an endpoint whose root was proven.
    pub(crate) fn new(
        root: Arc<Root>,
        policy: AttrPolicy,
        filter: Arc<Filter>,
        server_name: &str,
        tiered: Option<Tiered>,
    ) -> Result<Self, polder_replica::RootError> {
        let staging = Staging::open(&root)?;
        let recycle = Recycle::open(&root)?;
        let owners = Arc::default();
        Ok(Self {
            root,
            staging,
            recycle,
            recycled_bytes: AtomicU64::new(0),
            filter: RwLock::new(filter),
            server_name: server_name.into(),
            policy,
            owners,
            tiered,
            arrives_tiered: AtomicBool::new(false),
        })
    }

    /// A way into the tree for one thread.
    pub(crate) fn hands(&self) -> Hands {
        Hands {
            root: Arc::clone(&self.root),
            walker: None,
            attributes: Attributes::new(self.policy, Arc::clone(&self.owners)).with_marks_of(&self.root),
            known: self.tiered.as_ref().map(Tiered::known),
        }
    }

    /// What was seen, with what is known of a file that was recalled.
    pub(crate) fn seen(&self, found: Found) -> SeenEntry {
        known_entry(found, self.tiered.as_ref().map(Tiered::known).as_deref())
    }

    /// Takes from the endpoint's settings whether new files arrive as placeholders; `is_first` is the first download.
    pub(crate) fn set_arrivals(&self, assignment: &Assignment, is_first: bool) {
        let wanted = match is_first {
            true => assignment.initial_download != InitialDownload::Full,
            false => assignment.tiering.new_files == NewFiles::Tiered,
        };
        let tiered = assignment.tiering.enabled && wanted;
        self.arrives_tiered.store(tiered && self.root.is_tiered(), Ordering::Release);
    }

    /// Whether a content arrives as a placeholder; `over` is what stands in its place. A new version of a placeholder is one, too.
    pub(crate) fn arrives_tiered(&self, content: &Content, over: Option<&Stamp>) -> bool {
        let wanted = self.arrives_tiered.load(Ordering::Acquire) && over.is_none();
        let follows = over.is_some_and(polder_replica::is_stamp_of_mark) && self.root.is_tiered();
        let takes = self.tiered.as_ref().is_some_and(Tiered::takes_arrivals);
        takes && (wanted || follows) && may_be_placeholder(content)
    }

    /// The filter of now.
    pub(crate) fn filter(&self) -> Arc<Filter> {
        Arc::clone(&self.filter.read().expect("no holder of this lock panics"))
    }

    /// Makes everything on the volume durable.
    pub(crate) fn make_durable(&self) -> Result<(), FsError> {
        self.root.make_durable()
    }
}

impl Hands {
    /// Calls `run` with the walker. A way that was walked before somebody moved a directory on it leads elsewhere; so
    /// what is not found is tried once more from the root.
    pub(crate) fn walk<T>(
        &mut self,
        mut run: impl FnMut(&mut Walker, &mut Attributes) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let fresh = self.walker.is_none();
        let walker = match &mut self.walker {
            Some(walker) => walker,
            none => none.insert(Walker::new(&self.root)?),
        };
        match run(walker, &mut self.attributes) {
            Err(error) if !fresh && matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked) => {
                walker.forget();
                run(walker, &mut self.attributes)
            }
            outcome => outcome,
        }
    }

    /// Reads a file; see [`polder_replica::read`].
    pub(crate) fn read(
        &mut self,
        at: &Place,
        options: ReadOptions<'_>,
        consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Read, FsError> {
        let dir = dir_at(&at.dir);
        self.walk(|walker, attributes| {
            polder_replica::read(walker, attributes, &dir, &at.name, options, consume)
        })
    }

    /// Reads ranges of a file that stands at a place; `None` for one that is shorter now.
    pub(crate) fn read_ranges(
        &mut self,
        at: &Place,
        ranges: &[(u64, usize)],
    ) -> Result<Vec<Option<Vec<u8>>>, FsError> {
        let dir = dir_at(&at.dir);
        self.walk(|walker, _| polder_replica::read_ranges(walker, &dir, &at.name, ranges))
    }

    /// Looks at places, those of one directory together. An answer "nothing" stands only if the root is still ours
    /// afterwards (promise I5).
    pub(crate) fn look(&mut self, places: &[LookAt]) -> Vec<Look> {
        let mut looks = Vec::with_capacity(places.len());
        for same_dir in
            places.chunk_by(|one, other| Arc::ptr_eq(&one.dir, &other.dir) || one.dir == other.dir)
        {
            self.look_in(&same_dir[0].dir, same_dir, &mut looks);
        }
        let any_missing = looks.iter().any(|look| matches!(look.found, LookFound::Nothing));
        if any_missing && self.root.check().is_err() {
            for look in &mut looks {
                if matches!(look.found, LookFound::Nothing) {
                    look.found = LookFound::DirGone;
                }
            }
        }
        looks
    }

    fn look_in(&mut self, dir: &Dir, places: &[LookAt], looks: &mut Vec<Look>) {
        let at = dir_at(dir);
        let ident = dir.ident.unwrap_or_default();
        let names: Vec<Name> = places.iter().filter_map(|place| place.name.clone()).collect();
        if names.len() < places.len() {
            let found = self.walk(|walker, attributes| polder_replica::look_dir(walker, attributes, &at));
            looks.push(Look { dir: ident, name: None, found: dir_found(dir, found) });
        }
        if names.is_empty() {
            return;
        }
        match self.walk(|walker, attributes| polder_replica::look(walker, attributes, &at, &names)) {
            Ok(found) => looks.extend(names.into_iter().zip(found).map(|(name, look)| Look {
                dir: ident,
                name: Some(name),
                found: look_found(look, self.known.as_deref()),
            })),
            Err(error) => looks.extend(names.into_iter().map(|name| Look {
                dir: ident,
                name: Some(name),
                found: dir_failed(&error),
            })),
        }
    }

    /// Looks at the root directory itself.
    pub(crate) fn look_at_root(&mut self) -> Result<polder_engine::RootSeen, FsError> {
        let root = DirAt { path: polder_types::RelPath::root(), ident: None };
        let (stamp, (attrs, _)) =
            self.walk(|walker, attributes| polder_replica::look_dir(walker, attributes, &root))?;
        Ok(polder_engine::RootSeen { stamp, attrs })
    }
}

/// A directory as `replica` finds it.
pub(crate) fn dir_at(dir: &Dir) -> DirAt {
    DirAt { path: dir.path.clone(), ident: dir.ident }
}

fn look_found(look: polder_replica::Look, known: Option<&Known>) -> LookFound {
    match look {
        polder_replica::Look::Found(found) => LookFound::Entry(known_entry(found, known)),
        polder_replica::Look::Absent => LookFound::Nothing,
        polder_replica::Look::Failed(error) => LookFound::Failed(failure(&error)),
        polder_replica::Look::Mount => LookFound::Failed(Failure {
            class: FailureClass::Unsupported,
            text: "another file system is mounted here: it is not crossed".into(),
        }),
    }
}

fn dir_found(
    dir: &Dir,
    found: Result<(polder_types::Stamp, (Arc<polder_types::Attrs>, polder_types::AttrsHash)), FsError>,
) -> LookFound {
    match found {
        // The root has no name; whoever asks for it knows.
        Ok((stamp, (attrs, _))) => {
            let name = dir.path.names().last().cloned();
            let name = name.unwrap_or_else(|| Name::parse(b"root").expect("a plain name"));
            let seen = polder_sync::Seen { name, kind: Some(polder_types::Kind::Directory), stamp, links: 1 };
            LookFound::Entry(SeenEntry { seen, attrs, target: None, stands_for: None })
        }
        Err(error) => dir_failed(&error),
    }
}

fn dir_failed(error: &FsError) -> LookFound {
    match error.class {
        ErrorClass::Gone | ErrorClass::Blocked => LookFound::DirGone,
        _ => LookFound::Failed(failure(error)),
    }
}

/// What was found, in the engine's words. Special files have no attributes that anybody asks for.
pub(crate) fn seen_entry(found: Found) -> SeenEntry {
    let attrs = found.attrs.map(|(attrs, _)| attrs).unwrap_or_default();
    SeenEntry { seen: found.seen, attrs, target: found.target, stands_for: found.stands_for }
}

/// As [`seen_entry`]; a file that looks as it did when it was recalled holds what it held then.
fn known_entry(found: Found, known: Option<&Known>) -> SeenEntry {
    let mut entry = seen_entry(found);
    if let (None, Some(known)) = (&entry.stands_for, known) {
        let content = known.content(&entry.seen.stamp);
        entry.stands_for = content.map(|content| Box::new(StandsFor { content, version: None }));
    }
    entry
}

/// A failed system call in the engine's words.
pub(crate) fn failure(error: &FsError) -> Failure {
    let class = match error.class {
        ErrorClass::NoSpace => FailureClass::NoSpace,
        ErrorClass::Quota => FailureClass::DiskQuota,
        ErrorClass::ReadOnly => FailureClass::ReadOnly,
        ErrorClass::Permission => FailureClass::Denied,
        ErrorClass::Io => FailureClass::Io,
        ErrorClass::TooLong | ErrorClass::Unsupported => FailureClass::Unsupported,
        ErrorClass::NotHere => FailureClass::NotHere,
        ErrorClass::Exhausted => FailureClass::Exhausted,
        ErrorClass::Busy
        | ErrorClass::Gone
        | ErrorClass::Exists
        | ErrorClass::NotEmpty
        | ErrorClass::Blocked
        | ErrorClass::Other => FailureClass::Other,
    };
    let source = crate::status::chain(&error.source);
    Failure { class, text: format!("{}: {source}", error.doing).into() }
}
