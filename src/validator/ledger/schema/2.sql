-- Format 2: competitions, one after the other in one ledger. The script never changes.

CREATE TABLE competitions (
    id INTEGER PRIMARY KEY,
    -- What its commitments begin with: 8 is `v8|`. The first has `v4|` and `v7|`.
    version INTEGER NOT NULL UNIQUE,
    began_ms INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
INSERT INTO competitions (id, version, began_ms, reason) VALUES (1, 7, 0, 'the first competition');

ALTER TABLE submissions ADD COLUMN competition INTEGER NOT NULL DEFAULT 1;
ALTER TABLE kings ADD COLUMN competition INTEGER NOT NULL DEFAULT 1;

CREATE TRIGGER competitions_keep BEFORE UPDATE ON competitions
    BEGIN SELECT RAISE(ABORT, 'a competition stays'); END;
CREATE TRIGGER competitions_stay BEFORE DELETE ON competitions
    BEGIN SELECT RAISE(ABORT, 'a competition stays'); END;
CREATE TRIGGER submissions_competition BEFORE UPDATE OF competition ON submissions
    BEGIN SELECT RAISE(ABORT, 'a submission stays in its competition'); END;
CREATE TRIGGER kings_competition BEFORE UPDATE OF competition ON kings
    BEGIN SELECT RAISE(ABORT, 'a king stays in its competition'); END;
