//! Why a path is as it is on this server.

use polder_engine::Status;
use polder_sync::{TreeError, TreeStore};
use polder_types::{CaseRule, NodeUid, RelPath, Seq};

/// What is known of a path here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explained {
    /// Whether the item was agreed on with the share, and at which version.
    pub synced: Option<Seq>,
    /// What waits for it or went wrong with it, as a stable word; none when nothing does.
    pub code: Option<&'static str>,
    /// A sentence.
    pub reason: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Looks a path up in the agreed tree and among the items with a problem.
pub(crate) fn explain(
    db: &dyn TreeStore,
    case: CaseRule,
    path: &RelPath,
    status: Option<&Status>,
) -> Result<Explained, TreeError> {
    let mut uid = Some(NodeUid::ROOT);
    for name in path.names() {
        let Some(parent) = uid else { break };
        uid = db.synced_at(parent, &case.key(name.as_bytes()))?;
    }
    let row = match uid {
        Some(uid) => db.synced(uid)?.map(|row| (uid, row)),
        None => None,
    };
    let synced = row.as_ref().map(|(_, row)| row.since);
    if let Some(status) = status {
        if let Some(problem) = status.problems.iter().find(|problem| problem.path == *path) {
            let (code, hint) = crate::status::words(problem.reason);
            let reason = match &*problem.text {
                "" => format!("it is not in sync ({code}), tried {} times", problem.tries),
                text => format!("it is not in sync: {text} (tried {} times)", problem.tries),
            };
            return Ok(Explained { synced, code: Some(code), reason, hint: Some(hint.to_owned()) });
        }
        if status.skipped.iter().any(|skipped| skipped.path == *path) {
            let reason =
                "it is left out: the endpoint's filter, or it is no file, directory or symlink".to_owned();
            return Ok(Explained { synced, code: Some("skipped"), reason, hint: None });
        }
    }
    let Some((uid, row)) = row else {
        let reason = "this server and the share have not agreed on such an item".to_owned();
        let hint =
            Some("if it was just made, it is on its way; `polder errors` lists what is stuck".to_owned());
        return Ok(Explained { synced, code: Some("unknown"), reason, hint });
    };
    let waits = db.cloud(uid)?.is_none_or(|cloud| cloud.since != row.since);
    Ok(match waits {
        true => Explained {
            synced,
            code: Some("waiting"),
            reason: "the share has another version, which is on its way here".to_owned(),
            hint: None,
        },
        false => Explained {
            synced,
            code: None,
            // Where its bytes are is told beside it, for endpoints that tier.
            reason: format!("it is in sync at version {} of the share", row.since),
            hint: None,
        },
    })
}
