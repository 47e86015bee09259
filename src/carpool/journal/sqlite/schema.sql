-- Numbers of rows, batches, segments and files carry the shard of the process that gave them above their fortieth bit.
-- Arrays are packed in the byte order of the machine: 'Q' for 8 bytes, 'I' for 4 bytes an entry. Times are seconds since
-- the epoch. BLOBs that are no arrays are MessagePack.

CREATE TABLE folder (
    pool     TEXT NOT NULL, -- what custom_ids and client keys begin with
    account  TEXT NOT NULL, -- base URL, organization and project
    key_mark TEXT           -- a salted digest of the key that was used last, NULL before the first
);

CREATE TABLE shard ( -- of each process that has the folder open, or left something unfinished
    id     INTEGER PRIMARY KEY AUTOINCREMENT, -- given once
    holder INTEGER NOT NULL DEFAULT 0         -- shard of the process that goes on with it, and is alive while its lock is held
);

CREATE TABLE request ( -- all that grows with the history: by what requests are known again, if they did not fail
    row  INTEGER PRIMARY KEY,
    head INTEGER NOT NULL, -- of 16 bytes of BLAKE2b, the first 8
    tail INTEGER NOT NULL  -- and the last 8
);
CREATE INDEX request_by_head ON request (head);

CREATE TABLE accepted ( -- rows side by side in a segment, kept as long as that is
    segment INTEGER NOT NULL,
    at      REAL    NOT NULL,
    lane    BLOB    NOT NULL,
    rich    INTEGER NOT NULL,
    run     BLOB    NOT NULL
);
CREATE INDEX accepted_by_segment ON accepted (segment);

CREATE TABLE escalated ( -- rows that were sent live, kept as long as their segment
    segment INTEGER NOT NULL,
    at      REAL    NOT NULL,
    lane    BLOB    NOT NULL,
    runs    BLOB    NOT NULL
);
CREATE INDEX escalated_by_segment ON escalated (segment);

CREATE TABLE batch (
    number      INTEGER PRIMARY KEY,
    lane        BLOB NOT NULL,
    runs        BLOB, -- NULL once the batch is over
    packed_at   REAL NOT NULL,
    file_id     TEXT,
    uploaded_at REAL,
    batch_id    TEXT,
    status      BLOB, -- as of the creation
    created_at  REAL,
    done_at     REAL,
    leaves      BLOB  -- of a batch that is over: what is to be deleted at the provider, NULL once it is
);
CREATE INDEX batch_open ON batch (number) WHERE done_at IS NULL;
CREATE INDEX batch_left ON batch (number) WHERE leaves IS NOT NULL;

CREATE TABLE outcome ( -- answers to rows of one batch that lie in one file
    id          INTEGER PRIMARY KEY AUTOINCREMENT, -- given once
    at          REAL    NOT NULL,
    batch_id    TEXT,
    file        TEXT    NOT NULL,
    first       INTEGER NOT NULL, -- row
    last        INTEGER NOT NULL, -- row
    answered    INTEGER NOT NULL, -- how many
    undelivered INTEGER NOT NULL, -- how many of them
    rows        BLOB    NOT NULL, -- 'Q', in order
    offsets     BLOB    NOT NULL, -- 'Q'
    sizes       BLOB    NOT NULL, -- 'I'
    marks       BLOB    NOT NULL  -- a byte a row: 1 answered, 3 delivered too
);
CREATE INDEX outcome_by_rows ON outcome (last, first);

CREATE TABLE learned ( -- enqueued-token limits that refusals stated
    model  TEXT    NOT NULL,
    long   INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    at     REAL    NOT NULL,
    PRIMARY KEY (model, long)
);
