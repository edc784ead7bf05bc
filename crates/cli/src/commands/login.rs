//! `polder login`

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    CliError, Ui,
    args::Global,
    settings::{ConfigFile, Settings, shown},
};

/// Store the address of a service for the other commands
///
/// Asks the service whether it knows the token, then writes the address and the paths of the two files (never the
/// token itself) to ~/.config/polder/config.toml.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder login https://127.0.0.1:8443 --token-file data/owner.token --ca-file data/ca.pem"
)]
pub struct LoginArgs {
    /// Address of the service
    #[arg(value_name = "URL")]
    service_url: String,
}

/// Carries out `polder login`.
pub async fn run(args: LoginArgs, global: &Global, ui: &mut Ui) -> Result<(), CliError> {
    let path = ui.environment().config_file().ok_or_else(|| {
        CliError::new("there is no home folder to write to").hint("set HOME or XDG_CONFIG_HOME")
    })?;
    let global = Global { url: Some(args.service_url), ..global.clone() };
    let settings = Settings::resolve(&global, ui.environment())?;
    let who = settings.client()?.whoami().await?;
    let config = ConfigFile {
        url: Some(settings.url.clone()),
        token_file: settings.token_file.as_deref().map(absolute).transpose()?,
        ca_file: settings.ca_file.as_deref().map(absolute).transpose()?,
    };
    write(&path, &config)?;
    ui.say(format_args!("wrote {}", shown(&path)));
    ui.show(&who, |who| {
        let role = crate::render::word(&who.role);
        format!("logged in to {} as \"{}\" ({role})", settings.url, who.name)
    })
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| CliError::io(format!("resolve {}", shown(path)), error))
}

/// Writes beside the old file and renames, so that a crash leaves one of the two.
fn write(path: &Path, config: &ConfigFile) -> Result<(), CliError> {
    let failed = |error| CliError::io(format!("write {}", shown(path)), error);
    let text = toml::to_string(config)
        .map_err(|error| CliError { source: Some(Box::new(error)), ..CliError::new("write settings") })?;
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}
