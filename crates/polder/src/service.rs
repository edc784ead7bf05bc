//! `polder service run`

use polder_cli::{CliError, ServiceRun, Ui};
use polder_service::{ServiceConfig, ServiceSettings};

use crate::{
    host::{failed, runtime},
    logging,
    parent::told_to_stop,
};

/// Runs a service process until it is told to stop: by a signal, or by the end of the process that started it.
pub fn run(request: ServiceRun, ui: &Ui) -> Result<(), CliError> {
    logging::start(ui)?;
    let config = config(request).map_err(failed)?;
    runtime()?.block_on(polder_service::run(config, told_to_stop())).map_err(failed)
}

fn config(request: ServiceRun) -> anyhow::Result<ServiceConfig> {
    let file = match &request.config {
        Some(path) => ServiceSettings::from_file(path)?,
        None => ServiceSettings::default(),
    };
    let environment = ServiceSettings::from_env(std::env::vars_os().filter_map(|(name, value)| {
        // A variable that is not UTF-8 is none of ours.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    }))?;
    let flags = ServiceSettings {
        data: Some(request.data),
        listen: request.listen,
        metadata: request.metadata,
        objects: request.objects,
        public_url: request.public_url,
        ..ServiceSettings::default()
    };
    ServiceConfig::resolve(flags, environment, file)
}
