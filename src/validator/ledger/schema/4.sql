-- Format 4: what is asked for with every block and every submission is found without reading what
-- is over. The script never changes.

CREATE INDEX submissions_live ON submissions (block, extrinsic, hotkey)
    WHERE state NOT IN ('crowned', 'lost', 'forfeit', 'expired', 'set_aside');
CREATE INDEX submissions_pin ON submissions (pin);
CREATE INDEX submissions_content ON submissions (content) WHERE content IS NOT NULL;
CREATE INDEX epochs_open ON epochs (epoch) WHERE receipt IS NULL AND missed IS NULL;
