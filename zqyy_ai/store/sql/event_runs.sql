-- name: open
INSERT INTO biz.ai_event_runs (run_id, worker_id, lease_expires_at)
VALUES (%(run_id)s, %(worker_id)s, clock_timestamp() + %(lease)s)
ON CONFLICT (run_id) DO UPDATE
SET worker_id = excluded.worker_id, lease_expires_at = excluded.lease_expires_at, closed_at = NULL

-- name: close
UPDATE biz.ai_event_runs SET closed_at = clock_timestamp() WHERE run_id = %(run_id)s AND closed_at IS NULL

-- name: is_open
SELECT closed_at IS NULL AS is_open FROM biz.ai_event_runs WHERE run_id = %(run_id)s

-- name: open_runs
-- Right after the database's start no lease counts as over: whoever lives renews first.
SELECT run_id, opened_at, clock_timestamp() - opened_at AS age FROM biz.ai_event_runs
WHERE closed_at IS NULL
  AND (lease_expires_at >= clock_timestamp() OR pg_postmaster_start_time() >= clock_timestamp() - interval '5 seconds')
ORDER BY opened_at, run_id

-- name: dead
-- Open with its lease over; or closed for a while and with no job left, though Dagster still takes it for alive.
SELECT run_id FROM biz.ai_event_runs run
WHERE run_id = ANY(%(run_ids)s) AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds'
  AND (closed_at IS NULL AND lease_expires_at < clock_timestamp()
       OR closed_at < clock_timestamp() - %(longest_end)s
          AND NOT EXISTS (SELECT FROM biz.ai_trigger_jobs job WHERE job.run_id = run.run_id AND job.status = 'running'))

-- name: known
SELECT run_id FROM biz.ai_event_runs WHERE run_id = ANY(%(run_ids)s)

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_event_runs

-- name: count_old
SELECT count(*) AS rows FROM biz.ai_event_runs WHERE opened_at < %(before)s AND (closed_at IS NOT NULL OR lease_expires_at < %(before)s)

-- name: pick_old
SELECT run_id AS key, opened_at AS at FROM biz.ai_event_runs
WHERE opened_at < %(before)s AND (closed_at IS NOT NULL OR lease_expires_at < %(before)s)
  AND (opened_at, run_id) > (%(after_at)s::timestamptz, %(after_key)s)
ORDER BY opened_at, run_id LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_event_runs WHERE run_id = ANY(%(keys)s) AND opened_at < %(before)s
