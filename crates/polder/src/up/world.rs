//! What runs: where it is and how to talk to it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use polder_api::rest::Client;
use polder_cli::CliError;

/// Name of the share and of the sync group.
pub const DEMO: &str = "demo";

/// What runs.
pub struct World {
    /// The folder of everything.
    pub dir: PathBuf,
    /// Address of the service.
    pub url: String,
    /// An owner's client.
    pub client: Client,
    /// Why site-b does not tier; `None`: it does.
    pub not_tiered: Option<String>,
}

impl World {
    /// The state of a site's agent.
    pub fn agent(&self, which: &str) -> PathBuf {
        self.dir.join(format!("agent-{which}"))
    }

    /// The folder of a site: `a` or `b`.
    pub fn site(&self, which: &str) -> PathBuf {
        self.dir.join(format!("site-{which}"))
    }
}

/// Looks again and again until `look` has an answer, at most for `bound`. `last` says what was missing.
pub async fn until<T, F>(
    what: &str,
    bound: Duration,
    every: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T, CliError>
where
    F: Future<Output = Result<T, String>>,
{
    let began = Instant::now();
    loop {
        match look().await {
            Ok(answer) => return Ok(answer),
            Err(last) if began.elapsed() > bound => {
                let seconds = bound.as_secs();
                return Err(CliError::new(format!("{what} did not happen within {seconds} s: {last}"))
                    .hint("the folder \"logs\" says more"));
            }
            Err(_) => tokio::time::sleep(every).await,
        }
    }
}
