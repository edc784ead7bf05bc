//! What every handler of the service shares: a cheap handle, cloned for each request.

use std::sync::Arc;

use polder_metadata::control::{Acting, Control};
use polder_packstore::PackStore;
use polder_types::Timestamp;

use crate::agents::Agents;
use crate::clock::ServiceClock;
use crate::config::ServiceConfig;
use crate::packs::TreeCache;
use crate::room::Room;
use crate::shares::Shares;
use crate::trust::Trust;
use crate::work::Work;

/// Shared state of one service process.
#[derive(Clone)]
pub struct ServiceState {
    inner: Arc<Inner>,
}

/// The parts; made once by [`crate::Service::start`].
pub(crate) struct Inner {
    pub config: ServiceConfig,
    pub trust: Arc<Trust>,
    pub control: Control,
    pub clock: ServiceClock,
    pub shares: Shares,
    pub agents: Agents,
    pub packs: Arc<dyn PackStore>,
    pub trees: TreeCache,
    pub work: Work,
    pub room: Room,
}

impl ServiceState {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Settings.
    pub fn config(&self) -> &ServiceConfig {
        &self.inner.config
    }

    /// Keys and certificates.
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// The control plane's rows. Calls wait for the disk.
    pub fn control(&self) -> &Control {
        &self.inner.control
    }

    /// Service time.
    pub fn clock(&self) -> &ServiceClock {
        &self.inner.clock
    }

    /// Service time now.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// For changes that nobody but the service orders.
    pub fn acting_service(&self) -> Acting {
        Acting { who: "service".into(), now: self.now() }
    }

    /// The shares of this process.
    pub fn shares(&self) -> &Shares {
        &self.inner.shares
    }

    /// The agents that are connected.
    pub fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    /// Where packs are.
    pub fn packs(&self) -> &Arc<dyn PackStore> {
        &self.inner.packs
    }

    /// Nodes of extent trees that were read.
    pub fn trees(&self) -> &TreeCache {
        &self.inner.trees
    }

    /// Room for the databases.
    pub fn room(&self) -> &Room {
        &self.inner.room
    }

    /// Background work.
    pub fn work(&self) -> &Work {
        &self.inner.work
    }
}
