//! What REST asks of the rest of the service.

use std::sync::Arc;

use async_trait::async_trait;
use polder_api::grpc::pb;
use polder_chunk::{Pack, VerifiedChunk};
use polder_metadata::control::{Acting, Control, ObjectName, Share};
use polder_types::{CaseRule, ChunkId, Cursor, EndpointId, ServerId, ShareId, Timestamp};

use crate::agents::{ORDER_WAIT, OrderError};
use crate::failure::Chain;
use crate::grpc::{kept_report, share_head_moved};
use crate::packs;
use crate::rest::OpenShare;
use crate::rest::host::{Host, HostError, Order, Report};
use crate::shares::ShareError;
use crate::state::ServiceState;

/// Runs work that waits for the disk where it may.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|source| Err(HostError::Failed { doing, source: source.into() }))
}

fn share_error(error: ShareError) -> HostError {
    match error {
        ShareError::Control(error) => HostError::Control(error),
        other => HostError::Failed { doing: "open the share", source: other.into() },
    }
}

/// New packs of the shares that a revoked server followed are sealed with keys that it never had.
fn renew_keys(state: &ServiceState, server: ServerId) -> Result<(), ShareError> {
    let mut shares = std::collections::BTreeSet::new();
    for endpoint in state.control().endpoints_of_server(server)? {
        shares.extend(state.control().group(endpoint.group)?.map(|group| group.share));
    }
    for share in shares {
        state.shares().begin_generation(&state.acting_service(), share)?;
    }
    state.agents().all_assignments_changed();
    Ok(())
}

impl ServiceState {
    async fn opened(&self, share: ShareId) -> Result<Arc<crate::shares::OpenShare>, HostError> {
        let state = self.clone();
        blocking("open a share", move || state.shares().open(share).map_err(share_error)).await
    }
}

#[async_trait]
impl Host for ServiceState {
    fn now(&self) -> Timestamp {
        self.clock().now()
    }

    fn control(&self) -> &Control {
        Self::control(self)
    }

    async fn create_share(
        &self,
        acting: &Acting,
        name: &ObjectName,
        case: CaseRule,
        quota_bytes: Option<u64>,
    ) -> Result<Share, HostError> {
        let (state, acting, name) = (self.clone(), acting.clone(), name.clone());
        blocking("make a share", move || {
            state.shares().create(&acting, &name, case, quota_bytes).map_err(share_error)
        })
        .await
    }

    async fn open_share(&self, share: ShareId) -> Result<OpenShare, HostError> {
        let opened = self.opened(share).await?;
        Ok(OpenShare { db: opened.db.clone(), keys: opened.keys() })
    }

    async fn chunk(&self, share: ShareId, id: ChunkId) -> Result<VerifiedChunk, HostError> {
        let share = self.opened(share).await?;
        let chunk = packs::read_chunk(&**self.packs(), &share, id).await;
        chunk.map_err(|source| HostError::Failed { doing: "read a chunk", source: source.into() })
    }

    async fn put_pack(&self, share: ShareId, pack: Pack) -> Result<(), HostError> {
        let share = self.opened(share).await?;
        let taken = packs::accept_pack(self, &share, pack.footer.pack.id, vec![pack.bytes.into()]).await;
        taken.map_err(|status| match status.code() {
            tonic::Code::Unavailable | tonic::Code::ResourceExhausted => {
                HostError::Unavailable(status.message().to_owned())
            }
            _ => HostError::Failed { doing: "store a pack", source: status.into() },
        })
    }

    fn committed(&self, share: ShareId, head: Cursor) {
        share_head_moved(self, share, head);
    }

    fn is_short_of_room(&self) -> bool {
        self.room().is_short()
    }

    fn is_online(&self, server: ServerId) -> bool {
        self.agents().is_online(server)
    }

    async fn report(&self, endpoint: EndpointId) -> Result<Option<Report>, HostError> {
        if let Some(report) = self.agents().report(endpoint) {
            return Ok(Some(Report { status: report.status, at: report.at }));
        }
        let state = self.clone();
        blocking("read a report", move || {
            let progress = state.control().progress(endpoint)?;
            let status = progress.report.as_ref().and_then(kept_report);
            Ok(status.zip(progress.seen_at).map(|(status, at)| Report { status, at }))
        })
        .await
    }

    fn assignments_changed(&self, server: ServerId) {
        self.agents().assignments_changed(server);
    }

    fn server_revoked(&self, server: ServerId) {
        self.agents().revoked(server);
        let state = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = renew_keys(&state, server) {
                tracing::error!(%server, error = %Chain(&error), "new keys could not be made after a revocation");
            }
        });
    }

    async fn order(
        &self,
        server: ServerId,
        endpoint: EndpointId,
        order: Order,
    ) -> Result<serde_json::Value, HostError> {
        use pb::command::Command;
        let command = match order {
            Order::Release { accept } => Command::Release(pb::Release { accept }),
            Order::Review { accept, paths } => {
                let paths = paths.iter().map(|path| path.to_bytes().into()).collect();
                Command::Review(pb::Review { accept, paths })
            }
            Order::Explain { path } => Command::Explain(pb::Explain { path: path.to_bytes().into() }),
            Order::Problems { offset, count_max } => {
                Command::ListProblems(pb::ListProblems { offset, count_max })
            }
        };
        let answer = self.agents().order(server, endpoint, command, ORDER_WAIT).await;
        let answer = answer.map_err(|error| match error {
            OrderError::Offline => HostError::Offline,
            OrderError::Refused(why) => HostError::Refused(why),
            OrderError::Timeout => HostError::Unavailable(error.to_string()),
        })?;
        if answer.json.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_slice(&answer.json).map_err(|source| {
            tracing::warn!(%server, error = %Chain(&source), "an agent's answer is no JSON");
            HostError::Failed { doing: "read the server's answer", source: source.into() }
        })
    }

    fn wake(&self, reconciler: &str) -> bool {
        self.work().wake(reconciler)
    }
}
