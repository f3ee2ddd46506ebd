-- The ledger of one run. Tables end in an underscore and are private: they change with
-- `user_version` (see `migrations/`). The views in views.sql are what may be relied on.

-- `seeds` and `evaluation` are JSON arrays of {instruction, input, output} in the file's order;
-- `about` is a JSON object that names recipe, models and plugins, with the resolved manifest.
CREATE TABLE meta_ (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID, STRICT;

-- A stage's fingerprint is everything that its result depends on.
CREATE TABLE stage_ (
    name TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;

-- One row for each distinct request. `outcome` is NULL until it is answered or failed for good.
CREATE TABLE request_ (
    key BLOB PRIMARY KEY,
    model TEXT NOT NULL,
    identity TEXT NOT NULL,
    body TEXT NOT NULL,
    outcome TEXT CHECK (outcome IN ('answered', 'failed')),
    reply TEXT,
    failure TEXT
) WITHOUT ROWID, STRICT;

-- Who asked: the request number `ordinal` of a unit, a record or an item.
CREATE TABLE call_ (
    stage TEXT NOT NULL,
    place TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (stage, place, ordinal)
) WITHOUT ROWID, STRICT;

-- Every sending of a request. `sent` is written before the request leaves; what is still `sent`
-- when a ledger is opened was cut off by a kill and becomes `unknown`.
CREATE TABLE attempt_ (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    stage TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'answered', 'failed', 'unknown')),
    sent_at REAL NOT NULL,
    seconds REAL,
    status INTEGER,
    body BLOB,
    failure TEXT,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    usd REAL NOT NULL
) STRICT;
CREATE INDEX attempt_key_ ON attempt_ (key);

CREATE TABLE unit_ (
    unit INTEGER PRIMARY KEY,
    error_code TEXT,
    error TEXT,
    seconds REAL NOT NULL
) STRICT;

CREATE TABLE candidate_ (
    unit INTEGER NOT NULL,
    n INTEGER NOT NULL,
    payload TEXT NOT NULL,
    attributes TEXT NOT NULL,
    parents TEXT NOT NULL,
    place TEXT,
    PRIMARY KEY (unit, n)
) WITHOUT ROWID, STRICT;

CREATE TABLE reject_ (
    unit INTEGER NOT NULL,
    n INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    place TEXT,
    PRIMARY KEY (unit, n)
) WITHOUT ROWID, STRICT;

CREATE TABLE verdict_ (
    unit INTEGER NOT NULL,
    n INTEGER NOT NULL,
    filter INTEGER NOT NULL,
    plugin TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('keep', 'drop', 'edit', 'quarantine')),
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    scores TEXT NOT NULL,
    nearest TEXT,
    payload TEXT,
    PRIMARY KEY (filter, unit, n)
) WITHOUT ROWID, STRICT;
CREATE INDEX verdict_candidate_ ON verdict_ (unit, n);

-- Units whose candidates have been through every filter, with what was accepted up to and with
-- each. Units beyond the last of these are surplus.
CREATE TABLE consumed_ (
    unit INTEGER PRIMARY KEY,
    accepted INTEGER NOT NULL
) STRICT;

CREATE TABLE example_ (
    position INTEGER PRIMARY KEY,
    unit INTEGER NOT NULL,
    n INTEGER NOT NULL,
    payload TEXT NOT NULL,
    UNIQUE (unit, n)
) STRICT;

CREATE TABLE step_ (
    step INTEGER PRIMARY KEY,
    loss REAL NOT NULL,
    learning_rate REAL NOT NULL,
    grad_norm REAL NOT NULL,
    tokens INTEGER NOT NULL,
    label_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL
) STRICT;

CREATE TABLE held_out_ (
    step INTEGER PRIMARY KEY,
    loss REAL NOT NULL
) STRICT;

-- What became of one model's answer to one evaluation task: a text, or why there is none.
CREATE TABLE answer_ (
    item INTEGER NOT NULL,
    model TEXT NOT NULL,
    text TEXT,
    finish_reason TEXT,
    error_code TEXT,
    error TEXT,
    PRIMARY KEY (item, model)
) WITHOUT ROWID, STRICT;

CREATE TABLE likelihood_ (
    item INTEGER NOT NULL,
    model TEXT NOT NULL,
    template TEXT NOT NULL,
    log_likelihood REAL NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (item, model, template)
) WITHOUT ROWID, STRICT;

-- Items that an evaluator has been through.
CREATE TABLE item_ (
    evaluator INTEGER NOT NULL,
    item INTEGER NOT NULL,
    error_code TEXT,
    error TEXT,
    seconds REAL NOT NULL,
    PRIMARY KEY (evaluator, item)
) WITHOUT ROWID, STRICT;

CREATE TABLE judgement_ (
    evaluator INTEGER NOT NULL,
    item INTEGER NOT NULL,
    n INTEGER NOT NULL,
    judgement TEXT NOT NULL,
    PRIMARY KEY (evaluator, item, n)
) WITHOUT ROWID, STRICT;

CREATE TABLE metric_ (
    evaluator INTEGER NOT NULL,
    n INTEGER NOT NULL,
    metric TEXT NOT NULL,
    PRIMARY KEY (evaluator, n)
) WITHOUT ROWID, STRICT;

-- What the calls of each plugin came to, up to the last time that a stage ended or was stopped.
CREATE TABLE plugin_use_ (
    stage TEXT NOT NULL,
    plugin TEXT NOT NULL,
    calls INTEGER NOT NULL,
    records INTEGER NOT NULL,
    traps INTEGER NOT NULL,
    timeouts INTEGER NOT NULL,
    invalid INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    seconds REAL NOT NULL,
    memory INTEGER NOT NULL,
    PRIMARY KEY (stage, plugin)
) WITHOUT ROWID, STRICT;
