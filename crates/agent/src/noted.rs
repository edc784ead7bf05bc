//! The endpoints of this server as the service last told them, for a start without it.
//!
//! Only tiered ones are begun from it: programs wait for their mounts. The file holds the keys of shares (0600, as the server's own key).

use anyhow::{Context, Result};
use polder_api::grpc::convert::Assignment;
use polder_api::grpc::pb;
use prost::Message;

use crate::StateDir;

const FILE: &str = "assignments";

/// Writes them down, if they are others than before.
pub(crate) fn write(state: &StateDir, assignments: &[Assignment]) -> Result<()> {
    let endpoints = assignments.iter().cloned().map(pb::Assignment::from).collect();
    let bytes = pb::Assignments { endpoints }.encode_to_vec();
    if std::fs::read(state.file(FILE)).is_ok_and(|noted| noted == bytes) {
        return Ok(());
    }
    state.put(FILE, &bytes, 0o600).context("write them down")
}

/// What was written down; nothing at the first start.
pub(crate) fn read(state: &StateDir) -> Result<Vec<Assignment>> {
    let bytes = match std::fs::read(state.file(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("read the file"),
    };
    let noted = pb::Assignments::decode(&bytes[..]).context("understand the file")?;
    let assignments = noted.endpoints.into_iter().map(Assignment::try_from).collect::<Result<_, _>>();
    assignments.context("understand an endpoint")
}
