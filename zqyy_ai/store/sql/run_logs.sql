-- name: start
INSERT INTO biz.ai_run_logs (app_type, trigger_type, trigger_job_id, site_id, member_id, assistant_id, target_id, request_prompt,
                             status, dagster_run_id, input_hash, created_at)
VALUES (%(app_type)s, %(trigger_type)s, %(trigger_job_id)s, %(site_id)s, %(member_id)s, %(assistant_id)s, %(target_id)s,
        %(request_prompt)s, 'running', %(dagster_run_id)s, %(input_hash)s, clock_timestamp())
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
                             status, error_code, error_message, tokens_used, latency_ms, dagster_run_id, input_hash, created_at, finished_at)
VALUES (%(app_type)s, %(trigger_type)s, %(trigger_job_id)s, %(site_id)s, %(member_id)s, %(assistant_id)s, %(target_id)s,
        %(request_prompt)s, %(status)s, %(error_code)s, %(error_message)s, 0, 0, %(dagster_run_id)s, %(input_hash)s, clock_timestamp(),
        clock_timestamp())
RETURNING id

-- name: close_of_dead_run
UPDATE biz.ai_run_logs
SET status = 'failed', error_code = 'worker_died', error_message = %(error_message)s, finished_at = clock_timestamp()
WHERE dagster_run_id = %(dagster_run_id)s AND status IN ('pending', 'running')
