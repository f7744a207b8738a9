-- name: renew_claims
UPDATE biz.ai_step_claims SET lease_expires_at = clock_timestamp() + %(lease)s WHERE worker_id = %(worker_id)s

-- name: renew_slots
UPDATE biz.ai_call_slots SET lease_expires_at = clock_timestamp() + %(lease)s WHERE worker_id = %(worker_id)s

-- name: renew_reservations
UPDATE biz.ai_budget_reservations SET lease_expires_at = clock_timestamp() + %(lease)s WHERE worker_id = %(worker_id)s

-- name: renew_jobs
-- In the order in which intake locks them: rows that are locked in one order are never waited for in a circle.
UPDATE biz.ai_trigger_jobs SET lease_expires_at = clock_timestamp() + %(lease)s
WHERE id IN (SELECT id FROM biz.ai_trigger_jobs WHERE worker_id = %(worker_id)s AND status = 'running' ORDER BY id FOR UPDATE)

-- name: renew_event_runs
UPDATE biz.ai_event_runs SET lease_expires_at = clock_timestamp() + %(lease)s WHERE worker_id = %(worker_id)s AND closed_at IS NULL

-- name: workers_of_run
SELECT worker_id FROM biz.ai_trigger_jobs WHERE run_id = %(run_id)s AND worker_id IS NOT NULL
UNION
SELECT worker_id FROM biz.ai_event_runs WHERE run_id = %(run_id)s

-- name: drop_claims
DELETE FROM biz.ai_step_claims WHERE worker_id = %(worker_id)s

-- name: free_slots
UPDATE biz.ai_call_slots SET token = NULL, worker_id = NULL, lease_expires_at = NULL WHERE worker_id = %(worker_id)s

-- name: drop_expired_claims
-- Not right after the database's start: whoever lives renews first.
DELETE FROM biz.ai_step_claims WHERE lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds'

-- name: free_expired_slots
UPDATE biz.ai_call_slots SET token = NULL, worker_id = NULL, lease_expires_at = NULL
WHERE token IS NOT NULL AND lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds'
