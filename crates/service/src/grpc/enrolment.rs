//! Registration and renewal of certificates.

use polder_api::grpc::{PROTOCOL_VERSION, Reason, pb};
use polder_metadata::control::{Acting, Certificate, ObjectName, SecretHash, Server, ServerState};
use polder_types::{Escaped, ServerId};
use tonic::{Request, Response, Status};

use super::access::Caller;
use crate::failure::{self, blocking};
use crate::state::ServiceState;
use crate::trust::Issued;

/// The service `Enrolment`.
pub struct Enrolment(pub ServiceState);

/// Refuses another version of the protocol.
pub fn ensure_version(protocol: u32) -> Result<(), Status> {
    if protocol == PROTOCOL_VERSION {
        return Ok(());
    }
    let text =
        format!("the agent speaks protocol version {protocol}, this service version {PROTOCOL_VERSION}");
    Err(Reason::ProtocolVersion.status(text))
}

#[tonic::async_trait]
impl pb::enrolment_server::Enrolment for Enrolment {
    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let (state, request) = (self.0.clone(), request.into_inner());
        ensure_version(request.protocol)?;
        blocking(move || register(&state, &request)).await.map(Response::new)
    }
}

fn register(state: &ServiceState, request: &pb::RegisterRequest) -> Result<pb::RegisterReply, Status> {
    let name = request.server_name.parse::<ObjectName>();
    let name = name.map_err(|error| Reason::BadMessage.status(error.to_string()))?;
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(|error| Status::internal(format!("draw random bytes: {error}")))?;
    let id = ServerId(id);
    let issued = issue(state, &request.csr_pem, id)?;
    let acting = Acting { who: format!("server:{name}"), now: state.now() };
    let server = Server {
        id,
        name,
        state: ServerState::Trusted,
        created_at: acting.now,
        heartbeat_at: None,
        left_at: None,
        version: request.agent_version.clone(),
    };
    let token = SecretHash::of(request.join_token.as_bytes());
    let certificate = certificate(&issued, id);
    let done = state.control().register_server(&acting, &token, &server, &certificate);
    if let Err(error) = done {
        let name = Escaped(request.server_name.as_bytes());
        tracing::warn!(%name, error = %failure::Chain(&error), "a registration was refused");
        return Err(failure::control("register the server", error));
    }
    tracing::info!(server = %server.name, id = %id, "a server registered");
    Ok(pb::RegisterReply {
        server_id: id.0.to_vec().into(),
        ca_pem: state.trust().ca_pem().to_owned(),
        renew_at: issued.renew_at.secs,
        expires_at: issued.expires_at.secs,
        certificate_pem: issued.pem,
    })
}

/// Makes a new certificate for the caller. The old one stays good until it ends.
pub async fn renew(
    state: &ServiceState,
    request: Request<pb::RenewRequest>,
) -> Result<Response<pb::RenewReply>, Status> {
    let caller = Caller::of(&request)?;
    let (state, request) = (state.clone(), request.into_inner());
    ensure_version(request.protocol)?;
    blocking(move || {
        let issued = issue(&state, &request.csr_pem, caller.id)?;
        // By the certain time too: a jump of the clock must not take the certificate that is in use.
        let acting = Acting { now: state.clock().certain(), ..caller.acting(&state) };
        let added = state.control().add_certificate(&acting, &certificate(&issued, caller.id));
        added.map_err(|error| failure::control("keep the certificate", error))?;
        Ok(Response::new(pb::RenewReply {
            ca_pem: state.trust().ca_pem().to_owned(),
            renew_at: issued.renew_at.secs,
            expires_at: issued.expires_at.secs,
            certificate_pem: issued.pem,
        }))
    })
    .await
}

fn issue(state: &ServiceState, csr_pem: &str, id: ServerId) -> Result<Issued, Status> {
    let now = state.clock().certain();
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.secs.max(0).unsigned_abs());
    let issued = state.trust().issue(csr_pem, id, now);
    issued.map_err(|error| {
        Reason::BadMessage.status(format!("the certificate request is not valid: {error:#}"))
    })
}

fn certificate(issued: &Issued, server: ServerId) -> Certificate {
    Certificate { serial: issued.serial.clone(), server, expires_at: issued.expires_at }
}
