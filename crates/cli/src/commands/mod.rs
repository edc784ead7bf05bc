//! One file per command, or per noun where its verbs are one line each.

pub mod agent;
pub mod audit;
pub mod background;
pub mod completions;
pub mod conflicts;
pub mod endpoint;
pub mod errors;
pub mod estimate;
pub mod evaluate;
pub mod explain;
pub mod files;
pub mod group;
pub mod login;
pub mod man;
pub mod mount;
pub mod network;
pub mod pages;
pub mod pause;
pub mod pin;
pub mod review;
pub mod server;
pub mod service;
pub mod share;
pub mod snapshot;
pub mod status;
pub mod tier;
pub mod up;

use polder_api::rest::Client;

use crate::{
    CliError, Exit, Host, HostRequest, Ui,
    args::{Cli, Command, Global},
    settings::Settings,
};

/// Carries out what was written.
pub fn run(cli: Cli, ui: &mut Ui, host: &dyn Host) -> Result<Exit, CliError> {
    let global = cli.global;
    match cli.command {
        Command::Up(args) => host.carry_out(HostRequest::Up(args.request()), ui),
        Command::Service(command) => host.carry_out(command.request(), ui),
        Command::Evaluate(args) => host.carry_out(HostRequest::Evaluate(args.request()), ui),
        Command::Estimate(args) => host.carry_out(HostRequest::Estimate(args.request()), ui),
        Command::Agent(command) => agent::run(command, &global, ui, host),
        Command::Login(args) => done(block_on(login::run(args, &global, ui))),
        Command::Explain(args) => done(block_on(explain::run(args, &global, ui))),
        Command::Tier(args) => block_on(tier::tier(args, ui)),
        Command::Recall(args) => {
            let settings = || Settings::resolve(&global, ui.environment());
            match args.manifest(settings)? {
                Some(request) => host.carry_out(request, ui),
                None => block_on(tier::recall(args, ui)),
            }
        }
        Command::Pin(args) => done(block_on(pin::pin(args, ui))),
        Command::Unpin(args) => done(block_on(pin::unpin(args, ui))),
        Command::Mount(args) => mount::mount(args, &global, ui, host),
        Command::Unmount(args) => done(block_on(mount::unmount(args, &global, ui))),
        Command::Pause(args) => done(block_on(pause::pause(args, ui))),
        Command::Resume(args) => done(block_on(pause::resume(args, ui))),
        Command::Network(command) => block_on(network::run(command, ui)),
        Command::Completions(args) => done(completions::run(args, ui)),
        Command::Man(args) => done(man::run(&args, ui)),
        administration => {
            let client = client(&global, ui)?;
            block_on(administer(administration, &client, ui))
        }
    }
}

/// Commands that need the service's API and nothing else.
async fn administer(command: Command, client: &Client, ui: &mut Ui) -> Result<Exit, CliError> {
    match command {
        Command::Share(command) => share::run(command, client, ui).await,
        Command::Group(command) => done(group::run(command, client, ui).await),
        Command::Server(command) => done(server::run(command, client, ui).await),
        Command::Endpoint(command) => done(endpoint::run(command, client, ui).await),
        Command::Status(args) => done(status::run(args, client, ui).await),
        Command::Errors(args) => done(errors::run(args, client, ui).await),
        Command::Conflicts(command) => done(conflicts::run(command, client, ui).await),
        Command::Review(command) => done(review::run(command, client, ui).await),
        Command::Snapshot(command) => done(snapshot::run(command, client, ui).await),
        Command::Background(command) => done(background::run(command, client, ui).await),
        Command::Audit(args) => done(audit::run(args, client, ui).await),
        Command::Up(_)
        | Command::Service(_)
        | Command::Evaluate(_)
        | Command::Estimate(_)
        | Command::Agent(_)
        | Command::Login(_)
        | Command::Explain(_)
        | Command::Tier(_)
        | Command::Recall(_)
        | Command::Pin(_)
        | Command::Unpin(_)
        | Command::Mount(_)
        | Command::Unmount(_)
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Network(_)
        | Command::Completions(_)
        | Command::Man(_) => unreachable!("carried out before a client is made"),
    }
}

/// A client after the settings.
pub fn client(global: &Global, ui: &Ui) -> Result<Client, CliError> {
    Settings::resolve(global, ui.environment())?.client()
}

fn done(result: Result<(), CliError>) -> Result<Exit, CliError> {
    result.map(|()| Exit::Done)
}

/// Runs one command's asynchronous work.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::io("start the runtime", error))?;
    runtime.block_on(work)
}
