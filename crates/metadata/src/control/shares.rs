//! Shares and sync groups.

use polder_types::{CaseRule, GroupId, ShareId, Timestamp};
use serde::{Deserialize, Serialize};

use super::rows::{self, Object, Rows, Table};
use super::{Acting, AuditNote, Control, ControlError, Endpoint, ObjectName, audit};

/// How long a deleted share is kept: 14 days.
pub const SHARE_KEPT_SECS: i64 = 14 * 24 * 3600;

/// The share's keys, wrapped by the service's master key. Opaque here; never shown in a debug print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WrappedKeys(#[serde(with = "super::tokens::hex_bytes")] pub Vec<u8>);

impl std::fmt::Debug for WrappedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappedKeys({} bytes)", self.0.len())
    }
}

/// Whether a share can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareState {
    /// In use.
    Live,
    /// Deleted, and kept for [`SHARE_KEPT_SECS`]. Its name is free for another share.
    Deleted {
        /// When.
        at: Timestamp,
    },
}

/// A share, as the control plane knows it. Its files are rows of its own database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// For ever.
    pub id: ShareId,
    /// Unique among live shares.
    pub name: ObjectName,
    /// Which names are equal; for ever.
    pub case: CaseRule,
    /// Version of the chunker (`docs/formats/content.md`), for ever. Its seed follows from the keys.
    pub chunker: u16,
    /// Most bytes of live files.
    pub quota_bytes: Option<u64>,
    /// Wrapped keys; replaced when a generation begins.
    pub keys: WrappedKeys,
    /// In use or deleted.
    pub state: ShareState,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Share {
    /// Whether it is in use.
    pub fn is_live(&self) -> bool {
        self.state == ShareState::Live
    }

    /// The moment from which a deleted share may be destroyed.
    pub fn purge_after(&self) -> Option<Timestamp> {
        match self.state {
            ShareState::Live => None,
            ShareState::Deleted { at } => Some(Timestamp::new(at.secs + SHARE_KEPT_SECS, at.nanos)),
        }
    }
}

impl Object for Share {
    const TABLE: Table = Table::Share;
    fn key(&self) -> Vec<u8> {
        self.id.0.to_vec()
    }
    fn name(&self) -> Option<String> {
        self.is_live().then(|| self.name.key())
    }
    fn shown(&self) -> String {
        self.name.to_string()
    }
}

/// A sync group: one share and the endpoints that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// For ever.
    pub id: GroupId,
    /// Unique.
    pub name: ObjectName,
    /// What it follows.
    pub share: ShareId,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Object for Group {
    const TABLE: Table = Table::Group;
    fn key(&self) -> Vec<u8> {
        self.id.0.to_vec()
    }
    fn name(&self) -> Option<String> {
        Some(self.name.key())
    }
    fn parent(&self) -> Option<Vec<u8>> {
        Some(self.share.0.to_vec())
    }
    fn shown(&self) -> String {
        self.name.to_string()
    }
}

/// The share, if it is in use.
pub(super) fn live_share(rows: &dyn Rows, id: ShareId) -> Result<Share, ControlError> {
    let share: Share = rows::need(rows, &id.0)?;
    if share.is_live() { Ok(share) } else { Err(ControlError::not_found(Table::Share, &share.name)) }
}

fn deletable_share(rows: &dyn Rows, id: ShareId) -> Result<Share, ControlError> {
    let share = live_share(rows, id)?;
    match rows::list::<Group>(rows, Some(&id.0), None, 1)?.first() {
        None => Ok(share),
        Some(group) => {
            let by = format!("the sync group \"{}\": delete it first", group.name);
            Err(ControlError::InUse { what: Table::Share, which: share.name.to_string(), by })
        }
    }
}

fn deletable_group(rows: &dyn Rows, id: GroupId) -> Result<Group, ControlError> {
    let group: Group = rows::need(rows, &id.0)?;
    match rows::list::<Endpoint>(rows, Some(&id.0), None, 1)?.first() {
        None => Ok(group),
        Some(endpoint) => {
            let by = format!("the endpoint {} ({}): delete it first", endpoint.id, endpoint.path);
            Err(ControlError::InUse { what: Table::Group, which: group.name.to_string(), by })
        }
    }
}

impl Control {
    /// A new share.
    pub fn create_share(&self, acting: &Acting, share: &Share) -> Result<(), ControlError> {
        self.write(|rows| {
            rows::insert(rows, share)?;
            let detail = format!("id {} case {:?} quota {:?}", share.id, share.case, share.quota_bytes);
            audit::append(rows, acting, &AuditNote::new("share.create", &share.name, detail))?;
            Ok(())
        })
    }

    /// A share, live or deleted.
    pub fn share(&self, id: ShareId) -> Result<Option<Share>, ControlError> {
        self.read(|rows| rows::get(rows, &id.0))
    }

    /// The live share with a name.
    pub fn share_named(&self, name: &ObjectName) -> Result<Option<Share>, ControlError> {
        self.read(|rows| rows::find(rows, &name.key()))
    }

    /// The shares that were deleted under a name, the newest first: several can be, since a deleted share's name is free.
    pub fn deleted_shares_named(&self, name: &ObjectName) -> Result<Vec<Share>, ControlError> {
        let mut found = self.read(|rows| rows::all::<Share>(rows, None))?;
        found.retain(|share| !share.is_live() && share.name.key() == name.key());
        found.sort_by_key(|share| std::cmp::Reverse(share.purge_after()));
        Ok(found)
    }

    /// A page of shares in order of their ids, live and deleted.
    pub fn shares(&self, after: Option<ShareId>, limit: usize) -> Result<Vec<Share>, ControlError> {
        self.read(|rows| rows::list(rows, None, after.as_ref().map(|id| &id.0[..]), limit))
    }

    /// Every share.
    pub fn all_shares(&self) -> Result<Vec<Share>, ControlError> {
        self.read(|rows| rows::all(rows, None))
    }

    /// Another quota.
    pub fn set_quota(
        &self,
        acting: &Acting,
        id: ShareId,
        quota_bytes: Option<u64>,
    ) -> Result<Share, ControlError> {
        self.change(acting, &id.0, "share.quota", |share: &mut Share| {
            let before = std::mem::replace(&mut share.quota_bytes, quota_bytes);
            Ok(format!("{before:?} to {quota_bytes:?}"))
        })
    }

    /// Other wrapped keys: a new generation, or another master key.
    pub fn set_keys(&self, acting: &Acting, id: ShareId, keys: &WrappedKeys) -> Result<Share, ControlError> {
        self.change(acting, &id.0, "share.keys", |share: &mut Share| {
            share.keys = keys.clone();
            Ok(String::new())
        })
    }

    /// Soft deletion. Refused while a sync group follows the share.
    pub fn delete_share(&self, acting: &Acting, id: ShareId) -> Result<Share, ControlError> {
        self.write(|rows| {
            let mut share = deletable_share(rows, id)?;
            share.state = ShareState::Deleted { at: acting.now };
            rows::put(rows, &share)?;
            audit::append(rows, acting, &AuditNote::new("share.delete", &share.name, format!("id {id}")))?;
            Ok(share)
        })
    }

    /// Makes the checks of [`Control::delete_share`] and nothing else.
    pub fn ensure_deletable(&self, id: ShareId) -> Result<(), ControlError> {
        self.read(|rows| deletable_share(rows, id).map(drop))
    }

    /// Takes a soft deletion back. Refused when its time is over or another share has the name.
    pub fn undelete_share(&self, acting: &Acting, id: ShareId) -> Result<Share, ControlError> {
        self.change(acting, &id.0, "share.undelete", |share: &mut Share| match share.purge_after() {
            None => Err(ControlError::Refused(format!("the share \"{}\" is not deleted", share.name))),
            Some(end) if end <= acting.now => Err(ControlError::not_found(Table::Share, &share.name)),
            Some(_) => {
                share.state = ShareState::Live;
                Ok(format!("id {id}"))
            }
        })
    }

    /// Forgets a deleted share whose time is over; its database and packs are the caller's to destroy first.
    pub fn purge_share(&self, acting: &Acting, id: ShareId) -> Result<(), ControlError> {
        self.write(|rows| {
            let share: Share = rows::need(rows, &id.0)?;
            if share.purge_after().is_none_or(|end| acting.now < end) {
                return Err(ControlError::Refused(format!("the share \"{}\" is still kept", share.name)));
            }
            rows.delete(Table::Share, &id.0)?;
            audit::append(rows, acting, &AuditNote::new("share.purge", &share.name, format!("id {id}")))?;
            Ok(())
        })
    }

    /// A new sync group. A share has one at most: two would order the same changes twice.
    pub fn create_group(&self, acting: &Acting, group: &Group) -> Result<(), ControlError> {
        self.write(|rows| {
            let share = live_share(rows, group.share)?;
            if let Some(other) = rows::list::<Group>(rows, Some(&share.id.0), None, 1)?.first() {
                let by = format!("the sync group \"{}\": a share has one group", other.name);
                return Err(ControlError::InUse { what: Table::Share, which: share.name.to_string(), by });
            }
            rows::insert(rows, group)?;
            let detail = format!("id {} share {}", group.id, share.name);
            audit::append(rows, acting, &AuditNote::new("group.create", &group.name, detail))?;
            Ok(())
        })
    }

    /// A sync group.
    pub fn group(&self, id: GroupId) -> Result<Option<Group>, ControlError> {
        self.read(|rows| rows::get(rows, &id.0))
    }

    /// The sync group with a name.
    pub fn group_named(&self, name: &ObjectName) -> Result<Option<Group>, ControlError> {
        self.read(|rows| rows::find(rows, &name.key()))
    }

    /// A page of sync groups in order of their ids.
    pub fn groups(&self, after: Option<GroupId>, limit: usize) -> Result<Vec<Group>, ControlError> {
        self.read(|rows| rows::list(rows, None, after.as_ref().map(|id| &id.0[..]), limit))
    }

    /// Every sync group.
    pub fn all_groups(&self) -> Result<Vec<Group>, ControlError> {
        self.read(|rows| rows::all(rows, None))
    }

    /// Makes the checks of [`Control::delete_group`] and nothing else.
    pub fn ensure_group_deletable(&self, id: GroupId) -> Result<(), ControlError> {
        self.read(|rows| deletable_group(rows, id).map(drop))
    }

    /// Removes a sync group. Refused while it has endpoints.
    pub fn delete_group(&self, acting: &Acting, id: GroupId) -> Result<Group, ControlError> {
        self.write(|rows| {
            let group = deletable_group(rows, id)?;
            rows.delete(Table::Group, &id.0)?;
            audit::append(rows, acting, &AuditNote::new("group.delete", &group.name, format!("id {id}")))?;
            Ok(group)
        })
    }
}
