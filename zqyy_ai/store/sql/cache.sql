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

-- name: get_for_readers
-- The newest that has not expired; where there is none, the newest that has.
WITH fresh AS (
    SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
    FROM biz.ai_cache
    WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s
      AND (status = 'valid' OR status IS NULL)
      AND (expires_at IS NULL OR expires_at > %(now)s)
    ORDER BY created_at DESC, id DESC
    LIMIT 1
)
SELECT * FROM fresh
UNION ALL
(SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
 FROM biz.ai_cache
 WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s
   AND (status = 'valid' OR status IS NULL) AND NOT EXISTS (SELECT FROM fresh)
 ORDER BY created_at DESC, id DESC
 LIMIT 1)

-- name: get_answers
SELECT id, cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash, run_log_id
FROM biz.ai_cache
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND status IS DISTINCT FROM 'generating'
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

-- name: valid_target_ids
SELECT DISTINCT target_id FROM biz.ai_cache
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND (status = 'valid' OR status IS NULL)
  AND (expires_at IS NULL OR expires_at > %(now)s)

-- name: targets_with_clues
SELECT target_id FROM (
    SELECT DISTINCT ON (target_id) target_id, result_json FROM biz.ai_cache
    WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND (status = 'valid' OR status IS NULL)
      AND (expires_at IS NULL OR expires_at > %(now)s)
    ORDER BY target_id, created_at DESC, id DESC
) AS newest
WHERE jsonb_path_exists(result_json, '$.clues[*].summary')

-- name: fresh_targets
SELECT target_id, max(created_at) AS created_at FROM biz.ai_cache
WHERE cache_type = ANY(%(cache_types)s) AND site_id = %(site_id)s AND target_id = ANY(%(target_ids)s)
  AND (status = 'valid' OR status IS NULL) AND (expires_at IS NULL OR expires_at > %(now)s)
GROUP BY target_id

-- name: of_jobs
-- What the jobs' calls brought, and what they found unchanged: the answer of the same input that was the target's newest then.
SELECT cache_type, target_id, max(id) AS id
FROM (
    SELECT answer.cache_type, answer.target_id, answer.id
    FROM biz.ai_run_logs log JOIN biz.ai_cache answer ON answer.run_log_id = log.id
    WHERE log.trigger_job_id = ANY(%(job_ids)s) AND log.status = 'success' AND (answer.status = 'valid' OR answer.status IS NULL)
    UNION ALL
    SELECT reused.cache_type, reused.target_id, reused.id
    FROM biz.ai_run_logs log
    CROSS JOIN LATERAL (
        SELECT answer.cache_type, answer.target_id, answer.id FROM biz.ai_cache answer
        WHERE answer.cache_type = ANY(%(cache_types)s) AND answer.site_id = log.site_id AND answer.target_id = log.target_id
          AND answer.input_hash = log.input_hash AND answer.created_at <= log.created_at AND (answer.status = 'valid' OR answer.status IS NULL)
        ORDER BY answer.created_at DESC, answer.id DESC LIMIT 1
    ) AS reused
    WHERE log.trigger_job_id = ANY(%(job_ids)s) AND log.status = 'reused' AND log.input_hash IS NOT NULL
) AS own
GROUP BY cache_type, target_id

-- name: count_invalidatable
-- The member's part of a target: all of it, or what follows the assistant's.
SELECT cache_type, CASE WHEN cache_type LIKE 'app2%%' THEN NULL WHEN cache_type IN ('app4_analysis', 'app5_tactics') THEN split_part(target_id, '_', 2) ELSE target_id END AS member, count(*)::integer AS rows
FROM biz.ai_cache
WHERE site_id = %(site_id)s AND cache_type = ANY(%(cache_types)s) AND (status = 'valid' OR status IS NULL)
  AND (%(target_id)s::text IS NULL OR target_id = %(target_id)s)
  AND (%(member)s::text IS NULL
       OR CASE WHEN cache_type LIKE 'app2%%' THEN NULL WHEN cache_type IN ('app4_analysis', 'app5_tactics') THEN split_part(target_id, '_', 2) ELSE target_id END = %(member)s)
GROUP BY 1, 2

-- name: invalidate
WITH invalidated AS (
    UPDATE biz.ai_cache SET status = 'invalidated'
    WHERE site_id = %(site_id)s AND cache_type = ANY(%(cache_types)s) AND (status = 'valid' OR status IS NULL)
      AND (%(target_id)s::text IS NULL OR target_id = %(target_id)s)
      AND (%(member)s::text IS NULL
           OR CASE WHEN cache_type LIKE 'app2%%' THEN NULL WHEN cache_type IN ('app4_analysis', 'app5_tactics') THEN split_part(target_id, '_', 2) ELSE target_id END = %(member)s)
    RETURNING cache_type, CASE WHEN cache_type LIKE 'app2%%' THEN NULL WHEN cache_type IN ('app4_analysis', 'app5_tactics') THEN split_part(target_id, '_', 2) ELSE target_id END AS member
)
SELECT cache_type, member, count(*)::integer AS rows FROM invalidated GROUP BY 1, 2

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_cache

-- name: crowded
-- Hops over the index from pair to pair, instead of reading it all.
WITH RECURSIVE pair AS (
    (SELECT cache_type, site_id FROM biz.ai_cache WHERE cache_type IS NOT NULL AND site_id IS NOT NULL ORDER BY cache_type, site_id LIMIT 1)
    UNION ALL
    SELECT next_pair.cache_type, next_pair.site_id
    FROM pair CROSS JOIN LATERAL (
        SELECT cache_type, site_id FROM biz.ai_cache entry
        WHERE (entry.cache_type, entry.site_id) > (pair.cache_type, pair.site_id) ORDER BY cache_type, site_id LIMIT 1
    ) AS next_pair
)
SELECT cache_type, site_id FROM pair
WHERE EXISTS (
    SELECT FROM biz.ai_cache entry WHERE entry.cache_type = pair.cache_type AND entry.site_id = pair.site_id
    ORDER BY created_at DESC OFFSET %(keep)s LIMIT 1
)

-- name: count_surplus
-- The two newest rows of each target are set aside; of the others the newest `keep` stay.
SELECT greatest(0, count(*) - %(keep)s) AS rows FROM (
    SELECT row_number() OVER (PARTITION BY target_id ORDER BY created_at DESC, id DESC) AS newest_of_target
    FROM biz.ai_cache
    WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND status IS DISTINCT FROM 'generating'
) AS ranked WHERE newest_of_target > 2

-- name: pick_surplus
SELECT id AS key, created_at AS at FROM (
    SELECT id, created_at, row_number() OVER (ORDER BY created_at DESC, id DESC) AS newest FROM (
        SELECT id, created_at, row_number() OVER (PARTITION BY target_id ORDER BY created_at DESC, id DESC) AS newest_of_target
        FROM biz.ai_cache
        WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND status IS DISTINCT FROM 'generating'
    ) AS ranked WHERE newest_of_target > 2
) AS others
WHERE newest > %(keep)s AND (created_at, id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY created_at, id LIMIT %(rows)s

-- name: delete_surplus
-- Looks again whether the target still has two newer rows: another writer may have deleted some.
DELETE FROM biz.ai_cache WHERE id IN (
    SELECT id FROM biz.ai_cache old
    WHERE id = ANY(%(keys)s::bigint[]) AND status IS DISTINCT FROM 'generating' AND EXISTS (
        SELECT FROM biz.ai_cache newer
        WHERE newer.cache_type = old.cache_type AND newer.site_id = old.site_id AND newer.target_id = old.target_id
          AND newer.status IS DISTINCT FROM 'generating' AND newer.created_at >= old.created_at
          AND (newer.created_at, newer.id) > (old.created_at, old.id)
        OFFSET 1 LIMIT 1
    )
    FOR UPDATE OF old SKIP LOCKED
)

-- name: count_generating
SELECT count(*) AS rows FROM biz.ai_cache WHERE status = 'generating' AND created_at < %(before)s

-- name: pick_generating
SELECT id AS key, created_at AS at FROM biz.ai_cache
WHERE status = 'generating' AND created_at < %(before)s AND (created_at, id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY created_at, id LIMIT %(rows)s

-- name: delete_generating
DELETE FROM biz.ai_cache WHERE id IN (
    SELECT id FROM biz.ai_cache WHERE id = ANY(%(keys)s::bigint[]) AND status = 'generating' FOR UPDATE SKIP LOCKED
)
