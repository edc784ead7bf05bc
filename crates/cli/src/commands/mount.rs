//! `polder mount` and `polder unmount`

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use polder_api::{
    control::{AgentInfo, Answer, Request, ask},
    rest::{Client, Endpoint, EndpointRemoval, InitialDownload, JsonBytes, ProblemCode},
};
use serde_json::json;

use super::{agent::unexpected, block_on};
use crate::{
    CliError, Exit, Host, HostRequest, Mount, Ui,
    args::{Global, StateDir},
    confirm::Confirm,
    render,
    settings::{Settings, shown},
    values::parse_size,
};

/// How often it is looked whether a folder has been let go.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Show a share as a folder: names first, bytes on demand
///
/// Makes a server endpoint of this server whose files are names until they are read; Samba or an NFS server may export the folder. What is written
/// there goes into the share. The folder must be empty, and is made if it is not there; done again, it only waits until the share is shown. Needs an
/// agent that runs here as a registered server, and a token for the service, whose address is the agent's unless another one is given.
///
/// `polder endpoint set` changes its settings, `polder unmount` ends it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder mount projects /srv/projects --cache-quota 200GiB")]
pub struct MountArgs {
    /// Name or id of the share
    #[arg(value_name = "SHARE")]
    share: String,
    /// Folder
    #[arg(value_name = "DIR")]
    dir: OsString,
    /// Most bytes that are kept here of files [default: a tenth of the volume, 1 GiB at least]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache_quota: Option<u64>,
    /// The sync group, where the share has several [default: the share's; made if there is none]
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// Only check whether it could be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    state: StateDir,
}

/// End what `polder mount` began
///
/// Waits until every change has reached the share and nobody uses the folder; then takes the mount away and removes the names and the bytes that the
/// share verifiably holds. Nothing is recalled. What the share does not have (names that are left out) stays in the folder, which is otherwise
/// as empty as before. Of an endpoint that was not made with names only it asks first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder unmount /srv/projects")]
pub struct UnmountArgs {
    /// Folder
    #[arg(value_name = "DIR")]
    dir: OsString,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    state: StateDir,
}

/// The folder that is meant: absolute, without symlinks, whether or not it is there.
fn folder(dir: &OsString) -> Result<PathBuf, CliError> {
    let failed = |error| CliError::io(format!("resolve {}", shown(Path::new(dir))), error);
    let path = std::path::absolute(dir).map_err(failed)?;
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    match (path.parent(), path.file_name()) {
        // What is mounted there need not answer, so it is not asked.
        (Some(above), Some(name)) if !is_link => Ok(above.canonicalize().map_err(failed)?.join(name)),
        _ => path.canonicalize().map_err(failed),
    }
}

/// Carries out `polder mount`.
pub fn mount(args: MountArgs, global: &Global, ui: &mut Ui, host: &dyn Host) -> Result<Exit, CliError> {
    let agent = block_on(agent(&args.state.state))?;
    let request = Mount {
        share: args.share,
        dir: folder(&args.dir)?,
        group: args.group,
        cache_quota_bytes: args.cache_quota,
        dry_run: args.dry_run,
        settings: settings(global, &agent, &args.state.state, ui)?,
        state: args.state.state,
        agent: Box::new(agent),
    };
    host.carry_out(HostRequest::Mount(request), ui)
}

/// Who the agent of this server is. What to do where there is none depends on whether it was ever registered.
async fn agent(state: &Path) -> Result<AgentInfo, CliError> {
    match ask(state, &Request::Info).await.map_err(CliError::from) {
        Ok(Answer::Info(info)) => Ok(info),
        Ok(_) => Err(unexpected()),
        Err(error) if error.exit == Exit::Unreachable && !state.join("identity.toml").exists() => {
            Err(error.hint(format!(
                "no agent is registered in {}: run `polder agent register`, then `polder agent run`; or name another folder with --state",
                shown(state)
            )))
        }
        Err(error) => Err(error),
    }
}

/// How the service is reached: the agent's own, where nobody says otherwise.
fn settings(global: &Global, agent: &AgentInfo, state: &Path, ui: &Ui) -> Result<Settings, CliError> {
    let ca_file = state.join("ca.pem");
    let ca_file = ca_file.exists().then_some(ca_file);
    Settings::resolve_or(global, ui.environment(), (&agent.service, ca_file))
}

/// Carries out `polder unmount`.
pub async fn unmount(args: UnmountArgs, global: &Global, ui: &mut Ui) -> Result<(), CliError> {
    let state = &args.state.state;
    let agent = agent(state).await?;
    let client = settings(global, &agent, state, ui)?.client()?;
    let path = JsonBytes(folder(&args.dir)?.into_os_string().into_vec());
    let endpoint = endpoint_at(&client, &agent, &path).await?.ok_or_else(|| {
        CliError::not_found(format!("{} is no endpoint of this server", shown(Path::new(&args.dir))))
            .hint("see `polder endpoint list`")
    })?;
    if endpoint.settings.initial_download != InitialDownload::NamespaceOnly {
        let what =
            format!("removes the endpoint {path}, and from this disk all files in it that the share holds");
        args.confirm.ask(ui, &what, endpoint.server.as_str())?;
    }
    // Whoever may not remove it is told so before anything is wished for.
    client
        .endpoint_delete(endpoint.id, EndpointRemoval { dry_run: true, ..EndpointRemoval::default() })
        .await?;
    if args.confirm.dry_run {
        ui.say(format_args!("would unmount {path}"));
        return ui.show(&endpoint, |_| String::new());
    }
    if let Err(error) = wish(state, &path, true).await {
        // It may have been heard.
        let _ = wish(state, &path, false).await;
        return Err(error);
    }
    if let Err(error) = client.endpoint_delete(endpoint.id, EndpointRemoval::default()).await {
        // A removal by somebody else recalls.
        let _ = wish(state, &path, false).await;
        return Err(error.into());
    }
    let left = gone(&client, &endpoint, state, ui).await?;
    ui.show(&json!({ "endpoint": endpoint.id, "path": path, "left": left }), |_| String::new())?;
    match left {
        0 => ui.say(format_args!("unmounted {path}")),
        left => ui.say(format_args!(
            "unmounted {path}; {} stay there that the share does not have",
            render::counted(left, "name")
        )),
    }
    Ok(())
}

async fn wish(state: &Path, path: &JsonBytes, wished: bool) -> Result<(), CliError> {
    match ask(state, &Request::Unmount { path: path.clone(), wished }).await? {
        Answer::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

/// The live endpoint of this server at a path.
pub async fn endpoint_at(
    client: &Client,
    agent: &AgentInfo,
    path: &JsonBytes,
) -> Result<Option<Endpoint>, CliError> {
    let found = client.endpoints(None, None).await?;
    let is_it =
        |one: &Endpoint| one.server_id == agent.server && one.path == *path && one.left_behind.is_none();
    Ok(found.into_iter().find(is_it))
}

/// Waits until the endpoint has gone, and says what it waits for. How many names stay in the folder.
async fn gone(client: &Client, endpoint: &Endpoint, state: &Path, ui: &Ui) -> Result<u64, CliError> {
    let mut said: Option<String> = None;
    loop {
        match client.endpoint(endpoint.id).await {
            Ok(_) => (),
            Err(error) if error.code() == Some(ProblemCode::NotFound) => break,
            Err(error) => return Err(error.into()),
        }
        if let Ok(Answer::Status { endpoints }) = ask(state, &Request::Status).await {
            let own = endpoints.into_iter().find(|one| one.id == endpoint.id);
            let why = own.and_then(|own| own.reason);
            if let Some(why) = why.filter(|why| said.as_ref() != Some(why)) {
                ui.say(render::safe(&why));
                said = Some(why);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // No share's any more.
    let dir = Path::new(std::ffi::OsStr::from_bytes(&endpoint.path.0));
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    Ok(names.filter(|name| name.file_name() != ".polder").count() as u64)
}
