//! What is told of tiering: in the session's reports, on the control socket, and of one file.

use polder_api::grpc::{limits, pb};
use polder_tiering::Stays;
use polder_types::Escaped;

use super::desk::Desk;

/// Adds what is known of an endpoint's tiering to its report; nothing if it does not tier.
pub(crate) fn fill(message: &mut pb::EndpointStatus, desk: &Desk) {
    if !desk.is_enabled() {
        return;
    }
    let counted = desk.book.counted();
    let mut tiering = pb::TieringStatus {
        opens: counted.opens.1,
        opens_here: counted.opens.0,
        read_bytes: counted.bytes.1,
        read_bytes_here: counted.bytes.0,
        ..pb::TieringStatus::default()
    };
    let programs = counted.programs.iter().map(|(program, count)| pb::TieringProgram {
        name: Escaped(program.as_bytes()).to_string(),
        reads: count.reads,
        bytes: count.bytes,
        refused: count.refused,
    });
    tiering.programs = programs.take(limits::TIERING_ROWS_MAX).collect();
    for alert in desk.book.alerts() {
        let program = Escaped(alert.program.as_bytes());
        tiering.notices.push(format!(
            "the program \"{program}\" of user {} has used up its budget of recalls and is refused until the hour is over",
            alert.user
        ));
    }
    if let Some(looked) = desk.last_look() {
        (message.tiered_nodes, message.tiered_bytes) = (looked.held.tiered_files, looked.held.tiered_bytes);
        message.cached_bytes = looked.held.cached_bytes;
        (tiering.low_disk, tiering.missing_bytes) = (looked.is_low, looked.missing_bytes);
        tiering.orphaned_nodes = looked.held.orphaned_files;
        tiering.looked_unix_ms = looked.at_s.saturating_mul(1000);
        let stays = looked.held.stays.iter().filter(|(why, _)| **why != Stays::Tiered);
        tiering.stays = stays
            .map(|(why, (nodes, bytes))| pb::StayingFiles {
                reason: why.word().to_owned(),
                nodes: *nodes,
                bytes: *bytes,
            })
            .collect();
        tiering
            .notices
            .extend(looked.failed.as_ref().map(|why| format!("the last round of tiering met: {why}")));
    }
    message.tiering = Some(tiering);
}

#[cfg(test)]
mod tests {
    use polder_api::grpc::convert;
    use polder_tiering::Program;

    use super::super::desk::Looked;
    use super::super::inventory::Held;
    use super::*;
    use crate::tiered::{Opened, Use, Uses};

    #[test]
    fn a_report_tells_what_is_here_and_why_it_stays() {
        let desk = Desk::default();
        let mut message = pb::EndpointStatus { endpoint_id: vec![1; 16].into(), ..Default::default() };
        message.applied = Some(polder_types::Cursor::default().into());
        fill(&mut message, &desk);
        assert_eq!(message.tiering, None, "it does not tier");
        desk.set_settings(&convert::Tiering { enabled: true, ..Default::default() });
        let who = Use { node: None, program: Program::new(b"c\xff"), uid: 1, pid: 2 };
        desk.book.opened(&who, &Opened { for_writing: false, is_resident: true, size: 3 });
        desk.book.may_recall(&who, 1);
        desk.book.recalled(&who, 1);
        let stays = [(Stays::Pinned, (2, 20)), (Stays::Tiered, (5, 0))].into_iter().collect();
        let held =
            Held { files: 7, cached_bytes: 20, tiered_files: 5, tiered_bytes: 90, stays, ..Held::default() };
        desk.looked(Looked { at_s: 9, held, missing_bytes: 4, ..Looked::default() });
        fill(&mut message, &desk);
        convert::ensure_status(&message).expect("a message that the service takes");
        let told = convert::tiering_status(&message).expect("it tiers");
        assert_eq!((told.cached_bytes, told.tiered_files, told.saved_bytes), (20, 5, 90));
        assert_eq!((told.opens, told.opens_here, told.read_bytes, told.read_bytes_here), (1, 1, 4, 3));
        assert_eq!((told.programs[0].program.as_str(), told.programs[0].bytes), ("c\\xff", 1));
        assert_eq!(told.stays.len(), 1, "what is tiered is no reason to stay");
        assert_eq!((told.stays[0].reason.as_str(), told.stays[0].files), ("pinned", 2));
    }
}
