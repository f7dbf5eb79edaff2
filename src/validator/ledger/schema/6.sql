-- Format 6: what an operator sets aside, absences that are noted before they count, and alerts that
-- have something new. The script never changes.

-- Why the operator wants it set aside.
ALTER TABLE submissions ADD COLUMN set_aside TEXT;
-- The finalised head at which its hub said first that it no longer has the files; nothing if there was
-- an outage or a move forward since.
ALTER TABLE submissions ADD COLUMN absent_block INTEGER;
-- Failures since the last move forward, whatever its hub answered in between.
ALTER TABLE submissions ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
UPDATE submissions SET failures = voids;
-- Whether the last look ended with an outage.
ALTER TABLE submissions ADD COLUMN is_outage INTEGER NOT NULL DEFAULT 0;

-- The count of the alert when it had something new last, of which the webhook was not told yet; else 0.
ALTER TABLE alerts ADD COLUMN news INTEGER NOT NULL DEFAULT 0;

-- The epoch in which the hub did not have a model of a followed duel first, by the place of the entry
-- that ended the duel, and the epoch of the last look that found the same. The record may not have been
-- verified yet.
CREATE TABLE followed_missing (
    place INTEGER PRIMARY KEY REFERENCES log_entries,
    epoch INTEGER NOT NULL,
    looked INTEGER NOT NULL
) STRICT;
INSERT INTO followed_missing (place, epoch, looked)
    SELECT place, missing_epoch, missing_epoch FROM followed_records WHERE missing_epoch IS NOT NULL;
ALTER TABLE followed_records DROP COLUMN missing_epoch;
