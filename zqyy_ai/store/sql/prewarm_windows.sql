-- name: of_site
-- Of each window the newest valid answer, expired or not, and the newest attempt since then.
WITH attempts AS (
    SELECT DISTINCT ON (target_id) target_id, id, status, error_code, error_message, created_at
    FROM biz.ai_run_logs
    WHERE site_id = %(site_id)s AND created_at >= %(since)s AND app_type = ANY(%(app_types)s) AND runtime_mode = 'live'
    ORDER BY target_id, created_at DESC, id DESC
)
SELECT wanted.target_id, answer.id AS cache_id, answer.created_at AS answered_at, answer.expires_at, attempt.id AS log_id,
       attempt.status AS attempt_status, attempt.error_code, attempt.error_message, attempt.created_at AS attempted_at
FROM unnest(%(cache_types)s::text[], %(target_ids)s::text[]) AS wanted (cache_type, target_id)
LEFT JOIN LATERAL (
    SELECT id, created_at, expires_at FROM biz.ai_cache
    WHERE cache_type = wanted.cache_type AND site_id = %(site_id)s AND target_id = wanted.target_id AND (status = 'valid' OR status IS NULL)
    ORDER BY created_at DESC, id DESC LIMIT 1
) AS answer ON true
LEFT JOIN attempts attempt ON attempt.target_id = wanted.target_id

-- name: fresh_by_site
-- How many windows of each site have an answer that has not expired, and when the newest of them was made.
SELECT site_id, count(DISTINCT target_id) AS fresh, max(created_at) AS newest_at
FROM biz.ai_cache
WHERE cache_type = ANY(%(cache_types)s) AND target_id = ANY(%(target_ids)s) AND (status = 'valid' OR status IS NULL)
  AND (expires_at IS NULL OR expires_at > %(now)s) AND site_id = ANY(%(site_ids)s::bigint[])
GROUP BY site_id

-- name: recent_batches
-- Windows that people asked for.
SELECT batch_id, min(created_at) AS created_at, min(started_at) AS started_at, max(finished_at) AS finished_at,
       bool_and(finished_at IS NOT NULL) AS is_over
FROM biz.ai_trigger_jobs
WHERE site_id = %(site_id)s AND event_type = 'run_app' AND member_id IS NULL AND batch_id IS NOT NULL AND created_at >= %(since)s
GROUP BY batch_id ORDER BY min(created_at) DESC LIMIT 20
