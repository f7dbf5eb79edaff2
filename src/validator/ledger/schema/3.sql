-- Format 3: a validator that is followed, and what was entered from another system. The
-- script never changes.

-- Who is followed, and the name and key of its log, which stay. Its entries and heads are in
-- `log_entries` and `log_heads`.
CREATE TABLE followed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    hotkey TEXT NOT NULL,
    origin TEXT NOT NULL,
    key TEXT NOT NULL,
    -- What was newest of its public data, and the epoch in which that came.
    news TEXT NOT NULL,
    news_epoch INTEGER NOT NULL,
    -- The place of the log's next entry that is to be followed, and since which epoch.
    next INTEGER NOT NULL DEFAULT 0,
    next_epoch INTEGER NOT NULL,
    -- Whether all of the log was followed once: no weights are set before.
    caught_up INTEGER NOT NULL DEFAULT 0,
    -- Why nothing more is followed, as JSON.
    refusal TEXT
) STRICT;

-- Duels that its log announced.
CREATE TABLE followed_duels (
    announced INTEGER PRIMARY KEY REFERENCES log_entries,
    king INTEGER NOT NULL REFERENCES kings,
    attempt INTEGER NOT NULL,
    -- The place of the entry that ended it.
    ended INTEGER REFERENCES log_entries,
    UNIQUE (king, attempt)
) STRICT;
CREATE UNIQUE INDEX one_followed_duel ON followed_duels (ended IS NULL) WHERE ended IS NULL;

-- Records that its log names: each was verified.
CREATE TABLE followed_records (
    place INTEGER PRIMARY KEY REFERENCES log_entries,
    record TEXT NOT NULL UNIQUE,
    -- The duel that it ended; none of a submission that was not admitted.
    announced INTEGER REFERENCES followed_duels,
    verified_ms INTEGER NOT NULL,
    -- The finalised head when the record was here: an audit draws by the block after it.
    seen_block INTEGER NOT NULL,
    -- Whether the chain shows that its miner committed to it.
    on_chain INTEGER NOT NULL,
    replies INTEGER NOT NULL,
    -- Replies that were audited, what the audit found, and whether that is as it should be.
    audited INTEGER NOT NULL DEFAULT 0,
    audit TEXT,
    passed INTEGER
) STRICT;

CREATE TRIGGER followed_keep BEFORE UPDATE OF hotkey, origin, key ON followed
    BEGIN SELECT RAISE(ABORT, 'who is followed stays'); END;
CREATE TRIGGER followed_stay BEFORE DELETE ON followed BEGIN SELECT RAISE(ABORT, 'who is followed stays'); END;
CREATE TRIGGER followed_duels_stay BEFORE DELETE ON followed_duels
    BEGIN SELECT RAISE(ABORT, 'an attempt stays'); END;
CREATE TRIGGER followed_duels_ended BEFORE UPDATE ON followed_duels WHEN OLD.ended IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'an end stays'); END;
CREATE TRIGGER followed_records_stay BEFORE DELETE ON followed_records
    BEGIN SELECT RAISE(ABORT, 'a record stays'); END;

-- Where something was entered from: another system's files.
CREATE TABLE imports (
    id INTEGER PRIMARY KEY,
    -- Digest of what was read.
    source TEXT NOT NULL UNIQUE,
    at_ms INTEGER NOT NULL,
    hotkeys INTEGER NOT NULL,
    kings INTEGER NOT NULL,
    fingerprints INTEGER NOT NULL
) STRICT;
-- Hotkeys that have taken part there: they enter nothing in that competition.
CREATE TABLE used_hotkeys (
    hotkey TEXT NOT NULL,
    competition INTEGER NOT NULL REFERENCES competitions,
    why TEXT NOT NULL,
    PRIMARY KEY (hotkey, competition)
) STRICT, WITHOUT ROWID;
-- Content that has taken part there: a repository, and what pins it; nothing where the whole
-- repository has.
CREATE TABLE used_contents (
    repository TEXT NOT NULL,
    pin TEXT NOT NULL,
    competition INTEGER NOT NULL REFERENCES competitions,
    why TEXT NOT NULL,
    PRIMARY KEY (repository, pin, competition)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER imports_stay BEFORE DELETE ON imports BEGIN SELECT RAISE(ABORT, 'an import stays'); END;
CREATE TRIGGER used_hotkeys_stay BEFORE DELETE ON used_hotkeys
    BEGIN SELECT RAISE(ABORT, 'a used hotkey stays'); END;
CREATE TRIGGER used_contents_stay BEFORE DELETE ON used_contents
    BEGIN SELECT RAISE(ABORT, 'a used content stays'); END;
