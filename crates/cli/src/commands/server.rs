//! `polder server`

use std::time::Duration;

use clap::{Args, Subcommand};
use polder_api::rest::{Client, JoinTokenCreate, ObjectName, Server};

use crate::{CliError, Ui, confirm::Confirm, render, values::parse_duration};

/// Registered servers
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Make a one-time join token for `polder agent register`
    Token(TokenArgs),
    /// All registered servers
    #[command(after_help = "Example:\n  polder server list")]
    List,
    /// One registered server
    #[command(after_help = "Example:\n  polder server show site-a")]
    Show {
        /// Its name or id
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// End the trust in a server, from its next request on
    Revoke(RevokeArgs),
}

/// Make a one-time join token for `polder agent register`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder server token --expires 1h > join.token")]
pub struct TokenArgs {
    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    expires: Duration,
    /// Only a server of this name may register with it
    #[arg(long, value_name = "NAME")]
    name: Option<ObjectName>,
}

/// End the trust in a server, from its next request on
///
/// Its files stay where they are, and what is tiered there cannot be recalled any more: how much that is, is said. The share goes on holding what
/// these files stand for; `polder endpoint left-behind` lists them for `polder recall --from-manifest`. It can register again with a new join
/// token, and an endpoint that is created at the same path takes them up again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder server revoke site-a")]
pub struct RevokeArgs {
    /// Its name or id
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder server …`.
pub async fn run(command: ServerCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        ServerCommand::Token(args) => {
            let expires_seconds = u32::try_from(args.expires.as_secs()).unwrap_or(u32::MAX);
            let request = JoinTokenCreate { expires_seconds: Some(expires_seconds), server: args.name };
            let token = client.join_token(&request).await?;
            ui.say(format_args!(
                "good for one registration, until {} UTC; it is not shown again",
                render::time(token.expires_at)
            ));
            ui.show(&token, |token| token.token.clone())
        }
        ServerCommand::List => {
            let servers = client.servers().await?;
            ui.show(&servers, |servers| {
                let headers = ["NAME", "STATE", "VERSION", "LAST HEARD OF", ">ENDPOINTS", "ID"];
                render::table(&headers, servers.iter().map(row))
            })
        }
        ServerCommand::Show { name } => ui.show(&client.server(&name).await?, show),
        ServerCommand::Revoke(args) => {
            // Who is asked is told what it costs.
            let tiered = match args.confirm.yes || args.confirm.dry_run {
                true => None,
                false => client.server(&args.name).await.ok().as_ref().and_then(tiered_of),
            };
            let costs = tiered.map(|tiered| format!("; {tiered}")).unwrap_or_default();
            let what = format!("ends the trust in the server \"{}\"{costs}", args.name);
            args.confirm.ask(ui, &what, &args.name)?;
            let server = client.server_revoke(&args.name, args.confirm.dry_run).await?;
            ui.say(format_args!("{} the server \"{}\"", args.confirm.done("revoked", "revoke"), server.name));
            if let Some(tiered) = tiered_of(&server) {
                ui.warn(format_args!("{tiered}; the share holds them. For each endpoint:"));
                for endpoint in &server.endpoints {
                    ui.say(format_args!(
                        "  polder endpoint left-behind {endpoint} --output {endpoint}.jsonl"
                    ));
                }
            }
            ui.show(&server, |_| String::new())
        }
    }
}

/// What cannot be recalled there any more; `None` where nothing is tiered.
fn tiered_of(server: &Server) -> Option<String> {
    let (files, bytes) = (server.tiered_files?, server.tiered_bytes?);
    let what = format!(
        "{}, {}, are tiered there and cannot be recalled any more",
        render::counted(files, "file"),
        render::bytes(bytes)
    );
    (files > 0).then_some(what)
}

fn row(server: &Server) -> Vec<String> {
    vec![
        server.name.to_string(),
        render::word(&server.state),
        server.version.clone().unwrap_or_else(|| "-".to_owned()),
        render::maybe_time(server.heartbeat_at),
        server.endpoints.len().to_string(),
        server.id.to_string(),
    ]
}

fn show(server: &Server) -> String {
    let mut fields = vec![
        ("name", server.name.to_string()),
        ("id", server.id.to_string()),
        ("state", render::word(&server.state)),
        ("version", server.version.clone().unwrap_or_else(|| "-".to_owned())),
        ("last heard of", render::maybe_time(server.heartbeat_at)),
        ("registered", render::time(server.registered_at)),
        ("certificate ends", render::time(server.certificate_expires_at)),
        ("endpoints", server.endpoints.len().to_string()),
    ];
    if let (Some(files), Some(bytes)) = (server.tiered_files, server.tiered_bytes) {
        fields.push(("tiered", format!("{}, {}", render::counted(files, "file"), render::bytes(bytes))));
    }
    render::fields(&fields)
}
