//! Carries out what the command line hands over.

use polder_cli::{CliError, Exit, Host, HostRequest, Ui};

use crate::{agent, evaluate, mount, recall, service, up};

/// This executable.
pub struct Binary;

impl Host for Binary {
    fn carry_out(&self, request: HostRequest, ui: &mut Ui) -> Result<Exit, CliError> {
        match request {
            HostRequest::ServiceRun(request) => done(service::run(request, ui)),
            HostRequest::AgentRegister(request) => agent::register(request, ui),
            HostRequest::AgentRun(request) => agent::run(request, ui),
            HostRequest::AgentWorker(request) => agent::work(request, ui),
            HostRequest::Evaluate(request) => evaluate::run(&request, ui),
            HostRequest::Estimate(request) => evaluate::estimate::run(&request, ui),
            HostRequest::RecallManifest(request) => recall::run(&request, ui),
            HostRequest::Mount(request) => mount::run(&request, ui),
            HostRequest::Up(request) => up::run(request, ui),
        }
    }
}

fn done(result: Result<(), CliError>) -> Result<Exit, CliError> {
    result.map(|()| Exit::Done)
}

/// An error of a program, for a person.
pub fn failed(error: anyhow::Error) -> CliError {
    let mut chain = error.chain().map(ToString::to_string);
    let message = chain.next().unwrap_or_default();
    let causes: Vec<String> = chain.collect();
    CliError::new([vec![message], causes].concat().join(": "))
}

/// A runtime for a program.
pub fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::io("start the runtime", error))
}
