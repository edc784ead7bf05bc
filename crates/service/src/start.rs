//! Starting and stopping a service process.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use polder_metadata::control::{Control, ObjectName, Role, SqliteRows};
use polder_packstore::PackStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::agents::Agents;
use crate::clock::{OBSERVE_EVERY, ServiceClock};
use crate::config::{Objects, ServiceConfig};
use crate::packs::TreeCache;
use crate::rest::{self, Rest};
use crate::room::Room;
use crate::shares::Shares;
use crate::state::{Inner, ServiceState};
use crate::trust::{SecretFile, Trust, read_or_make, server_tls};
use crate::work::{self, Work};
use crate::{metric, room, server};

/// How often the server's certificate is looked at; it is made anew a month before it ends.
const RENEW_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Runs a service until `shutdown` is ready, then stops it in order.
pub async fn run(config: ServiceConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let service = Service::start(config).await?;
    shutdown.await;
    service.stop().await;
    Ok(())
}

/// A service that runs. Dropping it stops it without waiting; [`Service::stop`] waits.
pub struct Service {
    address: SocketAddr,
    state: ServiceState,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    working: Vec<JoinHandle<()>>,
}

impl Service {
    /// Opens the stores, makes what a first start makes, listens, and begins to serve.
    pub async fn start(config: ServiceConfig) -> Result<Self> {
        metric::recorder();
        let listener = server::bind(config.listen).await?;
        let address = listener.local_addr().context("read the own address")?;
        let packs = open_packs(&config)?;
        let opened = tokio::task::spawn_blocking(move || open(config, address, packs)).await;
        let state = opened.context("open the stores")??;
        let tls = TlsAcceptor::from(server_tls(&state)?);
        let rest = rest::router(Rest::new(Arc::new(state.clone())));
        let router = server::router(&state, rest);
        let (stop, stopped) = watch::channel(false);
        let connections_max = state.config().connections_max;
        let serving = server::serve(listener, tls, router, connections_max, stopped.clone());
        let serving = tokio::spawn(serving);
        let mut working = work::start(&state, &stopped);
        working.extend(chores(&state, &stopped));
        tracing::info!(%address, "the service listens");
        Ok(Self { address, state, stop, serving, working })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its shared state.
    pub fn state(&self) -> &ServiceState {
        &self.state
    }

    /// The file that holds the authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.state.config().data.join("ca.pem")
    }

    /// The file that holds the owner's token.
    pub fn owner_token_file(&self) -> PathBuf {
        self.state.config().data.join("owner.token")
    }

    /// Takes no new work, lets requests end, and ends.
    pub async fn stop(self) {
        tracing::info!("the service stops");
        self.stop.send_replace(true);
        self.state.agents().end_all();
        for task in std::iter::once(self.serving).chain(self.working) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task did not end well");
            }
        }
    }
}

fn open_packs(config: &ServiceConfig) -> Result<Arc<dyn PackStore>> {
    let url = match &config.objects {
        Objects::Url(url) => url.clone(),
        Objects::Folder(folder) => {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make the folder \"{}\"", folder.display()))?;
            let folder = folder.canonicalize().context("find the folder of packs")?;
            format!("file:{}", folder.to_str().context("the folder of packs has a name that is not text")?)
        }
    };
    polder_packstore::open(&url).context("open the pack store")
}

/// Opens the stores. Waits for the disk.
pub(crate) fn open(
    config: ServiceConfig,
    address: SocketAddr,
    packs: Arc<dyn PackStore>,
) -> Result<ServiceState> {
    let trust = Arc::new(Trust::open(&config.data, &host_names(&config, address))?);
    std::fs::create_dir_all(&config.metadata)
        .with_context(|| format!("make the folder \"{}\"", config.metadata.display()))?;
    let rows = SqliteRows::open(&config.metadata.join("control.db")).context("open the control database")?;
    let control = Control::new(Arc::new(rows));
    let clock = ServiceClock::start(control.clone()).context("start the service's clock")?;
    owner_token(&config, &control, &clock)?;
    let shares = Shares::new(config.metadata.join("shares"), control.clone(), trust.clone());
    let mut holder = [0u8; 8];
    getrandom::fill(&mut holder).context("draw random bytes")?;
    let work = Work::new(crate::hex::hex(&holder));
    let (agents, trees) = (Agents::default(), TreeCache::default());
    let folder = match &config.objects {
        Objects::Folder(folder) => Some(folder.as_path()),
        Objects::Url(_) => None,
    };
    let room = Room::new(&config.metadata, folder);
    Ok(ServiceState::new(Inner { config, trust, control, clock, shares, agents, packs, trees, work, room }))
}

/// The first token, for whoever set the service up.
fn owner_token(config: &ServiceConfig, control: &Control, clock: &ServiceClock) -> Result<()> {
    read_or_make(&config.data.join("owner.token"), SecretFile::Secret, "owner's token", || {
        // Another name on each first start: the file may have been removed to get a new token.
        let now = clock.now();
        let name: ObjectName = format!("owner-{}", now.secs).parse().context("name the owner's token")?;
        let token = rest::new_user_token(name, Role::Owner, now, None).context("make the owner's token")?;
        let acting = polder_metadata::control::Acting { who: "service".into(), now };
        control.create_token(&acting, &token.row).context("keep the owner's token")?;
        Ok(format!("{}\n", token.text))
    })
    .map(drop)
}

/// Names under which the service is reached.
fn host_names(config: &ServiceConfig, address: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    let of_url = config.public_url.as_deref().and_then(|url| url.strip_prefix("https://"));
    if let Some(authority) = of_url {
        let host = authority.split('/').next().unwrap_or_default();
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        names.push(host.to_owned());
    }
    names.extend(config.host_names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// A small piece of work that waits for the disk.
type Chore = fn(&ServiceState);

/// What the process does beside its reconcilers, at once and then again and again.
fn chores(state: &ServiceState, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let chores: [(Duration, Chore); 3] =
        [(OBSERVE_EVERY, observe_clock), (room::LOOK_EVERY, room::tend), (RENEW_EVERY, renew_certificate)];
    chores.map(|(period, chore)| tokio::spawn(repeat(period, chore, state.clone(), stop.clone()))).into()
}

/// Does a chore that waits for the disk, until the service stops.
async fn repeat(period: Duration, chore: Chore, state: ServiceState, mut stop: watch::Receiver<bool>) {
    loop {
        let for_chore = state.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || chore(&for_chore)).await {
            tracing::error!(%error, "a chore did not end well");
        }
        tokio::select! {
            () = tokio::time::sleep(period) => (),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn observe_clock(state: &ServiceState) {
    if let Err(error) = state.clock().observe() {
        tracing::warn!(error = %crate::failure::Chain(&error), "the clock could not be kept");
    }
}

fn renew_certificate(state: &ServiceState) {
    match state.trust().renew_server() {
        Ok(false) => (),
        Ok(true) => tracing::info!("new connections are shown a new certificate"),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the server's certificate could not be renewed");
        }
    }
}
