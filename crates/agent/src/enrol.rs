//! Registration: trust in exchange for a one-time join token. The key is made here and never leaves.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use polder_api::grpc::{PROTOCOL_VERSION, pb};
use polder_types::ServerId;
use rcgen::{CertificateParams, KeyPair};

use crate::connection::{self, Client};
use crate::{Identity, StateDir};

/// What `polder agent register` was given.
#[derive(Debug, Clone)]
pub struct RegisterOptions {
    /// Address of the service.
    pub service_url: String,
    /// The join token.
    pub token: String,
    /// The state folder to make.
    pub state: PathBuf,
    /// Wanted name of the server.
    pub name: String,
    /// The service's CA, PEM.
    pub ca_pem: String,
}

/// A registered server.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its id.
    pub server_id: ServerId,
    /// Its name.
    pub name: String,
}

/// Registers this machine. Nothing is written before the service has agreed.
pub async fn register(options: RegisterOptions) -> Result<Registered> {
    let state = StateDir::open(&options.state)?;
    state.ensure_unregistered()?;
    let (key_pem, csr_pem) = new_key()?;
    let mut client = connection::connect_unregistered(&options.service_url, &options.ca_pem).await?;
    let request = pb::RegisterRequest {
        protocol: PROTOCOL_VERSION,
        join_token: options.token,
        csr_pem,
        server_name: options.name.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let reply = client.register(request).await.map_err(|status| told(&status))?.into_inner();
    let server_id =
        ServerId::from_slice(&reply.server_id).context("the service gave a server id of a wrong length")?;
    state.put("key.pem", key_pem.as_bytes(), 0o600)?;
    state.put("cert.pem", reply.certificate_pem.as_bytes(), 0o644)?;
    state.put("ca.pem", options.ca_pem.as_bytes(), 0o644)?;
    state.put_identity(&Identity {
        service_url: options.service_url,
        server_id,
        server_name: options.name.clone(),
        renew_at_unix_s: reply.renew_at,
        expires_at_unix_s: reply.expires_at,
    })?;
    Ok(Registered { server_id, name: options.name })
}

/// Trades the certificate for a new one, with a new key, before the old one ends.
pub(crate) async fn renew(state: &StateDir, client: &mut Client) -> Result<Identity> {
    let (key_pem, csr_pem) = new_key()?;
    let request = pb::RenewRequest {
        protocol: PROTOCOL_VERSION,
        csr_pem,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let reply = client.renew(request).await.map_err(|status| told(&status))?.into_inner();
    // Key before certificate: a crash between the two leaves a pair that does not fit, so both are kept as one file
    // first and taken apart at the next start (`StateDir::finish_renewal`).
    state.begin_renewal(&key_pem, &reply.certificate_pem)?;
    state.finish_renewal()?;
    let mut identity = state.identity()?;
    identity.renew_at_unix_s = reply.renew_at;
    identity.expires_at_unix_s = reply.expires_at;
    state.put_identity(&identity)?;
    Ok(identity)
}

fn new_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("make a key")?;
    let params = CertificateParams::new(Vec::new()).context("prepare a certificate request")?;
    let request = params.serialize_request(&key).context("sign a certificate request")?;
    Ok((key.serialize_pem(), request.pem().context("write a certificate request")?))
}

fn told(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the service refuses: {}", status.message())
}

/// The name of this machine, for those who give none.
pub fn default_name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    match name.trim() {
        "" => bail!("this machine has no host name: give --name"),
        name => Ok(name.to_owned()),
    }
}
