//! TLS of the one port: 1.3 only, client certificates of the own authority welcome but not demanded.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::state::ServiceState;

/// The certificate that a client proved to have, by its serial number: the key of its row. It was signed by the own
/// authority and is in its time; whether it is *accepted* is the control plane's to say, at every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Serial number.
    pub serial: Arc<[u8]>,
}

impl PeerCertificate {
    /// Reads the certificates that a handshake brought.
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let der = chain?.first()?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self { serial: certificate.raw_serial().into() })
    }
}

/// The time that clients' certificates are judged by, as service time has it.
struct CertainTime(ServiceState);

impl std::fmt::Debug for CertainTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertainTime")
    }
}

impl TimeProvider for CertainTime {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = self.0.clock().certain().secs.max(0).unsigned_abs();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

/// The port's TLS. Clients' certificates end by service time, which a jump of the clock does not move (promise I15).
pub fn server_tls(state: &ServiceState) -> Result<Arc<ServerConfig>> {
    let trust = state.trust();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(trust.ca_pem().as_bytes())
        .context("read the authority's certificate")?;
    roots.add(ca).context("trust the own authority")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("set up client certificates")?;
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(CertainTime(state.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choose TLS 1.3")?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::clone(&trust.server) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
