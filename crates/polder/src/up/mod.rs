//! `polder up`: a service and two agents on this machine, each a child process, and what a first look needs.
//!
//! Layout of DIR: `service` (the service's data), `agent-a` and `agent-b` (the agents' state), `site-a` and `site-b`
//! (the two endpoints), `logs`, `up.lock`, `listen` (the address of the last time).
//!
//! Order: lock DIR; service, until it answers; share and group; registration of what is not registered; agents;
//! endpoints that are missing; until both endpoints report. Each step looks at what is there first, so a second start
//! continues, also after a crash between two steps.

mod children;
mod once;
mod prepare;
mod world;

use std::{
    fs::{File, TryLockError},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use polder_cli::{CliError, Exit, Ui, Up, status_text};

use self::{children::Children, world::World};
use crate::{host::runtime, parent::interrupted};

/// Where the service listens when nobody says.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8443);
/// How often the live status looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs everything on this machine.
pub fn run(request: Up, ui: &mut Ui) -> Result<Exit, CliError> {
    let dir = std::path::absolute(&request.dir).map_err(|error| CliError::io("resolve --dir", error))?;
    for folder in ["", "logs", "site-a", "site-b"] {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder)
            .map_err(|error| CliError::io(format!("make \"{}\"", folder.display()), error))?;
    }
    let _lock = lock(&dir)?;
    let listen = address(&dir, request.listen, ui)?;
    runtime()?.block_on(async {
        let mut children = Children::new(&dir)?;
        let result = tokio::select! {
            result = everything(&dir, listen, request.once, &mut children, ui) => result,
            () = interrupted() => {
                ui.say("stopping");
                Ok(Exit::Done)
            }
        };
        children.stop().await;
        // A demonstration's folder can be removed like any other, though site-b is to be seen through its mount alone.
        let _ = polder_agent::make_changeable(&dir.join("site-b"));
        result
    })
}

async fn everything(
    dir: &Path,
    listen: SocketAddr,
    once: bool,
    children: &mut Children,
    ui: &mut Ui,
) -> Result<Exit, CliError> {
    let world = prepare::prepare(dir, listen, children, ui).await?;
    if once {
        let exit = tokio::select! {
            exit = once::run(&world, ui) => exit?,
            died = children.died() => return Err(died),
        };
        return Ok(exit);
    }
    greet(&world, ui)?;
    tokio::select! {
        shown = live(&world, ui) => shown,
        died = children.died() => Err(died),
    }
}

fn greet(world: &World, ui: &mut Ui) -> Result<(), CliError> {
    let service = world.dir.join("service");
    let (url, a, b) = (&world.url, world.site("a"), world.site("b"));
    let (a, b) = (a.display(), b.display());
    let (tiering, seen) = match &world.not_tiered {
        None => ("tiering on", ", those of site-b to be seen again at the next start"),
        Some(_) => ("tiering off", ""),
    };
    ui.text(format_args!(
        "service  {url}\nlog in   polder login {url} --token-file {token} --ca-file {ca}\nsite-a   {a}  (tiering off)\n\
         site-b   {b}  ({tiering})\nlogs     {logs}\n\ntry\n  cp -r /etc/skel {a}/ && sleep 1 && ls -la {b}/skel\n  \
         polder share ls demo:\n  polder snapshot create demo --name first\n\nCtrl-C ends everything; the files stay{seen}.\n",
        token = service.join("owner.token").display(),
        ca = service.join("ca.pem").display(),
        logs = world.dir.join("logs").display(),
    ))?;
    ui.flush()
}

/// What is happening, until somebody ends it: drawn anew on a terminal, a new picture when it changed elsewhere.
async fn live(world: &World, ui: &mut Ui) -> Result<Exit, CliError> {
    let mut last = String::new();
    let mut lines = 0;
    loop {
        let picture = match world.client.status(None).await {
            Ok(status) => status_text(&status),
            // The service is restarting, or too busy for a moment; whether it died is watched elsewhere.
            Err(error) => format!("{error}\n"),
        };
        if picture != last {
            let back = if ui.terminal().stdout && lines > 0 {
                format!("\x1b[{lines}A\x1b[J")
            } else {
                String::new()
            };
            ui.text(format_args!("{back}{picture}"))?;
            ui.flush()?;
            lines = picture.lines().count();
            last = picture;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Two of us on one folder would fight for it.
fn lock(dir: &Path) -> Result<File, CliError> {
    let path = dir.join("up.lock");
    let failed = |error| CliError::io(format!("lock \"{}\"", path.display()), error);
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(CliError::refused(format!("`polder up` runs already with \"{}\"", dir.display()))
                .hint("end it first, or give another --dir"))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The address of the last time, because the agents know the service by it; else the one asked for; else the default,
/// or, where that is in use, a free one.
fn address(dir: &Path, asked: Option<SocketAddr>, ui: &Ui) -> Result<SocketAddr, CliError> {
    let memory: PathBuf = dir.join("listen");
    let known = std::fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse().ok());
    match (known, asked) {
        (Some(known), None) => return Ok(known),
        (Some(known), Some(asked)) if asked == known || asked.port() == 0 => return Ok(known),
        (Some(known), Some(_)) => {
            return Err(CliError::refused(format!("the servers in this folder know the service as {known}"))
                .hint("leave out --listen, or give another --dir"));
        }
        (None, _) => (),
    }
    let wanted = asked.unwrap_or(LISTEN_DEFAULT);
    let chosen = match TcpListener::bind(wanted).and_then(|socket| socket.local_addr()) {
        Ok(chosen) => chosen,
        Err(error) if asked.is_none() && error.kind() == std::io::ErrorKind::AddrInUse => {
            let free = SocketAddr::new(wanted.ip(), 0);
            let chosen = TcpListener::bind(free).and_then(|socket| socket.local_addr());
            let chosen = chosen.map_err(|error| CliError::io(format!("listen on {free}"), error))?;
            ui.say(format_args!("{wanted} is in use; the service takes {chosen}"));
            chosen
        }
        Err(error) => return Err(CliError::io(format!("listen on {wanted}"), error)),
    };
    std::fs::write(&memory, format!("{chosen}\n"))
        .map_err(|error| CliError::io(format!("write \"{}\"", memory.display()), error))?;
    Ok(chosen)
}
