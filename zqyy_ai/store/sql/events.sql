-- name: fire
SELECT biz.fire_ai_event(%(event_name)s, %(payload)s) AS id

-- name: lock_intake
SELECT pg_advisory_xact_lock(720410100202)

-- name: waiting
-- As text, and only where it is small enough: what a caller stored need not be readable for us.
SELECT id, event_name, octet_length(payload::text) AS payload_bytes, created_at,
       CASE WHEN octet_length(payload::text) <= %(largest_bytes)s THEN payload::text END AS payload_text
FROM biz.ai_events
WHERE handled_at IS NULL AND (NOT event_name = ANY(%(later)s) OR event_name IS NULL)
ORDER BY id
LIMIT %(limit)s

-- name: has_waiting
SELECT EXISTS (
    SELECT FROM biz.ai_events WHERE handled_at IS NULL AND (NOT event_name = ANY(%(later)s) OR event_name IS NULL)
) AS waiting

-- name: handled
UPDATE biz.ai_events SET handled_at = clock_timestamp(), trigger_job_id = %(trigger_job_id)s, rejected_reason = %(rejected_reason)s
WHERE id = %(event_id)s

-- name: see_etl_run
INSERT INTO biz.ai_seen_etl_runs (etl_run_id, site_id, event_id) VALUES (%(etl_run_id)s, %(site_id)s, %(event_id)s)
ON CONFLICT DO NOTHING

-- name: seen_etl_runs
SELECT etl_run_id, site_id FROM biz.ai_seen_etl_runs WHERE etl_run_id = ANY(%(etl_run_ids)s)
