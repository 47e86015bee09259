-- What is known of batches that cannot be reached.

ALTER TABLE batch ADD COLUMN out_of_reach_at REAL; -- since when, as whoever waited was told; NULL while it can be
