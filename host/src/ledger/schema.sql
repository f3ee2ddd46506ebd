-- The ledger of one run. Tables end in an underscore and are private: they change with
-- `user_version`. The views below them are documented in docs/ledger.md and stay.

-- `seeds` is the seed tasks, a JSON array of {instruction, input, output} in the file's order.
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

CREATE TABLE answer_ (
    item INTEGER NOT NULL,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
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

CREATE VIEW stages AS
SELECT name, finished, seconds, fingerprint FROM stage_;

CREATE VIEW seeds AS
SELECT key AS seed, json_extract(value, '$.instruction') AS instruction,
       json_extract(value, '$.input') AS input, json_extract(value, '$.output') AS output
FROM json_each((SELECT value FROM meta_ WHERE key = 'seeds'));

CREATE VIEW requests AS
SELECT call_.stage, call_.place, call_.ordinal, hex(call_.key) AS key, request_.model,
       request_.outcome, json_extract(request_.reply, '$.text') AS reply,
       json_extract(request_.reply, '$.finish_reason') AS finish_reason,
       json_extract(request_.failure, '$.code') AS failure_code,
       json_extract(request_.failure, '$.message') AS failure, request_.body
FROM call_ JOIN request_ USING (key);

CREATE VIEW attempts AS
SELECT attempt_.id, hex(attempt_.key) AS key, attempt_.stage, request_.model, attempt_.state,
       datetime(attempt_.sent_at, 'unixepoch') AS sent_at, attempt_.seconds, attempt_.status,
       json_extract(attempt_.failure, '$.code') AS failure_code, attempt_.prompt_tokens,
       attempt_.completion_tokens, attempt_.usd, attempt_.body
FROM attempt_ JOIN request_ USING (key);

CREATE VIEW spending AS
SELECT attempt_.stage, request_.model, count(*) AS attempts,
       sum(attempt_.state = 'answered') AS answered, sum(attempt_.state = 'failed') AS failed,
       sum(attempt_.state = 'unknown') AS unknown, sum(attempt_.prompt_tokens) AS prompt_tokens,
       sum(attempt_.completion_tokens) AS completion_tokens, sum(attempt_.usd) AS usd
FROM attempt_ JOIN request_ USING (key)
GROUP BY attempt_.stage, request_.model;

CREATE VIEW units AS
SELECT unit,
       (SELECT count(*) FROM candidate_ WHERE candidate_.unit = unit_.unit) AS candidates,
       (SELECT count(*) FROM reject_ WHERE reject_.unit = unit_.unit) AS rejects,
       (SELECT count(*) FROM example_ WHERE example_.unit = unit_.unit) AS accepted,
       unit NOT IN (SELECT unit FROM consumed_) AS surplus, error_code, error, seconds
FROM unit_;

CREATE VIEW candidates AS
SELECT candidate_.unit, candidate_.n,
       json_extract(candidate_.payload, '$.Task.instruction') AS instruction,
       json_extract(candidate_.payload, '$.Task.input') AS input,
       json_extract(candidate_.payload, '$.Task.output') AS output,
       candidate_.attributes, candidate_.parents, candidate_.payload,
       json_extract(candidate_.place, '$.ordinal') AS ordinal,
       json_extract(candidate_.place, '$.start') AS start,
       json_extract(candidate_.place, '$.end') AS "end"
FROM candidate_ JOIN consumed_ USING (unit);

CREATE VIEW rejects AS
SELECT reject_.unit, reject_.n, reject_.code, reject_.message,
       json_extract(reject_.place, '$.ordinal') AS ordinal,
       json_extract(reject_.place, '$.start') AS start, json_extract(reject_.place, '$.end') AS "end"
FROM reject_ JOIN consumed_ USING (unit);

CREATE VIEW verdicts AS
SELECT unit, n, filter, plugin, decision, code, message, scores,
       json_extract(nearest, '$.score') AS nearest_score,
       json_extract(nearest, '$.origin') AS nearest,
       json_extract(nearest, '$.origin.Seed') AS nearest_seed,
       json_extract(nearest, '$.origin.Candidate.unit') AS nearest_unit,
       json_extract(nearest, '$.origin.Candidate.n') AS nearest_n,
       -- A neighbour in the form that the filter saw: as the last filter before it left it. Of a
       -- conversation, what the user says first.
       coalesce(
           (SELECT json_extract(value, '$[' || json_extract(v.nearest, '$.origin.Seed') || '].instruction')
            FROM meta_ WHERE key = 'seeds'),
           (SELECT coalesce(
                json_extract(seen, '$.Task.instruction'),
                (SELECT json_extract(value, '$.content') FROM json_each(seen, '$.Chat')
                 WHERE json_extract(value, '$.role') = 'user' ORDER BY key LIMIT 1))
            FROM (SELECT coalesce(
                      (SELECT e.payload FROM verdict_ e
                       WHERE e.unit = c.unit AND e.n = c.n AND e.filter < v.filter
                         AND e.decision = 'edit' ORDER BY e.filter DESC LIMIT 1),
                      c.payload) AS seen
                  FROM candidate_ c
                  WHERE c.unit = json_extract(v.nearest, '$.origin.Candidate.unit')
                    AND c.n = json_extract(v.nearest, '$.origin.Candidate.n')))
       ) AS nearest_instruction
FROM verdict_ v;

CREATE VIEW examples AS
SELECT position, unit, n, json_extract(payload, '$.Task.instruction') AS instruction,
       json_extract(payload, '$.Task.input') AS input,
       json_extract(payload, '$.Task.output') AS output, payload
FROM example_;

-- What became of everything that the generator read, one row a reason.
CREATE VIEW funnel AS
SELECT 0 AS step, 'candidates' AS stage, 'proposed' AS what, '' AS code, count(*) AS count
FROM candidates
UNION ALL
SELECT 0, 'generator', 'reject', code, count(*) FROM rejects GROUP BY code
UNION ALL
SELECT filter + 1, plugin, decision, code, count(*) FROM verdicts GROUP BY filter, plugin, decision, code
UNION ALL
SELECT 1000, 'examples', 'accepted', '', count(*) FROM examples
ORDER BY 1, 3, 5 DESC, 4;

CREATE VIEW training AS
SELECT step, loss, learning_rate, grad_norm, tokens, label_tokens, seconds,
       (SELECT loss FROM held_out_ WHERE held_out_.step = step_.step) AS held_out_loss
FROM step_;

CREATE VIEW metrics AS
SELECT evaluator, json_extract(metric, '$.name') AS name, json_extract(metric, '$.value') AS value,
       json_extract(metric, '$.standard_error') AS standard_error, json_extract(metric, '$.n') AS n,
       json_extract(metric, '$.attributes') AS attributes
FROM metric_;

CREATE VIEW judgements AS
SELECT evaluator, item, n, json_extract(judgement, '$.first') AS first,
       json_extract(judgement, '$.second') AS second, json_extract(judgement, '$.outcome') AS outcome,
       json_extract(judgement, '$.flipped') AS flipped, judgement
FROM judgement_;

CREATE VIEW likelihoods AS
SELECT item, model, template, log_likelihood, tokens FROM likelihood_;

CREATE VIEW answers AS
SELECT item, model, text, finish_reason FROM answer_;
