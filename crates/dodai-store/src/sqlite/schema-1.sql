-- Numbers that belong to the whole store.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', 1), ('compacted', 0), ('swept', 0), ('last_lease', 0);

-- Every state of every key. Keys are UTF-8 in blobs, so that they compare by bytes and 0xFF ends a prefix.
CREATE TABLE history (
    id INTEGER PRIMARY KEY,           -- in the order of events
    revision INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB,                       -- NULL: the key was removed
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER
) STRICT;
CREATE UNIQUE INDEX history_by_key ON history (key, revision);
CREATE INDEX history_by_revision ON history (revision);

-- The keys that exist, and their last state.
CREATE TABLE present (
    key BLOB PRIMARY KEY,
    history_id INTEGER NOT NULL,
    lease INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX present_by_lease ON present (lease) WHERE lease IS NOT NULL;

CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    ttl_ms INTEGER NOT NULL,
    rest_ms INTEGER                   -- what remained at the last orderly stop
) STRICT;

-- Who changed what. Not touched by compaction.
CREATE TABLE changes (
    id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    key BLOB NOT NULL,
    action INTEGER NOT NULL,          -- 0 create, 1 update, 2 delete
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL            -- since 1970, UTC
) STRICT;
CREATE INDEX changes_by_revision ON changes (revision);
