-- Format 5: since when the models of a followed duel are missing. The script never changes.

-- The epoch in which the hub did not have a model of the duel first, so that its replies could not be
-- audited; nothing before that.
ALTER TABLE followed_records ADD COLUMN missing_epoch INTEGER;
