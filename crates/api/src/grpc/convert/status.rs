//! Status of endpoints: shown to people, so bounded and checked but not translated.

use super::{BadMessage, at_most, cursor, id, id_or_zero, limits};
use crate::grpc::pb;
use polder_types::{EndpointId, NodeUid};

/// Checks the status that an agent sends; returns whose it is.
pub fn ensure_status(from: &pb::EndpointStatus) -> Result<EndpointId, BadMessage> {
    at_most(from.problems.len(), limits::PROBLEMS_MAX, "problems")?;
    at_most(from.why.len(), limits::TEXT_BYTES_MAX, "why")?;
    at_most(from.watching.len(), limits::TEXT_BYTES_MAX, "watching")?;
    for problem in &from.problems {
        id_or_zero(&problem.uid, "uid", NodeUid::ZERO, NodeUid::from_slice)?;
        at_most(problem.path.len(), limits::PATH_BYTES_MAX, "path")?;
        at_most(problem.code.len(), limits::TEXT_BYTES_MAX, "code")?;
        at_most(problem.reason.len(), limits::TEXT_BYTES_MAX, "reason")?;
    }
    cursor(from.applied.as_ref())?;
    id(&from.endpoint_id, "endpoint_id", EndpointId::from_slice)
}
