//! Server endpoints: their settings, and what was last heard of them.

use polder_types::{
    BatchNo, Cursor, EndpointId, Escaped, GroupId, InstanceId, NodeUid, RelPath, ServerId, ShareId, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::names::ParseError;
use super::rows::{self, Object, Rows, Table};
use super::{
    Acting, AuditNote, Control, ControlError, Glob, Group, NewFiles, OlderThan, Percent, ProgramRule,
    RULES_MAX, Server, TierRule, audit,
};

/// Longest path of an endpoint (Linux: `PATH_MAX`).
const PATH_BYTES_MAX: usize = 4095;
/// Most patterns of one endpoint.
pub const EXCLUDES_MAX: usize = 1000;

/// Absolute path of an endpoint's root on its server; not `/` itself, without `.`, `..` and empty components.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "PathText", into = "PathText")]
pub struct ServerPath(RelPath);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

impl ServerPath {
    /// Parses a path from outside. Extra slashes are dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let fail = || {
            ParseError::new(
                Escaped(bytes),
                "an absolute path below \"/\" without \".\" and \"..\", of at most 4,095 bytes",
            )
        };
        if bytes.first() != Some(&b'/') || bytes.len() > PATH_BYTES_MAX {
            return Err(fail());
        }
        let path = RelPath::parse(bytes).map_err(|_| fail())?;
        if path.names().is_empty() { Err(fail()) } else { Ok(Self(path)) }
    }

    /// The bytes, with one slash before each name.
    pub fn to_bytes(&self) -> Vec<u8> {
        [b"/", &self.0.to_bytes()[..]].concat()
    }

    /// Whether one of the two lies in the other or is it.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.names().iter().zip(other.0.names()).all(|(one, two)| one == two)
    }
}

impl std::fmt::Display for ServerPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Escaped(&self.to_bytes()).fmt(f)
    }
}

impl TryFrom<PathText> for ServerPath {
    type Error = ParseError;
    fn try_from(text: PathText) -> Result<Self, ParseError> {
        match text {
            PathText::Text(text) => Self::parse(text.as_bytes()),
            PathText::Bytes(bytes) => Self::parse(&bytes),
        }
    }
}

impl From<ServerPath> for PathText {
    fn from(path: ServerPath) -> Self {
        String::from_utf8(path.to_bytes()).map_or_else(|bad| Self::Bytes(bad.into_bytes()), Self::Text)
    }
}

/// How a new endpoint gets what the share holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitialDownload {
    /// Names, and never content by itself. Needs tiering.
    NamespaceOnly,
    /// Names first, then content. Needs tiering.
    NamespaceFirst,
    /// Each name appears with its whole content.
    #[default]
    Full,
}

/// What happens to what a new endpoint's folder holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitialUpload {
    /// Joined with the share's; differences are kept beside each other.
    #[default]
    Merge,
    /// The folder decides: the share becomes like it.
    Authoritative,
}

/// The mass-change brake: more than max(`count_min`, min(`count_max`, the part of the endpoint's items)) deletions,
/// overwrites or renames of others' items within the window are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// Whether it works.
    pub enabled: bool,
    /// Length of the window in seconds.
    pub window_secs: u32,
    /// So many pass in any case.
    pub count_min: u64,
    /// More never pass.
    pub count_max: u64,
    /// Hundredths of a percent of the endpoint's items.
    pub items_basis_points: u32,
}

impl Default for Brake {
    /// `docs/defaults.md`.
    fn default() -> Self {
        Self { enabled: true, window_secs: 600, count_min: 100, count_max: 1000, items_basis_points: 100 }
    }
}

/// What a person can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSettings {
    /// Whether cold files may be tiered.
    pub tiering: bool,
    /// Free space that is kept on the volume; for tiering.
    pub free_space: Percent,
    /// What nobody touched for so long is tiered.
    pub older_than: Option<OlderThan>,
    /// Most bytes of content that are kept.
    pub cache_quota_bytes: Option<u64>,
    /// Smallest file that is tiered, where somebody wants it larger than the default.
    #[serde(default)]
    pub file_bytes_min: Option<u64>,
    /// How files arrive that were made or changed elsewhere.
    #[serde(default)]
    pub new_files: NewFiles,
    /// Rules about single files; the first that fits decides.
    #[serde(default)]
    pub tier_rules: Vec<TierRule>,
    /// Rules about programs.
    #[serde(default)]
    pub program_rules: Vec<ProgramRule>,
    /// Used once.
    pub initial_download: InitialDownload,
    /// Used once.
    pub initial_upload: InitialUpload,
    /// Names that are left alone, besides the skip list.
    pub excludes: Vec<Glob>,
    /// Whether the product's skip list is in force.
    pub default_excludes: bool,
    /// Whether setuid, setgid and further `security.*` attributes are applied here.
    pub privileges: bool,
    /// Whether sync rests until somebody resumes it.
    pub paused: bool,
    /// The mass-change brake.
    pub brake: Brake,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            tiering: false,
            free_space: Percent::DEFAULT_FREE_SPACE,
            older_than: None,
            cache_quota_bytes: None,
            file_bytes_min: None,
            new_files: NewFiles::default(),
            tier_rules: Vec::new(),
            program_rules: Vec::new(),
            initial_download: InitialDownload::default(),
            initial_upload: InitialUpload::default(),
            excludes: Vec::new(),
            default_excludes: true,
            privileges: false,
            paused: false,
            brake: Brake::default(),
        }
    }
}

/// An answer to the brake, waiting for the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Lets go what is held.
    Accept,
    /// Throws it back.
    Revert,
}

/// What an endpoint left behind that ended without a recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Files and bytes that were tiered; none where the agent could not tell.
    pub count: Option<(u64, u64)>,
    /// When.
    pub at: Timestamp,
}

/// A server endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// For ever.
    pub id: EndpointId,
    /// The sync group that it is in.
    pub group: GroupId,
    /// The server that it is on.
    pub server: ServerId,
    /// Its root there.
    pub path: ServerPath,
    /// What a person can set.
    pub settings: EndpointSettings,
    /// Counts changes of the settings, so that an agent knows whether its own are the latest.
    pub revision: u64,
    /// Whether somebody ordered its end: the agent lets go of the folder, then the row is removed.
    pub deleting: bool,
    /// Whether its end does without a recall.
    #[serde(default)]
    pub force: bool,
    /// What it left on its server as names alone when it ended so: nobody follows it any more, and its pin holds what they stand for.
    #[serde(default)]
    pub left_behind: Option<LeftBehind>,
    /// An order that the agent has not confirmed.
    pub release: Option<Release>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Object for Endpoint {
    const TABLE: Table = Table::Endpoint;
    fn key(&self) -> Vec<u8> {
        self.id.0.to_vec()
    }
    fn name(&self) -> Option<String> {
        // What has left its server is not in the way of another one there.
        self.left_behind.is_none().then(|| format!("{}:{}", self.server, self.path))
    }
    fn parent(&self) -> Option<Vec<u8>> {
        Some(self.group.0.to_vec())
    }
    fn shown(&self) -> String {
        self.id.to_string()
    }
}

/// What was last heard of an endpoint: enough to notice a clone or a rolled-back agent, and to answer for it while it
/// is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointProgress {
    /// Which one.
    pub endpoint: EndpointId,
    /// The life of its state database.
    pub instance: Option<InstanceId>,
    /// The last opening that was accepted: a chain that a copied state cannot continue.
    pub opening: Option<InstanceId>,
    /// The agent's process that made it: tells a second agent from a restart.
    #[serde(default)]
    pub process: Option<InstanceId>,
    /// Two agents were seen with its identity.
    pub cloned: bool,
    /// Why the service has stopped it, until a person has acted.
    pub stopped_why: Option<String>,
    /// Whether its disk takes names that differ only in case for one, as the agent found.
    pub disk_folds_case: Option<bool>,
    /// The lowest batch number that it may still use.
    pub next_batch: BatchNo,
    /// How far it has applied the share's history.
    pub cursor: Option<Cursor>,
    /// When it was last heard.
    pub seen_at: Option<Timestamp>,
    /// Its last report, in the contract's form; opaque here.
    pub report: Option<serde_json::Value>,
}

impl EndpointProgress {
    fn unknown(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            instance: None,
            opening: None,
            process: None,
            cloned: false,
            stopped_why: None,
            disk_folds_case: None,
            next_batch: BatchNo::default(),
            cursor: None,
            seen_at: None,
            report: None,
        }
    }
}

impl Object for EndpointProgress {
    const TABLE: Table = Table::Progress;
    fn key(&self) -> Vec<u8> {
        self.endpoint.0.to_vec()
    }
    fn shown(&self) -> String {
        self.endpoint.to_string()
    }
}

/// Where an endpoint instance was. Outlives its endpoint: history names instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Instance {
    instance: InstanceId,
    endpoint: EndpointId,
    server: ServerId,
}

impl Object for Instance {
    const TABLE: Table = Table::Instance;
    fn key(&self) -> Vec<u8> {
        self.instance.0.to_vec()
    }
    fn parent(&self) -> Option<Vec<u8>> {
        Some(self.endpoint.0.to_vec())
    }
    fn shown(&self) -> String {
        self.instance.to_string()
    }
}

/// A conflict copy that somebody looked at and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct KeptCopy {
    share: ShareId,
    node: NodeUid,
}

impl Object for KeptCopy {
    const TABLE: Table = Table::KeptCopy;
    fn key(&self) -> Vec<u8> {
        [self.share.0, self.node.0].concat()
    }
    fn parent(&self) -> Option<Vec<u8>> {
        Some(self.share.0.to_vec())
    }
    fn shown(&self) -> String {
        self.node.to_string()
    }
}

impl Control {
    /// The server that an endpoint instance was on, if it was ever heard of.
    pub fn server_of_instance(&self, instance: InstanceId) -> Result<Option<Server>, ControlError> {
        self.read(|rows| match rows::get::<Instance>(rows, &instance.0)? {
            Some(known) => rows::get(rows, &known.server.0),
            None => Ok(None),
        })
    }

    /// Notes that a conflict copy is to stay beside its original: it is no conflict any more.
    pub fn keep_copy(
        &self,
        acting: &Acting,
        share: ShareId,
        node: NodeUid,
        path: &RelPath,
    ) -> Result<(), ControlError> {
        self.write(|rows| {
            rows::put(rows, &KeptCopy { share, node })?;
            audit::append(rows, acting, &AuditNote::new("conflict.keep", path, format!("node {node}")))?;
            Ok(())
        })
    }

    /// Whether a conflict copy was kept on purpose.
    pub fn is_kept_copy(&self, share: ShareId, node: NodeUid) -> Result<bool, ControlError> {
        let key = KeptCopy { share, node }.key();
        self.read(|rows| Ok(rows.get(Table::KeptCopy, &key)?.is_some()))
    }

    /// A new endpoint. Refused when the group or the trusted server is missing, the path overlaps another endpoint
    /// of the server, or the settings do not go together.
    pub fn create_endpoint(&self, acting: &Acting, endpoint: &Endpoint) -> Result<(), ControlError> {
        self.write(|rows| {
            let (group, server) = ensure_creatable(rows, endpoint)?;
            rows::insert(rows, endpoint)?;
            let detail = format!("group {} server {} path {}", group.name, server.name, endpoint.path);
            audit::append(rows, acting, &AuditNote::new("endpoint.create", endpoint.id, detail))?;
            Ok(())
        })
    }

    /// Makes the checks of [`Control::create_endpoint`] and nothing else.
    pub fn ensure_endpoint_creatable(&self, endpoint: &Endpoint) -> Result<(), ControlError> {
        self.read(|rows| ensure_creatable(rows, endpoint).map(drop))
    }

    /// An endpoint.
    pub fn endpoint(&self, id: EndpointId) -> Result<Option<Endpoint>, ControlError> {
        self.read(|rows| rows::get(rows, &id.0))
    }

    /// A page of endpoints in order of their ids; of one group where one is given.
    pub fn endpoints(
        &self,
        group: Option<GroupId>,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, ControlError> {
        let (group, after) = (group.as_ref().map(|id| &id.0[..]), after.as_ref().map(|id| &id.0[..]));
        self.read(|rows| rows::list(rows, group, after, limit))
    }

    /// Every endpoint.
    pub fn all_endpoints(&self) -> Result<Vec<Endpoint>, ControlError> {
        self.read(|rows| rows::all(rows, None))
    }

    /// Changes settings; the revision moves on. Initial modes have been used and stay.
    pub fn set_endpoint(
        &self,
        acting: &Acting,
        id: EndpointId,
        mut change: impl FnMut(&mut EndpointSettings),
    ) -> Result<Endpoint, ControlError> {
        self.change(acting, &id.0, "endpoint.set", |endpoint: &mut Endpoint| {
            let before = endpoint.settings.clone();
            change(&mut endpoint.settings);
            // How it began does not stand against the end of tiering: what comes later comes whole.
            endpoint.settings.initial_download = match endpoint.settings.tiering {
                true => before.initial_download,
                false => InitialDownload::Full,
            };
            endpoint.settings.initial_upload = before.initial_upload;
            ensure_valid(&endpoint.settings)?;
            endpoint.revision += 1;
            // What was set, as a document: the log must be able to tell what was in force at any time.
            Ok(serde_json::to_string(&endpoint.settings).unwrap_or_default())
        })
    }

    /// Orders the end of an endpoint, with `force` without a recall; the agent confirms by [`Control::forget_endpoint`] or
    /// [`Control::leave_endpoint`]. An order with force stays one. Refused when it has ended so already.
    pub fn delete_endpoint(
        &self,
        acting: &Acting,
        id: EndpointId,
        force: bool,
    ) -> Result<Endpoint, ControlError> {
        self.change(acting, &id.0, "endpoint.delete", |endpoint: &mut Endpoint| {
            if endpoint.left_behind.is_some() {
                return Err(ControlError::Refused("the endpoint has left its server already".into()));
            }
            endpoint.deleting = true;
            endpoint.force |= force;
            endpoint.revision += 1;
            Ok(if endpoint.force {
                format!("{} without a recall", endpoint.path)
            } else {
                endpoint.path.to_string()
            })
        })
    }

    /// The agent has let go of an endpoint without a recall. The row stays, and so does what it pins, until somebody forgets it.
    pub fn leave_endpoint(
        &self,
        acting: &Acting,
        id: EndpointId,
        left: LeftBehind,
    ) -> Result<Endpoint, ControlError> {
        self.change(acting, &id.0, "endpoint.left_behind", |endpoint: &mut Endpoint| {
            (endpoint.deleting, endpoint.force) = (false, false);
            endpoint.left_behind = Some(left);
            endpoint.revision += 1;
            Ok(match left.count {
                Some((files, bytes)) => format!("{} files, {bytes} bytes at {}", files, endpoint.path),
                None => format!("unknown at {}", endpoint.path),
            })
        })
    }

    /// Removes an endpoint: the agent has let go of it, or its server will never come back.
    pub fn forget_endpoint(&self, acting: &Acting, id: EndpointId) -> Result<(), ControlError> {
        self.write(|rows| {
            let endpoint: Endpoint = rows::need(rows, &id.0)?;
            rows.delete(Table::Endpoint, &id.0)?;
            rows.delete(Table::Progress, &id.0)?;
            audit::append(rows, acting, &AuditNote::new("endpoint.forget", id, &endpoint.path))?;
            Ok(())
        })
    }

    /// Orders what happens to what the brake holds.
    pub fn release_endpoint(
        &self,
        acting: &Acting,
        id: EndpointId,
        release: Release,
    ) -> Result<Endpoint, ControlError> {
        self.change(acting, &id.0, "endpoint.release", |endpoint: &mut Endpoint| {
            endpoint.release = Some(release);
            endpoint.revision += 1;
            Ok(format!("{release:?}"))
        })
    }

    /// The agent has carried out the order of this revision; a newer one stays.
    pub fn release_done(&self, acting: &Acting, id: EndpointId, revision: u64) -> Result<(), ControlError> {
        self.change(acting, &id.0, "endpoint.released", |endpoint: &mut Endpoint| {
            if endpoint.revision <= revision {
                endpoint.release = None;
            }
            Ok(format!("revision {revision}"))
        })
        .map(drop)
    }

    /// What was last heard of an endpoint.
    pub fn progress(&self, id: EndpointId) -> Result<EndpointProgress, ControlError> {
        Ok(self.read(|rows| rows::get(rows, &id.0))?.unwrap_or_else(|| EndpointProgress::unknown(id)))
    }

    /// Reads and changes what was last heard in one transaction, so that two agents with one identity cannot both
    /// pass a check made by `change`. Not audited; `change` may refuse.
    pub fn update_progress<T>(
        &self,
        id: EndpointId,
        mut change: impl FnMut(&mut EndpointProgress) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        self.write(|rows| {
            let endpoint: Endpoint = rows::need(rows, &id.0)?;
            let mut progress = rows::get(rows, &id.0)?.unwrap_or_else(|| EndpointProgress::unknown(id));
            let before = progress.instance;
            let out = change(&mut progress)?;
            progress.endpoint = id;
            if let Some(instance) = progress.instance.filter(|_| progress.instance != before) {
                rows::put(rows, &Instance { instance, endpoint: id, server: endpoint.server })?;
            }
            rows::put(rows, &progress)?;
            Ok(out)
        })
    }
}

fn ensure_creatable(rows: &dyn Rows, endpoint: &Endpoint) -> Result<(Group, Server), ControlError> {
    ensure_valid(&endpoint.settings)?;
    let group: Group = rows::need(rows, &endpoint.group.0)?;
    let server: Server = rows::need(rows, &endpoint.server.0)?;
    if !server.is_trusted() {
        return Err(ControlError::Refused(format!("the server \"{}\" is revoked", server.name)));
    }
    ensure_apart(rows, endpoint)?;
    Ok((group, server))
}

fn ensure_valid(settings: &EndpointSettings) -> Result<(), ControlError> {
    let refuse = |text: &str| Err(ControlError::Refused(text.to_owned()));
    if !settings.tiering && settings.initial_download != InitialDownload::Full {
        return refuse(
            "an initial download of names only needs cloud tiering: choose \"full\", or turn tiering on",
        );
    }
    if settings.excludes.len() > EXCLUDES_MAX {
        return refuse("an endpoint has at most 1,000 patterns");
    }
    if settings.tier_rules.len() > RULES_MAX || settings.program_rules.len() > RULES_MAX {
        return refuse("an endpoint has at most 200 rules about files and 200 about programs");
    }
    Ok(())
}

/// One folder follows one share: an endpoint inside another would carry files from share to share for ever.
fn ensure_apart(rows: &dyn Rows, endpoint: &Endpoint) -> Result<(), ControlError> {
    let others = rows::all::<Endpoint>(rows, None)?;
    let clash = others.iter().find(|other| {
        other.server == endpoint.server
            && other.id != endpoint.id
            && other.left_behind.is_none()
            && other.path.overlaps(&endpoint.path)
    });
    match clash {
        None => Ok(()),
        Some(other) => Err(ControlError::Refused(format!(
            "the path {} overlaps the endpoint {} at {} on the same server",
            endpoint.path, other.id, other.path
        ))),
    }
}
