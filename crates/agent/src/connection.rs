//! Connections to the service: one HTTP/2 channel for calls, a pool of HTTP/1.1 connections for the bytes of packs.
//!
//! Both trust the service's own CA and nothing else. Calls show the server's certificate; packs go by signed address.

use std::time::Duration;

use anyhow::{Context, Result};
use polder_api::grpc::pb::agent_client::AgentClient;
use polder_api::grpc::pb::enrolment_client::EnrolmentClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};

use crate::StateDir;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back for so long is given up.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// Largest message: a page of the feed or a batch.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A client of the service's calls, as a registered server.
pub(crate) type Client = AgentClient<Channel>;

/// Connects with the certificate of this server.
pub(crate) async fn connect(state: &StateDir) -> Result<Client> {
    let identity = state.identity()?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(state.read("ca.pem")?))
        .identity(TlsIdentity::from_pem(state.read("cert.pem")?, state.read("key.pem")?));
    let channel = channel(&identity.service_url, tls).await?;
    Ok(AgentClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Connects without a certificate, to register.
pub(crate) async fn connect_unregistered(url: &str, ca_pem: &str) -> Result<EnrolmentClient<Channel>> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
    Ok(EnrolmentClient::new(channel(url, tls).await?))
}

async fn channel(url: &str, tls: ClientTlsConfig) -> Result<Channel> {
    Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("\"{url}\" is not an address"))?
        .tls_config(tls)
        .context("use the certificates of this server")?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(DEAD_AFTER / 2)
        .keep_alive_timeout(DEAD_AFTER / 2)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect()
        .await
        .with_context(|| format!("connect to \"{url}\""))
}

/// A client for the bytes of packs. HTTP/1.1: one pack a connection at a time, without a second flow control inside.
pub(crate) fn pack_client(ca_pem: &str) -> Result<reqwest::Client> {
    let ca = reqwest::Certificate::from_pem(ca_pem.as_bytes()).context("read the service's CA")?;
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(Duration::from_secs(60))
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::limited(1))
        .build()
        .context("set up HTTPS")
}
