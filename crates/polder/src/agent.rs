//! `polder agent register|run` and the worker that `run` starts.

use std::io::Read as _;

use polder_agent::{HolderOptions, RegisterOptions, WorkerOptions};
use polder_cli::{AgentRegister, AgentRun, CliError, Exit, Ui};

use crate::{
    host::{failed, runtime},
    logging,
    parent::told_to_stop,
};

/// Longest join token or CA file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Registers this machine.
pub fn register(request: AgentRegister, ui: &Ui) -> Result<Exit, CliError> {
    let token = read(&request.token_file)?;
    let ca_file = request.ca_file.ok_or_else(|| {
        CliError::usage("no CA is given, and an unknown service is not trusted")
            .hint("give --ca-file with the service's ca.pem")
    })?;
    let name = match request.name {
        Some(name) => name,
        None => polder_agent::default_name().map_err(failed)?,
    };
    let options = RegisterOptions {
        service_url: request.service,
        token: token.trim().to_owned(),
        state: request.state,
        name,
        ca_pem: read(&ca_file)?,
    };
    let registered = runtime()?.block_on(polder_agent::register(options)).map_err(failed)?;
    ui.say(format!("registered as {} ({})", registered.name, registered.server_id));
    Ok(Exit::Done)
}

/// Runs the holder until it is told to stop.
pub fn run(request: AgentRun, ui: &Ui) -> Result<Exit, CliError> {
    logging::start(ui)?;
    let executable = std::env::current_exe().map_err(|error| CliError::io("find this executable", error))?;
    let state = request.state.as_os_str().to_owned();
    let mut arguments = ["agent", "worker", "--state"].map(std::ffi::OsString::from).to_vec();
    arguments.push(state);
    let options = HolderOptions { state: request.state, executable, arguments };
    runtime()?.block_on(polder_agent::hold(options, told_to_stop())).map_err(failed)?;
    Ok(Exit::Done)
}

/// A thread that panics takes the process with it. The holder starts a new worker, which begins from what is on disk;
/// without that thread this one would look alive and wait for ever.
fn die_with_a_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Runs the worker. Its exit code is a word to the holder, so the process ends here.
pub fn work(request: AgentRun, ui: &Ui) -> Result<Exit, CliError> {
    logging::start(ui)?;
    die_with_a_panic();
    let runtime = runtime()?;
    let code =
        runtime.block_on(polder_agent::work(WorkerOptions { state: request.state })).map_err(failed)?;
    std::process::exit(code)
}

/// Reads a small file; `-` is standard input.
fn read(path: &std::path::Path) -> Result<String, CliError> {
    let mut text = String::new();
    let source: Result<Box<dyn std::io::Read>, _> = match path.to_str() {
        Some("-") => Ok(Box::new(std::io::stdin())),
        _ => std::fs::File::open(path).map(|file| Box::new(file) as Box<dyn std::io::Read>),
    };
    let read = source.and_then(|source| source.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| CliError::io(format!("read \"{}\"", path.display()), error))?;
    Ok(text)
}
