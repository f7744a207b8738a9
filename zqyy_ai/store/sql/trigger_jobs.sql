-- name: add
INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, connector_type, payload, is_forced, status, app_chain, dedup_key,
                                 business_date, priority, retry_of, batch_id, runtime_mode, sandbox_date, created_at)
VALUES (%(event_type)s, %(site_id)s, %(member_id)s, %(connector_type)s, %(payload)s, %(is_forced)s, 'pending', %(app_chain)s,
        %(dedup_key)s, %(business_date)s, %(priority)s, %(retry_of)s, %(batch_id)s, %(runtime_mode)s, %(sandbox_date)s, clock_timestamp())
RETURNING id

-- name: add_running
INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, connector_type, payload, is_forced, is_own_run, status, app_chain, dedup_key,
                                 business_date, attempt, run_id, worker_id, fencing_token, lease_expires_at, created_at, started_at,
                                 progress_at, runtime_mode, sandbox_date)
VALUES (%(event_type)s, %(site_id)s, %(member_id)s, 'feiqiu', %(payload)s, true, true, 'running', %(app_chain)s, %(dedup_key)s,
        %(business_date)s, 1, %(run_id)s, %(worker_id)s, 1, clock_timestamp() + %(lease)s, clock_timestamp(), clock_timestamp(), clock_timestamp(),
        %(runtime_mode)s, %(sandbox_date)s)
RETURNING *

-- name: get
SELECT * FROM biz.ai_trigger_jobs WHERE id = %(job_id)s

-- name: get_locked
SELECT * FROM biz.ai_trigger_jobs WHERE id = %(job_id)s FOR UPDATE

-- name: open_of_site
SELECT * FROM biz.ai_trigger_jobs
WHERE event_type = %(event_type)s AND site_id = %(site_id)s AND business_date = %(business_date)s
  AND split_part(dedup_key, '|', -1) = %(mode)s AND status IN ('pending', 'running', 'completed')
ORDER BY id

-- name: standing
SELECT * FROM biz.ai_trigger_jobs
WHERE dedup_key = ANY(%(dedup_keys)s) AND status IN ('pending', 'running', 'completed')
ORDER BY id

-- name: lock_waiting
SELECT id FROM biz.ai_trigger_jobs WHERE id = ANY(%(job_ids)s) AND status = 'pending' ORDER BY id FOR UPDATE

-- name: merge_events
UPDATE biz.ai_trigger_jobs SET payload = %(payload)s, app_chain = %(app_chain)s WHERE id = %(job_id)s

-- name: count_duplicates
-- What had failed for good is asked again, as for loads.
UPDATE biz.ai_trigger_jobs
SET duplicate_count = duplicate_count + %(events)s, last_event_at = clock_timestamp(), payload = coalesce(payload, '{}') - 'given_up'
WHERE id = %(job_id)s

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
  AND runtime_mode = 'live'
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
      AND (not_before IS NULL OR not_before <= clock_timestamp()) AND (runtime_mode = 'live' OR NOT %(only_live)s)
    -- What a person asked for comes first; `regenerate` first of all, because it covers the others.
    ORDER BY coalesce((payload ->> 'regenerate')::boolean, false) DESC, is_forced DESC, priority DESC, id
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: claim_member_jobs
UPDATE biz.ai_trigger_jobs
SET status = 'running', attempt = attempt + 1, fencing_token = fencing_token + 1, run_id = %(run_id)s, worker_id = %(worker_id)s,
    lease_expires_at = clock_timestamp() + %(lease)s, started_at = coalesce(started_at, clock_timestamp()), progress_at = clock_timestamp(),
    not_before = NULL, waits_for = NULL, error_message = NULL
WHERE id IN (
    SELECT id FROM (
        -- Of sites that hold chains already, those with the fewest come first.
        SELECT waiting.id, waiting.chains + row_number() OVER (PARTITION BY waiting.site_id ORDER BY waiting.priority DESC, waiting.id) AS place
        FROM (
            -- By site, each with a look of its own into the index: thousands of one site's jobs hide no other's.
            SELECT site.site_id, coalesce(held.chains, 0) AS chains, least(%(most)s, %(most_of_site)s - coalesce(held.chains, 0)) AS room
            FROM biz.sites site
            LEFT JOIN unnest(%(site_ids)s::bigint[], %(chains)s::integer[]) AS held (site_id, chains) ON held.site_id = site.site_id
            WHERE coalesce(site.is_active, true)
        ) AS site
        CROSS JOIN LATERAL (
            -- SKIP LOCKED: of two runs that look at once, each takes rows of its own, and neither waits for the other.
            SELECT job.id, job.site_id, job.priority, site.chains FROM biz.ai_trigger_jobs job
            WHERE job.site_id = site.site_id AND job.status = 'pending' AND job.event_type <> 'dws_completed' AND job.dedup_key IS NOT NULL
              AND NOT job.is_own_run AND job.priority >= %(least_priority)s AND job.attempt BETWEEN %(least_attempt)s AND %(most_attempt)s
              AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
              -- One chain of a member at a time, the oldest first.
              AND NOT EXISTS (
                  SELECT FROM biz.ai_trigger_jobs other
                  WHERE other.site_id = job.site_id AND other.member_id = job.member_id AND other.status IN ('pending', 'running')
                    AND other.event_type <> 'dws_completed' AND other.dedup_key IS NOT NULL AND NOT other.is_own_run
                    AND (other.status = 'running'
                         OR (other.not_before IS NULL OR other.not_before <= clock_timestamp())
                            AND (-other.priority, other.id) < (-job.priority, job.id))
              )
            ORDER BY job.priority DESC, job.id LIMIT greatest(site.room, 0) FOR UPDATE SKIP LOCKED
        ) AS waiting
    ) AS in_turn
    ORDER BY place, id LIMIT %(most)s
)
RETURNING *

-- name: held_by_worker
SELECT * FROM biz.ai_trigger_jobs
WHERE status = 'running' AND run_id = %(run_id)s AND worker_id = %(worker_id)s AND NOT is_own_run AND NOT id = ANY(%(known)s)

-- name: has_member_work
SELECT EXISTS (
    SELECT FROM biz.sites site CROSS JOIN LATERAL (
        SELECT FROM biz.ai_trigger_jobs job
        WHERE job.site_id = site.site_id AND job.status = 'pending' AND job.event_type <> 'dws_completed' AND job.dedup_key IS NOT NULL
          AND NOT job.is_own_run AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
        -- In the queue's order, or a site without any would be looked for in the whole table.
        ORDER BY job.priority DESC, job.id LIMIT 1
    ) AS waiting
    WHERE coalesce(site.is_active, true)
) AS waiting

-- name: members_with_jobs
SELECT DISTINCT site_id, member_id FROM biz.ai_trigger_jobs
WHERE member_id IS NOT NULL AND created_at >= %(since)s AND dedup_key IS NOT NULL

-- name: touch
-- SKIP LOCKED: whoever writes to the row at this moment renews or ends it.
UPDATE biz.ai_trigger_jobs SET progress_at = clock_timestamp()
WHERE id IN (SELECT id FROM biz.ai_trigger_jobs WHERE id = ANY(%(job_ids)s) AND status = 'running' AND worker_id = %(worker_id)s FOR UPDATE SKIP LOCKED)

-- name: ancestry
-- The job itself, then what it retries, then what that retried.
WITH RECURSIVE ancestry AS (
    SELECT id, retry_of, created_at, 0 AS depth FROM biz.ai_trigger_jobs WHERE id = %(job_id)s
    UNION ALL
    SELECT parent.id, parent.retry_of, parent.created_at, depth + 1
    FROM ancestry JOIN biz.ai_trigger_jobs parent ON parent.id = ancestry.retry_of
    WHERE depth < 100
)
SELECT id, created_at FROM ancestry ORDER BY depth

-- name: open_retry
SELECT * FROM biz.ai_trigger_jobs WHERE retry_of = %(job_id)s AND status IN ('pending', 'running') ORDER BY id LIMIT 1

-- name: batch_progress
-- `not_before`: until when all of them wait; NULL where one may go on now.
SELECT status, count(*)::integer AS jobs, coalesce(sum((progress ->> 'calls')::integer), 0)::integer AS calls,
       coalesce(sum((progress ->> 'tokens')::bigint), 0)::bigint AS tokens, coalesce(sum((progress ->> 'done')::integer), 0)::integer AS done,
       coalesce(sum((progress ->> 'failed')::integer), 0)::integer AS failed,
       coalesce(sum((progress ->> 'reused')::integer), 0)::integer AS reused,
       CASE WHEN bool_and(coalesce(not_before > clock_timestamp(), false)) THEN min(not_before) END AS not_before,
       min(error_message) AS error_message
FROM biz.ai_trigger_jobs WHERE batch_id = %(batch_id)s GROUP BY status

-- name: cancel_of_batch
-- Only what nobody has begun; what was sent back is ended by whoever would take it next.
UPDATE biz.ai_trigger_jobs
SET status = 'failed', error_message = %(reason)s, finished_at = clock_timestamp(), fencing_token = fencing_token + 1
WHERE batch_id = %(batch_id)s AND status = 'pending'
RETURNING id, site_id

-- name: newest
SELECT * FROM biz.ai_trigger_jobs
WHERE dedup_key IS NOT NULL AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s)) AND (%(site_id)s::bigint IS NULL OR site_id = %(site_id)s)
  AND (%(member_id)s::bigint IS NULL OR member_id = %(member_id)s)
ORDER BY id DESC LIMIT %(limit)s

-- name: claimed_by
SELECT * FROM biz.ai_trigger_jobs
WHERE status = 'running' AND site_id = %(site_id)s AND (event_type = 'dws_completed' OR is_own_run) AND run_id = %(run_id)s AND worker_id = %(worker_id)s

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
  AND runtime_mode = %(runtime_mode)s AND sandbox_date IS NOT DISTINCT FROM %(sandbox_date)s
RETURNING id

-- name: send_back
UPDATE biz.ai_trigger_jobs
SET status = 'pending', not_before = %(not_before)s, waits_for = %(waits_for)s, error_message = %(error_message)s,
    failed_rounds = failed_rounds + %(failed_rounds)s,
    -- Added to what the row says now: an event that came meanwhile may have asked for everything anew.
    payload = coalesce(payload, '{}') || jsonb_build_object('given_up', coalesce(payload -> 'given_up', '{}') || %(given_up)s::jsonb),
    attempt = greatest(attempt - 1, 0), sent_back_count = sent_back_count + 1,
    lease_expires_at = NULL, worker_id = NULL, run_requested_at = NULL
WHERE id = %(job_id)s AND fencing_token = %(fencing_token)s AND status = 'running'
RETURNING id

-- name: hasten
-- In the order in which the intake counts events on them: neither waits for the other in a circle.
WITH waiting AS (
    SELECT id FROM biz.ai_trigger_jobs
    WHERE status = 'pending' AND sent_back_count > 0 AND not_before > clock_timestamp() AND waits_for IS NULL
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE biz.ai_trigger_jobs job SET not_before = NULL FROM waiting WHERE job.id = waiting.id

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
-- A job that a person's own run wrote for itself would wait for ever: nobody but that run takes it. A chain that had not begun, and so does
-- not hold its member, has not spent its attempt: it can't be what the process died of.
WITH lost AS (
    SELECT id, attempt - CASE WHEN member_id IS NULL OR is_own_run OR EXISTS (
               SELECT FROM biz.ai_step_claims claim
               WHERE claim.cache_type = 'member_chain' AND claim.site_id = job.site_id AND claim.target_id = job.member_id::text
                 AND claim.worker_id = job.worker_id
           ) THEN 0 ELSE 1 END AS spent
    FROM biz.ai_trigger_jobs job
    -- Whoever lives renews its leases within moments of the database's start: nobody is given up for an outage.
    WHERE status = 'running' AND (lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds' OR (%(run_id)s::text IS NOT NULL AND run_id = %(run_id)s))
    ORDER BY id FOR UPDATE
)
UPDATE biz.ai_trigger_jobs job
SET status = CASE WHEN is_own_run THEN 'failed' WHEN spent >= %(max_attempts)s THEN 'dead' ELSE 'pending' END, attempt = greatest(spent, 0),
    finished_at = CASE WHEN is_own_run OR spent >= %(max_attempts)s THEN clock_timestamp() END,
    error_message = CASE WHEN is_own_run THEN '执行进程中断,请重新运行'
                         WHEN spent >= %(max_attempts)s THEN '执行进程多次中断,已放弃'
                         ELSE '执行进程中断,等待重新执行' END,
    fencing_token = fencing_token + 1, lease_expires_at = NULL, worker_id = NULL, run_requested_at = NULL
FROM lost WHERE job.id = lost.id
RETURNING job.*

-- name: give_up_stuck
-- Alive by its lease, but without progress and without a call under way. Whoever hangs on it finds its targets claimed by nobody, and
-- sends nothing any more.
WITH stuck AS (
    SELECT job.id, job.worker_id, job.site_id, job.member_id, job.payload -> 'targets' AS targets FROM biz.ai_trigger_jobs job
    WHERE job.status = 'running' AND job.dedup_key IS NOT NULL AND job.progress_at < clock_timestamp() - %(stuck_after)s
      AND NOT EXISTS (
          SELECT FROM biz.ai_budget_reservations reservation JOIN biz.ai_run_logs log ON log.id = reservation.run_log_id
          WHERE log.trigger_job_id = job.id AND reservation.sent_at IS NOT NULL AND reservation.lease_expires_at >= clock_timestamp()
      )
    FOR UPDATE SKIP LOCKED
), freed AS (
    DELETE FROM biz.ai_step_claims claim USING stuck
    WHERE claim.worker_id = stuck.worker_id AND claim.site_id = stuck.site_id
      AND (stuck.member_id IS NULL AND (stuck.targets IS NULL OR stuck.targets ? claim.target_id) OR claim.target_id = stuck.member_id::text OR claim.target_id LIKE '%%\_' || stuck.member_id)
)
UPDATE biz.ai_trigger_jobs job
SET status = CASE WHEN is_own_run THEN 'failed' WHEN attempt >= %(max_attempts)s THEN 'dead' ELSE 'pending' END,
    finished_at = CASE WHEN is_own_run OR attempt >= %(max_attempts)s THEN clock_timestamp() END,
    error_message = '长时间没有进展,已收回',
    fencing_token = fencing_token + 1, lease_expires_at = NULL, worker_id = NULL, run_requested_at = NULL
FROM stuck WHERE job.id = stuck.id
RETURNING job.*

-- name: cancel_of_run
UPDATE biz.ai_trigger_jobs
SET status = CASE WHEN (progress ->> 'done')::integer > 0 THEN 'partial' ELSE 'failed' END, error_message = '运行被取消',
    finished_at = clock_timestamp(), fencing_token = fencing_token + 1, lease_expires_at = NULL, worker_id = NULL
WHERE status = 'running' AND run_id = %(run_id)s AND (is_own_run OR event_type = 'dws_completed')
RETURNING *

-- name: give_back_of_run
-- Jobs that the run had taken for others: nobody has cancelled those. They count as sent back, so that the next round knows that they were begun.
UPDATE biz.ai_trigger_jobs
SET status = 'pending', attempt = greatest(attempt - 1, 0), sent_back_count = sent_back_count + 1, error_message = '运行被取消,等待重新执行',
    fencing_token = fencing_token + 1, lease_expires_at = NULL, worker_id = NULL
WHERE status = 'running' AND run_id = %(run_id)s AND NOT is_own_run AND event_type <> 'dws_completed'
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
  AND status IN ('pending', 'running', 'completed') AND runtime_mode = %(mode)s

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
