-- Since when: what was given a moment ago is not old.

ALTER TABLE outcome ADD COLUMN delivered_at REAL; -- NULL where all that was delivered came so
