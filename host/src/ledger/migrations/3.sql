-- Version 3: plugins' calls are counted.
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
