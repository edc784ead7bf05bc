//! Single items that are not in sync, and extras that wait for a decision: asked of the agents that have them.
//!
//! An agent that is away answers with its last report, which holds the first of its problems.

use axum::Json;
use axum::extract::State;
use polder_api::grpc::answers::{Decided, FoundItem, ProblemItem, ProblemList, REVIEW};
use polder_api::grpc::pb;
use polder_api::rest as api;
use polder_metadata::control::{AuditNote, Control};
use polder_types::{EndpointId, Kind, RelPath, Timestamp};

use super::auth::Caller;
use super::body::Body;
use super::convert::{EndpointFacts, api_name};
use super::host::Order;
use super::params::Params;
use super::{HostError, Rest, RestError, endpoints};

/// Most paths of one decision.
const REVIEW_PATHS_MAX: usize = 1000;
/// Most items asked of an agent at once: its answer has at most 1 MiB.
const ASK_ITEMS_MAX: u32 = 500;

/// Where a list over several endpoints goes on: the endpoint, and how many of its items have been listed or passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    endpoint: EndpointId,
    offset: u32,
}

impl std::str::FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a place in this list".to_owned();
        let (endpoint, offset) = text.split_once('-').ok_or_else(wrong)?;
        Ok(Self {
            endpoint: endpoint.parse().map_err(|_| wrong())?,
            offset: offset.parse().map_err(|_| wrong())?,
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.endpoint, self.offset)
    }
}

/// The problems in a report, for an agent that cannot be asked.
fn reported(status: &pb::EndpointStatus) -> ProblemList {
    let items = status.problems.iter().filter_map(|problem| {
        Some(ProblemItem {
            path: RelPath::parse(&problem.path).ok()?.into(),
            direction: None,
            code: problem.code.clone(),
            reason: problem.reason.clone(),
            hint: None,
            since: Timestamp::from_unix_millis(problem.since_unix_ms.max(0) as u64).into(),
            attempts: problem.attempts,
            next_at: None,
            found: None,
        })
    });
    let items: Vec<_> = items.collect();
    ProblemList { total: items.len() as u64, items }
}

impl Rest {
    /// A page of an endpoint's problems: from its agent, or else from its last report.
    async fn problems(&self, facts: &EndpointFacts, offset: u32) -> Result<ProblemList, RestError> {
        let order = Order::Problems { offset, count_max: ASK_ITEMS_MAX };
        match self.host.order(facts.server.id, facts.endpoint.id, order).await {
            Ok(json) if !json.is_null() => {
                let list = serde_json::from_value(json);
                list.map_err(|source| RestError::internal("read a server's list of problems", source))
            }
            Ok(_) | Err(HostError::Offline | HostError::Unavailable(_) | HostError::Refused(_)) => {
                let report = self.host.report(facts.endpoint.id).await?;
                let mut list = report.map(|report| reported(&report.status)).unwrap_or_default();
                list.items.drain(..(offset as usize).min(list.items.len()));
                Ok(list)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Items of all endpoints, or of one, that `wanted` makes something of.
    async fn list_problems<T>(
        &self,
        params: &Params,
        wanted: impl Fn(&EndpointFacts, ProblemItem) -> Option<T>,
    ) -> Result<api::Page<T>, RestError> {
        let only = params.get::<String>("endpoint")?.map(|id| endpoints::parse_id(&id)).transpose()?;
        let from: Option<Place> = params.get("after")?;
        let limit = params.limit()?;
        let found = self.control(move |control| {
            if let Some(id) = only {
                return Ok(vec![endpoints::find(control, id)?]);
            }
            let ids = control.all_endpoints()?.into_iter().map(|endpoint| endpoint.id);
            let ids = ids.filter(|id| from.is_none_or(|from| *id >= from.endpoint));
            Ok(ids.filter_map(|id| endpoints::find(control, id).ok()).collect())
        });
        let mut items = Vec::new();
        for facts in found.await? {
            let id = facts.endpoint.id;
            let mut offset = from.filter(|from| from.endpoint == id).map_or(0, |from| from.offset);
            loop {
                let list = self.problems(&facts, offset).await?;
                if list.items.is_empty() {
                    break;
                }
                for item in list.items {
                    if items.len() == limit {
                        let next = Some(Place { endpoint: id, offset }.to_string());
                        return Ok(api::Page { items, next });
                    }
                    offset = offset.saturating_add(1);
                    items.extend(wanted(&facts, item));
                }
                if u64::from(offset) >= list.total {
                    break;
                }
            }
        }
        Ok(api::Page { items, next: None })
    }
}

pub async fn errors(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::ItemError>>, RestError> {
    let page = rest.list_problems(&params, |facts, item| {
        (item.code != REVIEW).then(|| api::ItemError {
            endpoint: facts.endpoint.id,
            server: api_name(&facts.server.name),
            path: item.path,
            direction: item.direction.unwrap_or(api::Direction::Scan),
            code: item.code,
            reason: item.reason,
            hint: item.hint,
            since: item.since,
            attempts: item.attempts,
            next_at: item.next_at,
        })
    });
    Ok(Json(page.await?))
}

pub async fn review_list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::ReviewItem>>, RestError> {
    let page = rest.list_problems(&params, |facts, item| {
        // A report does not say what stands there; the list is complete all the same.
        let unknown = FoundItem { kind: Kind::File, size: 0, mtime: item.since };
        let found = item.found.unwrap_or(unknown);
        (item.code == REVIEW).then(|| api::ReviewItem {
            endpoint: facts.endpoint.id,
            server: api_name(&facts.server.name),
            path: item.path,
            kind: found.kind,
            size: found.size,
            mtime: found.mtime,
            since: item.since,
        })
    });
    Ok(Json(page.await?))
}

pub async fn review(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Body(body): Body<api::ReviewRequest>,
) -> Result<Json<api::Reviewed>, RestError> {
    if body.paths.is_empty() || body.paths.len() > REVIEW_PATHS_MAX {
        return Err(RestError::BadRequest(format!("the field \"paths\": 1 to {REVIEW_PATHS_MAX} of them")));
    }
    let id = body.endpoint;
    let facts = rest.control(move |control: &Control| endpoints::find(control, id)).await?;
    let paths: Vec<RelPath> = body.paths.into_iter().map(|path| path.0).collect();
    if params.dry_run()? {
        return Ok(Json(api::Reviewed { items: rest.under_review(&facts, &paths).await? }));
    }
    // The agent takes no path at all for everything.
    let all = paths.iter().any(|path| path.names().is_empty());
    let order_paths = if all { Vec::new() } else { paths.clone() };
    let accept = body.decision == api::ReviewDecision::Accept;
    let answer = rest.host.order(facts.server.id, id, Order::Review { accept, paths: order_paths }).await?;
    let decided: Decided = serde_json::from_value(answer).unwrap_or_default();
    let action = if accept { "review.accept" } else { "review.discard" };
    let shown: Vec<_> = paths.iter().take(20).map(ToString::to_string).collect();
    let detail = format!("{} items; {} paths: {}", decided.items, paths.len(), shown.join(", "));
    let (acting, note) = (caller.acting(rest.now()), AuditNote::new(action, id, detail));
    rest.control(move |control| control.audit(&acting, &note)).await?;
    Ok(Json(api::Reviewed { items: decided.items }))
}

impl Rest {
    /// How many extras lie at or below the paths.
    async fn under_review(&self, facts: &EndpointFacts, paths: &[RelPath]) -> Result<u64, RestError> {
        let covers = |path: &RelPath| paths.iter().any(|above| path.names().starts_with(above.names()));
        let (mut offset, mut count) = (0u32, 0);
        loop {
            let list = self.problems(facts, offset).await?;
            count +=
                list.items.iter().filter(|item| item.code == REVIEW && covers(&item.path.0)).count() as u64;
            offset = offset.saturating_add(list.items.len() as u32);
            if list.items.is_empty() || u64::from(offset) >= list.total {
                return Ok(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_text() {
        let place = Place { endpoint: EndpointId([7; 16]), offset: 12 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "-", "7-1", &EndpointId([7; 16]).to_string()] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
