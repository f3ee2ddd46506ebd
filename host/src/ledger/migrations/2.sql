-- Version 2: evaluators are run. Nothing had been written into the table that is replaced.
DROP TABLE answer_;

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

-- Items that an evaluator has been through.
CREATE TABLE item_ (
    evaluator INTEGER NOT NULL,
    item INTEGER NOT NULL,
    error_code TEXT,
    error TEXT,
    seconds REAL NOT NULL,
    PRIMARY KEY (evaluator, item)
) WITHOUT ROWID, STRICT;
