//! gRPC for agents: `proto/polder/v1/agent.proto` over [`ServiceState`].
//!
//! The way of a call: [`access`] (who calls, may they, is the endpoint theirs and open), conversion and bounds in
//! `polder_api::grpc::convert`, then one file per concern.

pub(crate) mod access;
mod chunks;
mod commit;
mod enrolment;
mod feed;
mod opening;
mod orders;
mod session;

use std::pin::Pin;

use futures::Stream;
use polder_api::grpc::{limits, pb};
use tonic::service::{InterceptorLayer, Routes};
use tonic::{Request, Response, Status, Streaming};
use tower::Layer;

use crate::ServiceState;

pub use orders::kept_report;
pub use session::share_head_moved;

/// Both gRPC services as routes.
pub fn routes(state: &ServiceState) -> Routes {
    let enrolment = pb::enrolment_server::EnrolmentServer::new(enrolment::Enrolment(state.clone()))
        .max_decoding_message_size(limits::ENROLMENT_BYTES_MAX);
    let agent = pb::agent_server::AgentServer::new(AgentService(state.clone()))
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
    let agent = InterceptorLayer::new(access::Gatekeeper(state.clone())).layer(agent);
    Routes::new(enrolment).add_service(agent)
}

/// The service `Agent`.
struct AgentService(ServiceState);

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl pb::agent_server::Agent for AgentService {
    type SessionStream = Streamed<pb::ToAgent>;
    type ChangesStream = Streamed<pb::FeedPage>;
    type BootstrapStream = Streamed<pb::FeedPage>;

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewReply>, Status> {
        enrolment::renew(&self.0, request).await
    }

    async fn session(
        &self,
        request: Request<Streaming<pb::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        session::begin(&self.0, request).await
    }

    async fn open_endpoint(
        &self,
        request: Request<pb::OpenEndpointRequest>,
    ) -> Result<Response<pb::OpenEndpointReply>, Status> {
        opening::open(&self.0, request).await
    }

    async fn changes(
        &self,
        request: Request<pb::ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        feed::changes(&self.0, request).await
    }

    async fn bootstrap(
        &self,
        request: Request<pb::BootstrapRequest>,
    ) -> Result<Response<Self::BootstrapStream>, Status> {
        feed::bootstrap(&self.0, request).await
    }

    async fn commit(&self, request: Request<pb::CommitRequest>) -> Result<Response<pb::CommitReply>, Status> {
        commit::commit(&self.0, request).await
    }

    async fn have(&self, request: Request<pb::HaveRequest>) -> Result<Response<pb::HaveReply>, Status> {
        chunks::have(&self.0, request).await
    }

    async fn locate(&self, request: Request<pb::LocateRequest>) -> Result<Response<pb::LocateReply>, Status> {
        chunks::locate(&self.0, request).await
    }

    async fn pack_url(
        &self,
        request: Request<pb::PackUrlRequest>,
    ) -> Result<Response<pb::PackUrlReply>, Status> {
        chunks::pack_url(&self.0, request).await
    }

    async fn pack_stored(
        &self,
        request: Request<pb::PackStoredRequest>,
    ) -> Result<Response<pb::PackStoredReply>, Status> {
        chunks::pack_stored(&self.0, request).await
    }
}
