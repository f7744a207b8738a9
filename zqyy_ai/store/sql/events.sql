-- name: fire
SELECT biz.fire_ai_event(%(event_name)s, %(payload)s) AS id

-- name: lock_intake
SELECT pg_advisory_xact_lock(720410100202)

-- name: waiting
-- As text, and only where it is small enough: what a caller stored need not be readable for us. No text of so many bytes takes eight times
-- as many as jsonb; what does is not made a text of, which may be larger than the server can hold.
SELECT id, event_name, created_at, coalesce(octet_length(payload_text), stored_bytes) AS payload_bytes,
       CASE WHEN octet_length(payload_text) <= %(largest_bytes)s THEN payload_text END AS payload_text
FROM (
    SELECT id, left(event_name, 200) AS event_name, created_at, pg_column_size(payload) AS stored_bytes,
           CASE WHEN pg_column_size(payload) <= 8 * %(largest_bytes)s THEN payload::text END AS payload_text
    FROM biz.ai_events
    WHERE handled_at IS NULL AND (%(event_id)s::bigint IS NULL OR id = %(event_id)s)
    ORDER BY id
    LIMIT %(limit)s
) AS waiting
ORDER BY id

-- name: waiting_unread
SELECT id, left(event_name, 200) AS event_name, created_at FROM biz.ai_events WHERE handled_at IS NULL ORDER BY id LIMIT %(limit)s

-- name: has_waiting
SELECT EXISTS (SELECT FROM biz.ai_events WHERE handled_at IS NULL) AS waiting

-- name: handled
UPDATE biz.ai_events SET handled_at = clock_timestamp(), trigger_job_id = %(trigger_job_id)s, rejected_reason = %(rejected_reason)s
WHERE id = %(event_id)s

-- name: outcomes
SELECT event.id AS event_id, event.handled_at IS NOT NULL AS is_handled, event.trigger_job_id, job.status AS job_status,
       coalesce(
           job.created_at < event.created_at
           OR EXISTS (SELECT FROM biz.ai_events earlier WHERE earlier.trigger_job_id = event.trigger_job_id AND earlier.id < event.id),
           false
       ) AS is_duplicate,
       event.rejected_reason
FROM biz.ai_events event LEFT JOIN biz.ai_trigger_jobs job ON job.id = event.trigger_job_id
WHERE event.id = ANY(%(event_ids)s)

-- name: see_etl_run
INSERT INTO biz.ai_seen_etl_runs (etl_run_id, site_id, event_id) VALUES (%(etl_run_id)s, %(site_id)s, %(event_id)s)
ON CONFLICT DO NOTHING

-- name: seen_etl_runs
SELECT etl_run_id, site_id FROM biz.ai_seen_etl_runs WHERE etl_run_id = ANY(%(etl_run_ids)s)

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_events

-- name: count_old
-- Handled events whose job is gone, or goes too: so that a count before says what a run then does.
SELECT count(*) AS rows FROM biz.ai_events event
WHERE event.handled_at < %(before)s
  AND NOT EXISTS (
      SELECT FROM biz.ai_trigger_jobs job WHERE job.id = event.trigger_job_id
        AND (job.status NOT IN ('completed', 'partial', 'failed', 'dead') OR job.finished_at IS NULL OR job.finished_at >= %(before)s
             OR job.id IN (SELECT biz.ai_jobs_needed(%(before)s)))
  )

-- name: pick_old
SELECT event.id AS key, event.handled_at AS at FROM biz.ai_events event
WHERE event.handled_at < %(before)s
  AND NOT EXISTS (
      SELECT FROM biz.ai_trigger_jobs job WHERE job.id = event.trigger_job_id
        AND (job.status NOT IN ('completed', 'partial', 'failed', 'dead') OR job.finished_at IS NULL OR job.finished_at >= %(before)s
             OR job.id IN (SELECT biz.ai_jobs_needed(%(before)s)))
  )
  AND (event.handled_at, event.id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY event.handled_at, event.id LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_events WHERE id IN (
    SELECT id FROM biz.ai_events WHERE id = ANY(%(keys)s::bigint[]) AND handled_at < %(before)s FOR UPDATE SKIP LOCKED
)

-- name: count_etl_runs
SELECT count(*) AS rows FROM biz.ai_seen_etl_runs

-- name: count_old_etl_runs
SELECT count(*) AS rows FROM biz.ai_seen_etl_runs WHERE seen_at < %(before)s

-- name: pick_old_etl_runs
SELECT concat_ws('|', etl_run_id, site_id) AS key, seen_at AS at FROM biz.ai_seen_etl_runs
WHERE seen_at < %(before)s AND (seen_at, concat_ws('|', etl_run_id, site_id)) > (%(after_at)s::timestamptz, %(after_key)s)
ORDER BY 2, 1 LIMIT %(rows)s

-- name: delete_old_etl_runs
DELETE FROM biz.ai_seen_etl_runs WHERE concat_ws('|', etl_run_id, site_id) = ANY(%(keys)s) AND seen_at < %(before)s

-- name: count_page
SELECT count(*) AS events FROM biz.ai_events event
WHERE (%(is_rejected)s::boolean IS NULL OR (event.rejected_reason IS NOT NULL) = %(is_rejected)s)
  AND (%(site_ids)s::bigint[] IS NULL
       OR CASE WHEN event.payload ->> 'site_id' ~ '^[0-9]{1,18}$' THEN (event.payload ->> 'site_id')::bigint END = ANY(%(site_ids)s::bigint[]))

-- name: page
SELECT event.id, event.event_name, CASE WHEN event.payload ->> 'site_id' ~ '^[0-9]{1,18}$' THEN (event.payload ->> 'site_id')::bigint END AS site_id,
       octet_length(event.payload::text) AS payload_bytes,
       CASE WHEN octet_length(event.payload::text) <= %(largest_bytes)s THEN event.payload::text END AS payload_text,
       event.created_at, event.handled_at, event.trigger_job_id, event.rejected_reason
FROM biz.ai_events event
WHERE (%(is_rejected)s::boolean IS NULL OR (event.rejected_reason IS NOT NULL) = %(is_rejected)s)
  AND (%(site_ids)s::bigint[] IS NULL
       OR CASE WHEN event.payload ->> 'site_id' ~ '^[0-9]{1,18}$' THEN (event.payload ->> 'site_id')::bigint END = ANY(%(site_ids)s::bigint[]))
ORDER BY event.id DESC OFFSET %(offset)s LIMIT %(rows)s
