//! Which service, which token, which certificate authority: flag over environment over file over default, resolved
//! here and nowhere else.

use std::path::{Path, PathBuf};

use polder_api::rest::{Client, ClientConfig};
use polder_types::Escaped;
use serde::{Deserialize, Serialize};

use crate::{CliError, Environment, args::Global};

/// Where a service listens when nobody says otherwise.
pub const URL_DEFAULT: &str = "https://127.0.0.1:8443";
/// Largest file of settings, token or certificates that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// `config.toml`. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Address of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// File that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// File of the only certificate authorities to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads a file; a missing one is empty.
    pub fn load(path: &Path) -> Result<Self, CliError> {
        let text = match read_bounded(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(CliError::io(format!("read {}", shown(path)), error)),
        };
        let text =
            String::from_utf8(text).map_err(|_| CliError::usage(format!("{} is not UTF-8", shown(path))))?;
        toml::from_str(&text).map_err(|error| {
            CliError::usage(format!("{}: {}", shown(path), error.message()))
                .hint("known keys are url, token_file and ca_file")
        })
    }
}

/// What will be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address of the service.
    pub url: String,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
    /// File of the only certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// Resolves them.
    pub fn resolve(global: &Global, environment: &Environment) -> Result<Self, CliError> {
        Self::resolve_or(global, environment, (URL_DEFAULT, None))
    }

    /// As [`Settings::resolve`], with the address and the certificate authorities for where nobody names an address.
    pub fn resolve_or(
        global: &Global,
        environment: &Environment,
        (url_default, ca_default): (&str, Option<PathBuf>),
    ) -> Result<Self, CliError> {
        let file = match environment.config_file() {
            Some(path) => ConfigFile::load(&path)?,
            None => ConfigFile::default(),
        };
        let variable = |name: &str| environment.var(name).cloned();
        let url = match variable("POLDER_URL") {
            Some(url) => Some(url.into_string().map_err(|_| CliError::usage("POLDER_URL is not UTF-8"))?),
            None => None,
        };
        let token_file = variable("POLDER_TOKEN_FILE").map(PathBuf::from);
        let ca_file = variable("POLDER_CA_FILE").map(PathBuf::from);
        let resolved = global.url.clone().or(url).or(file.url);
        let ca_file = global.ca_file.clone().or(ca_file).or(file.ca_file);
        // The authorities of another service would be the wrong ones.
        let ca_default = ca_default.filter(|_| resolved.is_none());
        Ok(Self {
            url: resolved.unwrap_or_else(|| url_default.to_owned()),
            token_file: global.token_file.clone().or(token_file).or(file.token_file),
            ca_file: ca_file.or(ca_default),
        })
    }

    /// A client of the service.
    pub fn client(&self) -> Result<Client, CliError> {
        let Some(token_file) = &self.token_file else {
            return Err(CliError::refused("no token is known for the service").hint(
                "run `polder login URL --token-file FILE`, or set POLDER_TOKEN_FILE, or give --token-file",
            ));
        };
        let mut config = ClientConfig::new(&self.url);
        config.token = Some(read_secret(token_file)?);
        if let Some(path) = &self.ca_file {
            let pem =
                read_bounded(path).map_err(|error| CliError::io(format!("read {}", shown(path)), error))?;
            config.ca_pem = Some(pem);
        }
        Ok(Client::new(&config)?)
    }
}

/// A path for a message.
pub fn shown(path: &Path) -> String {
    format!("\"{}\"", Escaped(path.as_os_str().as_encoded_bytes()))
}

/// Reads a secret of one line from a file.
pub fn read_secret(path: &Path) -> Result<String, CliError> {
    let bytes = read_bounded(path).map_err(|error| CliError::io(format!("read {}", shown(path)), error))?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let secret = text.trim();
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CliError::new(format!("{} holds no token", shown(path)))
            .hint("a token is one line of letters and digits, as the service wrote it"));
    }
    Ok(secret.to_owned())
}

/// Reads a small file.
pub fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("is larger than 1 MiB"));
    }
    Ok(bytes)
}
