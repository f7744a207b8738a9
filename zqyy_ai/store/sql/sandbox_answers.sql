-- biz.ai_sandbox_answers: the names are those of cache.sql, and do the same for one sandbox date. Each date is a world of its own.

-- name: get_latest
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_sandbox_answers
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND sandbox_date = %(sandbox_date)s
  AND status = 'valid' AND (expires_at IS NULL OR expires_at > %(now)s)
ORDER BY created_at DESC, id DESC
LIMIT 1

-- name: get_history
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_sandbox_answers
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND sandbox_date = %(sandbox_date)s
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s

-- name: get_reusable
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_sandbox_answers
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND sandbox_date = %(sandbox_date)s
  AND status = 'valid'
ORDER BY created_at DESC, id DESC
LIMIT 1

-- name: write
INSERT INTO biz.ai_sandbox_answers (cache_type, site_id, target_id, sandbox_date, result_json, triggered_by, score, expires_at, status,
                                    input_hash, run_log_id, created_at)
VALUES (%(cache_type)s, %(site_id)s, %(target_id)s, %(sandbox_date)s, %(result_json)s, %(triggered_by)s, %(score)s, %(expires_at)s, 'valid',
        %(input_hash)s, %(run_log_id)s, clock_timestamp())
RETURNING id

-- name: extend
UPDATE biz.ai_sandbox_answers SET expires_at = greatest(expires_at, %(expires_at)s) WHERE id = %(cache_id)s AND status = 'valid'

-- name: valid_targets
SELECT DISTINCT ON (target_id) id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status,
       input_hash, run_log_id
FROM biz.ai_sandbox_answers
WHERE cache_type = ANY(%(cache_types)s) AND site_id = %(site_id)s AND target_id = ANY(%(target_ids)s) AND sandbox_date = %(sandbox_date)s
  AND status = 'valid' AND (expires_at IS NULL OR expires_at > %(now)s)
ORDER BY target_id, created_at DESC, id DESC

-- name: valid_target_ids
SELECT DISTINCT target_id FROM biz.ai_sandbox_answers
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND sandbox_date = %(sandbox_date)s
  AND status = 'valid' AND (expires_at IS NULL OR expires_at > %(now)s)

-- name: targets_with_clues
SELECT target_id FROM (
    SELECT DISTINCT ON (target_id) target_id, result_json FROM biz.ai_sandbox_answers
    WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND sandbox_date = %(sandbox_date)s
      AND status = 'valid' AND (expires_at IS NULL OR expires_at > %(now)s)
    ORDER BY target_id, created_at DESC, id DESC
) AS newest
WHERE jsonb_path_exists(result_json, '$.clues[*].summary')

-- name: of_jobs
SELECT cache_type, target_id, max(id) AS id
FROM (
    SELECT answer.cache_type, answer.target_id, answer.id
    FROM biz.ai_run_logs log JOIN biz.ai_sandbox_answers answer ON answer.run_log_id = log.id
    WHERE log.trigger_job_id = ANY(%(job_ids)s) AND log.status = 'success' AND answer.status = 'valid'
      AND answer.sandbox_date = %(sandbox_date)s
    UNION ALL
    SELECT reused.cache_type, reused.target_id, reused.id
    FROM biz.ai_run_logs log
    CROSS JOIN LATERAL (
        SELECT answer.cache_type, answer.target_id, answer.id FROM biz.ai_sandbox_answers answer
        WHERE answer.cache_type = ANY(%(cache_types)s) AND answer.site_id = log.site_id AND answer.target_id = log.target_id
          AND answer.sandbox_date = %(sandbox_date)s AND answer.input_hash = log.input_hash AND answer.created_at <= log.created_at
          AND answer.status = 'valid'
        ORDER BY answer.created_at DESC, answer.id DESC LIMIT 1
    ) AS reused
    WHERE log.trigger_job_id = ANY(%(job_ids)s) AND log.status = 'reused' AND log.input_hash IS NOT NULL
) AS own
GROUP BY cache_type, target_id

-- name: of_target
-- For who looks at what the sandbox brought; of all dates unless one is named.
SELECT id, cache_type, site_id, target_id, sandbox_date, result_json, score, triggered_by, created_at, expires_at, run_log_id
FROM biz.ai_sandbox_answers
WHERE site_id = %(site_id)s AND cache_type = %(cache_type)s AND target_id = %(target_id)s
  AND (%(sandbox_date)s::date IS NULL OR sandbox_date = %(sandbox_date)s)
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_sandbox_answers

-- name: count_old
SELECT count(*) AS rows FROM biz.ai_sandbox_answers WHERE created_at < %(before)s

-- name: pick_old
SELECT id AS key, created_at AS at FROM biz.ai_sandbox_answers
WHERE created_at < %(before)s AND (created_at, id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY created_at, id LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_sandbox_answers
WHERE id IN (SELECT id FROM biz.ai_sandbox_answers WHERE id = ANY(%(keys)s::bigint[]) FOR UPDATE SKIP LOCKED)
