//! `polder mount`: a server endpoint of names only, from the folder to the moment at which the share is seen there.
//!
//! Nothing is kept of it but the endpoint: done again, it finds that by its path.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::{Duration, Instant},
};

use polder_api::{
    control::{Answer, Request, ask},
    rest::{
        Client, Endpoint, EndpointChange, EndpointCreate, EndpointSettings, EndpointState, EndpointStatus,
        Group, GroupCreate, InitialDownload, JsonBytes, Share,
    },
};
use polder_cli::{CliError, Exit, Mount, Progress, Ui, endpoint_at, shown_bytes, shown_fields};
use serde_json::json;

use crate::host::runtime;

const GIB: u64 = 1 << 30;
/// Least quota that is chosen without being asked for.
const QUOTA_BYTES_MIN: u64 = GIB;
/// Of the volume, this part is the quota when nobody says.
const QUOTA_PARTS: u64 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What stands in the way of a mount may stand there for so long; and the agent may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);
const STATE_DIR: &str = ".polder";

/// Carries it out.
pub fn run(request: &Mount, ui: &mut Ui) -> Result<Exit, CliError> {
    let client = request.settings.client()?;
    runtime()?.block_on(mount(request, &client, ui))?;
    Ok(Exit::Done)
}

async fn mount(request: &Mount, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    ensure_same_service(request, client).await?;
    let share = client.share(&request.share).await?;
    let path = JsonBytes(request.dir.as_os_str().as_bytes().to_vec());
    let found = endpoint_at(client, &request.agent, &path).await?;
    let is_new = found.is_none();
    let endpoint = match found {
        Some(endpoint) => found_again(request, &share, endpoint, client).await?,
        None => create(request, &share, path, client, ui).await?,
    };
    if request.dry_run {
        let quota = endpoint.settings.cache_quota_bytes.map_or("no bound".to_owned(), shown_bytes);
        let verb = if is_new { "mount" } else { "go on with" };
        ui.say(format_args!(
            "would {verb} \"{}\" at \"{}\", with at most {quota} of files kept here",
            share.name,
            request.dir.display()
        ));
        return show(&endpoint, None, is_new, ui);
    }
    let status = shown_there(request, &endpoint, ui).await?;
    show(&endpoint, Some(&status), is_new, ui)?;
    ui.say(format_args!(
        "\"{}\" is what to export; docs/samba.md and docs/nfs.md have the settings; `polder unmount` ends it",
        request.dir.display()
    ));
    Ok(())
}

/// A token of another service would make an endpoint that no agent here follows.
async fn ensure_same_service(request: &Mount, client: &Client) -> Result<(), CliError> {
    let servers = client.servers().await?;
    if servers.iter().any(|server| server.id == request.agent.server) {
        return Ok(());
    }
    let (there, here) = (&request.settings.url, &request.agent.service);
    Err(CliError::refused(format!(
        "the service at {there} does not know this server, which is registered at {here}"
    ))
    .hint("give --url and a token of the service that the agent is registered at"))
}

/// Whether what is there is what is wished; a quota that is named is set.
async fn found_again(
    request: &Mount,
    share: &Share,
    endpoint: Endpoint,
    client: &Client,
) -> Result<Endpoint, CliError> {
    let dir = request.dir.display();
    if endpoint.share_id != share.id {
        return Err(CliError::refused(format!("\"{dir}\" follows the share \"{}\" already", endpoint.share))
            .hint("`polder unmount` ends that, or take another folder"));
    }
    if !endpoint.settings.tiering {
        return Err(CliError::refused(format!("\"{dir}\" is an endpoint that has all files of the share"))
            .hint("`polder endpoint set … --tiering on` lets it have names alone"));
    }
    if request.cache_quota_bytes.is_none_or(|wish| endpoint.settings.cache_quota_bytes == Some(wish)) {
        return Ok(endpoint);
    }
    let change =
        EndpointChange { cache_quota_bytes: Some(request.cache_quota_bytes), ..EndpointChange::default() };
    Ok(client.endpoint_change(endpoint.id, &change, request.dry_run).await?)
}

/// Makes the endpoint, with all that it needs. What was made for it goes when it cannot be.
async fn create(
    request: &Mount,
    share: &Share,
    path: JsonBytes,
    client: &Client,
    ui: &Ui,
) -> Result<Endpoint, CliError> {
    let is_made = folder(&request.dir)?;
    let made = create_in(request, share, path, client, ui).await;
    if is_made && (made.is_err() || request.dry_run) {
        let _ = std::fs::remove_dir(&request.dir);
    }
    made
}

async fn create_in(
    request: &Mount,
    share: &Share,
    path: JsonBytes,
    client: &Client,
    ui: &Ui,
) -> Result<Endpoint, CliError> {
    polder_agent::ensure_can_tier(&request.dir).map_err(|error| {
        CliError::refused(format!("nothing can be mounted at \"{}\": {error:#}", request.dir.display()))
            .hint("it needs root, /dev/fuse and a file system with extended attributes: `polder evaluate` says more")
    })?;
    let volume = polder_agent::survey(&request.dir).map_err(crate::host::failed)?;
    let quota = request.cache_quota_bytes.unwrap_or_else(|| quota_default(volume.bytes));
    let group = group(request, share, client, ui).await?;
    let settings = EndpointSettings {
        tiering: true,
        cache_quota_bytes: Some(quota),
        initial_download: InitialDownload::NamespaceOnly,
        ..EndpointSettings::default()
    };
    let server = request.agent.name.to_string();
    let create = EndpointCreate { group, server, path, settings };
    Ok(client.endpoint_create(&create, request.dry_run).await?)
}

/// A tenth of the volume in whole GiB.
fn quota_default(volume_bytes: u64) -> u64 {
    (volume_bytes / QUOTA_PARTS / GIB * GIB).max(QUOTA_BYTES_MIN)
}

/// Sees to it that there is a folder without files. `true`: it was made.
fn folder(dir: &Path) -> Result<bool, CliError> {
    let failed = |doing: &str, error| CliError::io(format!("{doing} \"{}\"", dir.display()), error);
    match std::fs::create_dir(dir) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => (),
        Err(error) => return Err(failed("make", error)),
    }
    for name in std::fs::read_dir(dir).map_err(|error| failed("read", error))? {
        let name = name.map_err(|error| failed("read", error))?.file_name();
        // What an endpoint of before has left is taken up, or refused, by the agent.
        if name != OsStr::new(STATE_DIR) {
            return Err(CliError::refused(format!(
                "\"{}\" is not empty: its files would go into the share",
                dir.display()
            ))
            .hint("give an empty folder; if they are to go there, `polder endpoint create … --tiering --initial-download namespace-only`"));
        }
    }
    Ok(false)
}

/// The name of the share's sync group. All groups of a share are kept in sync, so any would do; but a person is not to be surprised.
async fn group(request: &Mount, share: &Share, client: &Client, ui: &Ui) -> Result<String, CliError> {
    let groups = client.groups().await?;
    let own: Vec<&Group> = groups.iter().filter(|group| group.share_id == share.id).collect();
    let hint = |groups: &[&Group]| {
        let names: Vec<String> = groups.iter().map(|group| group.name.to_string()).collect();
        format!("give --group with one of {}", names.join(", "))
    };
    if let Some(wish) = &request.group {
        return match own.iter().any(|group| group.name.as_str() == wish || group.id.to_string() == *wish) {
            true => Ok(wish.clone()),
            false => {
                Err(CliError::not_found(format!("the share \"{}\" has no sync group \"{wish}\"", share.name)))
            }
        };
    }
    match (&own[..], own.iter().find(|group| group.name == share.name)) {
        ([one], _) | (_, Some(one)) => Ok(one.name.to_string()),
        ([], None) if request.dry_run => Err(CliError::refused(format!(
            "the share \"{}\" has no sync group yet, so more cannot be checked",
            share.name
        ))
        .hint("`polder mount` makes one of its name; or `polder group create`")),
        ([], None) => {
            let made = GroupCreate { name: share.name.clone(), share: share.id.to_string() };
            let group = client.group_create(&made).await?;
            ui.say(format_args!("created the sync group \"{}\"", group.name));
            Ok(group.name.to_string())
        }
        (several, None) => {
            Err(CliError::refused(format!("the share \"{}\" has several sync groups", share.name))
                .hint(hint(several)))
        }
    }
}

/// Waits until all names are there.
async fn shown_there(request: &Mount, endpoint: &Endpoint, ui: &Ui) -> Result<EndpointStatus, CliError> {
    let progress = Progress::new(ui, "names");
    let shown = wait(request, endpoint, &progress).await;
    progress.finish();
    shown
}

async fn wait(request: &Mount, endpoint: &Endpoint, progress: &Progress) -> Result<EndpointStatus, CliError> {
    let (mut well, mut names) = (Instant::now(), 0);
    loop {
        let status = status(request, endpoint).await;
        if let Ok(Some(status)) = &status {
            (names..status.nodes).for_each(|_| progress.add_item());
            names = names.max(status.nodes);
        }
        let why = match status {
            Ok(Some(status)) => match standing(&status, polder_agent::is_mounted(&request.dir)) {
                Standing::Shown => return Ok(status),
                Standing::Comes => None,
                Standing::Over(why) => return Err(stands(request, &why)),
                Standing::Waits(why) => Some(why),
            },
            Ok(None) => Some("the agent does not have the endpoint yet".to_owned()),
            Err(error) => Some(error.chain()),
        };
        match why {
            None => well = Instant::now(),
            Some(why) if well.elapsed() > PATIENCE => return Err(stands(request, &why)),
            Some(_) => (),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn stands(request: &Mount, why: &str) -> CliError {
    CliError::refused(format!("\"{}\" does not show the share yet: {why}", request.dir.display()))
        .hint("the endpoint stays, and goes on by itself when this is over; `polder unmount` ends it")
}

async fn status(request: &Mount, endpoint: &Endpoint) -> Result<Option<EndpointStatus>, CliError> {
    match ask(&request.state, &Request::Status).await? {
        Answer::Status { endpoints } => Ok(endpoints.into_iter().find(|one| one.id == endpoint.id)),
        _ => Err(CliError::new("the agent sent an answer that this version does not understand")),
    }
}

/// How far an endpoint is from being seen.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// All names are there.
    Shown,
    /// It goes on.
    Comes,
    /// Something stands in the way that may pass.
    Waits(String),
    /// It will not go on by itself.
    Over(String),
}

fn standing(status: &EndpointStatus, is_mounted: bool) -> Standing {
    let why = status.reason.clone();
    match status.state {
        EndpointState::Paused => Standing::Over("sync is paused; `polder resume` lets it go on".to_owned()),
        EndpointState::Removing => Standing::Over("the endpoint is being removed".to_owned()),
        EndpointState::Stopped | EndpointState::Offline => {
            Standing::Waits(why.unwrap_or_else(|| "the endpoint stands still".to_owned()))
        }
        EndpointState::Pending | EndpointState::Scanning | EndpointState::InitialSync => Standing::Comes,
        _ if !is_mounted => Standing::Waits(why.unwrap_or_else(|| "nothing is mounted there yet".to_owned())),
        // In the beginning a state that is sound and has agreed on nothing passes by.
        EndpointState::Syncing if status.download.items_left > 0 || status.nodes == 0 => Standing::Comes,
        EndpointState::InSync | EndpointState::Syncing | EndpointState::Held | EndpointState::Review => {
            Standing::Shown
        }
    }
}

fn show(
    endpoint: &Endpoint,
    status: Option<&EndpointStatus>,
    is_new: bool,
    ui: &mut Ui,
) -> Result<(), CliError> {
    let document = json!({
        "endpoint": endpoint.id,
        "share": endpoint.share,
        "group": endpoint.group,
        "server": endpoint.server,
        "path": endpoint.path,
        "cache_quota_bytes": endpoint.settings.cache_quota_bytes,
        "created": is_new,
        "items": status.map(|status| status.nodes),
    });
    ui.show(&document, |_| {
        let quota = endpoint.settings.cache_quota_bytes.map_or("none".to_owned(), shown_bytes);
        shown_fields(&[
            ("share", endpoint.share.to_string()),
            ("path", endpoint.path.to_string()),
            ("items", status.map_or("unknown".to_owned(), |status| status.nodes.to_string())),
            ("cache quota", quota),
            ("group", endpoint.group.to_string()),
            ("server", endpoint.server.to_string()),
            ("endpoint", endpoint.id.to_string()),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_volume_is_kept() {
        let cases = [(0, GIB), (9 * GIB, GIB), (255 * GIB, 25 * GIB), (10 << 40, 1 << 40)];
        for (volume, quota) in cases {
            assert_eq!(quota_default(volume), quota, "of {volume}");
        }
    }

    #[test]
    fn a_folder_with_files_is_not_taken() {
        let above = tempfile::tempdir().expect("a folder");
        let dir = above.path().join("new");
        assert!(folder(&dir).expect("it can be made"));
        assert!(!folder(&dir).expect("it is empty"));
        std::fs::create_dir(dir.join(STATE_DIR)).expect("made");
        assert!(!folder(&dir).expect("an endpoint of before"));
        std::fs::write(dir.join("a"), "a").expect("written");
        assert_eq!(folder(&dir).expect_err("it has a file").exit, Exit::Refused);
        assert_eq!(folder(&above.path().join("none/new")).expect_err("no parent").exit, Exit::NotFound);
    }
}
