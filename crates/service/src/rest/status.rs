//! Health of groups and endpoints, in whole sentences, from what agents report and the service knows.

use axum::Json;
use axum::extract::State;
use polder_api::grpc::pb;
use polder_api::rest as api;
use polder_api::rest::{EndpointState, Flow, Notice};
use polder_metadata::control as rows;
use polder_metadata::control::{Control, ControlError};
use polder_types::{Seq, Timestamp};

use super::convert::api_name;
use super::host::Report;
use super::params::Params;
use super::{Rest, RestError, groups};

/// How long after its last sign of life a server counts as away.
pub const AWAY_SECS: i64 = 60;

/// All that the rows say of one endpoint.
pub struct EndpointRows {
    pub endpoint: rows::Endpoint,
    pub server: rows::Server,
    pub progress: rows::EndpointProgress,
}

/// All that the rows say of one group.
struct GroupRows {
    group: rows::Group,
    share: rows::Share,
    endpoints: Vec<EndpointRows>,
}

fn group_rows(control: &Control, group: rows::Group) -> Result<Option<GroupRows>, ControlError> {
    let Some(share) = control.share(group.share)? else { return Ok(None) };
    let mut endpoints = Vec::new();
    for endpoint in control.endpoints(Some(group.id), None, rows::PAGE_ROWS_MAX)? {
        if endpoint.left_behind.is_some() {
            // Nobody follows it any more: it has no health.
            continue;
        }
        let Some(server) = control.server(endpoint.server)? else { continue };
        let progress = control.progress(endpoint.id)?;
        endpoints.push(EndpointRows { endpoint, server, progress });
    }
    endpoints.sort_by_cached_key(|one| (one.server.name.key(), one.endpoint.path.clone()));
    Ok(Some(GroupRows { group, share, endpoints }))
}

/// What decides the state of an endpoint.
struct Facts<'a> {
    rows: &'a EndpointRows,
    report: Option<&'a Report>,
    is_online: bool,
    head: Seq,
}

/// So many items with what they do, in one number or the other.
fn items(count: u64, one: &str, more: &str) -> String {
    match count {
        1 => format!("1 item {one}"),
        _ => format!("{count} items {more}"),
    }
}

fn waiting(facts: &Facts<'_>, report: &pb::EndpointStatus) -> Option<(EndpointState, String)> {
    let applied = report.applied.as_ref().map_or(0, |cursor| cursor.seq);
    let (up, down) = (report.upload_nodes, report.download_nodes);
    let text = match (up, down) {
        (0, 0) if report.problem_count > 0 => items(
            report.problem_count,
            "is not in sync and needs attention",
            "are not in sync and need attention",
        ),
        (0, 0) if applied < facts.head.0 => "changes of the share are on their way to the server".into(),
        (0, 0) => return None,
        (up, 0) => items(up, "waits to be uploaded", "wait to be uploaded"),
        (0, down) => items(down, "waits to be downloaded", "wait to be downloaded"),
        (up, down) => {
            items(up, "waits to be uploaded", "wait to be uploaded")
                + &format!(" and {down} to be downloaded")
        }
    };
    Some((EndpointState::Syncing, text))
}

/// State and reason; no reason means: in sync.
fn judge(facts: &Facts<'_>) -> (EndpointState, Option<String>) {
    use pb::EndpointState as Agent;
    let EndpointRows { endpoint, server, progress } = facts.rows;
    let say = |state, text: &str| (state, Some(text.to_owned()));
    if endpoint.deleting {
        return say(EndpointState::Removing, "the endpoint is being removed");
    }
    if !server.is_trusted() {
        return say(
            EndpointState::Stopped,
            "the server was revoked; register it again under a new name or remove the endpoint",
        );
    }
    if progress.cloned {
        return say(
            EndpointState::Stopped,
            "two agents with this endpoint's identity were seen; one of them must be registered again",
        );
    }
    if let Some(why) = &progress.stopped_why {
        return say(EndpointState::Stopped, why);
    }
    let Some(report) = facts.report else {
        return say(
            EndpointState::Pending,
            "nothing was heard of the endpoint yet; is the agent running on the server?",
        );
    };
    if !facts.is_online {
        return say(EndpointState::Offline, "the agent of the server is not connected");
    }
    let status = &report.status;
    let why = |otherwise: &str| if status.why.is_empty() { otherwise.to_owned() } else { status.why.clone() };
    match status.state() {
        Agent::Stopped => (EndpointState::Stopped, Some(why("the agent has stopped the endpoint"))),
        Agent::Held => (
            EndpointState::Held,
            Some(why("the mass-change brake holds changes back; see `polder endpoint release`")),
        ),
        Agent::Paused => (EndpointState::Paused, Some(why("sync is paused"))),
        Agent::Scanning => {
            (EndpointState::Scanning, Some(why("the folder is being compared with what was last known")))
        }
        Agent::Starting | Agent::Unspecified => (EndpointState::Scanning, Some(why("the agent is starting"))),
        Agent::Initial => (
            EndpointState::InitialSync,
            Some(why("the first meeting of the folder and the share is under way")),
        ),
        Agent::Syncing | Agent::InSync => {
            if status.review_count > 0 {
                let text = items(status.review_count, "waits for a decision", "wait for a decision")
                    + "; see `polder review list`";
                return (EndpointState::Review, Some(text));
            }
            match waiting(facts, status) {
                Some((state, text)) => (state, Some(text)),
                None if status.state() == Agent::Syncing => {
                    say(EndpointState::Syncing, "changes are on their way")
                }
                None => (EndpointState::InSync, None),
            }
        }
    }
}

/// One direction: what is left, how fast it goes in a second, and how long the slower of items and bytes will take.
fn flow(left: (u64, u64), per_second: (u64, u64), bytes_moved: u64) -> Flow {
    let ((items_left, bytes_left), (items_per_second, bytes_per_second)) = (left, per_second);
    let takes = |left: u64, rate: u64| (left > 0 && rate > 0).then(|| left.div_ceil(rate));
    let seconds_left = match items_left {
        0 => None,
        _ => takes(bytes_left, bytes_per_second).max(takes(items_left, items_per_second)),
    };
    Flow { items_left, bytes_left, items_per_second, bytes_per_second, bytes_moved, seconds_left }
}

fn notices(facts: &Facts<'_>, now: Timestamp) -> Vec<Notice> {
    let Some(report) = facts.report else { return Vec::new() };
    let since = api::Time(report.at.min(now));
    let mut found = Vec::new();
    if report.status.watching == "scan" {
        found.push(Notice {
            code: "watch_scan".into(),
            message: "changes are noticed by scanning only".into(),
            hint: Some("the agent may not watch this file system; look at its log".into()),
            since,
        });
    }
    if !report.status.layout.is_empty() {
        found.push(Notice {
            code: "layout".into(),
            message: report.status.layout.clone(),
            hint: Some("it goes on by itself when nothing stands in the way any more".into()),
            since,
        });
    }
    if let Some(tiering) = &report.status.tiering {
        tiering_notices(tiering, since, &mut found);
    }
    if report.status.held_nodes > 0 {
        found.push(Notice {
            code: "held".into(),
            message: format!("{} changes are held by the mass-change brake", report.status.held_nodes),
            hint: Some("let them go or throw them back with `polder endpoint release`".into()),
            since,
        });
    }
    found
}

fn tiering_notices(tiering: &pb::TieringStatus, since: api::Time, found: &mut Vec<Notice>) {
    let mut add = |code: &str, message: String, hint: &str| {
        found.push(Notice { code: code.into(), message, hint: Some(hint.into()), since });
    };
    if tiering.low_disk {
        add(
            "low_disk",
            "the volume is nearly full: what is recalled is not kept".into(),
            "make room, or see in `polder status` why files stay",
        );
    }
    if tiering.missing_bytes > 0 {
        let message = format!(
            "{} bytes are missing to the free space that is to be kept, and nothing more may leave now",
            tiering.missing_bytes
        );
        add("free_space", message, "`polder tier --list` says why files stay");
    }
    if tiering.orphaned_nodes > 0 {
        let message =
            format!("the bytes of {} files cannot be had: their mark is damaged", tiering.orphaned_nodes);
        add("orphaned", message, "restore them from the share: `polder share get`");
    }
    for text in &tiering.notices {
        add("tiering", text.clone(), "`polder explain PATH` and the agent's log say more");
    }
}

fn endpoint_status(facts: &Facts<'_>, now: Timestamp) -> api::EndpointStatus {
    let (state, reason) = judge(facts);
    let EndpointRows { endpoint, server, progress } = facts.rows;
    let none = pb::EndpointStatus::default();
    let status = facts.report.map_or(&none, |report| &report.status);
    let applied = status.applied.as_ref().map(|cursor| cursor.seq);
    let kept = progress.cursor.map(|cursor| cursor.seq.0);
    api::EndpointStatus {
        id: endpoint.id,
        server_id: server.id,
        server: api_name(&server.name),
        path: api::JsonBytes(endpoint.path.to_bytes()),
        state,
        in_sync: reason.is_none(),
        reason,
        heard_at: facts.report.map(|report| report.at.into()),
        applied: applied.or(kept).unwrap_or(0),
        upload: flow(
            (status.upload_nodes, status.upload_bytes),
            (status.upload_nodes_per_s, status.upload_bytes_per_s),
            status.sent_bytes,
        ),
        download: flow(
            (status.download_nodes, status.download_bytes),
            (status.download_nodes_per_s, status.download_bytes_per_s),
            status.received_bytes,
        ),
        nodes: status.nodes,
        // What the disk holds is known once the files were looked at; until then what is not tiered is here.
        local_bytes: match &status.tiering {
            Some(tiering) if tiering.looked_unix_ms > 0 => status.cached_bytes,
            _ => status.bytes.saturating_sub(status.tiered_bytes),
        },
        tiered_bytes: status.tiered_bytes,
        tiering: polder_api::grpc::convert::tiering_status(status),
        recycled_bytes: status.recycled_bytes,
        errors: status.problem_count.saturating_sub(status.review_count),
        held: status.held_nodes,
        review: status.review_count,
        problems: notices(facts, now),
    }
}

impl Rest {
    /// Whether the agent of a server is there: connected now, or heard of a moment ago by any process.
    pub(super) fn is_here(&self, server: &rows::Server) -> bool {
        self.host.is_online(server.id) || server.was_here(self.now(), AWAY_SECS)
    }

    async fn group_status(&self, group: GroupRows) -> Result<api::GroupStatus, RestError> {
        let GroupRows { group, share, endpoints } = group;
        let summary = self.summary(share.id).await?;
        let now = self.now();
        let mut shown = Vec::with_capacity(endpoints.len());
        for rows in &endpoints {
            let report = self.host.report(rows.endpoint.id).await?;
            let is_online = self.is_here(&rows.server);
            let facts = Facts { rows, report: report.as_ref(), is_online, head: summary.head.seq };
            shown.push(endpoint_status(&facts, now));
        }
        Ok(api::GroupStatus {
            id: group.id,
            name: api_name(&group.name),
            share: api_name(&share.name),
            in_sync: shown.iter().all(|endpoint| endpoint.in_sync),
            nodes: summary.nodes,
            bytes: summary.bytes,
            head: summary.head.seq.0,
            endpoints: shown,
        })
    }
}

/// What concerns the service itself.
fn service_notices(control: &Control) -> Result<Vec<Notice>, ControlError> {
    let mut found = Vec::new();
    if let Some((from, to)) = control.service_time()?.and_then(|time| time.jump) {
        found.push(Notice {
            code: "clock_jump".into(),
            message: format!(
                "the clock jumped from {} to {}: nothing expires until somebody confirms it",
                api::Time(from),
                api::Time(to)
            ),
            hint: Some("check the service's clock".into()),
            since: to.into(),
        });
    }
    for work in control.work()?.into_iter().filter(|work| work.error.is_some()) {
        found.push(Notice {
            code: "background_work".into(),
            message: format!(
                "the background work \"{}\" failed: {}",
                work.name,
                work.error.unwrap_or_default()
            ),
            hint: Some("it is tried again; the service's log says more".into()),
            since: work.finished_at.or(work.started_at).unwrap_or_default().into(),
        });
    }
    Ok(found)
}

pub async fn status(State(rest): State<Rest>, params: Params) -> Result<Json<api::Status>, RestError> {
    let which: Option<String> = params.get("group")?;
    let found = rest.control(move |control| {
        let mut groups = match which {
            None => control.all_groups()?,
            Some(which) => match groups::find(control, &which)? {
                Ok(group) => vec![group],
                Err(refused) => return Ok(Err(refused)),
            },
        };
        groups.sort_by_cached_key(|group| group.name.key());
        let groups = groups.into_iter().filter_map(|group| group_rows(control, group).transpose());
        Ok(Ok((groups.collect::<Result<Vec<_>, _>>()?, service_notices(control)?)))
    });
    let (groups, mut problems) = found.await??;
    if rest.host.is_short_of_room() {
        problems.push(Notice {
            code: "service_full".into(),
            message: "the volume of the service is full: nothing can be uploaded".into(),
            hint: Some("make room there; uploads go on by themselves".into()),
            since: rest.now().into(),
        });
    }
    let mut shown = Vec::with_capacity(groups.len());
    for group in groups {
        shown.push(rest.group_status(group).await?);
    }
    Ok(Json(api::Status {
        at: rest.now().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        in_sync: shown.iter().all(|group| group.in_sync),
        groups: shown,
        problems,
    }))
}
