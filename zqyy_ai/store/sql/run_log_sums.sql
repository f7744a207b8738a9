-- name: try_lock
SELECT pg_try_advisory_xact_lock(720410100205) AS locked

-- name: next_span
-- From the first row that is not closed to the end of its day, or to the first hour that may not be closed yet.
SELECT begins_at, ends_at, (begins_at AT TIME ZONE 'Asia/Shanghai')::date AS day
FROM (
    SELECT greatest(date_trunc('hour', log.created_at, 'Asia/Shanghai'), mark.closed_until) AS begins_at
    FROM biz.ai_run_log_watermark mark CROSS JOIN (
        -- The watermark as a value of its own: behind row-level security no index would be asked for a row's expression.
        SELECT created_at FROM biz.ai_run_logs
        WHERE created_at >= (SELECT coalesce(closed_until, '-infinity') FROM biz.ai_run_log_watermark) ORDER BY created_at LIMIT 1
    ) AS log
) AS first_row
CROSS JOIN LATERAL (
    SELECT least(
        date_trunc('day', begins_at, 'Asia/Shanghai') + interval '1 day',
        date_trunc('hour', clock_timestamp() - %(closes_after)s::interval, 'Asia/Shanghai'),
        (SELECT date_trunc('hour', min(created_at), 'Asia/Shanghai') FROM biz.ai_run_logs
         WHERE status IN ('pending', 'running') AND created_at >= begins_at AND created_at >= clock_timestamp() - %(given_up_after)s::interval)
    ) AS ends_at
) AS closable
WHERE ends_at > begins_at

-- name: close
WITH closing AS MATERIALIZED (
    SELECT site_id, biz.ai_run_app(app_type) AS app_type, coalesce(trigger_type, '') AS trigger_type, outcome,
           CASE outcome WHEN 'refused' THEN coalesce(error_code, split_part(error_message, ':', 1)) ELSE '' END AS refusal,
           tokens_used, input_tokens, output_tokens, latency_ms, created_at
    FROM biz.ai_run_logs log CROSS JOIN LATERAL (SELECT biz.ai_run_outcome(status, error_code, error_message) AS outcome) AS ended
    WHERE created_at >= %(begins_at)s AND created_at < %(ends_at)s AND runtime_mode = 'live'
), days AS (
    INSERT INTO biz.ai_run_log_days AS present (day, site_id, app_type, trigger_type, outcome, refusal, logs, tokens, input_tokens,
                                                output_tokens, latency_ms)
    SELECT %(day)s, site_id, app_type, trigger_type, outcome, refusal, count(*), coalesce(sum(tokens_used), 0),
           coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(latency_ms), 0)
    FROM closing GROUP BY site_id, app_type, trigger_type, outcome, refusal
    ON CONFLICT (day, coalesce(site_id, 0), app_type, trigger_type, outcome, refusal) DO UPDATE
    SET logs = present.logs + excluded.logs, tokens = present.tokens + excluded.tokens,
        input_tokens = present.input_tokens + excluded.input_tokens, output_tokens = present.output_tokens + excluded.output_tokens,
        latency_ms = present.latency_ms + excluded.latency_ms
), totals AS (
    INSERT INTO biz.ai_run_log_totals AS present (site_id, app_type, outcome, refusal, logs, tokens, input_tokens, output_tokens, latency_ms,
                                                  latency_counts, last_at)
    SELECT site_id, app_type, outcome, refusal, count(*), coalesce(sum(tokens_used), 0), coalesce(sum(input_tokens), 0),
           coalesce(sum(output_tokens), 0), coalesce(sum(latency_ms), 0), ARRAY(
               SELECT count(took.ms) FROM unnest(%(bounds)s::integer[]) WITH ORDINALITY AS bound (ms, place)
               LEFT JOIN unnest(array_agg(latency_ms)) AS took (ms) ON took.ms <= bound.ms
               GROUP BY place ORDER BY place
           ), max(created_at)
    FROM closing GROUP BY site_id, app_type, outcome, refusal
    ON CONFLICT (coalesce(site_id, 0), app_type, outcome, refusal) DO UPDATE
    SET logs = present.logs + excluded.logs, tokens = present.tokens + excluded.tokens,
        input_tokens = present.input_tokens + excluded.input_tokens, output_tokens = present.output_tokens + excluded.output_tokens,
        latency_ms = present.latency_ms + excluded.latency_ms,
        latency_counts = biz.ai_add_counts(present.latency_counts, excluded.latency_counts),
        last_at = greatest(present.last_at, excluded.last_at)
)
UPDATE biz.ai_run_log_watermark SET closed_until = %(ends_at)s

-- name: by_day
SELECT day, app_type, outcome, sum(logs)::bigint AS logs, coalesce(sum(tokens), 0)::bigint AS tokens,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens, coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(latency_ms), 0)::bigint AS latency_ms
FROM (
    SELECT day, app_type, outcome, logs, tokens, input_tokens, output_tokens, latency_ms
    FROM biz.ai_run_log_days
    WHERE day = ANY(%(days)s::date[]) AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
    UNION ALL
    SELECT (created_at AT TIME ZONE 'Asia/Shanghai')::date, biz.ai_run_app(app_type),
           biz.ai_run_outcome(status, error_code, error_message), 1, tokens_used, input_tokens, output_tokens, latency_ms
    FROM biz.ai_run_logs
    WHERE created_at >= (SELECT coalesce(closed_until, '-infinity') FROM biz.ai_run_log_watermark) AND runtime_mode = 'live'
      AND (created_at AT TIME ZONE 'Asia/Shanghai')::date = ANY(%(days)s::date[])
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
) AS parts
GROUP BY day, app_type, outcome

-- name: since_ever
SELECT site_id, app_type, outcome, refusal, logs, tokens, input_tokens, output_tokens, latency_ms, latency_counts, last_at
FROM biz.ai_run_log_totals
WHERE %(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s)
UNION ALL
SELECT site_id, app_type, outcome, refusal, count(*), coalesce(sum(tokens_used), 0)::bigint, coalesce(sum(input_tokens), 0)::bigint,
       coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(latency_ms), 0)::bigint, ARRAY(
           SELECT count(took.ms) FROM unnest(%(bounds)s::integer[]) WITH ORDINALITY AS bound (ms, place)
           LEFT JOIN unnest(array_agg(latency_ms)) AS took (ms) ON took.ms <= bound.ms
           GROUP BY place ORDER BY place
       ), max(created_at)
FROM (
    SELECT site_id, biz.ai_run_app(app_type) AS app_type, outcome,
           CASE outcome WHEN 'refused' THEN coalesce(error_code, split_part(error_message, ':', 1)) ELSE '' END AS refusal,
           tokens_used, input_tokens, output_tokens, latency_ms, created_at
    FROM biz.ai_run_logs log CROSS JOIN LATERAL (SELECT biz.ai_run_outcome(status, error_code, error_message) AS outcome) AS ended
    WHERE created_at >= (SELECT coalesce(closed_until, '-infinity') FROM biz.ai_run_log_watermark) AND runtime_mode = 'live'
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
) AS tail
GROUP BY site_id, app_type, outcome, refusal

-- name: last_calls
SELECT DISTINCT ON (app_type) app_type, outcome, last_at
FROM (
    SELECT app_type, outcome, last_at FROM biz.ai_run_log_totals
    WHERE outcome = ANY(%(outcomes)s) AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
    UNION ALL
    SELECT biz.ai_run_app(app_type), biz.ai_run_outcome(status, error_code, error_message), created_at
    FROM biz.ai_run_logs
    WHERE created_at >= (SELECT coalesce(closed_until, '-infinity') FROM biz.ai_run_log_watermark) AND runtime_mode = 'live'
      AND biz.ai_run_outcome(status, error_code, error_message) = ANY(%(outcomes)s)
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
) AS calls
ORDER BY app_type, last_at DESC

-- name: count_old_days
SELECT count(*) AS rows FROM biz.ai_run_log_days WHERE day < (%(before)s AT TIME ZONE 'Asia/Shanghai')::date

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_run_log_days

-- name: pick_old_days
SELECT concat_ws('|', day, site_id, app_type, trigger_type, outcome, refusal) AS key, day::timestamp AT TIME ZONE 'Asia/Shanghai' AS at
FROM biz.ai_run_log_days
WHERE day < (%(before)s AT TIME ZONE 'Asia/Shanghai')::date
  AND (day::timestamp AT TIME ZONE 'Asia/Shanghai', concat_ws('|', day, site_id, app_type, trigger_type, outcome, refusal))
      > (%(after_at)s::timestamptz, %(after_key)s)
ORDER BY 2, 1 LIMIT %(rows)s

-- name: delete_old_days
DELETE FROM biz.ai_run_log_days
WHERE day < (%(before)s AT TIME ZONE 'Asia/Shanghai')::date
  AND concat_ws('|', day, site_id, app_type, trigger_type, outcome, refusal) = ANY(%(keys)s)

-- name: use_by_site
SELECT site_id, app_type, sum(logs)::bigint AS calls, coalesce(sum(tokens), 0)::bigint AS tokens,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens, coalesce(sum(output_tokens), 0)::bigint AS output_tokens
FROM (
    SELECT site_id, app_type, logs, tokens, input_tokens, output_tokens
    FROM biz.ai_run_log_days
    WHERE day BETWEEN %(first)s AND %(last)s AND outcome = ANY(%(outcomes)s)
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
    UNION ALL
    SELECT site_id, biz.ai_run_app(app_type), 1, tokens_used, input_tokens, output_tokens
    FROM biz.ai_run_logs
    WHERE created_at >= (SELECT coalesce(closed_until, '-infinity') FROM biz.ai_run_log_watermark) AND runtime_mode = 'live'
      AND (created_at AT TIME ZONE 'Asia/Shanghai')::date BETWEEN %(first)s AND %(last)s
      AND biz.ai_run_outcome(status, error_code, error_message) = ANY(%(outcomes)s)
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
) AS parts
WHERE site_id IS NOT NULL
GROUP BY site_id, app_type ORDER BY site_id, app_type
