//! What a server is told to do, from the control plane's rows; and what its agent reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use polder_api::grpc::answers::LeftBehind;
use polder_api::grpc::{Secret, convert, pb};
use polder_ledger::LedgerError;
use polder_metadata::control::{self, Endpoint, EndpointSettings, Group, Release, Share};
use polder_types::{Cursor, EndpointId, NodeUid, Seq, ServerId, ShareId};
use prost::Message;
use tonic::Status;

use super::access::{Access, Caller};
use super::session::{heads_of, keep_report};
use crate::agents::{ORDER_WAIT, OrderError, Session};
use crate::failure;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// How long letting go of a folder may take: what is tiered is recalled first.
const DETACH_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was refused is asked for again after so long.
const DETACH_AGAIN: Duration = Duration::from_secs(15);

/// What is to be sent after a change of the rows.
pub struct Assigned {
    /// The list.
    pub message: pb::Assignments,
    /// Orders in the rows that the agent has not confirmed.
    pub orders: Vec<Order>,
}

/// An order that waits in an endpoint's row.
pub enum Order {
    /// Let go of the folder; then the row goes.
    Detach(Endpoint),
    /// An answer to the brake.
    Release(Endpoint, Release),
}

/// Reads the assignments of a session's server, and has it follow their shares. Waits for rows.
pub fn assign(state: &ServiceState, session: &Session) -> Result<Assigned, Status> {
    let control = state.control();
    let read = |error| failure::control("read the endpoints", error);
    let mut assigned = Assigned { message: pb::Assignments::default(), orders: Vec::new() };
    let mut shares: BTreeMap<ShareId, Arc<OpenShare>> = BTreeMap::new();
    for endpoint in control.endpoints_of_server(session.server).map_err(read)? {
        if endpoint.left_behind.is_some() {
            continue;
        }
        let Some(group) = control.group(endpoint.group).map_err(read)? else { continue };
        let row = control.share(group.share).map_err(read)?.filter(Share::is_live);
        let Some(row) = row else { continue };
        let share = state.shares().open_row(&row).map_err(failure::share)?;
        let stopped = control.progress(endpoint.id).map_err(read)?.stopped_why;
        let message = assignment(&endpoint, &group, &row, &share, stopped);
        assigned.message.endpoints.push(message.into());
        shares.insert(share.id, share);
        if endpoint.deleting {
            assigned.orders.push(Order::Detach(endpoint));
        } else if let Some(release) = endpoint.release {
            assigned.orders.push(Order::Release(endpoint, release));
        }
    }
    session.follow(heads_of(&shares.into_values().collect::<Vec<_>>()));
    Ok(assigned)
}

fn assignment(
    endpoint: &Endpoint,
    group: &Group,
    row: &Share,
    share: &OpenShare,
    stopped_why: Option<String>,
) -> convert::Assignment {
    let settings = &endpoint.settings;
    convert::Assignment {
        endpoint: endpoint.id,
        revision: endpoint.revision,
        share: row.id,
        group: group.id,
        share_name: row.name.to_string(),
        group_name: group.name.to_string(),
        path: endpoint.path.to_bytes(),
        case: row.case,
        chunker: row.chunker,
        share_keys: Secret(share.keys().to_secret_bytes()),
        quota_bytes: row.quota_bytes,
        filters: convert::Filters {
            default_skip_list: settings.default_excludes,
            exclude_globs: settings.excludes.iter().map(ToString::to_string).collect(),
        },
        initial_upload: match settings.initial_upload {
            control::InitialUpload::Merge => convert::InitialUpload::Merge,
            control::InitialUpload::Authoritative => convert::InitialUpload::Authoritative,
        },
        initial_download: match settings.initial_download {
            control::InitialDownload::Full => convert::InitialDownload::Full,
            control::InitialDownload::NamespaceFirst => convert::InitialDownload::NamespaceFirst,
            control::InitialDownload::NamespaceOnly => convert::InitialDownload::NamespaceOnly,
        },
        tiering: tiering(settings),
        paused: settings.paused,
        brake: convert::Brake {
            enabled: settings.brake.enabled,
            window_s: settings.brake.window_secs,
            count_min: settings.brake.count_min,
            count_max: settings.brake.count_max,
            share_basis_points: settings.brake.items_basis_points,
        },
        apply_privileged_attrs: settings.privileges,
        stopped_why,
    }
}

/// Seconds of a day.
const DAY_S: u64 = 24 * 3600;

fn tiering(settings: &EndpointSettings) -> convert::Tiering {
    let rules = settings.tier_rules.iter().map(|rule| convert::TierRule {
        action: match rule.action {
            control::TierAction::Keep => convert::TierAction::Keep,
            control::TierAction::Tier { after_days } => {
                convert::TierAction::Tier { after_s: u64::from(after_days) * DAY_S }
            }
        },
        glob: rule.glob.as_ref().map(ToString::to_string).unwrap_or_default(),
        size_bytes_min: rule.size_bytes_min.unwrap_or(0),
        // 0 is "no bound" in the message, and no file of one byte is tiered.
        size_bytes_max: rule.size_bytes_max.map(|bytes| bytes.max(1)),
        unused_s_min: rule.unused_days_min.map_or(0, |days| u64::from(days) * DAY_S),
    });
    let programs = settings.program_rules.iter().map(|rule| convert::ProgramRule {
        name: rule.name.to_string(),
        action: match rule.action {
            control::ProgramAction::Recall => convert::ProgramAction::Recall,
            control::ProgramAction::Serve => convert::ProgramAction::Serve,
            control::ProgramAction::Refuse => convert::ProgramAction::Refuse,
        },
        // 0 is "no bound" in the message; nothing of use is fetched for one byte.
        bytes_per_hour: rule.bytes_per_hour.map(|bytes| bytes.max(1)),
        counts: rule.counts,
    });
    convert::Tiering {
        enabled: settings.tiering,
        free_space_percent: settings.free_space.get(),
        older_than_s: settings.older_than.map(|age| u64::from(age.days()) * DAY_S),
        cache_quota_bytes: settings.cache_quota_bytes,
        file_bytes_min: settings.file_bytes_min.unwrap_or(0),
        new_files: match settings.new_files {
            control::NewFiles::Tiered => convert::NewFiles::Tiered,
            control::NewFiles::Full => convert::NewFiles::Full,
        },
        rules: rules.collect(),
        programs: programs.collect(),
    }
}

/// Gives the orders of the rows to the agent, and writes down what it did.
pub fn carry_out(state: &ServiceState, server: ServerId, orders: Vec<Order>) {
    for order in orders {
        let state = state.clone();
        tokio::spawn(async move {
            match order {
                Order::Detach(endpoint) => detach(&state, server, endpoint).await,
                Order::Release(endpoint, release) => {
                    let accept = release == Release::Accept;
                    let command = pb::command::Command::Release(pb::Release { accept });
                    let done = state.agents().order(server, endpoint.id, command, ORDER_WAIT).await;
                    if let Err(error) = done {
                        tracing::info!(endpoint = %endpoint.id, %error, "the brake's release waits");
                    }
                }
            }
        });
    }
}

/// Has the agent let go of a folder. What stands in the way passes (a share that is away, a full volume): it is asked again, as long as the
/// order stands and the agent is there.
async fn detach(state: &ServiceState, server: ServerId, endpoint: Endpoint) {
    let (id, force) = (endpoint.id, endpoint.force);
    let answer = loop {
        let command = pb::command::Command::Detach(pb::Detach { force });
        let error = match state.agents().order(server, id, command, DETACH_WAIT).await {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        tracing::info!(endpoint = %id, %error, "the end of an endpoint waits");
        if !matches!(error, OrderError::Refused(_)) {
            return;
        }
        tokio::time::sleep(DETACH_AGAIN).await;
        let control = state.control().clone();
        let row = failure::blocking(move || {
            control.endpoint(id).map_err(|error| failure::control("read the endpoint", error))
        });
        // A newer order is carried out by whoever was told of it.
        if !matches!(row.await, Ok(Some(row)) if row.deleting && row.revision == endpoint.revision) {
            return;
        }
    };
    let left = match force {
        true => serde_json::from_slice::<LeftBehind>(&answer.json).unwrap_or_default().count,
        false => Some((0, 0)),
    };
    let state = state.clone();
    let ended = failure::blocking(move || {
        match left {
            Some((0, _)) => end_endpoint(&state, &endpoint)?,
            count => {
                let left = control::LeftBehind { count, at: state.now() };
                let noted = state.control().leave_endpoint(&state.acting_service(), id, left);
                noted.map_err(|error| failure::control("note what was left behind", error))?;
            }
        }
        state.agents().assignments_changed(server);
        Ok(())
    })
    .await;
    if let Err(status) = ended {
        tracing::error!(endpoint = %id, error = status.message(), "an endpoint could not be removed");
    }
}

/// Removes an endpoint of which nothing is left to hold: first what it pins, then its row. Waits for rows.
fn end_endpoint(state: &ServiceState, endpoint: &Endpoint) -> Result<(), Status> {
    let id = endpoint.id;
    if let Ok(share) = super::access::share_of(state, endpoint)
        && let Ok(share) = state.shares().open(share)
    {
        let unpinned = share.db.write(move |rows| polder_ledger::drop_endpoint(rows, id));
        unpinned.map_err(|error: LedgerError| failure::ledger("let go of an endpoint", error))?;
    }
    let forgotten = state.control().forget_endpoint(&state.acting_service(), id);
    forgotten.map_err(|error| failure::control("remove the endpoint", error))
}

/// Takes a checked report. Waits for rows.
pub fn take_status(
    state: &ServiceState,
    caller: Caller,
    id: EndpointId,
    status: pb::EndpointStatus,
) -> Result<(), Status> {
    let access = Access::of_endpoint(state, caller, id)?;
    let applied = convert::cursor(status.applied.as_ref()).map_err(|error| error.status())?;
    let pin = status.pin.as_ref().map_or(Ok((applied, Vec::new())), convert::pin);
    let pin = pin.map_err(|error| error.status())?;
    let folds = status.disk_folds_case;
    let settled = status.held_nodes == 0 && status.state() == pb::EndpointState::InSync;
    let encoded = base64::engine::general_purpose::STANDARD.encode(status.encode_to_vec());
    let state_changed = keep_report(state, id, status);
    // One that is on its way out keeps the pin that it has: a report that comes while its row goes would leave one that nobody ends. What it
    // applies by then arrives whole.
    if !access.endpoint.deleting {
        let (cursor, behind) = pin;
        pin_applied(&access, id, cursor, behind)?;
    }
    if settled && access.endpoint.release.is_some() {
        let done = state.control().release_done(&access.caller.acting(state), id, access.endpoint.revision);
        done.map_err(|error| failure::control("note a release", error))?;
    }
    // Reports come every second; the row is for the time when no process remembers.
    if state_changed {
        let now = state.now();
        let noted = state.control().update_progress(id, |progress| {
            progress.cursor = Some(applied);
            progress.seen_at = Some(now);
            progress.disk_folds_case = folds.or(progress.disk_folds_case);
            progress.report = Some(serde_json::json!({ "pb": encoded }));
            Ok(())
        });
        noted.map_err(|error| failure::control("note a report", error))?;
    }
    Ok(())
}

/// Reads a report that [`take_status`] kept in a row.
pub fn kept_report(report: &serde_json::Value) -> Option<pb::EndpointStatus> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(report.get("pb")?.as_str()?).ok()?;
    pb::EndpointStatus::decode(bytes.as_slice()).ok().filter(|status| convert::ensure_status(status).is_ok())
}

/// What stands at the endpoint is kept: as of a cursor, and older versions of some nodes. A cursor of another history is its opening's to
/// notice.
fn pin_applied(
    access: &Access,
    id: EndpointId,
    applied: Cursor,
    behind: Vec<(NodeUid, Seq)>,
) -> Result<(), Status> {
    if applied == Cursor::default() {
        return Ok(());
    }
    let known = access.share.db.read(|rows| polder_ledger::is_applied_but(rows, id, applied, &behind));
    if known.map_err(|error: LedgerError| failure::ledger("read a pin", error))? {
        return Ok(());
    }
    match access.share.db.write(move |rows| polder_ledger::set_applied_but(rows, id, applied, &behind)) {
        Ok(()) | Err(LedgerError::SetBack | LedgerError::CursorTooOld) => Ok(()),
        Err(error) => Err(failure::ledger("pin what is applied", error)),
    }
}
