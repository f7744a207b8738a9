-- name: get_latest
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_cache
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s
  AND (status = 'valid' OR status IS NULL)
  AND (expires_at IS NULL OR expires_at > %(now)s)
ORDER BY created_at DESC, id DESC
LIMIT 1

-- name: get_history
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_cache
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s

-- name: get_reusable
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_cache
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s
  AND (status = 'valid' OR status IS NULL)
ORDER BY created_at DESC, id DESC
LIMIT 1

-- name: write
INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, triggered_by, score, expires_at, status, input_hash, run_log_id, created_at)
VALUES (%(cache_type)s, %(site_id)s, %(target_id)s, %(result_json)s, %(triggered_by)s, %(score)s, %(expires_at)s, 'valid',
        %(input_hash)s, %(run_log_id)s, clock_timestamp())
RETURNING id

-- name: extend
-- A row that never expires (NULL) stays so.
UPDATE biz.ai_cache SET expires_at = CASE WHEN expires_at IS NULL THEN NULL ELSE greatest(expires_at, %(expires_at)s) END
WHERE id = %(cache_id)s AND (status = 'valid' OR status IS NULL)

-- name: set_generating
INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, status, triggered_by, created_at)
VALUES (%(cache_type)s, %(site_id)s, %(target_id)s, '{}', 'generating', %(triggered_by)s, clock_timestamp())
RETURNING id

-- name: finalize
UPDATE biz.ai_cache SET result_json = %(result_json)s, score = %(score)s, status = 'valid', expires_at = %(expires_at)s
WHERE id = %(cache_id)s AND status = 'generating'

-- name: valid_targets
SELECT DISTINCT ON (target_id) id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status,
       input_hash, run_log_id
FROM biz.ai_cache
WHERE cache_type = ANY(%(cache_types)s) AND site_id = %(site_id)s AND target_id = ANY(%(target_ids)s)
  AND (status = 'valid' OR status IS NULL)
  AND (expires_at IS NULL OR expires_at > %(now)s)
ORDER BY target_id, created_at DESC, id DESC

-- name: prune
DELETE FROM biz.ai_cache WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (ORDER BY created_at DESC, id DESC) AS newest,
               row_number() OVER (PARTITION BY target_id ORDER BY created_at DESC, id DESC) AS newest_of_target
        FROM biz.ai_cache WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s
    ) AS ranked WHERE newest > %(keep)s AND newest_of_target > 2
)
