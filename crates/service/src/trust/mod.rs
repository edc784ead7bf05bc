//! Keys and certificates: the own authority, the server's certificate, those of agents.
//!
//! Order of use: [`Trust::open`] once at start makes what is missing and says so; [`Trust::issue`] for each agent.
//!
//! The authority's key signs agents and this server and nothing else. Whoever is not in the control plane's rows is
//! not accepted, whatever was signed: a stolen authority alone registers nobody.

mod authority;
mod files;
mod server;
mod tls;

pub use authority::Issued;
pub use files::{SecretFile, read_or_make};
pub use tls::{PeerCertificate, server_tls};

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use polder_chunk::MasterKey;
use polder_types::ServerId;

use crate::hex::{hex, unhex};
use authority::Authority;
use server::ServerCertificate;

/// What a service proves itself with, and what it recognises others by.
pub struct Trust {
    authority: Authority,
    server: Arc<ServerCertificate>,
    /// Wraps the keys of shares.
    pub master: MasterKey,
    /// Signs addresses of packs.
    pub url_key: aws_lc_rs::hmac::Key,
}

impl Trust {
    /// Opens the folder, makes what is missing. The server's certificate is made again when it does not name all of
    /// `names` or ends within 30 days.
    pub fn open(data: &Path, names: &[String]) -> Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("make the folder \"{}\"", data.display()))?;
        let authority = Authority::open(&data.join("ca.pem"), &data.join("ca.key"))?;
        let server = Arc::new(ServerCertificate::open(&authority, data, names, SystemTime::now())?);
        let master = master_key(&data.join("master.key"))?;
        // A key for one purpose, from the key that every process of this service has.
        let root = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &master);
        let derived = aws_lc_rs::hmac::sign(&root, b"polder signed pack address v1");
        let url_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, derived.as_ref());
        Ok(Self { authority, server, master: MasterKey::new(master), url_key })
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Sees that the server's certificate does not end while the service runs. Waits for the disk.
    pub fn renew_server(&self) -> Result<bool> {
        self.server.renew(&self.authority, SystemTime::now())
    }

    /// A certificate for an agent's own key.
    pub fn issue(&self, csr_pem: &str, server: ServerId, now: SystemTime) -> Result<Issued> {
        self.authority.issue(csr_pem, server, now)
    }
}

fn master_key(path: &Path) -> Result<[u8; 32]> {
    let text = read_or_make(path, SecretFile::Secret, "master key", || {
        let mut key = [0u8; 32];
        getrandom::fill(&mut key).context("draw random bytes")?;
        Ok(format!("{}\n", hex(&key)))
    })?;
    let key = unhex(text.trim());
    key.with_context(|| format!("the master key in \"{}\" is not 64 hexadecimal digits", path.display()))
}
