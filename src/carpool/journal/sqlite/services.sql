-- What processes that share a folder for weeks tell each other, and what is submitted to them.

CREATE TABLE claim ( -- room in the queues, of batches of all processes
    number INTEGER PRIMARY KEY, -- of the batch
    model  TEXT    NOT NULL,
    long   INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    at     REAL    NOT NULL,
    room   REAL    NOT NULL, -- to which it may come with what others hold
    state  INTEGER NOT NULL  -- 0 waits for it, 1 has it, 2 and was taken in
);

CREATE TABLE turnover ( -- of the last hour, so that each process hears what the others did
    id     INTEGER PRIMARY KEY AUTOINCREMENT, -- in order
    number INTEGER NOT NULL, -- of the batch
    model  TEXT    NOT NULL,
    long   INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    at     REAL    NOT NULL,
    ended  INTEGER NOT NULL -- or it was created
);

CREATE TABLE woken ( -- word from the provider that batches have ended, for the processes whose batches they are
    batch_id TEXT PRIMARY KEY,
    at       REAL NOT NULL
);

CREATE TABLE submission ( -- rows that were submitted, until their outcomes are acked
    row   INTEGER PRIMARY KEY,
    key   TEXT, -- NULL where it was given none
    tags  BLOB, -- NULL where there are none
    until REAL, -- when its timeout is over, NULL without one
    error BLOB  -- why there is no answer, NULL while it is under way, or where it is answered
);

CREATE TABLE submission_key ( -- so long that nothing is submitted twice: until its answer is acked and old
    key      TEXT    PRIMARY KEY,
    digest   BLOB    NOT NULL, -- of endpoint and body
    shard    INTEGER NOT NULL, -- of the process that claimed it
    row      INTEGER,          -- NULL until the request is recorded
    acked_at REAL
) WITHOUT ROWID;
CREATE INDEX submission_key_acked ON submission_key (acked_at) WHERE acked_at IS NOT NULL;

CREATE TABLE stance ( -- what a living process says of rows; else those it accepted itself, and its batches', are awaited
    row    INTEGER PRIMARY KEY,
    shard  INTEGER NOT NULL, -- of the process: what it said counts while it holds the row
    wanted INTEGER NOT NULL  -- 1 something comes of it, 0 nothing does while the process lives
);
CREATE INDEX stance_by_shard ON stance (shard);
