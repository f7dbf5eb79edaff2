-- Format 1 of the validator's ledger. Times are milliseconds since the Unix epoch, digests
-- 64 hexadecimal digits. This script never changes: format 2 is another one.

-- Which competition this is, and switches of the operator.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Submissions. An id never says who was first: place does.
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY,
    hotkey TEXT NOT NULL,
    text TEXT NOT NULL,
    repository TEXT NOT NULL,
    pin TEXT NOT NULL,
    block INTEGER NOT NULL,
    extrinsic INTEGER,
    dated_by TEXT NOT NULL,
    readable_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('seen', 'admitted', 'files_clear', 'held', 'clear', 'planned',
        'duelling', 'crowned', 'lost', 'forfeit', 'expired', 'set_aside')),
    since_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    -- Digest of names and digests of its files.
    content TEXT,
    -- The finalised head when its bytes were held: the screens' seed is the block after it.
    held_block INTEGER,
    -- What every screen found, and beside which king.
    admission TEXT,
    screened_king INTEGER REFERENCES kings,
    record TEXT,
    voids INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (hotkey, text)
) STRICT;
CREATE INDEX submissions_place ON submissions (block, extrinsic, hotkey);
-- One duel at a time: whatever the program does wrong.
CREATE UNIQUE INDEX one_duel ON submissions (state IN ('planned', 'duelling'))
    WHERE state IN ('planned', 'duelling');

-- Every readable commitment, in the order in which it was seen first.
CREATE TABLE commits (
    id INTEGER PRIMARY KEY,
    hotkey TEXT NOT NULL,
    text TEXT NOT NULL,
    block INTEGER NOT NULL,
    extrinsic INTEGER,
    dated_by TEXT NOT NULL,
    readable_at INTEGER NOT NULL,
    witnessed INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL,
    submission INTEGER REFERENCES submissions,
    -- Why it is none.
    refusal TEXT,
    UNIQUE (hotkey, text),
    CHECK ((submission IS NULL) <> (refusal IS NULL))
) STRICT;

CREATE TABLE moves (
    id INTEGER PRIMARY KEY,
    submission INTEGER NOT NULL REFERENCES submissions,
    at_ms INTEGER NOT NULL,
    move TEXT NOT NULL,
    came_from TEXT NOT NULL,
    went_to TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- Whose failure a void is.
    fault TEXT
) STRICT;
CREATE INDEX moves_of ON moves (submission);

CREATE TABLE kings (
    id INTEGER PRIMARY KEY,
    -- Nobody's, for a first king that earns nothing.
    hotkey TEXT,
    model TEXT NOT NULL,
    parameters TEXT,
    submission INTEGER UNIQUE REFERENCES submissions,
    record TEXT,
    crowned_ms INTEGER NOT NULL,
    crowned_block INTEGER
) STRICT;

CREATE TABLE duels (
    id INTEGER PRIMARY KEY,
    submission INTEGER NOT NULL REFERENCES submissions,
    king INTEGER NOT NULL REFERENCES kings,
    attempt INTEGER NOT NULL,
    share REAL NOT NULL,
    settings TEXT NOT NULL,
    announced INTEGER NOT NULL UNIQUE REFERENCES log_entries,
    planned_ms INTEGER NOT NULL,
    -- The finalised head once the signed head of the log covered the announcement: the
    -- seed is the block after it.
    head_block INTEGER,
    seed TEXT,
    began_ms INTEGER,
    ended_ms INTEGER,
    outcome TEXT,
    record TEXT,
    samples INTEGER,
    margin REAL,
    effect_mean REAL,
    effect_error REAL,
    usd REAL NOT NULL DEFAULT 0,
    voids INTEGER NOT NULL DEFAULT 0,
    -- Why the operator wants it given up.
    give_up TEXT,
    UNIQUE (king, attempt),
    CHECK ((ended_ms IS NULL) = (outcome IS NULL))
) STRICT;
CREATE UNIQUE INDEX one_open_duel ON duels (ended_ms IS NULL) WHERE ended_ms IS NULL;
-- What each reign has spent.
CREATE VIEW spend AS
    SELECT king, count(*) AS attempts, total(share) AS alpha, total(usd) AS usd FROM duels GROUP BY king;

-- The log of duels: its folder is made from this.
CREATE TABLE log_entries (place INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT;
CREATE TABLE log_heads (size INTEGER PRIMARY KEY, head TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;

-- The kings whom weights are shared among, since when and why.
CREATE TABLE weight_calls (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    king INTEGER NOT NULL UNIQUE REFERENCES kings,
    hotkeys TEXT NOT NULL
) STRICT;
CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY,
    call INTEGER NOT NULL REFERENCES weight_calls,
    -- Written before it is cleared and sent: another one is never sent in its place.
    vector TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    receipt TEXT,
    missed TEXT
) STRICT;

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('record', 'document')),
    -- The record's digest, or the object's name.
    name TEXT NOT NULL UNIQUE,
    folder TEXT,
    submission INTEGER REFERENCES submissions,
    -- The place of its entry in the log, which has to be in the log's folder before.
    place INTEGER REFERENCES log_entries,
    -- A document without bytes is written from the ledger when it is due.
    bytes BLOB,
    added_ms INTEGER NOT NULL,
    due_ms INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    fault TEXT,
    done_ms INTEGER
) STRICT;
CREATE INDEX outbox_due ON outbox (due_ms) WHERE done_ms IS NULL;

CREATE TABLE alerts (
    key TEXT PRIMARY KEY,
    message TEXT NOT NULL,
    fault TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    over_ms INTEGER,
    -- Whether the webhook believes that it stands, and when it was told so last.
    told INTEGER NOT NULL DEFAULT 0,
    told_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TRIGGER commits_keep BEFORE UPDATE ON commits BEGIN SELECT RAISE(ABORT, 'a commitment stays'); END;
CREATE TRIGGER commits_stay BEFORE DELETE ON commits BEGIN SELECT RAISE(ABORT, 'a commitment stays'); END;
CREATE TRIGGER moves_keep BEFORE UPDATE ON moves BEGIN SELECT RAISE(ABORT, 'a move stays'); END;
CREATE TRIGGER moves_stay BEFORE DELETE ON moves BEGIN SELECT RAISE(ABORT, 'a move stays'); END;
CREATE TRIGGER kings_stay BEFORE DELETE ON kings BEGIN SELECT RAISE(ABORT, 'a king stays'); END;
CREATE TRIGGER duels_stay BEFORE DELETE ON duels BEGIN SELECT RAISE(ABORT, 'an attempt stays'); END;
CREATE TRIGGER duels_keep BEFORE UPDATE OF submission, king, attempt, share, announced ON duels
    BEGIN SELECT RAISE(ABORT, 'what an attempt spends stays'); END;
CREATE TRIGGER duels_ended BEFORE UPDATE ON duels WHEN OLD.ended_ms IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'an end stays'); END;
CREATE TRIGGER duels_seed BEFORE UPDATE OF head_block, seed ON duels
    WHEN (OLD.head_block IS NOT NULL AND NEW.head_block IS NOT OLD.head_block)
        OR (OLD.seed IS NOT NULL AND NEW.seed IS NOT OLD.seed)
    BEGIN SELECT RAISE(ABORT, 'a seed stays'); END;
CREATE TRIGGER submissions_stay BEFORE DELETE ON submissions
    BEGIN SELECT RAISE(ABORT, 'a submission stays'); END;
CREATE TRIGGER submissions_keep BEFORE UPDATE OF hotkey, text, repository, pin, block, extrinsic, dated_by,
    readable_at ON submissions BEGIN SELECT RAISE(ABORT, 'a place stays'); END;
CREATE TRIGGER submissions_ended BEFORE UPDATE OF state, record ON submissions
    WHEN OLD.state IN ('crowned', 'lost', 'forfeit', 'expired', 'set_aside')
    BEGIN SELECT RAISE(ABORT, 'an outcome stays'); END;
CREATE TRIGGER log_keep BEFORE UPDATE ON log_entries BEGIN SELECT RAISE(ABORT, 'an entry stays'); END;
CREATE TRIGGER log_stay BEFORE DELETE ON log_entries BEGIN SELECT RAISE(ABORT, 'an entry stays'); END;
CREATE TRIGGER epochs_stay BEFORE DELETE ON epochs BEGIN SELECT RAISE(ABORT, 'a vector stays'); END;
CREATE TRIGGER epochs_keep BEFORE UPDATE OF epoch, call, vector ON epochs
    BEGIN SELECT RAISE(ABORT, 'a vector stays'); END;
