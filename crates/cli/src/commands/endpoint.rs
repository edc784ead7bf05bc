//! `polder endpoint`

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, path::PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use polder_api::rest::{
    Client, Endpoint, EndpointChange, EndpointCreate, EndpointRemoval, EndpointSettings, InitialDownload,
    InitialUpload, JsonBytes, LeftBehind, NewFiles, ProgramRule, Release, TierRule,
};
use tokio::io::AsyncWriteExt as _;

use crate::{
    CliError, Ui,
    confirm::Confirm,
    render, rules,
    rules::{parse_program_rule, parse_tier_rule},
    settings::shown as shown_path,
    values::{
        OrNone, or_none, parse_days, parse_days_or_none, parse_percent, parse_size, parse_size_or_none,
    },
};

/// Server endpoints: folders on registered servers that follow a share
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Create a server endpoint
    Create(CreateArgs),
    /// Server endpoints
    List(ListArgs),
    /// One server endpoint with its settings
    #[command(after_help = "Example:\n  polder endpoint show site-a:/srv/projects")]
    Show {
        /// Its id, SERVER:PATH, GROUP/SERVER, or SERVER
        #[arg(value_name = "E")]
        endpoint: String,
    },
    /// Change the settings of a server endpoint
    Set(SetArgs),
    /// Remove a server endpoint; the files stay on the server
    Delete(DeleteArgs),
    /// List the files that are, or may be, names alone on a server that cannot recall them
    LeftBehind(LeftBehindArgs),
    /// Decide about changes that the mass-change brake holds
    Release(ReleaseArgs),
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DownloadArg {
    /// Names only; bytes on demand
    NamespaceOnly,
    /// Names first, then bytes
    NamespaceFirst,
    /// Each name with its whole content
    Full,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum UploadArg {
    /// Keep both sides
    Merge,
    /// The server is right
    Authoritative,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum NewFilesArg {
    /// Names and sizes; bytes on demand
    Tiered,
    /// With their whole content
    Full,
}

impl From<NewFilesArg> for NewFiles {
    fn from(arg: NewFilesArg) -> Self {
        match arg {
            NewFilesArg::Tiered => Self::Tiered,
            NewFilesArg::Full => Self::Full,
        }
    }
}

/// Create a server endpoint
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder endpoint create --group demo --server site-a --path /srv/projects"
)]
pub struct CreateArgs {
    /// The sync group
    #[arg(long, value_name = "G")]
    group: String,
    /// The registered server
    #[arg(long, value_name = "S")]
    server: String,
    /// Absolute path on the server
    #[arg(long, value_name = "P")]
    path: OsString,
    /// Allow cold files to be tiered
    #[arg(long)]
    tiering: bool,
    /// Share of the volume to keep free [default: 20%]
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    free_space: Option<u8>,
    /// Tier what nobody touched for so long
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    older_than: Option<u32>,
    /// Most bytes of local content
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache_quota: Option<u64>,
    /// Smallest file that is tiered [default: 8 KiB or two clusters, whichever is more]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    file_size_min: Option<u64>,
    /// How files arrive that were made or changed elsewhere, on an endpoint that tiers
    #[arg(long, value_name = "MODE", default_value = "tiered")]
    new_files: NewFilesArg,
    /// A rule about files, such as `keep,glob=*.db` or `tier=2d,larger=1GiB,glob=media/**`; may be given again, the first
    /// that fits decides
    #[arg(long, value_name = "RULE", value_parser = parse_tier_rule)]
    tier_rule: Vec<TierRule>,
    /// A rule about a program, such as `serve,budget=64GiB,cold,name=clamd`; may be given again
    #[arg(long, value_name = "RULE", value_parser = parse_program_rule)]
    program_rule: Vec<ProgramRule>,
    /// How the share's files come here at first
    #[arg(long, value_name = "MODE", default_value = "full")]
    initial_download: DownloadArg,
    /// What happens to the files that are here at first
    #[arg(long, value_name = "MODE", default_value = "merge")]
    initial_upload: UploadArg,
    /// Leave out names or paths that match; may be given again
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Sync temporary and system files too, which are left out by default
    #[arg(long)]
    no_default_excludes: bool,
    /// Apply setuid, setgid and security attributes from elsewhere
    #[arg(long)]
    privileges: bool,
    /// Only check whether it could be created
    #[arg(long)]
    dry_run: bool,
}

/// Server endpoints
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder endpoint list --group demo")]
pub struct ListArgs {
    /// Only of this group
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// Only of this server
    #[arg(long, value_name = "S")]
    server: Option<String>,
}

/// Change the settings of a server endpoint
///
/// What is not given stays. `none` clears a rule.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder endpoint set site-a --exclude '*.iso' --exclude 'tmp/**'")]
pub struct SetArgs {
    /// Its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(value_name = "E")]
    endpoint: String,
    /// Allow cold files to be tiered; off: all of them are recalled first
    #[arg(long, value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    tiering: Option<bool>,
    /// Share of the volume to keep free
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    free_space: Option<u8>,
    /// Tier what nobody touched for so long
    #[arg(long, value_name = "DAYS", value_parser = parse_days_or_none)]
    older_than: Option<OrNone<u32>>,
    /// Most bytes of local content
    #[arg(long, value_name = "SIZE", value_parser = parse_size_or_none)]
    cache_quota: Option<OrNone<u64>>,
    /// Smallest file that is tiered
    #[arg(long, value_name = "SIZE", value_parser = parse_size_or_none)]
    file_size_min: Option<OrNone<u64>>,
    /// How files arrive that were made or changed elsewhere
    #[arg(long, value_name = "MODE")]
    new_files: Option<NewFilesArg>,
    /// The whole new list of rules about files; may be given again; `none` empties it
    #[arg(long, value_name = "RULE", value_parser = |text: &str| or_none(text, parse_tier_rule))]
    tier_rule: Vec<OrNone<TierRule>>,
    /// The whole new list of rules about programs; may be given again; `none` empties it
    #[arg(long, value_name = "RULE", value_parser = |text: &str| or_none(text, parse_program_rule))]
    program_rule: Vec<OrNone<ProgramRule>>,
    /// The whole new list of what is left out; may be given again; `none` empties it
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave out temporary and system files
    #[arg(long, value_name = "BOOL")]
    default_excludes: Option<bool>,
    /// Apply setuid, setgid and security attributes from elsewhere
    #[arg(long, value_name = "BOOL")]
    privileges: Option<bool>,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Remove a server endpoint; the files stay on the server
///
/// What is tiered is recalled first; as long as that cannot be, the endpoint stays. With --force nothing is recalled: the server is left with a
/// list of what is tiered, `PATH/.polder/left-behind.jsonl`, and all its files lie in `PATH/.polder/tree`, where no user can take a name for its
/// bytes; the service holds what they stand for. `polder recall --from-manifest` brings them, an endpoint that is created there again takes them up,
/// and --forget lets go of what is held.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder endpoint delete site-a:/srv/projects\n  polder endpoint delete site-a:/srv/projects --force"
)]
pub struct DeleteArgs {
    /// Its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(value_name = "E")]
    endpoint: String,
    /// Recall nothing, and leave a list of what is tiered
    #[arg(long)]
    force: bool,
    /// Of an endpoint that was removed so, or whose server was revoked: hold nothing for it any more
    #[arg(long, conflicts_with = "force")]
    forget: bool,
    #[command(flatten)]
    confirm: Confirm,
}

/// List the files that are, or may be, names alone on a server that cannot recall them
///
/// The service knows what the endpoint had, as of what it applied last, and not which files of it were tiered: the list names all. It is what
/// `polder recall --from-manifest` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder endpoint left-behind site-a:/srv/projects --output left-behind.jsonl"
)]
pub struct LeftBehindArgs {
    /// Its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(value_name = "E")]
    endpoint: String,
    /// Where to write it; else to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Decide about changes that the mass-change brake holds
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("decision").required(true),
    after_help = "Example:\n  polder endpoint release site-a --accept"
)]
pub struct ReleaseArgs {
    /// Its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(value_name = "E")]
    endpoint: String,
    /// They are meant: let them go to the share
    #[arg(long, group = "decision")]
    accept: bool,
    /// They are not: throw the share's state back over them
    #[arg(long, group = "decision")]
    revert: bool,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder endpoint …`.
pub async fn run(command: EndpointCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        EndpointCommand::Create(args) => create(args, client, ui).await,
        EndpointCommand::List(args) => {
            let endpoints = client.endpoints(args.group.as_deref(), args.server.as_deref()).await?;
            ui.show(&endpoints, |endpoints| {
                let headers = ["GROUP", "SERVER", "PATH", "TIERING", "CREATED", "ID"];
                render::table(&headers, endpoints.iter().map(row))
            })
        }
        EndpointCommand::Show { endpoint } => ui.show(&resolve(&endpoint, client).await?, show),
        EndpointCommand::Set(args) => set(args, client, ui).await,
        EndpointCommand::Delete(args) => delete(args, client, ui).await,
        EndpointCommand::LeftBehind(args) => left_behind(args, client, ui).await,
        EndpointCommand::Release(args) => release(args, client, ui).await,
    }
}

async fn create(args: CreateArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    if !args.path.as_bytes().starts_with(b"/") {
        return Err(CliError::usage("--path is not an absolute path")
            .hint("give the path as it is on the server, beginning with a slash"));
    }
    let defaults = EndpointSettings::default();
    let settings = EndpointSettings {
        tiering: args.tiering,
        free_space_percent: args.free_space.unwrap_or(defaults.free_space_percent),
        older_than_days: args.older_than,
        cache_quota_bytes: args.cache_quota,
        file_bytes_min: args.file_size_min,
        new_files: args.new_files.into(),
        tier_rules: args.tier_rule,
        program_rules: args.program_rule,
        initial_download: match args.initial_download {
            DownloadArg::NamespaceOnly => InitialDownload::NamespaceOnly,
            DownloadArg::NamespaceFirst => InitialDownload::NamespaceFirst,
            DownloadArg::Full => InitialDownload::Full,
        },
        initial_upload: match args.initial_upload {
            UploadArg::Merge => InitialUpload::Merge,
            UploadArg::Authoritative => InitialUpload::Authoritative,
        },
        excludes: args.exclude,
        default_excludes: !args.no_default_excludes,
        privileges: args.privileges,
        paused: false,
    };
    let path = JsonBytes(args.path.as_bytes().to_vec());
    let request = EndpointCreate { group: args.group, server: args.server, path, settings };
    let endpoint = client.endpoint_create(&request, args.dry_run).await?;
    let done = if args.dry_run { "would create" } else { "created" };
    ui.say(format_args!("{done} the endpoint {}", label(&endpoint)));
    ui.show(&endpoint, show)
}

async fn set(args: SetArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let excludes = match args.exclude.as_slice() {
        [] => None,
        [none] if none == "none" => Some(Vec::new()),
        _ => Some(args.exclude),
    };
    let change = EndpointChange {
        tiering: args.tiering,
        free_space_percent: args.free_space,
        older_than_days: args.older_than.map(|OrNone(days)| days),
        cache_quota_bytes: args.cache_quota.map(|OrNone(bytes)| bytes),
        file_bytes_min: args.file_size_min.map(|OrNone(bytes)| bytes),
        new_files: args.new_files.map(Into::into),
        tier_rules: new_list(args.tier_rule),
        program_rules: new_list(args.program_rule),
        excludes,
        default_excludes: args.default_excludes,
        privileges: args.privileges,
        paused: None,
    };
    if change == EndpointChange::default() {
        return Err(CliError::usage("nothing is to be changed").hint("see `polder endpoint set --help`"));
    }
    let endpoint = resolve(&args.endpoint, client).await?;
    let endpoint = client.endpoint_change(endpoint.id, &change, args.dry_run).await?;
    let done = if args.dry_run { "would change" } else { "changed" };
    ui.say(format_args!("{done} the endpoint {}", label(&endpoint)));
    ui.show(&endpoint, show)
}

/// A list that replaces the old one; `none` alone empties it, none given leaves it.
fn new_list<T>(given: Vec<OrNone<T>>) -> Option<Vec<T>> {
    (!given.is_empty()).then(|| given.into_iter().filter_map(|OrNone(one)| one).collect())
}

async fn delete(args: DeleteArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let endpoint = resolve_one(&args.endpoint, args.forget, client).await?;
    let name = label(&endpoint);
    let what = match (args.force, args.forget) {
        (true, _) => {
            format!("removes the endpoint {name} without a recall: what is tiered stays a name there")
        }
        (_, true) => format!("lets go of what is held for the names that {name} left behind"),
        _ => format!("removes the endpoint {name}; its files stay"),
    };
    args.confirm.ask(ui, &what, endpoint.server.as_str())?;
    let how = EndpointRemoval { force: args.force, forget: args.forget, dry_run: args.confirm.dry_run };
    let endpoint = client.endpoint_delete(endpoint.id, how).await?;
    ui.say(format_args!("{} the endpoint {name}", args.confirm.done("removed", "remove")));
    if args.force {
        ui.say("what is tiered is listed in .polder/left-behind.jsonl below its folder once its agent has let go");
    }
    ui.show(&endpoint, |_| String::new())
}

async fn left_behind(args: LeftBehindArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let endpoint = resolve_one(&args.endpoint, true, client).await?;
    let mut lines = client.left_behind(endpoint.id).await?;
    let Some(path) = args.output else {
        while let Some(part) = lines.next().await? {
            ui.bytes(&part)?;
        }
        return Ok(());
    };
    let failed = |error| CliError::io(format!("write {}", shown_path(&path)), error);
    let mut out = tokio::fs::File::create(&path).await.map_err(failed)?;
    while let Some(part) = lines.next().await? {
        out.write_all(&part).await.map_err(failed)?;
    }
    out.sync_all().await.map_err(failed)?;
    ui.say(format_args!("{} lists what {} may have as names alone", shown_path(&path), label(&endpoint)));
    Ok(())
}

async fn release(args: ReleaseArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let endpoint = resolve(&args.endpoint, client).await?;
    let name = label(&endpoint);
    let (decision, what) = if args.accept {
        (Release::Accept, format!("lets go what the brake holds at {name}"))
    } else {
        (Release::Revert, format!("undoes on the server what the brake holds at {name}"))
    };
    args.confirm.ask(ui, &what, endpoint.server.as_str())?;
    let released = client.endpoint_release(endpoint.id, decision, args.confirm.dry_run).await?;
    let (done, would) = if args.accept { ("let go", "let go") } else { ("undid", "undo") };
    let verb = args.confirm.done(done, would);
    ui.show(&released, |released| format!("{verb} {} at {name}", render::counted(released.held, "change")))
}

/// Finds the endpoint that a person means: by id, `SERVER:PATH`, `GROUP/SERVER`, or `SERVER` where that is one.
pub async fn resolve(text: &str, client: &Client) -> Result<Endpoint, CliError> {
    resolve_one(text, false, client).await
}

/// As [`resolve`]; where both are meant, the one that has left its server, or the one that has not.
async fn resolve_one(text: &str, has_left: bool, client: &Client) -> Result<Endpoint, CliError> {
    if let Ok(id) = text.parse() {
        return Ok(client.endpoint(id).await?);
    }
    let is_meant = |endpoint: &Endpoint| {
        let (group, server) = (endpoint.group.as_str(), endpoint.server.as_str());
        let by_path = text.strip_prefix(server).and_then(|rest| rest.strip_prefix(':'));
        let same_path = |path: &str| path.trim_end_matches('/').as_bytes() == endpoint.path.0.as_slice();
        text == server || text == format!("{group}/{server}") || by_path.is_some_and(same_path)
    };
    let mut found = client.endpoints(None, None).await?;
    found.retain(is_meant);
    if found.iter().any(|one| one.left_behind.is_some() == has_left) {
        found.retain(|one| one.left_behind.is_some() == has_left);
    }
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(CliError::not_found(format!("there is no endpoint \"{}\"", text.escape_default()))
            .hint("`polder endpoint list` shows them; name one as SERVER:PATH, GROUP/SERVER or by its id")),
        (Some(_), others) => {
            let count = others + 1;
            Err(CliError::usage(format!("\"{}\" means {count} endpoints", text.escape_default()))
                .hint("name one as SERVER:PATH or by its id"))
        }
    }
}

/// How an endpoint is called in a sentence.
pub fn label(endpoint: &Endpoint) -> String {
    format!("{}:{}", endpoint.server, endpoint.path)
}

fn row(endpoint: &Endpoint) -> Vec<String> {
    vec![
        endpoint.group.to_string(),
        endpoint.server.to_string(),
        endpoint.path.to_string(),
        if endpoint.left_behind.is_some() { "left behind" } else { render::yes(endpoint.settings.tiering) }
            .to_owned(),
        render::time(endpoint.created_at),
        endpoint.id.to_string(),
    ]
}

fn left(left: &LeftBehind) -> String {
    match (left.files, left.bytes) {
        (Some(files), Some(bytes)) => {
            format!(
                "{}, {}, at {}",
                render::counted(files, "file"),
                render::bytes(bytes),
                render::time(left.at)
            )
        }
        _ => format!("unknown, at {}", render::time(left.at)),
    }
}

fn joined<T>(list: &[T], shown: fn(&T) -> String) -> Option<String> {
    (!list.is_empty()).then(|| list.iter().map(shown).collect::<Vec<_>>().join(" "))
}

fn show(endpoint: &Endpoint) -> String {
    let settings = &endpoint.settings;
    let or_default = |text: Option<String>| text.unwrap_or_else(|| "default".to_owned());
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let excludes = if settings.excludes.is_empty() { "none".to_owned() } else { settings.excludes.join(" ") };
    let mut fields = vec![
        ("id", endpoint.id.to_string()),
        ("group", endpoint.group.to_string()),
        ("share", endpoint.share.to_string()),
        ("server", endpoint.server.to_string()),
        ("path", endpoint.path.to_string()),
        ("tiering", render::yes(settings.tiering).to_owned()),
        ("free space", format!("{}%", settings.free_space_percent)),
        ("older than", or_none(settings.older_than_days.map(|days| format!("{days} days")))),
        ("cache quota", or_none(settings.cache_quota_bytes.map(render::bytes))),
        ("smallest tiered", or_default(settings.file_bytes_min.map(render::bytes))),
        ("new files", render::word(&settings.new_files)),
        ("tier rules", or_none(joined(&settings.tier_rules, rules::tier_rule))),
        (
            "program rules",
            joined(&settings.program_rules, rules::program_rule).unwrap_or_else(|| "built-in".to_owned()),
        ),
        ("initial download", render::word(&settings.initial_download)),
        ("initial upload", render::word(&settings.initial_upload)),
        ("excludes", excludes),
        ("default excludes", render::yes(settings.default_excludes).to_owned()),
        ("privileges", render::yes(settings.privileges).to_owned()),
        ("created", render::time(endpoint.created_at)),
    ];
    fields.extend(
        endpoint.removing.then(|| ("removing", "its agent has not let go of the folder yet".to_owned())),
    );
    fields.extend(endpoint.left_behind.as_ref().map(|behind| ("left behind", left(behind))));
    render::fields(&fields)
}
