//! Settings of a service process: flag over environment over file over default, resolved in one place.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use polder_ledger::HistoryPolicy;

/// Prefix of the environment variables: `POLDER_SERVICE_LISTEN` and so on.
const ENV_PREFIX: &str = "POLDER_SERVICE_";

/// What somebody wrote somewhere: flags, environment or file. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// Folder of certificates, keys and the embedded stores.
    pub data: Option<PathBuf>,
    /// Address to listen at.
    pub listen: Option<SocketAddr>,
    /// `sqlite:FOLDER`.
    pub metadata: Option<String>,
    /// `file:FOLDER`, `s3://…`, `az://…`, `gs://…`.
    pub objects: Option<String>,
    /// The address that agents and people use, where it is not the one listened at.
    pub public_url: Option<String>,
    /// Further host names and addresses for the server's certificate.
    pub host_names: Option<Vec<String>>,
    /// Most connections at one time.
    pub connections_max: Option<usize>,
    /// How often an agent says that it lives, in seconds.
    pub heartbeat_s: Option<u32>,
    /// How often reconcilers look without being woken, in seconds.
    pub reconcile_s: Option<u32>,
    /// How long every moment of a share can be read, in seconds.
    pub history_s: Option<u64>,
    /// How long an endpoint may be away and go on where it was, in seconds.
    pub absence_s: Option<u64>,
}

/// What the process does. Made by [`ServiceConfig::resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Folder of certificates, keys and the embedded stores.
    pub data: PathBuf,
    /// Address to listen at; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of the embedded metadata store.
    pub metadata: PathBuf,
    /// Where packs are.
    pub objects: Objects,
    /// Where others reach the service, without a slash at the end.
    pub public_url: Option<String>,
    /// Host names and addresses of the server's certificate, besides those listened at.
    pub host_names: Vec<String>,
    /// Most connections at one time.
    pub connections_max: usize,
    /// How often an agent says that it lives, in seconds.
    pub heartbeat_s: u32,
    /// How often reconcilers look without being woken, in seconds.
    pub reconcile_s: u32,
    /// How long history is kept, and how fine.
    pub history: HistoryPolicy,
}

/// Where packs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objects {
    /// A folder, served by the service itself.
    Folder(PathBuf),
    /// An object store, by its URL.
    Url(String),
}

impl ServiceSettings {
    /// Reads a file of settings.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read \"{}\"", path.display()))?;
        toml::from_str(&text).with_context(|| format!("the settings in \"{}\"", path.display()))
    }

    /// Takes the settings out of environment variables; others are ignored, misspelt ones are not.
    pub fn from_env(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut table = toml::Table::new();
        for (name, value) in vars {
            let Some(key) = name.strip_prefix(ENV_PREFIX) else { continue };
            let key = key.to_ascii_lowercase();
            let value = match key.as_str() {
                "connections_max" | "heartbeat_s" | "reconcile_s" | "history_s" | "absence_s" => {
                    let number = value.parse().with_context(|| format!("the variable {name}"))?;
                    toml::Value::Integer(number)
                }
                "host_names" => value
                    .split(',')
                    .map(|name| toml::Value::String(name.trim().into()))
                    .collect::<Vec<_>>()
                    .into(),
                _ => toml::Value::String(value),
            };
            table.insert(key, value);
        }
        toml::Value::Table(table).try_into().context("the variables POLDER_SERVICE_…")
    }

    /// These settings, and those of `below` where these say nothing.
    fn over(self, below: Self) -> Self {
        Self {
            data: self.data.or(below.data),
            listen: self.listen.or(below.listen),
            metadata: self.metadata.or(below.metadata),
            objects: self.objects.or(below.objects),
            public_url: self.public_url.or(below.public_url),
            host_names: self.host_names.or(below.host_names),
            connections_max: self.connections_max.or(below.connections_max),
            heartbeat_s: self.heartbeat_s.or(below.heartbeat_s),
            reconcile_s: self.reconcile_s.or(below.reconcile_s),
            history_s: self.history_s.or(below.history_s),
            absence_s: self.absence_s.or(below.absence_s),
        }
    }
}

impl ServiceConfig {
    /// Where the service listens unless somebody says otherwise.
    pub const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

    /// Flags over environment over file over default.
    pub fn resolve(flags: ServiceSettings, env: ServiceSettings, file: ServiceSettings) -> Result<Self> {
        let said = flags.over(env).over(file);
        let data = said.data.context("the folder of the service is not given: use --data DIR")?;
        let metadata = match said.metadata.as_deref() {
            None => data.join("metadata"),
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(folder) if !folder.is_empty() => folder.into(),
                _ => bail!("the metadata store \"{url}\" is not supported: use sqlite:FOLDER"),
            },
        };
        let objects = match said.objects.as_deref() {
            None => Objects::Folder(data.join("objects")),
            Some(url) => match url.strip_prefix("file:") {
                Some(folder) if !folder.is_empty() => Objects::Folder(folder.into()),
                _ => Objects::Url(url.into()),
            },
        };
        let public_url = said.public_url.map(|url| url.trim_end_matches('/').to_owned());
        if let Some(url) = &public_url {
            ensure!(url.starts_with("https://"), "the public URL \"{url}\" does not begin with https://");
        }
        let connections_max = said.connections_max.unwrap_or(4096);
        ensure!(connections_max > 0, "connections_max is at least 1");
        let (heartbeat_s, reconcile_s) = (said.heartbeat_s.unwrap_or(10), said.reconcile_s.unwrap_or(60));
        ensure!((1..=300).contains(&heartbeat_s), "heartbeat_s lies between 1 and 300");
        ensure!((1..=3600).contains(&reconcile_s), "reconcile_s lies between 1 and 3600");
        let history = history(said.history_s, said.absence_s)?;
        let default = Self::LISTEN_DEFAULT.parse().expect("an address");
        Ok(Self {
            listen: said.listen.unwrap_or(default),
            host_names: said.host_names.unwrap_or_default(),
            data,
            metadata,
            objects,
            public_url,
            connections_max,
            heartbeat_s,
            reconcile_s,
            history,
        })
    }

    /// Everything below one folder, with the embedded stores.
    pub fn embedded(data: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        let flags = ServiceSettings { data: Some(data.into()), listen: Some(listen), ..Default::default() };
        Self::resolve(flags, ServiceSettings::default(), ServiceSettings::default())
            .expect("a folder and an address are all that is needed")
    }
}

/// How long history is kept: as set, else as by default. An endpoint that goes on where it was needs the changes since,
/// which are kept no shorter than the history.
fn history(history_s: Option<u64>, absence_s: Option<u64>) -> Result<HistoryPolicy> {
    let default = HistoryPolicy::default();
    let history_ms = history_s.map_or(default.history_ms, |seconds| seconds.saturating_mul(1000));
    let absence_ms = match absence_s {
        Some(seconds) => seconds.saturating_mul(1000),
        None => default.absence_ms.max(history_ms),
    };
    ensure!(history_ms > 0, "history_s is at least 1");
    ensure!(absence_ms >= history_ms, "absence_s is at least history_s");
    Ok(HistoryPolicy { history_ms, absence_ms, ..default })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> ServiceSettings {
        toml::from_str(text).expect("valid in this test")
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let env = [("POLDER_SERVICE_HEARTBEAT_S", "7"), ("POLDER_SERVICE_DATA", "/env"), ("PATH", "/bin")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = ServiceSettings::from_env(env).expect("known variables");
        let flags = settings("data = '/flags'");
        let file = settings("heartbeat_s = 9\nreconcile_s = 5\nlisten = '[::1]:1'");
        let config = ServiceConfig::resolve(flags, env, file).expect("complete");
        assert_eq!((config.heartbeat_s, config.reconcile_s), (7, 5));
        assert_eq!(config.metadata, Path::new("/flags/metadata"));
        assert_eq!(config.objects, Objects::Folder("/flags/objects".into()));
        assert_eq!(config.listen.to_string(), "[::1]:1");
    }

    #[test]
    fn changes_are_kept_no_shorter_than_history() {
        let none = ServiceSettings::default();
        let resolve = |text| ServiceConfig::resolve(settings(text), none.clone(), none.clone());
        let history = |text| resolve(text).expect("complete").history;
        assert_eq!(history("data='/x'"), HistoryPolicy::default());
        let long = history("data='/x'\nhistory_s=31536000");
        assert_eq!((long.history_ms, long.absence_ms), (31_536_000_000, 31_536_000_000));
        let short = history("data='/x'\nhistory_s=1\nabsence_s=2");
        assert_eq!((short.history_ms, short.absence_ms), (1_000, 2_000));
    }

    #[test]
    fn what_nobody_knows_is_an_error() {
        assert!(toml::from_str::<ServiceSettings>("listne = 'x'").is_err());
        let misspelt = [("POLDER_SERVICE_LISTNE".to_owned(), "x".to_owned())];
        assert!(ServiceSettings::from_env(misspelt).is_err());
        for bad in [
            "",
            "data='/x'\nmetadata='mysql:x'",
            "data='/x'\npublic_url='http://x'",
            "data='/x'\nheartbeat_s=0",
            "data='/x'\nhistory_s=0",
            "data='/x'\nhistory_s=10\nabsence_s=9",
        ] {
            let none = ServiceSettings::default();
            assert!(ServiceConfig::resolve(settings(bad), none.clone(), none).is_err(), "{bad}");
        }
    }
}
