-- name: count
SELECT count(*) AS jobs FROM biz.ai_trigger_jobs job
WHERE job.created_at IS NOT NULL
  AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))
  AND (%(event_type)s::text IS NULL OR job.event_type = %(event_type)s)
  AND (%(status)s::text IS NULL OR job.status = %(status)s)
  AND (%(member_id)s::bigint IS NULL OR job.member_id = %(member_id)s)
  AND (%(begins_at)s::timestamptz IS NULL OR job.created_at >= %(begins_at)s)
  AND (%(ends_at)s::timestamptz IS NULL OR job.created_at < %(ends_at)s)

-- name: page
SELECT job.id, coalesce(job.event_type, '') AS event_type, coalesce(job.site_id, 0) AS site_id, job.member_id, coalesce(job.status, '') AS status,
       job.app_chain, coalesce(job.is_forced, false) AS is_forced, job.duplicate_count, job.attempt, job.retry_of, job.run_id, job.batch_id,
       job.business_date, job.runtime_mode, job.not_before, job.progress, job.error_message, job.created_at, job.started_at, job.finished_at
FROM biz.ai_trigger_jobs job
WHERE job.created_at IS NOT NULL
  AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))
  AND (%(event_type)s::text IS NULL OR job.event_type = %(event_type)s)
  AND (%(status)s::text IS NULL OR job.status = %(status)s)
  AND (%(member_id)s::bigint IS NULL OR job.member_id = %(member_id)s)
  AND (%(begins_at)s::timestamptz IS NULL OR job.created_at >= %(begins_at)s)
  AND (%(ends_at)s::timestamptz IS NULL OR job.created_at < %(ends_at)s)
ORDER BY job.created_at DESC, job.id DESC OFFSET %(offset)s LIMIT %(rows)s

-- name: duplicates
SELECT coalesce(sum(duplicate_count), 0) AS duplicates FROM biz.ai_trigger_jobs job
WHERE job.last_event_at >= %(since)s AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))

-- name: waiting
-- Rows without a dedup key are an old dispatcher's; nobody of ours takes them.
SELECT count(*) AS jobs FROM biz.ai_trigger_jobs job
WHERE job.status = 'pending' AND job.dedup_key IS NOT NULL AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))

-- name: get
SELECT job.id, coalesce(job.event_type, '') AS event_type, coalesce(job.site_id, 0) AS site_id, job.member_id, coalesce(job.status, '') AS status,
       job.app_chain, coalesce(job.is_forced, false) AS is_forced, job.duplicate_count, job.attempt, job.retry_of, job.run_id, job.batch_id,
       job.business_date, job.runtime_mode, job.not_before, job.progress, job.error_message, job.created_at, job.started_at, job.finished_at,
       job.payload::text AS payload_text, coalesce(job.connector_type, '') AS connector_type,
       ARRAY(SELECT retry.id FROM biz.ai_trigger_jobs retry WHERE retry.retry_of = job.id ORDER BY retry.id LIMIT 100) AS retry_ids,
       (SELECT count(*) FROM biz.ai_events event WHERE event.trigger_job_id = job.id) AS merged_events
FROM biz.ai_trigger_jobs job
WHERE job.id = %(job_id)s AND job.created_at IS NOT NULL AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))

-- name: events
SELECT event.id, event.event_name, event.created_at, event.handled_at
FROM biz.ai_events event JOIN biz.ai_trigger_jobs job ON job.id = event.trigger_job_id
WHERE event.trigger_job_id = %(job_id)s AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))
ORDER BY event.id LIMIT %(rows)s

-- name: queue
SELECT job.site_id, count(*) FILTER (WHERE job.status = 'pending') AS pending, count(*) FILTER (WHERE job.status = 'running') AS running,
       min(greatest(job.created_at, job.not_before)) FILTER (WHERE job.status = 'pending' AND (job.not_before IS NULL OR job.not_before <= clock_timestamp()))
           AS oldest_due_at
FROM biz.ai_trigger_jobs job
WHERE job.status IN ('pending', 'running') AND job.dedup_key IS NOT NULL AND job.site_id IS NOT NULL AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))
GROUP BY job.site_id

-- name: movement
SELECT (
    SELECT extract(epoch FROM clock_timestamp() - min(greatest(job.created_at, job.not_before)))::float8
    FROM biz.ai_trigger_jobs job JOIN biz.sites site ON site.site_id = job.site_id AND coalesce(site.is_active, true)
    WHERE job.status = 'pending' AND job.dedup_key IS NOT NULL AND NOT job.is_own_run
      AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
) AS oldest_due_age_seconds, (
    EXISTS (SELECT FROM biz.ai_trigger_jobs WHERE status = 'running' AND progress_at >= clock_timestamp() - %(lately)s::interval)
    OR EXISTS (SELECT FROM biz.ai_trigger_jobs
               WHERE status IN ('completed', 'partial', 'failed', 'dead') AND finished_at >= clock_timestamp() - %(lately)s::interval)
) AS has_moved

-- name: newest_prewarm
SELECT job.id, coalesce(job.event_type, '') AS event_type, coalesce(job.site_id, 0) AS site_id, job.member_id, coalesce(job.status, '') AS status,
       job.app_chain, coalesce(job.is_forced, false) AS is_forced, job.duplicate_count, job.attempt, job.retry_of, job.run_id, job.batch_id,
       job.business_date, job.runtime_mode, job.not_before, job.progress, job.error_message, job.created_at, job.started_at, job.finished_at
FROM biz.ai_trigger_jobs job
WHERE job.event_type = 'dws_completed' AND job.site_id = %(site_id)s AND job.created_at IS NOT NULL AND (%(site_ids)s::bigint[] IS NULL OR job.site_id = ANY(%(site_ids)s::bigint[]))
ORDER BY (job.status = 'running') DESC NULLS LAST, (job.status = 'pending') DESC NULLS LAST, job.id DESC LIMIT 1
