-- name: start
INSERT INTO biz.ai_run_logs (app_type, trigger_type, trigger_job_id, site_id, member_id, assistant_id, target_id, request_prompt,
                             status, dagster_run_id, input_hash, runtime_mode, sandbox_date, created_at)
VALUES (%(app_type)s, %(trigger_type)s, %(trigger_job_id)s, %(site_id)s, %(member_id)s, %(assistant_id)s, %(target_id)s,
        %(request_prompt)s, 'running', %(dagster_run_id)s, %(input_hash)s, %(runtime_mode)s, %(sandbox_date)s, clock_timestamp())
RETURNING id

-- name: finish
UPDATE biz.ai_run_logs
SET status = %(status)s, response_text = %(response_text)s, tokens_used = %(tokens_used)s, input_tokens = %(input_tokens)s,
    output_tokens = %(output_tokens)s, usage_reported = %(usage_reported)s, model_ids = %(model_ids)s, latency_ms = %(latency_ms)s,
    error_code = %(error_code)s, error_message = %(error_message)s, session_id = %(session_id)s, request_id = %(request_id)s,
    finished_at = clock_timestamp()
WHERE id = %(log_id)s AND status IN ('pending', 'running')

-- name: record
INSERT INTO biz.ai_run_logs (app_type, trigger_type, trigger_job_id, site_id, member_id, assistant_id, target_id, request_prompt,
                             status, error_code, error_message, tokens_used, latency_ms, dagster_run_id, input_hash, runtime_mode,
                             sandbox_date, created_at, finished_at)
VALUES (%(app_type)s, %(trigger_type)s, %(trigger_job_id)s, %(site_id)s, %(member_id)s, %(assistant_id)s, %(target_id)s,
        %(request_prompt)s, %(status)s, %(error_code)s, %(error_message)s, 0, 0, %(dagster_run_id)s, %(input_hash)s, %(runtime_mode)s,
        %(sandbox_date)s, clock_timestamp(), clock_timestamp())
RETURNING id

-- name: discard_unsent
DELETE FROM biz.ai_run_logs
WHERE dagster_run_id = %(dagster_run_id)s AND trigger_job_id = %(trigger_job_id)s AND app_type = %(app_type)s AND target_id = %(target_id)s
  AND status = 'running'

-- name: close_of_dead_run
UPDATE biz.ai_run_logs
SET status = 'failed', error_code = 'worker_died', error_message = %(error_message)s, finished_at = clock_timestamp()
WHERE dagster_run_id = %(dagster_run_id)s AND status IN ('pending', 'running')

-- name: close_abandoned
UPDATE biz.ai_run_logs log
SET status = CASE WHEN answered THEN 'success' ELSE 'failed' END,
    error_code = CASE WHEN NOT answered THEN 'worker_died' END,
    error_message = CASE WHEN NOT answered THEN %(error_message)s END,
    finished_at = clock_timestamp()
FROM (
    SELECT open.id, EXISTS (SELECT FROM biz.ai_cache cached WHERE cached.run_log_id = open.id)
               OR EXISTS (SELECT FROM biz.ai_sandbox_answers cached WHERE cached.run_log_id = open.id) AS answered
    FROM biz.ai_run_logs open JOIN biz.ai_trigger_jobs job ON job.id = open.trigger_job_id
    WHERE open.status IN ('pending', 'running') AND open.dagster_run_id IS NOT NULL
      AND (job.status <> 'running' OR job.run_id IS DISTINCT FROM open.dagster_run_id)
) AS abandoned
WHERE log.id = abandoned.id AND log.status IN ('pending', 'running')

-- name: close_of_dead_call
-- Also of a log that was closed for its worker's death before the charge was known.
UPDATE biz.ai_run_logs
SET status = 'failed', error_code = 'worker_died', error_message = %(error_message)s, tokens_used = %(tokens_used)s,
    finished_at = coalesce(finished_at, clock_timestamp())
WHERE id = %(log_id)s AND (status IN ('pending', 'running') OR (status = 'failed' AND error_code = 'worker_died'))

-- name: usual_calls
SELECT app_type, avg(tokens_used) AS tokens, coalesce(avg(latency_ms), 0) / 1000.0 AS seconds,
       avg(input_tokens) AS input_tokens, avg(output_tokens) AS output_tokens
FROM biz.ai_run_logs WHERE created_at >= %(since)s AND status = 'success' AND tokens_used > 0
GROUP BY app_type

-- name: of_job
SELECT log.app_type, coalesce(log.target_id, '') AS target_id, log.status, log.error_code, log.error_message, log.tokens_used, log.latency_ms,
       coalesce(
           (SELECT result_json FROM biz.ai_cache WHERE run_log_id = log.id ORDER BY id DESC LIMIT 1),
           (SELECT result_json FROM biz.ai_sandbox_answers WHERE run_log_id = log.id ORDER BY id DESC LIMIT 1),
           -- What was reused is another log's answer.
           (SELECT result_json FROM biz.ai_sandbox_answers answer
            WHERE log.status = 'reused' AND log.runtime_mode = 'sandbox' AND answer.sandbox_date = log.sandbox_date
              AND answer.cache_type = %(cache_types)s::jsonb ->> log.app_type AND answer.site_id = log.site_id
              AND answer.target_id = log.target_id AND answer.input_hash = log.input_hash
            ORDER BY answer.created_at DESC, answer.id DESC LIMIT 1),
           (SELECT result_json FROM biz.ai_cache answer
            WHERE log.status = 'reused' AND log.runtime_mode = 'live' AND answer.cache_type = %(cache_types)s::jsonb ->> log.app_type AND answer.site_id = log.site_id
              AND answer.target_id = log.target_id AND answer.input_hash = log.input_hash
            ORDER BY answer.created_at DESC, answer.id DESC LIMIT 1)
       ) AS result_json
FROM biz.ai_run_logs log
WHERE log.trigger_job_id = %(job_id)s
ORDER BY log.id

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_run_logs

-- name: count_old
SELECT count(*) AS rows FROM biz.ai_run_logs WHERE created_at < %(before)s

-- name: pick_old
SELECT id AS key, created_at AS at FROM biz.ai_run_logs
WHERE created_at < %(before)s AND (created_at, id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY created_at, id LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_run_logs WHERE id IN (SELECT id FROM biz.ai_run_logs WHERE id = ANY(%(keys)s::bigint[]) FOR UPDATE SKIP LOCKED)

-- name: count_old_texts
-- Rows that are deleted in the same run are not redacted first.
SELECT count(*) AS rows FROM biz.ai_run_logs WHERE created_at < %(before)s AND created_at >= %(deleted_before)s AND redacted_at IS NULL

-- name: pick_old_texts
SELECT id AS key, created_at AS at FROM biz.ai_run_logs
WHERE created_at < %(before)s AND redacted_at IS NULL AND (created_at, id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY created_at, id LIMIT %(rows)s

-- name: redact
UPDATE biz.ai_run_logs SET request_prompt = NULL, response_text = NULL, redacted_at = clock_timestamp()
WHERE id IN (SELECT id FROM biz.ai_run_logs WHERE id = ANY(%(keys)s::bigint[]) AND redacted_at IS NULL FOR UPDATE SKIP LOCKED)
