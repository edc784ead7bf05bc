//! The agent's own folder: who this server is. Everything about files lies beside them, in `PATH/.polder`.
//!
//! `key.pem` (0600), `cert.pem`, `ca.pem`, `identity.toml`, `control.sock`, `worker.pid`. Files are replaced whole:
//! written beside, synced, renamed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use polder_types::{EndpointId, ServerId};
use serde::{Deserialize, Serialize};

const RENEWAL_BORDER: &str = "# certificate";

/// Why the folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// A file could not be read or written.
    #[error("{doing} \"{}\"", path.display())]
    File {
        /// In the present tense.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no identity yet.
    #[error("this server is not registered: run `polder agent register --state {}` first", .0.display())]
    NotRegistered(PathBuf),
    /// There is one already.
    #[error("\"{}\" is registered already; give another --state, or remove the folder to register anew", .0.display())]
    Registered(PathBuf),
    /// The identity is not readable as one.
    #[error("\"{}\" is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
}

/// Who this server is, as the service knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Address of the service.
    pub service_url: String,
    /// Given at registration.
    pub server_id: ServerId,
    /// Shown to people; part of the names of conflict copies.
    pub server_name: String,
    /// When the certificate is to be renewed, seconds since 1970.
    pub renew_at_unix_s: i64,
    /// When the certificate ends, seconds since 1970.
    pub expires_at_unix_s: i64,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The folder at `path`; made (0700) when it is not there.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let fail = |doing, source| StateDirError::File { doing, path: path.to_owned(), source };
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(|error| fail("create the folder", error))?;
            fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(|error| fail("protect", error))?;
        }
        Ok(Self(path.to_owned()))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fails when this folder has an identity.
    pub fn ensure_unregistered(&self) -> Result<(), StateDirError> {
        if self.file("identity.toml").exists() {
            Err(StateDirError::Registered(self.0.clone()))
        } else {
            Ok(())
        }
    }

    /// Who this server is.
    pub fn identity(&self) -> Result<Identity, StateDirError> {
        let path = self.file("identity.toml");
        if !path.exists() {
            return Err(StateDirError::NotRegistered(self.0.clone()));
        }
        let text = self.read("identity.toml")?;
        toml::from_str(&text).map_err(|source| StateDirError::Damaged { path, source })
    }

    /// Writes who this server is.
    pub fn put_identity(&self, identity: &Identity) -> Result<(), StateDirError> {
        let text = toml::to_string(identity).expect("strings and numbers are TOML");
        self.put("identity.toml", text.as_bytes(), 0o600)
    }

    /// Writes a new key and its certificate as one file, so that both change or neither.
    pub fn begin_renewal(&self, key_pem: &str, certificate_pem: &str) -> Result<(), StateDirError> {
        self.put("renewed.pem", format!("{key_pem}\n{RENEWAL_BORDER}\n{certificate_pem}").as_bytes(), 0o600)
    }

    /// Carries out a renewal that was begun, if there is one. Also at every start.
    pub fn finish_renewal(&self) -> Result<(), StateDirError> {
        let path = self.file("renewed.pem");
        if !path.exists() {
            return Ok(());
        }
        let text = self.read("renewed.pem")?;
        if let Some((key, certificate)) = text.split_once(RENEWAL_BORDER) {
            self.put("key.pem", key.as_bytes(), 0o600)?;
            self.put("cert.pem", certificate.trim_start().as_bytes(), 0o644)?;
        }
        fs::remove_file(&path).map_err(|source| StateDirError::File { doing: "remove", path, source })
    }

    /// Whether a person on this server has paused an endpoint.
    pub fn is_paused(&self, endpoint: EndpointId) -> bool {
        self.file(&format!("paused-{endpoint}")).exists()
    }

    /// Remembers that a person has paused an endpoint, or let it go on.
    pub fn set_paused(&self, endpoint: EndpointId, paused: bool) -> Result<(), StateDirError> {
        let name = format!("paused-{endpoint}");
        if paused {
            return self.put(&name, b"", 0o600);
        }
        self.remove(&name)
    }

    /// Whether an endpoint's local copies are to go with it, rather than to be completed.
    pub fn is_unmount_wished(&self, endpoint: EndpointId) -> bool {
        self.file(&format!("unmount-{endpoint}")).exists()
    }

    /// Remembers that wish, or forgets it.
    pub fn wish_unmount(&self, endpoint: EndpointId, wished: bool) -> Result<(), StateDirError> {
        let name = format!("unmount-{endpoint}");
        if wished { self.put(&name, b"wished\n", 0o600) } else { self.remove(&name) }
    }

    /// Remembers that it was carried out: the folder has no identity any more that could tell.
    pub fn set_unmounted(&self, endpoint: EndpointId) -> Result<(), StateDirError> {
        self.put(&format!("unmount-{endpoint}"), b"done\n", 0o600)
    }

    /// Whether an endpoint's first sync was over once, whatever became of its database.
    pub fn is_united(&self, endpoint: EndpointId) -> bool {
        self.file(&format!("united-{endpoint}")).exists()
    }

    /// Remembers that.
    pub fn set_united(&self, endpoint: EndpointId) -> Result<(), StateDirError> {
        self.put(&format!("united-{endpoint}"), b"", 0o600)
    }

    /// Whether it was carried out.
    pub fn is_unmounted(&self, endpoint: EndpointId) -> bool {
        self.read(&format!("unmount-{endpoint}")).is_ok_and(|text| text == "done\n")
    }

    fn remove(&self, name: &str) -> Result<(), StateDirError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateDirError::File { doing: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Reads a file as text.
    pub fn read(&self, name: &str) -> Result<String, StateDirError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|source| StateDirError::File { doing: "read", path, source })
    }

    /// Replaces a file whole and durably.
    pub fn put(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StateDirError> {
        let path = self.file(name);
        let beside = self.file(&format!("{name}.new"));
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|source| StateDirError::File { doing: "write", path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("state")).unwrap();
        assert!(matches!(state.identity(), Err(StateDirError::NotRegistered(_))));
        let identity = Identity {
            service_url: "https://polder.example:8443".into(),
            server_id: ServerId([3; 16]),
            server_name: "site-a".into(),
            renew_at_unix_s: 17,
            expires_at_unix_s: 18,
        };
        state.put_identity(&identity).unwrap();
        assert_eq!(state.identity().unwrap().server_id, identity.server_id);
        assert!(matches!(state.ensure_unregistered(), Err(StateDirError::Registered(_))));
        let mode = fs::metadata(state.file("identity.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_renewal_that_was_cut_off_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.put("key.pem", b"old key", 0o600).unwrap();
        state.begin_renewal("new key", "new certificate").unwrap();
        state.finish_renewal().unwrap();
        state.finish_renewal().unwrap();
        assert_eq!(state.read("key.pem").unwrap().trim(), "new key");
        assert_eq!(state.read("cert.pem").unwrap(), "new certificate");
        assert!(!state.file("renewed.pem").exists());
    }

    #[test]
    fn a_damaged_identity_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.put("identity.toml", b"server_id = 7", 0o600).unwrap();
        assert!(matches!(state.identity(), Err(StateDirError::Damaged { .. })));
    }
}
