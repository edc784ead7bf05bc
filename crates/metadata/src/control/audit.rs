//! The append-only log of changes, each entry chained to the one before by its hash.
//!
//! The chain shows that an entry inside the log was changed, removed or put in. Cutting off the end cannot be seen
//! from the log alone: compare its head with one that was written down elsewhere.

use polder_types::{Escaped, Timestamp, Writer};
use serde::{Deserialize, Serialize};

use super::rows::{LogRow, Rows, Table};
use super::{Acting, Control, ControlError, PAGE_ROWS_MAX};

const TEXT_BYTES_MAX: usize = 4096;

/// What happened: for callers that log something which changes no row here (a refusal, a direct change of a share).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditNote {
    /// `noun.verb`, e.g. `share.create`.
    pub action: String,
    /// What it was done to.
    pub object: String,
    /// Anything more; may be empty.
    pub detail: String,
    /// Whether it happened.
    pub outcome: AuditOutcome,
}

/// Whether what was asked for happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It happened.
    Accepted,
    /// It was refused.
    Refused,
    /// It failed.
    Failed,
}

impl AuditNote {
    /// Texts are escaped and cut to 4,096 bytes: names come from outside.
    pub fn new(action: impl ToString, object: impl ToString, detail: impl ToString) -> Self {
        let safe = |text: String| {
            let mut text = Escaped(text.as_bytes()).to_string();
            let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or(0));
            text
        };
        Self {
            action: safe(action.to_string()),
            object: safe(object.to_string()),
            detail: safe(detail.to_string()),
            outcome: AuditOutcome::Accepted,
        }
    }

    /// The same, with another outcome.
    pub fn with(self, outcome: AuditOutcome) -> Self {
        Self { outcome, ..self }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// 1 for the first, without gaps.
    pub seq: u64,
    /// Service time.
    pub time: Timestamp,
    /// Who.
    pub who: String,
    /// `noun.verb`.
    pub action: String,
    /// What it was done to.
    pub object: String,
    /// Anything more.
    pub detail: String,
    /// Whether it happened.
    pub outcome: AuditOutcome,
    /// Hash of the entry before; zeros for the first.
    #[serde(with = "super::tokens::hex32")]
    pub prev: [u8; 32],
    /// Hash of this entry, `prev` included.
    #[serde(with = "super::tokens::hex32")]
    pub hash: [u8; 32],
}

impl AuditEntry {
    fn computed_hash(&self) -> [u8; 32] {
        let mut bytes = Writer::new();
        bytes.byte(1).number(self.seq).raw(&self.time.secs.to_le_bytes()).number(self.time.nanos.into());
        for text in [&self.who, &self.action, &self.object, &self.detail] {
            bytes.bytes(text.as_bytes());
        }
        bytes.byte(self.outcome as u8).raw(&self.prev);
        *blake3::hash(&bytes.finish()).as_bytes()
    }
}

/// Where the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is broken at entry {seq}: {why}")]
pub struct AuditBreak {
    /// The first entry that does not fit.
    pub seq: u64,
    /// What does not fit.
    pub why: &'static str,
}

fn read_entry(row: &LogRow) -> Result<AuditEntry, ControlError> {
    serde_json::from_slice(&row.doc)
        .map_err(|source| ControlError::Damaged { what: Table::Setting, source: source.into() })
}

/// Appends an entry inside a transaction.
pub(super) fn append(rows: &mut dyn Rows, acting: &Acting, note: &AuditNote) -> Result<u64, ControlError> {
    let head = rows.log_head()?.as_ref().map(read_entry).transpose()?;
    let (last, prev) = head.map_or((0, [0; 32]), |head| (head.seq, head.hash));
    let mut entry = AuditEntry {
        seq: last + 1,
        time: acting.now,
        who: acting.who.clone(),
        action: note.action.clone(),
        object: note.object.clone(),
        detail: note.detail.clone(),
        outcome: note.outcome,
        prev,
        hash: [0; 32],
    };
    entry.hash = entry.computed_hash();
    let doc = serde_json::to_vec(&entry)
        .map_err(|source| ControlError::Damaged { what: Table::Setting, source: source.into() })?;
    rows.log_append(&LogRow { seq: entry.seq, doc })?;
    Ok(entry.seq)
}

impl Control {
    /// Writes down something that changed no row of the control plane. Returns its number.
    pub fn audit(&self, acting: &Acting, note: &AuditNote) -> Result<u64, ControlError> {
        self.write(|rows| append(rows, acting, note))
    }

    /// Entries from the newest down, those below `before`, at most `limit`.
    pub fn audit_page(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, ControlError> {
        let limit = limit.min(PAGE_ROWS_MAX);
        self.read(|rows| {
            let head = rows.log_head()?.map_or(0, |row| row.seq);
            let end = before.unwrap_or(u64::MAX).min(head + 1);
            let first = end.saturating_sub(limit as u64).max(1);
            let rows = rows.log_range(first, (end.saturating_sub(first)) as usize)?;
            rows.iter().rev().map(read_entry).collect()
        })
    }

    /// Checks the whole chain. `Ok(Ok(n))`: n entries that fit.
    pub fn audit_verify(&self) -> Result<Result<u64, AuditBreak>, ControlError> {
        let (mut seq, mut prev) = (0u64, [0u8; 32]);
        loop {
            // Page by page, so that a long log needs little memory and no long transaction; it only grows.
            let page = self.read(|rows| rows.log_range(seq + 1, PAGE_ROWS_MAX))?;
            if page.is_empty() {
                return Ok(Ok(seq));
            }
            for row in page {
                let fail = |why| Ok(Err(AuditBreak { seq: seq + 1, why }));
                let Ok(entry) = read_entry(&row) else { return fail("it cannot be read") };
                if row.seq != seq + 1 || entry.seq != row.seq {
                    return fail("it is missing");
                }
                if entry.prev != prev {
                    return fail("it does not follow the one before");
                }
                if entry.hash != entry.computed_hash() {
                    return fail("it was changed");
                }
                (seq, prev) = (entry.seq, entry.hash);
            }
        }
    }
}
