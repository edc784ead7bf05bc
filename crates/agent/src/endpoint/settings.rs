//! What an endpoint's assignment says, in the engine's words.

use std::sync::Arc;

use anyhow::{Context, Result};
use polder_api::grpc::convert::{Assignment, InitialUpload};
use polder_engine::{BrakeSettings, InitialMode, Settings};
use polder_replica::AttrPolicy;
use polder_sync::{Filter, FilterError};

use super::Common;
use crate::{StateDir, status};

/// The engine's settings of an endpoint. `is_first`: nothing has been in sync, as far as the database knows.
pub(super) fn settings(common: &Common, assignment: &Assignment, is_first: bool) -> Result<Settings> {
    let filter = filter(assignment).context("read the filters of the endpoint")?;
    let brake = &assignment.brake;
    let defaults = BrakeSettings::default();
    let was_united = common.state.is_united(assignment.endpoint);
    let initial = match assignment.initial_upload {
        InitialUpload::Authoritative if is_first && was_united => {
            tracing::warn!(
                "its first sync was over before its database was lost: both sides are united, and nothing is deleted"
            );
            InitialMode::Merge
        }
        InitialUpload::Authoritative => InitialMode::Authoritative,
        InitialUpload::Merge => InitialMode::Merge,
    };
    if !is_first && !was_united {
        note_united(&common.state, assignment);
    }
    let unbraked = BrakeSettings { floor: u64::MAX, ceiling: u64::MAX, ..defaults };
    let braked = BrakeSettings {
        window_ms: u64::from(brake.window_s) * 1000,
        floor: brake.count_min,
        ceiling: brake.count_max,
        one_in: 10_000_u64.checked_div(brake.share_basis_points.into()).unwrap_or(u64::MAX),
    };
    Ok(Settings {
        case: assignment.case,
        filter: Arc::new(filter),
        initial,
        brake: if brake.enabled { braked } else { unbraked },
        ..Settings::new(&common.server_name)
    })
}

/// Which names take part.
pub(super) fn filter(assignment: &Assignment) -> Result<Filter, FilterError> {
    let filters = &assignment.filters;
    let filter = if filters.default_skip_list { Filter::defaults() } else { Filter::none() };
    filter.with(&filters.exclude_globs)
}

/// Which attributes are applied and compared.
pub(super) fn attr_policy(assignment: &Assignment) -> AttrPolicy {
    AttrPolicy { privilege_bits: assignment.apply_privileged_attrs, ..AttrPolicy::default() }
}

/// An authority is one until both sides were united once, and that outlives its database: what a server with a lost one does not have, others may
/// have made since.
pub(super) fn note_united(state: &StateDir, assignment: &Assignment) {
    if assignment.initial_upload == InitialUpload::Authoritative
        && let Err(error) = state.set_united(assignment.endpoint)
    {
        tracing::warn!(error = status::chain(&error), "it is not noted that the first sync is over");
    }
}
