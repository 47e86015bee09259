-- What processes that share a folder tell each other of calls with keys.

CREATE TABLE intent ( -- calls with keys that a process is about to record, until they are
    digest BLOB PRIMARY KEY, -- of the key alone
    shard  INTEGER NOT NULL, -- of the process
    at     REAL    NOT NULL
) WITHOUT ROWID;
