-- name: add
INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, connector_type, payload, is_forced, status, app_chain, dedup_key,
                                 business_date, priority, created_at)
VALUES (%(event_type)s, %(site_id)s, %(member_id)s, %(connector_type)s, %(payload)s, %(is_forced)s, 'pending', %(app_chain)s,
        %(dedup_key)s, %(business_date)s, %(priority)s, clock_timestamp())
RETURNING id

-- name: add_running
INSERT INTO biz.ai_trigger_jobs (event_type, site_id, connector_type, payload, is_forced, status, app_chain, dedup_key, business_date,
                                 attempt, run_id, worker_id, fencing_token, lease_expires_at, created_at, started_at, progress_at)
VALUES (%(event_type)s, %(site_id)s, 'feiqiu', %(payload)s, true, 'running', %(app_chain)s, %(dedup_key)s, %(business_date)s,
        1, %(run_id)s, %(worker_id)s, 1, clock_timestamp() + %(lease)s, clock_timestamp(), clock_timestamp(), clock_timestamp())
RETURNING *

-- name: get
SELECT * FROM biz.ai_trigger_jobs WHERE id = %(job_id)s

-- name: open_of_site
SELECT * FROM biz.ai_trigger_jobs
WHERE event_type = %(event_type)s AND site_id = %(site_id)s AND business_date = %(business_date)s
  AND split_part(dedup_key, '|', 5) = %(mode)s AND status IN ('pending', 'running', 'completed')
ORDER BY id

-- name: count_duplicate
UPDATE biz.ai_trigger_jobs
-- New data are new questions: what had failed for good is asked again.
SET duplicate_count = duplicate_count + 1, last_event_at = clock_timestamp(),
    payload = CASE WHEN %(etl_run_id)s::text IS NULL THEN coalesce(payload, '{}') - 'given_up'
                   ELSE jsonb_set(coalesce(payload, '{}') - 'given_up', '{etl_run_ids}',
                                  coalesce(payload -> 'etl_run_ids', '[]') || to_jsonb(%(etl_run_id)s::text)) END
WHERE id = %(job_id)s

-- name: supersede
UPDATE biz.ai_trigger_jobs
SET status = 'completed', error_message = 'superseded: 业务日已过', finished_at = clock_timestamp()
WHERE status = 'pending' AND event_type = 'dws_completed' AND site_id = %(site_id)s AND business_date < %(business_date)s
RETURNING id

-- name: claim_of_site
UPDATE biz.ai_trigger_jobs
SET status = 'running', attempt = attempt + 1, fencing_token = fencing_token + 1, run_id = %(run_id)s, worker_id = %(worker_id)s,
    lease_expires_at = clock_timestamp() + %(lease)s, started_at = coalesce(started_at, clock_timestamp()),
    progress_at = clock_timestamp(), not_before = NULL
WHERE id = (
    -- SKIP LOCKED: of two runs that look at once, each takes a row of its own, and neither waits for the other.
    SELECT id FROM biz.ai_trigger_jobs
    WHERE status = 'pending' AND event_type = 'dws_completed' AND site_id = %(site_id)s AND dedup_key IS NOT NULL
      AND (not_before IS NULL OR not_before <= clock_timestamp())
    -- What a person asked for comes first; `regenerate` first of all, because it covers the others.
    ORDER BY coalesce((payload ->> 'regenerate')::boolean, false) DESC, is_forced DESC, priority DESC, id
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: claimed_by
SELECT * FROM biz.ai_trigger_jobs
WHERE status = 'running' AND site_id = %(site_id)s AND run_id = %(run_id)s AND worker_id = %(worker_id)s

-- name: finish
UPDATE biz.ai_trigger_jobs
SET status = %(status)s, error_message = %(error_message)s, finished_at = clock_timestamp(), lease_expires_at = NULL, worker_id = NULL
WHERE id = %(job_id)s AND fencing_token = %(fencing_token)s AND status = 'running'
RETURNING id

-- name: finish_covered
UPDATE biz.ai_trigger_jobs
SET status = 'completed', run_id = %(run_id)s, started_at = %(data_read_at)s, finished_at = clock_timestamp(),
    payload = coalesce(payload, '{}') || jsonb_build_object('done_by_job', %(job_id)s::bigint)
WHERE status = 'pending' AND event_type = 'dws_completed' AND site_id = %(site_id)s AND dedup_key IS NOT NULL
  AND coalesce(last_event_at, created_at) < %(data_read_at)s
  AND NOT coalesce((payload ->> 'regenerate')::boolean, false)
RETURNING id

-- name: send_back
UPDATE biz.ai_trigger_jobs
SET status = 'pending', not_before = %(not_before)s, error_message = %(error_message)s,
    payload = coalesce(payload, '{}') || jsonb_build_object('given_up', %(given_up)s::jsonb), attempt = greatest(attempt - 1, 0), sent_back_count = sent_back_count + 1,
    lease_expires_at = NULL, worker_id = NULL, run_requested_at = NULL
WHERE id = %(job_id)s AND fencing_token = %(fencing_token)s AND status = 'running'
RETURNING id

-- name: hasten
UPDATE biz.ai_trigger_jobs SET not_before = NULL
WHERE status = 'pending' AND event_type = 'dws_completed' AND sent_back_count > 0 AND not_before > clock_timestamp()

-- name: progressed
UPDATE biz.ai_trigger_jobs SET progress_at = clock_timestamp(), progress = %(progress)s WHERE id = %(job_id)s AND fencing_token = %(fencing_token)s

-- name: sites_wanting_a_run
SELECT DISTINCT job.site_id FROM biz.ai_trigger_jobs job JOIN biz.sites site ON site.site_id = job.site_id AND coalesce(site.is_active, true)
-- Rows without a dedup key are an old dispatcher's.
WHERE job.status = 'pending' AND job.event_type = 'dws_completed' AND job.dedup_key IS NOT NULL AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
  -- A run that was asked for, or that is at work, takes whatever waits for its site, also what came after it was asked for.
  AND NOT EXISTS (
      SELECT FROM biz.ai_trigger_jobs other
      WHERE other.event_type = 'dws_completed' AND other.site_id = job.site_id
        AND (other.status = 'pending' AND other.run_requested_at >= clock_timestamp() - %(request_lease)s
             OR other.status = 'running' AND other.lease_expires_at >= clock_timestamp())
  )
ORDER BY job.site_id

-- name: lock_run_requests
SELECT pg_advisory_xact_lock(7205)

-- name: mark_run_requested
UPDATE biz.ai_trigger_jobs job SET run_requested_at = clock_timestamp()
WHERE job.status = 'pending' AND job.event_type = 'dws_completed' AND job.dedup_key IS NOT NULL AND job.site_id = ANY(%(site_ids)s)
  AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
  AND NOT EXISTS (
      SELECT FROM biz.ai_trigger_jobs other
      WHERE other.event_type = 'dws_completed' AND other.site_id = job.site_id
        AND (other.status = 'pending' AND other.run_requested_at >= clock_timestamp() - %(request_lease)s
             OR other.status = 'running' AND other.lease_expires_at >= clock_timestamp())
  )
RETURNING job.site_id

-- name: give_up_lost
-- A job that a person's own run wrote for itself would wait for ever: nobody but that run takes it.
UPDATE biz.ai_trigger_jobs
SET status = CASE WHEN event_type <> 'dws_completed' THEN 'failed' WHEN attempt >= %(max_attempts)s THEN 'dead' ELSE 'pending' END,
    finished_at = CASE WHEN event_type <> 'dws_completed' OR attempt >= %(max_attempts)s THEN clock_timestamp() END,
    error_message = CASE WHEN event_type <> 'dws_completed' THEN '执行进程中断,请重新运行'
                         WHEN attempt >= %(max_attempts)s THEN '执行进程多次中断,已放弃'
                         ELSE '执行进程中断,等待重新执行' END,
    fencing_token = fencing_token + 1, lease_expires_at = NULL, worker_id = NULL, run_requested_at = NULL
-- Whoever lives renews its leases within moments of the database's start: nobody is given up for an outage.
WHERE status = 'running' AND (lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds' OR (%(run_id)s::text IS NOT NULL AND run_id = %(run_id)s))
RETURNING *

-- name: cancel_of_run
UPDATE biz.ai_trigger_jobs
SET status = CASE WHEN (progress ->> 'done')::integer > 0 THEN 'partial' ELSE 'failed' END, error_message = '运行被取消',
    finished_at = clock_timestamp(), fencing_token = fencing_token + 1, lease_expires_at = NULL, worker_id = NULL
WHERE status = 'running' AND run_id = %(run_id)s
RETURNING *

-- name: runs_at_work
SELECT DISTINCT run_id FROM biz.ai_trigger_jobs WHERE status = 'running' AND run_id IS NOT NULL

-- name: runs_left
SELECT run_id FROM biz.ai_trigger_jobs WHERE run_id = ANY(%(run_ids)s)
GROUP BY run_id
HAVING bool_and(status <> 'running') AND max(progress_at) < clock_timestamp() - %(lease)s

-- name: prewarmed_sites
SELECT DISTINCT site_id FROM biz.ai_trigger_jobs
WHERE event_type = 'dws_completed' AND business_date = %(business_date)s AND site_id = ANY(%(site_ids)s)
  AND status IN ('pending', 'running', 'completed')

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_trigger_jobs

-- name: count_old
-- Finished jobs of ours that no retry still names (nor a retry of that retry) and no younger event.
SELECT count(*) AS rows FROM biz.ai_trigger_jobs job
WHERE job.status IN ('completed', 'partial', 'failed', 'dead') AND job.finished_at < %(before)s AND job.dedup_key IS NOT NULL
  AND job.id NOT IN (SELECT biz.ai_jobs_needed(%(before)s))
  AND NOT EXISTS (
      SELECT FROM biz.ai_events event
      WHERE event.trigger_job_id = job.id AND (event.handled_at IS NULL OR event.handled_at >= %(before)s)
  )

-- name: pick_old
SELECT job.id AS key, job.finished_at AS at FROM biz.ai_trigger_jobs job
WHERE job.status IN ('completed', 'partial', 'failed', 'dead') AND job.finished_at < %(before)s AND job.dedup_key IS NOT NULL
  AND job.id NOT IN (SELECT biz.ai_jobs_needed(%(before)s))
  AND NOT EXISTS (
      SELECT FROM biz.ai_events event
      WHERE event.trigger_job_id = job.id AND (event.handled_at IS NULL OR event.handled_at >= %(before)s)
  )
  AND (job.finished_at, job.id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY job.finished_at, job.id LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_trigger_jobs WHERE id IN (
    SELECT job.id FROM biz.ai_trigger_jobs job
    WHERE job.id = ANY(%(keys)s::bigint[])
      AND job.status IN ('completed', 'partial', 'failed', 'dead') AND job.finished_at < %(before)s AND job.dedup_key IS NOT NULL
      AND job.id NOT IN (SELECT biz.ai_jobs_needed(%(before)s))
      AND NOT EXISTS (
          SELECT FROM biz.ai_events event
          WHERE event.trigger_job_id = job.id AND (event.handled_at IS NULL OR event.handled_at >= %(before)s)
      )
    FOR UPDATE OF job SKIP LOCKED
)
