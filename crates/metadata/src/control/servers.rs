//! Join tokens, registered servers and their certificates.

use polder_types::{ServerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::rows::{self, Object, Rows, Table};
use super::{Acting, AuditNote, Control, ControlError, Endpoint, ObjectName, SecretHash, audit};

/// A one-time right to register. Only the hash of its secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Hash of the secret.
    pub hash: SecretHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// Useless from then on.
    pub expires_at: Timestamp,
    /// The only name under which a server may register with it.
    pub server: Option<ObjectName>,
    /// Who used it and when.
    pub used: Option<(ServerId, Timestamp)>,
}

impl Object for JoinToken {
    const TABLE: Table = Table::JoinToken;
    fn key(&self) -> Vec<u8> {
        self.hash.0.to_vec()
    }
    fn shown(&self) -> String {
        // Enough to tell tokens apart in the log; a hash of 256 random bits gives nothing away.
        self.hash.short()
    }
}

/// Whether a server is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Its certificates are accepted.
    Trusted,
    /// None of its certificates is accepted any more. Its name is free.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

/// A registered server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// For ever.
    pub id: ServerId,
    /// Unique among trusted servers; conflict copies carry it.
    pub name: ObjectName,
    /// Trusted or revoked.
    pub state: ServerState,
    /// When it registered.
    pub created_at: Timestamp,
    /// Last sign of life.
    pub heartbeat_at: Option<Timestamp>,
    /// When its session ended, unless it was heard of since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_at: Option<Timestamp>,
    /// Version of its agent, as it says.
    pub version: String,
}

impl Server {
    /// Whether its agent gave a sign of life less than `secs` seconds ago and has not left since.
    pub fn was_here(&self, now: Timestamp, secs: i64) -> bool {
        self.left_at.is_none() && self.heartbeat_at.is_some_and(|at| now.secs - at.secs < secs)
    }

    /// Whether its certificates are accepted.
    pub fn is_trusted(&self) -> bool {
        self.state == ServerState::Trusted
    }
}

impl Object for Server {
    const TABLE: Table = Table::Server;
    fn key(&self) -> Vec<u8> {
        self.id.0.to_vec()
    }
    fn name(&self) -> Option<String> {
        self.is_trusted().then(|| self.name.key())
    }
    fn shown(&self) -> String {
        self.name.to_string()
    }
}

/// A client certificate that was issued. What is not here is not accepted, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Serial number, as in the certificate.
    #[serde(with = "super::tokens::hex_bytes")]
    pub serial: Vec<u8>,
    /// Whose.
    pub server: ServerId,
    /// End of its validity.
    pub expires_at: Timestamp,
}

impl Object for Certificate {
    const TABLE: Table = Table::Certificate;
    fn key(&self) -> Vec<u8> {
        self.serial.clone()
    }
    fn parent(&self) -> Option<Vec<u8>> {
        Some(self.server.0.to_vec())
    }
    fn shown(&self) -> String {
        self.serial.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Longest version text that is kept.
const VERSION_CHARS_MAX: usize = 64;

impl Control {
    /// Keeps a new join token.
    pub fn create_join_token(&self, acting: &Acting, token: &JoinToken) -> Result<(), ControlError> {
        self.write(|rows| {
            drop_old_join_tokens(rows, acting.now)?;
            rows::insert(rows, token)?;
            let detail = format!("expires {}", token.expires_at.secs);
            audit::append(rows, acting, &AuditNote::new("server.token", token.shown(), detail))?;
            Ok(())
        })
    }

    /// Join tokens that were not used and have not expired.
    pub fn join_tokens(&self, now: Timestamp) -> Result<Vec<JoinToken>, ControlError> {
        let mut tokens = self.read(|rows| rows::all::<JoinToken>(rows, None))?;
        tokens.retain(|token| token.used.is_none() && now < token.expires_at);
        Ok(tokens)
    }

    /// Registers a server with a join token, which is used up in the same transaction. Any reason why the token
    /// is no good gives [`ControlError::BadToken`].
    pub fn register_server(
        &self,
        acting: &Acting,
        token: &SecretHash,
        server: &Server,
        certificate: &Certificate,
    ) -> Result<(), ControlError> {
        self.write(|rows| {
            let mut token: JoinToken = rows::get(rows, &token.0)?.ok_or(ControlError::BadToken)?;
            let other = token.server.as_ref().is_some_and(|name| name.key() != server.name.key());
            if token.used.is_some() || token.expires_at <= acting.now || other {
                return Err(ControlError::BadToken);
            }
            token.used = Some((server.id, acting.now));
            rows::put(rows, &token)?;
            rows::insert(rows, &Server { version: cut(&server.version), ..server.clone() })?;
            rows::insert(rows, certificate)?;
            let detail = format!("id {} token {} serial {}", server.id, token.shown(), certificate.shown());
            audit::append(rows, acting, &AuditNote::new("server.register", &server.name, detail))?;
            Ok(())
        })
    }

    /// Keeps a renewed certificate; those of the server that have expired are forgotten. Refused for a revoked server.
    pub fn add_certificate(&self, acting: &Acting, certificate: &Certificate) -> Result<(), ControlError> {
        self.write(|rows| {
            let server: Server = rows::need(rows, &certificate.server.0)?;
            if !server.is_trusted() {
                return Err(ControlError::Refused(format!("the server \"{}\" is revoked", server.name)));
            }
            for old in rows::all::<Certificate>(rows, Some(&server.id.0))? {
                if old.expires_at <= acting.now {
                    rows.delete(Table::Certificate, &old.serial)?;
                }
            }
            rows::insert(rows, certificate)?;
            let detail = format!("serial {}", certificate.shown());
            audit::append(rows, acting, &AuditNote::new("server.renew", &server.name, detail))?;
            Ok(())
        })
    }

    /// The trusted server of a certificate that is valid now: asked at every request of an agent.
    pub fn server_of_certificate(
        &self,
        serial: &[u8],
        now: Timestamp,
    ) -> Result<Option<Server>, ControlError> {
        self.read(|rows| {
            let Some(certificate) = rows::get::<Certificate>(rows, serial)? else { return Ok(None) };
            if certificate.expires_at <= now {
                return Ok(None);
            }
            let server: Option<Server> = rows::get(rows, &certificate.server.0)?;
            Ok(server.filter(Server::is_trusted))
        })
    }

    /// Whose certificate it is, trusted or not: for the audit log.
    pub fn owner_of_certificate(&self, serial: &[u8]) -> Result<Option<Server>, ControlError> {
        self.read(|rows| match rows::get::<Certificate>(rows, serial)? {
            Some(certificate) => rows::get(rows, &certificate.server.0),
            None => Ok(None),
        })
    }

    /// Certificates of a server that are still kept.
    pub fn certificates(&self, server: ServerId) -> Result<Vec<Certificate>, ControlError> {
        self.read(|rows| rows::all(rows, Some(&server.0)))
    }

    /// A server, trusted or revoked.
    pub fn server(&self, id: ServerId) -> Result<Option<Server>, ControlError> {
        self.read(|rows| rows::get(rows, &id.0))
    }

    /// The trusted server with a name.
    pub fn server_named(&self, name: &ObjectName) -> Result<Option<Server>, ControlError> {
        self.read(|rows| rows::find(rows, &name.key()))
    }

    /// A page of servers in order of their ids, revoked ones included.
    pub fn servers(&self, after: Option<ServerId>, limit: usize) -> Result<Vec<Server>, ControlError> {
        self.read(|rows| rows::list(rows, None, after.as_ref().map(|id| &id.0[..]), limit))
    }

    /// Every server.
    pub fn all_servers(&self) -> Result<Vec<Server>, ControlError> {
        self.read(|rows| rows::all(rows, None))
    }

    /// Notes a sign of life. Not audited: it is no change that anybody ordered.
    pub fn heartbeat(&self, id: ServerId, now: Timestamp, version: &str) -> Result<(), ControlError> {
        self.write(|rows| {
            let mut server: Server = rows::need(rows, &id.0)?;
            server.heartbeat_at = server.heartbeat_at.max(Some(now));
            server.left_at = None;
            server.version = cut(version);
            rows::put(rows, &server)
        })
    }

    /// Notes the end of a session. A server that has another one by now says so with its next heartbeat.
    pub fn left(&self, id: ServerId, now: Timestamp) -> Result<(), ControlError> {
        self.write(|rows| {
            let mut server: Server = rows::need(rows, &id.0)?;
            server.left_at = Some(now);
            rows::put(rows, &server)
        })
    }

    /// Ends the trust in a server, for good. Its endpoints stay as they are and are no longer served.
    pub fn revoke_server(&self, acting: &Acting, id: ServerId) -> Result<Server, ControlError> {
        self.change(acting, &id.0, "server.revoke", |server: &mut Server| {
            if !server.is_trusted() {
                return Err(ControlError::Refused(format!(
                    "the server \"{}\" is revoked already",
                    server.name
                )));
            }
            server.state = ServerState::Revoked { at: acting.now };
            Ok(format!("id {id}"))
        })
    }

    /// Endpoints of a server.
    pub fn endpoints_of_server(&self, id: ServerId) -> Result<Vec<Endpoint>, ControlError> {
        let mut found = self.read(|rows| rows::all::<Endpoint>(rows, None))?;
        found.retain(|endpoint| endpoint.server == id);
        Ok(found)
    }
}

fn cut(version: &str) -> String {
    polder_types::Escaped(version.as_bytes()).to_string().chars().take(VERSION_CHARS_MAX).collect()
}

/// Used and expired tokens are of no use to anybody after a day (the audit log knows of them).
fn drop_old_join_tokens(rows: &mut dyn Rows, now: Timestamp) -> Result<(), ControlError> {
    for token in rows::all::<JoinToken>(rows, None)? {
        if token.expires_at.secs + 24 * 3600 < now.secs {
            rows.delete(Table::JoinToken, &token.hash.0)?;
        }
    }
    Ok(())
}
