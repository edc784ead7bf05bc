//! Between the rows of the control plane and the contract.

use polder_api::rest as api;
use polder_metadata::control as rows;
use polder_types::{EndpointId, Timestamp};

use super::RestError;

/// How long after its last sign of life a server counts as online.
const ONLINE_SECS: i64 = 60;

/// A name from the contract, for the rows.
pub fn row_name(name: &api::ObjectName) -> Result<rows::ObjectName, RestError> {
    Ok(name.as_str().parse()?)
}

/// A name from the rows, for the contract.
pub fn api_name(name: &rows::ObjectName) -> api::ObjectName {
    name.as_str().parse().expect("both sides have one rule of names; a test holds them together")
}

pub fn group(group: &rows::Group, share: &rows::Share, endpoints: Vec<EndpointId>) -> api::Group {
    api::Group {
        id: group.id,
        name: api_name(&group.name),
        share: api_name(&share.name),
        share_id: share.id,
        endpoints,
        created_at: group.created_at.into(),
    }
}

/// A server with what else is known of it.
pub struct ServerFacts {
    pub server: rows::Server,
    pub certificates: Vec<rows::Certificate>,
    pub endpoints: Vec<EndpointId>,
    pub cloned: bool,
}

pub fn server(facts: ServerFacts, is_online: bool, now: Timestamp) -> api::Server {
    let ServerFacts { server, certificates, endpoints, cloned } = facts;
    let fresh = server.was_here(now, ONLINE_SECS);
    let state = match server.state {
        rows::ServerState::Revoked { .. } => api::ServerState::Revoked,
        rows::ServerState::Trusted if cloned => api::ServerState::Cloned,
        rows::ServerState::Trusted if is_online || fresh => api::ServerState::Online,
        rows::ServerState::Trusted => api::ServerState::Offline,
    };
    let ends = certificates.iter().map(|certificate| certificate.expires_at).max();
    api::Server {
        id: server.id,
        name: api_name(&server.name),
        state,
        version: server.heartbeat_at.map(|_| server.version),
        heartbeat_at: server.heartbeat_at.map(Into::into),
        registered_at: server.created_at.into(),
        certificate_expires_at: ends.unwrap_or(server.created_at).into(),
        endpoints,
        tiered_files: None,
        tiered_bytes: None,
    }
}

pub fn settings(settings: &rows::EndpointSettings) -> api::EndpointSettings {
    api::EndpointSettings {
        tiering: settings.tiering,
        free_space_percent: settings.free_space.get(),
        older_than_days: settings.older_than.map(rows::OlderThan::days),
        cache_quota_bytes: settings.cache_quota_bytes,
        file_bytes_min: settings.file_bytes_min,
        new_files: match settings.new_files {
            rows::NewFiles::Tiered => api::NewFiles::Tiered,
            rows::NewFiles::Full => api::NewFiles::Full,
        },
        tier_rules: settings.tier_rules.iter().map(super::convert_tiering::tier_rule).collect(),
        program_rules: settings.program_rules.iter().map(super::convert_tiering::program_rule).collect(),
        initial_download: match settings.initial_download {
            rows::InitialDownload::Full => api::InitialDownload::Full,
            rows::InitialDownload::NamespaceFirst => api::InitialDownload::NamespaceFirst,
            rows::InitialDownload::NamespaceOnly => api::InitialDownload::NamespaceOnly,
        },
        initial_upload: match settings.initial_upload {
            rows::InitialUpload::Merge => api::InitialUpload::Merge,
            rows::InitialUpload::Authoritative => api::InitialUpload::Authoritative,
        },
        excludes: settings.excludes.iter().map(ToString::to_string).collect(),
        default_excludes: settings.default_excludes,
        privileges: settings.privileges,
        paused: settings.paused,
    }
}

/// Settings as somebody wishes them, over those that the contract does not show.
pub fn row_settings(
    wish: &api::EndpointSettings,
    base: &rows::EndpointSettings,
) -> Result<rows::EndpointSettings, RestError> {
    if wish.excludes.len() > api::EXCLUDES_MAX {
        return Err(RestError::BadRequest(format!("an endpoint has at most {} patterns", api::EXCLUDES_MAX)));
    }
    Ok(rows::EndpointSettings {
        tiering: wish.tiering,
        free_space: wish.free_space_percent.try_into()?,
        older_than: wish.older_than_days.map(TryInto::try_into).transpose()?,
        cache_quota_bytes: wish.cache_quota_bytes,
        file_bytes_min: wish.file_bytes_min,
        new_files: match wish.new_files {
            api::NewFiles::Tiered => rows::NewFiles::Tiered,
            api::NewFiles::Full => rows::NewFiles::Full,
        },
        tier_rules: wish
            .tier_rules
            .iter()
            .map(super::convert_tiering::row_tier_rule)
            .collect::<Result<_, _>>()?,
        program_rules: wish
            .program_rules
            .iter()
            .map(super::convert_tiering::row_program_rule)
            .collect::<Result<_, _>>()?,
        initial_download: match wish.initial_download {
            api::InitialDownload::Full => rows::InitialDownload::Full,
            api::InitialDownload::NamespaceFirst => rows::InitialDownload::NamespaceFirst,
            api::InitialDownload::NamespaceOnly => rows::InitialDownload::NamespaceOnly,
        },
        initial_upload: match wish.initial_upload {
            api::InitialUpload::Merge => rows::InitialUpload::Merge,
            api::InitialUpload::Authoritative => rows::InitialUpload::Authoritative,
        },
        excludes: wish.excludes.iter().map(|glob| glob.parse()).collect::<Result<_, _>>()?,
        default_excludes: wish.default_excludes,
        privileges: wish.privileges,
        paused: wish.paused,
        brake: base.brake,
    })
}

/// An endpoint with the names of what it belongs to.
pub struct EndpointFacts {
    pub endpoint: rows::Endpoint,
    pub group: rows::Group,
    pub share: rows::Share,
    pub server: rows::Server,
}

pub fn endpoint(facts: &EndpointFacts) -> api::Endpoint {
    let EndpointFacts { endpoint, group, share, server } = facts;
    api::Endpoint {
        id: endpoint.id,
        group: api_name(&group.name),
        group_id: group.id,
        share: api_name(&share.name),
        share_id: share.id,
        server: api_name(&server.name),
        server_id: server.id,
        path: api::JsonBytes(endpoint.path.to_bytes()),
        settings: settings(&endpoint.settings),
        created_at: endpoint.created_at.into(),
        removing: endpoint.deleting,
        left_behind: endpoint.left_behind.map(|left| api::LeftBehind {
            files: left.count.map(|(files, _)| files),
            bytes: left.count.map(|(_, bytes)| bytes),
            at: left.at.into(),
        }),
    }
}

pub fn audit_entry(entry: rows::AuditEntry) -> api::AuditEntry {
    api::AuditEntry {
        id: entry.seq,
        at: entry.time.into(),
        actor: entry.who,
        action: entry.action,
        object: entry.object,
        outcome: match entry.outcome {
            rows::AuditOutcome::Accepted => api::AuditOutcome::Accepted,
            rows::AuditOutcome::Refused => api::AuditOutcome::Refused,
            rows::AuditOutcome::Failed => api::AuditOutcome::Failed,
        },
        detail: Some(entry.detail).filter(|detail| !detail.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_contract_have_one_rule_of_names() {
        let id = "0123456789abcdef".repeat(2);
        let long = "a".repeat(63);
        let too_long = "a".repeat(64);
        for text in
            ["a", "A.b-c_d", "0", "-a", ".a", "_a", "", "a b", "ä", "a/b", &id, &long, &too_long, "a\n"]
        {
            let (one, two) = (text.parse::<api::ObjectName>(), text.parse::<rows::ObjectName>());
            assert_eq!(one.is_ok(), two.is_ok(), "{text:?}");
        }
    }
}
