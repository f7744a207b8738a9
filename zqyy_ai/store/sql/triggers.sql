-- name: for_event
SELECT id, job_name, job_type, trigger_condition, trigger_config, status, description, last_run_at, next_run_at, last_error,
       scheduled_expression
FROM biz.trigger_jobs
WHERE trigger_condition = 'event' AND trigger_config ->> 'event_name' = %(event_name)s
ORDER BY id LIMIT 1

-- name: get_locked
SELECT id, job_name, job_type, trigger_condition, trigger_config, status, description, last_run_at, next_run_at, last_error,
       scheduled_expression
FROM biz.trigger_jobs
WHERE id = %(trigger_id)s AND job_type = ANY(%(job_types)s)
FOR UPDATE

-- name: change
UPDATE biz.trigger_jobs
SET status = coalesce(%(status)s, status), description = coalesce(%(description)s, description),
    trigger_config = CASE WHEN %(cron_expression)s::text IS NULL THEN trigger_config
                          ELSE trigger_config || jsonb_build_object('cron_expression', %(cron_expression)s::text) END
WHERE id = %(trigger_id)s

-- name: of_job_type
SELECT id, job_name, job_type, trigger_condition, trigger_config, status, description, last_run_at, next_run_at, last_error,
       scheduled_expression
FROM biz.trigger_jobs
WHERE job_type = %(job_type)s AND trigger_condition = 'cron'
ORDER BY id FOR UPDATE

-- name: all
SELECT id, job_name, job_type, trigger_condition, trigger_config, status, description, last_run_at, next_run_at, last_error,
       scheduled_expression
FROM biz.trigger_jobs
WHERE job_type = ANY(%(job_types)s)
ORDER BY id

-- name: ran
-- A cron that fires can be read; of an event's trigger the last error is its last job's. SKIP LOCKED: an operator who has the row in an open
-- transaction holds up nobody.
UPDATE biz.trigger_jobs SET last_run_at = %(ran_at)s, last_error = CASE WHEN trigger_condition = 'event' THEN last_error END
WHERE id IN (SELECT id FROM biz.trigger_jobs WHERE id = %(trigger_id)s FOR NO KEY UPDATE SKIP LOCKED)

-- name: job_ended
UPDATE biz.trigger_jobs SET last_error = %(error)s
WHERE id IN (
    SELECT id FROM biz.trigger_jobs
    WHERE trigger_condition = 'event' AND trigger_config ->> 'event_name' = %(event_name)s AND last_error IS DISTINCT FROM %(error)s
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)

-- name: failed
UPDATE biz.trigger_jobs SET last_error = %(error)s, next_run_at = NULL, scheduled_expression = NULL WHERE id = %(trigger_id)s

-- name: schedule
UPDATE biz.trigger_jobs
SET next_run_at = %(next_run_at)s, scheduled_expression = %(expression)s, last_error = NULL
WHERE id = %(trigger_id)s
