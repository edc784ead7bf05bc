//! The certificate of the service's port, made again while the service runs: a year without a restart is no event.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::authority::{self, Authority};
use super::files::{self, SecretFile};

/// What new connections are shown.
#[derive(Debug)]
pub struct ServerCertificate {
    data: PathBuf,
    names: Vec<String>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Reads it; makes it anew where it does not name all of `names` or ends within 30 days.
    pub(super) fn open(
        authority: &Authority,
        data: &Path,
        names: &[String],
        now: SystemTime,
    ) -> Result<Self> {
        let (pem, key) = match read(data, names, now)? {
            Some(known) => known,
            None => make(authority, data, names, now)?,
        };
        let current = RwLock::new(certified(&pem, &key)?);
        Ok(Self { data: data.to_owned(), names: names.to_owned(), current })
    }

    /// Makes it anew if it ends within 30 days, or takes the one that another process made meanwhile. Returns whether
    /// new connections are shown another one. Waits for the disk.
    pub(super) fn renew(&self, authority: &Authority, now: SystemTime) -> Result<bool> {
        let (pem, key) = match read(&self.data, &self.names, now)? {
            Some(known) => known,
            None => make(authority, &self.data, &self.names, now)?,
        };
        let next = certified(&pem, &key)?;
        let mut current = self.current.write().expect(LOCK);
        let is_new = current.cert != next.cert;
        *current = next;
        Ok(is_new)
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().expect(LOCK))
    }
}

const LOCK: &str = "no holder of this lock panics";

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn places(data: &Path) -> (PathBuf, PathBuf) {
    (data.join("server.pem"), data.join("server.key"))
}

fn read(data: &Path, names: &[String], now: SystemTime) -> Result<Option<(String, String)>> {
    let (pem_path, key_path) = places(data);
    let known = files::read(&pem_path)?.zip(files::read(&key_path)?);
    Ok(known.filter(|(pem, _)| authority::serves(pem, names, now)))
}

fn make(authority: &Authority, data: &Path, names: &[String], now: SystemTime) -> Result<(String, String)> {
    ensure!(!names.is_empty(), "the server's certificate needs a name");
    let (pem_path, key_path) = places(data);
    let (pem, key) = authority.issue_server(names, now)?;
    files::write(&key_path, &key, SecretFile::Secret)?;
    files::write(&pem_path, &pem, SecretFile::Public)?;
    tracing::info!(path = %pem_path.display(), names = %names.join(", "), "made the server's certificate");
    Ok((pem, key))
}

fn certified(pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.context("read the server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).context("read the server's key")?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider);
    certified.map(Arc::new).context("use the server's certificate")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn the_certificate_is_made_again_before_it_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::open(&folder.path().join("ca.pem"), &folder.path().join("ca.key"))
            .expect("an authority");
        let (names, now) = (["localhost".to_owned()], SystemTime::now());
        let shown = ServerCertificate::open(&authority, folder.path(), &names, now).expect("a certificate");
        let first = shown.current();
        assert!(!shown.renew(&authority, now + 300 * DAY).expect("a look"), "it is good for 35 days more");
        assert_eq!(first.cert, shown.current().cert);
        assert!(shown.renew(&authority, now + 340 * DAY).expect("a new one"));
        assert_ne!(first.cert, shown.current().cert);
        // What is shown is what a next start finds.
        let again =
            ServerCertificate::open(&authority, folder.path(), &names, now + 340 * DAY).expect("a start");
        assert_eq!(again.current().cert, shown.current().cert);
    }
}
