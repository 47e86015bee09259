-- What the provider says is not there.

ALTER TABLE batch ADD COLUMN missing TEXT; -- batch, or file: one of its own; NULL while nothing is
ALTER TABLE batch ADD COLUMN missing_at REAL;
