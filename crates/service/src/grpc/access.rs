//! Who calls, and what they may touch.

use std::sync::Arc;

use polder_api::grpc::{Reason, convert, pb};
use polder_metadata::control::{
    Acting, AuditNote, AuditOutcome, Endpoint, EndpointProgress, ObjectName, Share,
};
use polder_types::{EndpointId, InstanceId, ServerId, ShareId};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::failure::blocking;
use crate::shares::OpenShare;
use crate::state::ServiceState;
use crate::trust::PeerCertificate;
use crate::{failure, metric};

/// The trusted server that calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Which one.
    pub id: ServerId,
    /// Its name.
    pub name: ObjectName,
}

impl Caller {
    /// Of a request that passed the [`Gatekeeper`].
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Reason::NoCertificate.status("no client certificate"))
    }

    /// For changes that the server makes.
    pub fn acting(&self, state: &ServiceState) -> Acting {
        Acting { who: format!("server:{}", self.name), now: state.now() }
    }
}

/// Looks at the client certificate before every call of an agent. The row is read each time, so a revocation by any
/// process of the service is in force at the next call; the read takes some ten microseconds on the calling thread.
#[derive(Clone)]
pub struct Gatekeeper(pub ServiceState);

impl Interceptor for Gatekeeper {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = request.extensions().get::<PeerCertificate>().cloned();
        let caller = peer.ok_or_else(|| Reason::NoCertificate.status("no client certificate"));
        let caller = caller.and_then(|peer| caller_of(&self.0, &peer));
        let caller = caller.inspect_err(|_| metric::add(metric::CALLS_REFUSED, 1))?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// The trusted server of a certificate. Waits for one row.
pub fn caller_of(state: &ServiceState, peer: &PeerCertificate) -> Result<Caller, Status> {
    let server = state.control().server_of_certificate(&peer.serial, state.clock().certain());
    match server.map_err(|error| failure::control("read the server's certificate", error))? {
        Some(server) => Ok(Caller { id: server.id, name: server.name }),
        None => {
            let serial = crate::hex::hex(&peer.serial);
            tracing::warn!(%serial, "a certificate that is not accepted");
            if state.agents().is_new_refusal(&peer.serial) {
                audit_refused_certificate(state, peer, &serial)?;
            }
            Err(Reason::Revoked
                .status("the certificate is not accepted: the server was revoked, or it has ended"))
        }
    }
}

/// A certificate of this service that is not accepted: of a revoked server, or one that has ended. Strangers, who have
/// none, cannot fill the log.
fn audit_refused_certificate(
    state: &ServiceState,
    peer: &PeerCertificate,
    serial: &str,
) -> Result<(), Status> {
    let failed = |error| failure::control("write the audit log", error);
    let Some(server) = state.control().owner_of_certificate(&peer.serial).map_err(failed)? else {
        return Ok(());
    };
    let why = if server.is_trusted() { "the certificate has ended" } else { "the server was revoked" };
    let note = AuditNote::new("access.revoked", &server.name, format!("serial {serial}: {why}"));
    let acting = Acting { who: format!("server:{}", server.name), now: state.now() };
    state.control().audit(&acting, &note.with(AuditOutcome::Refused)).map_err(failed)?;
    Ok(())
}

/// A pack that is not what it says, put under an address of this endpoint: a fault on the way, or an attempt.
pub async fn audit_bad_pack(
    state: &ServiceState,
    endpoint: EndpointId,
    object: String,
    why: String,
) -> Result<(), Status> {
    let state = state.clone();
    blocking(move || {
        let failed = |error| failure::control("write the audit log", error);
        let endpoint = state.control().endpoint(endpoint).map_err(failed)?;
        let server = endpoint.map(|endpoint| state.control().server(endpoint.server)).transpose();
        let server = server.map_err(failed)?.flatten();
        let who = server.map_or_else(|| "server".to_owned(), |server| format!("server:{}", server.name));
        tracing::warn!(who, object, why, "a pack was refused");
        let note = AuditNote::new("pack.refused", object, why).with(AuditOutcome::Refused);
        state.control().audit(&Acting { who, now: state.now() }, &note).map_err(failed)?;
        Ok(())
    })
    .await
}

/// An endpoint of the caller, with the share that it follows.
pub struct Access {
    /// Who calls.
    pub caller: Caller,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The share's row.
    pub row: Share,
    /// The share.
    pub share: Arc<OpenShare>,
    /// The instance that opened last.
    pub instance: Option<InstanceId>,
    /// Its opening.
    pub opening: [u8; 16],
}

impl Access {
    /// Of an endpoint, whether it is open or not. Waits for rows.
    pub fn of_endpoint(state: &ServiceState, caller: Caller, id: EndpointId) -> Result<Self, Status> {
        let control = state.control();
        let read = |error| failure::control("read the endpoint", error);
        let endpoint = control.endpoint(id).map_err(read)?.filter(|endpoint| endpoint.server == caller.id);
        let Some(endpoint) = endpoint else { return Err(forbidden(state, &caller, id)) };
        if endpoint.left_behind.is_some() {
            return Err(Reason::NotYours.status("the endpoint was removed from this server"));
        }
        let share = share_of(state, &endpoint)?;
        let row = control.share(share).map_err(read)?.filter(Share::is_live);
        let row = row.ok_or_else(|| Reason::NotYours.status("the share is not in use"))?;
        let share = state.shares().open_row(&row).map_err(failure::share)?;
        Ok(Self { caller, endpoint, row, share, instance: None, opening: [0; 16] })
    }

    /// Of the endpoint of an opening, which must be the last accepted one. Waits for rows.
    pub fn of_opening(
        state: &ServiceState,
        caller: Caller,
        opening: Option<&pb::Opening>,
    ) -> Result<Self, Status> {
        let (id, opening) = convert::decode_opening(opening).map_err(|error| error.status())?;
        let mut access = Self::of_endpoint(state, caller, id)?;
        let progress = state.control().progress(id);
        let progress = progress.map_err(|error| failure::control("read the endpoint", error))?;
        ensure_open(&progress, opening)?;
        (access.instance, access.opening) = (progress.instance, opening);
        Ok(access)
    }

    /// The share that is meant.
    pub fn share_id(&self) -> ShareId {
        self.share.id
    }
}

/// The share that an endpoint follows.
pub fn share_of(state: &ServiceState, endpoint: &Endpoint) -> Result<ShareId, Status> {
    let group = state.control().group(endpoint.group);
    let group = group.map_err(|error| failure::control("read the sync group", error))?;
    Ok(group.ok_or_else(|| Reason::NotYours.status("the sync group is gone"))?.share)
}

/// Refuses what is stopped, and every opening but the last.
pub fn ensure_open(progress: &EndpointProgress, opening: [u8; 16]) -> Result<(), Status> {
    if let Some(why) = &progress.stopped_why {
        return Err(Reason::Stopped.status(why.clone()));
    }
    if progress.opening == Some(InstanceId(opening)) {
        Ok(())
    } else {
        Err(Reason::NotOpen.status("the endpoint was opened again: open it"))
    }
}

fn forbidden(state: &ServiceState, caller: &Caller, id: EndpointId) -> Status {
    tracing::warn!(server = %caller.name, endpoint = %id, "a call about an endpoint of somebody else");
    let note = AuditNote::new("access.forbidden", format!("endpoint {id}"), "not an endpoint of the server");
    let audited = state.control().audit(&caller.acting(state), &note.with(AuditOutcome::Refused));
    match audited {
        Ok(_) => Reason::NotYours.status("there is no such endpoint on this server"),
        Err(error) => failure::control("write the audit log", error),
    }
}
