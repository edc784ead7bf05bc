//! From an empty folder, or from what an earlier start left, to a service and two agents that work.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use polder_api::rest::{
    CaseMode, Client, ClientConfig, ClientError, EndpointCreate, EndpointSettings, EndpointState,
    GroupCreate, JoinTokenCreate, JsonBytes, ObjectName, ProblemCode, ShareCreate,
};
use polder_cli::{CliError, Ui};

use super::{
    children::Children,
    world::{DEMO, World, until},
};

/// Bound on the service's start, its keys made included.
const SERVICE_WITHIN: Duration = Duration::from_secs(30);
/// Bound on the endpoints' first report.
const ENDPOINTS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Starts and sets up what is missing.
pub async fn prepare(
    dir: &Path,
    listen: SocketAddr,
    children: &mut Children,
    ui: &Ui,
) -> Result<World, CliError> {
    let data = dir.join("service");
    let address = listen.to_string();
    let arguments = ["service", "run", "--listen", &address, "--data"].map(OsStr::new);
    children.start("service", &[&arguments[..], &[data.as_os_str()]].concat())?;
    let url = format!("https://{listen}");
    let client = answering(&data, &url, children).await?;
    ui.say(format_args!("the service answers at {url}"));
    share_and_group(&client).await?;
    let mut world = World { dir: dir.to_owned(), url, client, not_tiered: None };
    for which in ["a", "b"] {
        agent(&world, which, children, ui).await?;
    }
    endpoint(&world, "a", false).await?;
    world.not_tiered = tiered_endpoint(&world).await?;
    if let Some(why) = &world.not_tiered {
        ui.warn(format_args!("site-b is a plain endpoint, and nothing of tiering is shown: {why}"));
    }
    reporting(&world, children).await?;
    ui.say("both servers follow the share");
    Ok(world)
}

/// Waits until the service answers with the token that it made.
async fn answering(data: &Path, url: &str, children: &mut Children) -> Result<Client, CliError> {
    until("the start of the service", SERVICE_WITHIN, LOOK_EVERY, || {
        let dead = children.dead();
        async move {
            if let Some(error) = dead {
                return Ok(Err(error));
            }
            let client = owner(data, url)?;
            client.whoami().await.map_err(|error| error.to_string())?;
            Ok(Ok(client))
        }
    })
    .await?
}

fn owner(data: &Path, url: &str) -> Result<Client, String> {
    let read = |name: &str| std::fs::read(data.join(name)).map_err(|error| format!("{name}: {error}"));
    let mut config = ClientConfig::new(url);
    let token = String::from_utf8(read("owner.token")?).map_err(|_| "owner.token is not text".to_owned())?;
    config.token = Some(token.trim().to_owned());
    config.ca_pem = Some(read("ca.pem")?);
    Client::new(&config).map_err(|error| error.to_string())
}

async fn share_and_group(client: &Client) -> Result<(), CliError> {
    let name: ObjectName = DEMO.parse().map_err(|_| CliError::new("the demo's name is no name"))?;
    if is_missing(client.share(DEMO).await)? {
        let share = ShareCreate { name: name.clone(), quota_bytes: None, case: CaseMode::Sensitive };
        client.share_create(&share).await?;
    }
    if is_missing(client.group(DEMO).await)? {
        client.group_create(&GroupCreate { name, share: DEMO.to_owned() }).await?;
    }
    Ok(())
}

/// What exists already was made by an earlier start.
fn is_missing<T>(result: Result<T, ClientError>) -> Result<bool, CliError> {
    match result {
        Ok(_) => Ok(false),
        Err(error) if error.code() == Some(ProblemCode::NotFound) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Registers an agent that is not registered yet, and starts it.
async fn agent(world: &World, which: &str, children: &mut Children, ui: &Ui) -> Result<(), CliError> {
    let name = format!("site-{which}");
    let state = world.agent(which);
    if !state.join("identity.toml").exists() {
        let server = name.parse().map_err(|_| CliError::new("the site's name is no name"))?;
        let request = JoinTokenCreate { expires_seconds: Some(300), server: Some(server) };
        let token = world.client.join_token(&request).await?;
        let file = secret(&world.dir, &name, &token.token)?;
        let ca = world.dir.join("service").join("ca.pem");
        let registered = children
            .complete(
                &name,
                &[
                    OsStr::new("agent"),
                    OsStr::new("register"),
                    OsStr::new("--service"),
                    OsStr::new(&world.url),
                    OsStr::new("--name"),
                    OsStr::new(&name),
                    OsStr::new("--state"),
                    state.as_os_str(),
                    OsStr::new("--token-file"),
                    file.as_os_str(),
                    OsStr::new("--ca-file"),
                    ca.as_os_str(),
                ],
            )
            .await;
        // The token is used up or will end by itself.
        let _ = std::fs::remove_file(&file);
        registered?;
        ui.say(format_args!("registered {name}"));
    }
    children.start(&name, &[OsStr::new("agent"), OsStr::new("run"), OsStr::new("--state"), state.as_os_str()])
}

/// A file that only we can read.
fn secret(dir: &Path, name: &str, token: &str) -> Result<PathBuf, CliError> {
    use std::io::Write as _;
    let path = dir.join(format!(".{name}.join.token"));
    let failed = |error| CliError::io(format!("write \"{}\"", path.display()), error);
    // Left behind by a start that was killed.
    let _ = std::fs::remove_file(&path);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(token.as_bytes()).map_err(failed)?;
    Ok(path)
}

/// The endpoint of site-b, which tiers unless this machine cannot: then the answer says why.
async fn tiered_endpoint(world: &World) -> Result<Option<String>, CliError> {
    if let Some(made) = world.client.endpoints(Some(DEMO), Some("site-b")).await?.first() {
        let why = "it was made without tiering; `polder endpoint set site-b --tiering=on` changes that";
        return Ok((!made.settings.tiering).then(|| why.to_owned()));
    }
    let refused = polder_agent::ensure_can_tier(&world.dir).err().map(|error| format!("{error:#}"));
    endpoint(world, "b", refused.is_none()).await?;
    Ok(refused)
}

/// Creates the endpoint of a site, if it is missing.
async fn endpoint(world: &World, which: &str, tiering: bool) -> Result<(), CliError> {
    let server = format!("site-{which}");
    if !world.client.endpoints(Some(DEMO), Some(&server)).await?.is_empty() {
        return Ok(());
    }
    let request = EndpointCreate {
        group: DEMO.to_owned(),
        server,
        path: JsonBytes(world.site(which).as_os_str().as_bytes().to_vec()),
        settings: EndpointSettings { tiering, ..EndpointSettings::default() },
    };
    world.client.endpoint_create(&request, false).await?;
    Ok(())
}

/// Waits until both endpoints have told that they work.
async fn reporting(world: &World, children: &mut Children) -> Result<(), CliError> {
    until("the first report of both servers", ENDPOINTS_WITHIN, LOOK_EVERY, || {
        let dead = children.dead();
        async move {
            if let Some(error) = dead {
                return Ok(Err(error));
            }
            let status = world.client.status(Some(DEMO)).await.map_err(|error| error.to_string())?;
            let endpoints: Vec<_> = status.groups.iter().flat_map(|group| &group.endpoints).collect();
            let waiting = endpoints
                .iter()
                .find(|endpoint| matches!(endpoint.state, EndpointState::Pending | EndpointState::Offline));
            match waiting {
                Some(endpoint) => Err(format!("{} did not report yet", endpoint.server)),
                None if endpoints.len() < 2 => Err("an endpoint is missing".to_owned()),
                None => Ok(Ok(())),
            }
        }
    })
    .await?
}
