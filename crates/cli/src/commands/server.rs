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
/// Its files stay where they are. It can register again with a new join token.
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
            args.confirm.ask(ui, &format!("ends the trust in the server \"{}\"", args.name), &args.name)?;
            let server = client.server_revoke(&args.name, args.confirm.dry_run).await?;
            ui.say(format_args!("{} the server \"{}\"", args.confirm.done("revoked", "revoke"), server.name));
            ui.show(&server, |_| String::new())
        }
    }
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
    render::fields(&[
        ("name", server.name.to_string()),
        ("id", server.id.to_string()),
        ("state", render::word(&server.state)),
        ("version", server.version.clone().unwrap_or_else(|| "-".to_owned())),
        ("last heard of", render::maybe_time(server.heartbeat_at)),
        ("registered", render::time(server.registered_at)),
        ("certificate ends", render::time(server.certificate_expires_at)),
        ("endpoints", server.endpoints.len().to_string()),
    ])
}
