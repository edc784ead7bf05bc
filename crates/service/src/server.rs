//! The one HTTPS port: accepts connections, proves who is there, and serves REST, gRPC and packs on each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::state::ServiceState;
use crate::trust::PeerCertificate;
use crate::{grpc, metric, packs, tiering_metrics};

/// For the handshake, and for the head of a request.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// A connection that does not answer is closed after the two together.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(20);
/// Requests of one connection at one time.
const STREAMS_MAX: u32 = 256;
/// Bytes in flight of one request, and of one connection: a gigabit over 30 ms.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// How long an endpoint's report is shown in the metrics.
const REPORT_KEPT_SECS: i64 = 300;
/// How long requests may run on after the stop was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Everything that the port serves.
pub fn router(state: &ServiceState, rest: Router) -> Router {
    let own = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(packs::router())
        .with_state(state.clone());
    // gRPC has a fallback of its own; REST's is what people should see.
    let grpc = grpc::routes(state).into_axum_router().reset_fallback();
    own.merge(rest).merge(grpc)
}

/// The process's own metrics, and those of the endpoints whose agents report here.
async fn metrics(State(state): State<ServiceState>) -> String {
    let now = state.now();
    let mut reports = state.agents().reports();
    // An agent repeats its reports every minute. What is older is of an endpoint that is gone, or that reports elsewhere.
    reports.retain(|(_, report)| now.secs.saturating_sub(report.at.secs) < REPORT_KEPT_SECS);
    metric::recorder().render() + &tiering_metrics::render(&reports)
}

/// Whether the stores answer.
async fn ready(State(state): State<ServiceState>) -> Response {
    let looked = tokio::task::spawn_blocking(move || state.control().service_time()).await;
    match looked {
        Ok(Ok(Some(_))) => "ready\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the control database does not answer\n").into_response(),
    }
}

/// Listens.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("listen at {listen}"))
}

/// Accepts connections until `stop`, then lets what runs come to its end.
pub async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    let stopping = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors, most likely: the ones in use must end first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            metric::add(metric::CONNECTIONS_REFUSED, 1);
            continue;
        };
        metric::set(metric::CONNECTIONS, connections_max - room.available_permits());
        tokio::spawn(connection(stream, tls.clone(), router.clone(), permit, stopping.clone()));
    }
    drop(listener);
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN_MAX, room.acquire_many(all)).await.is_err() {
        tracing::warn!("connections were cut off: they did not end within ten seconds");
    }
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    _permit: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_WAIT, tls.accept(stream)).await else {
        metric::add(metric::CONNECTIONS_REFUSED, 1);
        return;
    };
    let peer = PeerCertificate::of(stream.get_ref().1.peer_certificates());
    let service = router.map_request(move |request: axum::http::Request<hyper::body::Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(512 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(16 * 1024)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(256 * 1024)
        .max_send_buf_size(1024 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}
