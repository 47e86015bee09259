-- Since when: what was given a moment ago is not old, and a claim does not hold for ever.

ALTER TABLE outcome ADD COLUMN delivered_at REAL; -- NULL where all that was delivered came so
ALTER TABLE submission_key ADD COLUMN claimed_at REAL NOT NULL DEFAULT 0;
