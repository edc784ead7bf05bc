//! The worker: the agent proper. Holds the endpoints, the session and the control socket together.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use polder_api::grpc::convert::Assignment;
use polder_engine::Unreachable;
use polder_types::{EndpointId, ShareId};
use tokio::runtime::Handle;

use crate::chunks::random;
use crate::endpoint::{Common, Endpoint, Input, Link};
use crate::tiered::Gates;
use crate::{Identity, StateDir, control, policy, session};

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The state folder.
    pub state: PathBuf,
}

/// A certificate that could not be renewed is tried again after so long.
const RENEWAL_RETRY: Duration = Duration::from_secs(600);

/// Runs until standard input ends, which it does when the holder wants it or dies. Returns the exit code.
pub async fn work(options: WorkerOptions) -> Result<i32> {
    let state = StateDir::open(&options.state)?;
    state.finish_renewal()?;
    let identity = match state.identity() {
        Ok(identity) => identity,
        Err(error) => {
            tracing::error!(error = crate::status::chain(&error), "this server has no identity");
            return Ok(crate::holder::EXIT_HOPELESS);
        }
    };
    tracing::info!(server = %identity.server_id, name = identity.server_name, "the agent starts");
    let hub = Arc::new(Hub::new(state, identity));
    hub.begin_tiered();
    let socket = control::listen(&hub).context("open the control socket")?;
    policy::start(&hub);
    let sessions = tokio::spawn(session::keep(Arc::clone(&hub)));
    let code = tokio::select! {
        () = end_of_input() => 0,
        () = hub.reload.notified() => control::EXIT_RELOAD,
    };
    sessions.abort();
    socket.abort();
    tokio::task::spawn_blocking(move || hub.end_all()).await.context("end the endpoints")?;
    Ok(code)
}

/// Standard input is read by a thread of its own: it blocks, and ends with the process.
async fn end_of_input() {
    let (to, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut room = [0; 64];
        while matches!(std::io::stdin().read(&mut room), Ok(read) if read > 0) {}
        drop(to);
    });
    let _ = ended.await;
}

/// Whether programs wait for an endpoint's mount: by its settings, or because its folder still is laid out so. Where a mount is, nothing is
/// looked at: nobody serves it yet.
pub(crate) fn is_tiered(assignment: &Assignment) -> bool {
    let path = crate::endpoint::path(assignment);
    let is_laid_out = |tree| path.join(".polder").join(tree).exists();
    assignment.tiering.enabled
        || polder_gate::is_mounted(&path)
        || ["tree", "tree.new", "tree.old"].into_iter().any(is_laid_out)
}

/// What the parts of a worker share.
#[derive(Debug)]
pub(crate) struct Hub {
    /// The state folder.
    pub state: StateDir,
    /// Who this server is.
    pub identity: Identity,
    /// Fresh for this process.
    pub process_nonce: [u8; 16],
    /// What the kernel calls itself.
    pub system: String,
    /// When this process started.
    pub started: SystemTime,
    /// Somebody wants the worker to be replaced.
    pub reload: tokio::sync::Notify,
    common: Common,
    endpoints: Mutex<BTreeMap<EndpointId, Arc<Endpoint>>>,
    /// The worker ends: no endpoint begins any more.
    is_ending: AtomicBool,
    link: Mutex<Option<Link>>,
    unreachable: Mutex<Option<Unreachable>>,
    renewal: Mutex<Renewal>,
}

/// The certificate's times, so that the identity is not read again and again.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    renew_at_unix_s: i64,
    expires_at_unix_s: i64,
    tried: Option<Instant>,
}

const LOCK: &str = "no holder of this lock panics";

impl Hub {
    fn new(state: StateDir, identity: Identity) -> Self {
        let common = Common {
            state: state.clone(),
            server_name: identity.server_name.as_str().into(),
            runtime: Handle::current(),
            gates: Arc::new(Gates::take()),
            paths: Arc::default(),
        };
        let renewal = Renewal {
            renew_at_unix_s: identity.renew_at_unix_s,
            expires_at_unix_s: identity.expires_at_unix_s,
            tried: None,
        };
        let system =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Self {
            state,
            identity,
            process_nonce: random(),
            system,
            started: SystemTime::now(),
            reload: tokio::sync::Notify::new(),
            common,
            endpoints: Mutex::default(),
            is_ending: AtomicBool::new(false),
            link: Mutex::default(),
            unreachable: Mutex::default(),
            renewal: Mutex::new(renewal),
        }
    }

    /// The endpoints as they are now.
    pub(crate) fn endpoints(&self) -> BTreeMap<EndpointId, Arc<Endpoint>> {
        self.endpoints.lock().expect(LOCK).clone()
    }

    /// Begins the tiered endpoints that this server had when it last heard of the service: programs wait for them, and the service
    /// may be out of reach.
    fn begin_tiered(&self) {
        let noted = match crate::noted::read(&self.state) {
            Ok(noted) => noted,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the noted endpoints cannot be read");
                return;
            }
        };
        let paths = noted.iter().map(|one| (one.endpoint, crate::endpoint::path(one)));
        *self.common.paths.lock().expect(LOCK) = paths.collect();
        let mut endpoints = self.endpoints.lock().expect(LOCK);
        for assignment in noted.into_iter().filter(is_tiered) {
            let id = assignment.endpoint;
            endpoints.insert(id, Arc::new(Endpoint::start(self.common.clone(), assignment)));
        }
    }

    /// Starts, changes and ends endpoints until they are those of the list.
    pub(crate) async fn assign(&self, assignments: Vec<Assignment>, link: &Link) {
        let wanted: BTreeSet<EndpointId> = assignments.iter().map(|assignment| assignment.endpoint).collect();
        let paths = assignments.iter().map(|one| (one.endpoint, crate::endpoint::path(one)));
        *self.common.paths.lock().expect(LOCK) = paths.collect();
        let mut gone = Vec::new();
        self.endpoints.lock().expect(LOCK).retain(|id, endpoint| {
            let stays = wanted.contains(id);
            if !stays {
                gone.push(Arc::clone(endpoint));
            }
            stays
        });
        // Those that go stay noted until they are gone: a worker that begins in between ends them, and what they leave on the way (a mount,
        // a folder that nobody may change).
        let going = gone.iter().map(|endpoint| (**endpoint.assignment.lock().expect(LOCK)).clone());
        self.note(&assignments.iter().cloned().chain(going).collect::<Vec<_>>());
        let is_over = !gone.is_empty();
        for endpoint in gone {
            let endpoint_id = endpoint.assignment.lock().expect(LOCK).endpoint;
            tracing::info!(endpoint = %endpoint_id, "the endpoint was removed from this server; its files stay");
            let _ = tokio::task::spawn_blocking(move || endpoint.remove()).await;
            if let Err(error) = self.state.wish_unmount(endpoint_id, false) {
                tracing::warn!(error = crate::status::chain(&error), "the wish to unmount it stays noted");
            }
        }
        if is_over {
            self.note(&assignments);
        }
        let mut endpoints = self.endpoints.lock().expect(LOCK);
        if self.is_ending.load(Ordering::Acquire) {
            return;
        }
        for assignment in assignments {
            match endpoints.get(&assignment.endpoint) {
                Some(endpoint) => endpoint.set(assignment),
                None => {
                    let id = assignment.endpoint;
                    let endpoint = Endpoint::start(self.common.clone(), assignment);
                    endpoint.tell(Input::Up(link.clone()));
                    endpoints.insert(id, Arc::new(endpoint));
                }
            }
        }
    }

    fn note(&self, assignments: &[Assignment]) {
        if let Err(error) = crate::noted::write(&self.state, assignments) {
            tracing::warn!(error = format!("{error:#}"), "the endpoints of this server cannot be noted");
        }
    }

    /// Tells every endpoint.
    pub(crate) fn tell_all(&self, input: impl Fn() -> Input) {
        self.endpoints.lock().expect(LOCK).values().for_each(|endpoint| endpoint.tell(input()));
    }

    /// Tells the endpoints of a share.
    pub(crate) fn tell_share(&self, share: ShareId, input: impl Fn() -> Input) {
        for endpoint in self.endpoints.lock().expect(LOCK).values() {
            if endpoint.assignment.lock().expect(LOCK).share == share {
                endpoint.tell(input());
            }
        }
    }

    /// Tells one endpoint. `false`: there is none.
    pub(crate) fn tell_endpoint(&self, id: EndpointId, input: impl Fn() -> Input) -> bool {
        match self.endpoints.lock().expect(LOCK).get(&id) {
            Some(endpoint) => {
                endpoint.tell(input());
                true
            }
            None => false,
        }
    }

    /// The session that stands.
    pub(crate) fn link(&self) -> Option<Link> {
        self.link.lock().expect(LOCK).clone()
    }

    /// A session stands, or is over.
    pub(crate) fn set_link(&self, link: Option<Link>) {
        *self.link.lock().expect(LOCK) = link;
    }

    /// Remembers why there is no session. `true`: that is news.
    pub(crate) fn set_unreachable(&self, why: Option<Unreachable>) -> bool {
        std::mem::replace(&mut *self.unreachable.lock().expect(LOCK), why.clone()) != why
    }

    /// Why there is no session, if there is none.
    pub(crate) fn unreachable(&self) -> Option<Unreachable> {
        self.unreachable.lock().expect(LOCK).clone()
    }

    /// Whether the certificate is to be renewed now. Says so once, and again after a while.
    pub(crate) fn renewal_is_due(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        let mut renewal = self.renewal.lock().expect(LOCK);
        let waits = renewal.tried.is_some_and(|at| at.elapsed() < RENEWAL_RETRY);
        let due = now >= renewal.renew_at_unix_s && !waits;
        if due {
            renewal.tried = Some(Instant::now());
        }
        due
    }

    /// The certificate was renewed.
    pub(crate) fn renewed(&self, identity: &Identity) {
        *self.renewal.lock().expect(LOCK) = Renewal {
            renew_at_unix_s: identity.renew_at_unix_s,
            expires_at_unix_s: identity.expires_at_unix_s,
            tried: None,
        };
    }

    /// When the certificate ends.
    pub(crate) fn certificate_expires_unix_s(&self) -> i64 {
        self.renewal.lock().expect(LOCK).expires_at_unix_s
    }

    /// Resident memory of this process.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        pages * 4096
    }

    fn end_all(&self) {
        let endpoints = {
            let mut endpoints = self.endpoints.lock().expect(LOCK);
            self.is_ending.store(true, Ordering::Release);
            std::mem::take(&mut *endpoints)
        };
        // All are told before any is waited for.
        endpoints.values().for_each(|endpoint| endpoint.tell(Input::End));
        endpoints.values().for_each(|endpoint| endpoint.end());
    }
}
