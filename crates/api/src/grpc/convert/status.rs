//! Status of endpoints: shown to people, so bounded and checked but not translated.

use polder_types::{Cursor, EndpointId, NodeUid, Seq, Timestamp};

use super::{BadMessage, at_most, cursor, id, id_or_zero, limits, seq};
use crate::grpc::pb;
use crate::rest::{ProgramRecalls, StayingFiles, TieringStatus, Time};

/// Checks the status that an agent sends; returns whose it is.
pub fn ensure_status(from: &pb::EndpointStatus) -> Result<EndpointId, BadMessage> {
    at_most(from.problems.len(), limits::PROBLEMS_MAX, "problems")?;
    at_most(from.why.len(), limits::TEXT_BYTES_MAX, "why")?;
    at_most(from.watching.len(), limits::TEXT_BYTES_MAX, "watching")?;
    at_most(from.layout.len(), limits::TEXT_BYTES_MAX, "layout")?;
    for problem in &from.problems {
        id_or_zero(&problem.uid, "uid", NodeUid::ZERO, NodeUid::from_slice)?;
        at_most(problem.path.len(), limits::PATH_BYTES_MAX, "path")?;
        at_most(problem.code.len(), limits::TEXT_BYTES_MAX, "code")?;
        at_most(problem.reason.len(), limits::TEXT_BYTES_MAX, "reason")?;
    }
    if let Some(tiering) = &from.tiering {
        ensure_tiering(tiering)?;
    }
    cursor(from.applied.as_ref())?;
    from.pin.as_ref().map_or(Ok(()), |told| pin(told).map(|_| ()))?;
    id(&from.endpoint_id, "endpoint_id", EndpointId::from_slice)
}

/// What the share is to keep for an endpoint: all as of a cursor, and older versions of some nodes.
pub fn pin(from: &pb::Pin) -> Result<(Cursor, Vec<(NodeUid, Seq)>), BadMessage> {
    at_most(from.behind.len(), limits::PINNED_VERSIONS_MAX, "behind")?;
    let version = |of: &pb::PinnedVersion| {
        let uid = id(&of.uid, "uid", NodeUid::from_slice)?;
        Ok((uid, seq(of.since, "since")?))
    };
    let behind: Result<_, BadMessage> = from.behind.iter().map(version).collect();
    Ok((cursor(from.cursor.as_ref())?, behind?))
}

fn ensure_tiering(from: &pb::TieringStatus) -> Result<(), BadMessage> {
    at_most(from.programs.len(), limits::TIERING_ROWS_MAX, "programs")?;
    at_most(from.stays.len(), limits::TIERING_ROWS_MAX, "stays")?;
    at_most(from.notices.len(), limits::TIERING_ROWS_MAX, "notices")?;
    let texts = from.programs.iter().map(|program| &program.name);
    let texts = texts.chain(from.stays.iter().map(|stays| &stays.reason)).chain(&from.notices);
    for text in texts {
        at_most(text.len(), limits::TEXT_BYTES_MAX, "tiering")?;
    }
    Ok(())
}

/// What a report says of tiering, as people are told it; none while the endpoint does not tier.
pub fn tiering_status(from: &pb::EndpointStatus) -> Option<TieringStatus> {
    let tiering = from.tiering.as_ref()?;
    let programs = tiering.programs.iter().map(|program| ProgramRecalls {
        program: program.name.clone(),
        reads: program.reads,
        bytes: program.bytes,
        refused: program.refused,
    });
    let stays = tiering.stays.iter().map(|stays| StayingFiles {
        reason: stays.reason.clone(),
        files: stays.nodes,
        bytes: stays.bytes,
    });
    let looked_ms = u64::try_from(tiering.looked_unix_ms).unwrap_or(0);
    Some(TieringStatus {
        cached_bytes: from.cached_bytes,
        tiered_files: from.tiered_nodes,
        saved_bytes: from.tiered_bytes,
        opens: tiering.opens,
        opens_here: tiering.opens_here,
        read_bytes: tiering.read_bytes,
        read_bytes_here: tiering.read_bytes_here,
        low_disk: tiering.low_disk,
        missing_bytes: tiering.missing_bytes,
        orphaned_files: tiering.orphaned_nodes,
        programs: programs.collect(),
        stays: stays.collect(),
        looked_at: (looked_ms > 0).then(|| Time(Timestamp::from_unix_millis(looked_ms))),
        notices: tiering.notices.clone(),
    })
}
