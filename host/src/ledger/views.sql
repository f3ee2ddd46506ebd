-- What may be relied on, documented in docs/ledger.md. Written anew when a ledger of an earlier
-- version is opened.

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

-- Loss on held-out examples; step 0 is before training, hence not in `training`.
CREATE VIEW held_out AS
SELECT step, loss FROM held_out_;

CREATE VIEW recipe AS
SELECT json_extract(value, '$.recipe') AS name, json_extract(value, '$.manifest') AS manifest,
       json_extract(value, '$.license') AS license, json_extract(value, '$.seeds') AS seeds
FROM meta_ WHERE key = 'about';

-- What a model is exactly is known once it has been asked something.
CREATE VIEW models AS
SELECT json_extract(model.value, '$.name') AS name, json_extract(model.value, '$.roles') AS roles,
       json_extract(model.value, '$.provider') AS provider,
       json_extract(model.value, '$.model') AS model,
       coalesce((SELECT identity FROM call_ JOIN request_ USING (key)
                 WHERE request_.model = json_extract(model.value, '$.name') LIMIT 1),
                json_extract(model.value, '$.identity')) AS identity,
       json_extract(model.value, '$.terms') AS terms
FROM meta_, json_each(meta_.value, '$.models') AS model WHERE meta_.key = 'about'
UNION ALL
SELECT DISTINCT model, '["student"]', 'local', 'model', identity, NULL
FROM call_ JOIN request_ USING (key) WHERE model LIKE '%, trained';

CREATE VIEW plugins AS
SELECT json_extract(plugin.value, '$.stage') AS stage, json_extract(plugin.value, '$.title') AS plugin,
       json_extract(plugin.value, '$.sha256') AS sha256
FROM meta_, json_each(meta_.value, '$.plugins') AS plugin WHERE meta_.key = 'about';

CREATE VIEW evaluation_tasks AS
SELECT key AS item, json_extract(value, '$.instruction') AS instruction,
       json_extract(value, '$.input') AS input, json_extract(value, '$.output') AS output
FROM json_each((SELECT value FROM meta_ WHERE key = 'evaluation'));

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

CREATE VIEW items AS
SELECT evaluator, item, error_code, error, seconds FROM item_;

CREATE VIEW likelihoods AS
SELECT item, model, template, log_likelihood, tokens FROM likelihood_;

-- Log-likelihood a token over all reference answers, with the variance of this ratio of two sums
-- (Cochran, Sampling Techniques, 1977, equation 6.13, without the finite population's correction).
CREATE VIEW likelihood_summary AS
SELECT model, template, count(*) AS items, sum(tokens) AS tokens, per_token,
       CASE WHEN count(*) > 1 THEN
           count(*) / (count(*) - 1.0) * sum((log_likelihood - per_token * tokens)
                                             * (log_likelihood - per_token * tokens))
           / sum(tokens) / sum(tokens)
       END AS variance
FROM likelihood_ JOIN (
    SELECT model, template, sum(log_likelihood) / sum(tokens) AS per_token
    FROM likelihood_ GROUP BY model, template
) USING (model, template)
GROUP BY model, template;

-- The same of the trained student less that of the base model, task by task: what both find hard
-- cancels out.
CREATE VIEW likelihood_gains AS
WITH pair AS (
    SELECT base.template AS base_template, after.tokens,
           after.log_likelihood - base.log_likelihood AS gain
    FROM likelihood_ after JOIN likelihood_ base ON base.item = after.item
    WHERE after.model = 'student' AND after.template = 'alpaca' AND base.model = 'student.base'
), ratio AS (
    SELECT base_template, sum(gain) / sum(tokens) AS per_token FROM pair GROUP BY base_template
)
SELECT base_template, count(*) AS items, sum(tokens) AS tokens, per_token,
       CASE WHEN count(*) > 1 THEN
           count(*) / (count(*) - 1.0) * sum((gain - per_token * tokens) * (gain - per_token * tokens))
           / sum(tokens) / sum(tokens)
       END AS variance
FROM pair JOIN ratio USING (base_template)
GROUP BY base_template;

CREATE VIEW answers AS
SELECT item, model, text, finish_reason, error_code, error FROM answer_;

CREATE VIEW plugin_use AS
SELECT stage, plugin, calls, records, seconds, memory AS memory_bytes, traps, timeouts, invalid,
       errors
FROM plugin_use_;
