//! `polder service`

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

use crate::{HostRequest, ServiceRun};

/// Run a storage sync service
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Run one service process
    Run(RunArgs),
}

/// Run one service process
///
/// The first start makes the certificate authority (DIR/ca.pem), the server's certificate, the master key and an
/// owner token (DIR/owner.token).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder service run --data /var/lib/polder-service --listen 0.0.0.0:8443")]
pub struct RunArgs {
    /// Folder of the service's data
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where metadata is kept, such as sqlite:PATH
    #[arg(long, value_name = "URL")]
    metadata: Option<String>,
    /// Where packs are kept, such as file:PATH or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    objects: Option<String>,
    /// Address under which agents and people reach the service
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ServiceCommand {
    pub(super) fn request(self) -> HostRequest {
        let Self::Run(args) = self;
        HostRequest::ServiceRun(ServiceRun {
            data: args.data,
            listen: args.listen,
            metadata: args.metadata,
            objects: args.objects,
            public_url: args.public_url,
            config: args.config,
        })
    }
}
