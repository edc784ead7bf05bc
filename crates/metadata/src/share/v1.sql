-- Tables of a share, version 1: docs/formats/share.md says what they mean. Never edit a released version.
CREATE TABLE share (
    one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL, fold INTEGER NOT NULL, chunker INTEGER NOT NULL,
    epoch INTEGER NOT NULL, head INTEGER NOT NULL, tag INTEGER NOT NULL, time_ms INTEGER NOT NULL,
    fence INTEGER NOT NULL, live_nodes INTEGER NOT NULL, live_bytes INTEGER NOT NULL,
    history_from INTEGER NOT NULL, changes_from INTEGER NOT NULL, thinned BLOB NOT NULL
) STRICT;

-- gone: the operation that deleted it; NULL while it lives.
CREATE TABLE ident (nid INTEGER PRIMARY KEY, uid BLOB NOT NULL UNIQUE, gone INTEGER) STRICT;

-- mtime: nanoseconds since 1970 as a number, or 12 bytes where they do not fit.
CREATE TABLE node (
    nid INTEGER PRIMARY KEY, since INTEGER NOT NULL, up INTEGER NOT NULL, name BLOB NOT NULL,
    mtime ANY NOT NULL, attrs BLOB NOT NULL, volatile BLOB, content BLOB NOT NULL
) STRICT;
CREATE TABLE past_node (
    until INTEGER PRIMARY KEY, nid INTEGER NOT NULL, since INTEGER NOT NULL, up INTEGER NOT NULL,
    name BLOB NOT NULL, mtime ANY NOT NULL, attrs BLOB NOT NULL, volatile BLOB, content BLOB NOT NULL
) STRICT;
CREATE INDEX past_node_of ON past_node (nid, until);

-- name: only where it differs from the key.
CREATE TABLE entry (
    parent INTEGER NOT NULL, key BLOB NOT NULL, since INTEGER NOT NULL, nid INTEGER NOT NULL, name BLOB,
    PRIMARY KEY (parent, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE past_entry (
    until INTEGER PRIMARY KEY, parent INTEGER NOT NULL, key BLOB NOT NULL, since INTEGER NOT NULL,
    nid INTEGER NOT NULL, name BLOB
) STRICT;
CREATE INDEX past_entry_of ON past_entry (parent, key, until);

CREATE TABLE change (seq INTEGER PRIMARY KEY, nid INTEGER NOT NULL, what INTEGER NOT NULL) STRICT;
-- batch and answer: NULL for a direct change without a name.
CREATE TABLE commit_ (
    seq INTEGER PRIMARY KEY, ops INTEGER NOT NULL, tag INTEGER NOT NULL, time_ms INTEGER NOT NULL,
    by BLOB NOT NULL, batch INTEGER, answer BLOB
) STRICT;
CREATE UNIQUE INDEX commit_of ON commit_ (by, batch) WHERE batch IS NOT NULL;
CREATE TABLE refusal (
    by BLOB NOT NULL, batch INTEGER NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (by, batch)
) STRICT, WITHOUT ROWID;
CREATE TABLE author (
    by BLOB PRIMARY KEY, batch_min INTEGER NOT NULL, brake_from_ms INTEGER NOT NULL, brake_ops INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE attr (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, piece BLOB NOT NULL) STRICT;

CREATE TABLE chunk (key BLOB PRIMARY KEY, pack INTEGER NOT NULL, slot BLOB NOT NULL) STRICT, WITHOUT ROWID;
-- Numbers are never used again: a chunk that still named a forgotten pack must not find another.
CREATE TABLE pack (
    no INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, state INTEGER NOT NULL, bytes INTEGER NOT NULL,
    chunks INTEGER NOT NULL, key_gen INTEGER NOT NULL, meta BLOB NOT NULL, registered_ms INTEGER NOT NULL,
    verified_ms INTEGER, state_seq INTEGER NOT NULL, state_ms INTEGER NOT NULL, used INTEGER NOT NULL
) STRICT;

CREATE TABLE snapshot (
    name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, tag INTEGER NOT NULL,
    time_ms INTEGER NOT NULL, note TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE endpoint_pin (
    endpoint BLOB PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, tag INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE endpoint_hold (
    endpoint BLOB NOT NULL, nid INTEGER NOT NULL, since INTEGER NOT NULL, PRIMARY KEY (endpoint, nid, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoint_hold_of ON endpoint_hold (nid, since);
CREATE TABLE sweep (after INTEGER NOT NULL, upto INTEGER NOT NULL, PRIMARY KEY (after, upto)) STRICT, WITHOUT ROWID;
