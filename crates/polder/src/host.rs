//! Carries out what the command line hands over.

use polder_cli::{CliError, Exit, Host, HostRequest, Ui};

use crate::{evaluate, up};

/// This executable.
pub struct Binary;

impl Host for Binary {
    fn carry_out(&self, request: HostRequest, ui: &mut Ui) -> Result<Exit, CliError> {
        match request {
            HostRequest::ServiceRun(_)
            | HostRequest::AgentRegister(_)
            | HostRequest::AgentRun(_)
            | HostRequest::AgentWorker(_)
            | HostRequest::AgentReload(_) => {
                Err(CliError::new("this development version has no service and no agent yet"))
            }
            HostRequest::Evaluate(request) => evaluate::run(&request, ui),
            HostRequest::Up(request) => up::run(request, ui),
        }
    }
}

/// A runtime for a program.
pub fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::io("start the runtime", error))
}
