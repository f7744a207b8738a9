-- name: get
SELECT mode, business_date, updated_at, updated_by FROM biz.ai_runtime_contexts WHERE site_id = %(site_id)s

-- name: put
INSERT INTO biz.ai_runtime_contexts AS context (site_id, mode, business_date, updated_by)
VALUES (%(site_id)s, %(mode)s, %(business_date)s, %(updated_by)s)
ON CONFLICT (site_id) DO UPDATE
SET mode = excluded.mode, business_date = excluded.business_date, updated_by = excluded.updated_by, updated_at = clock_timestamp()

-- name: sandboxed
SELECT site_id, business_date FROM biz.ai_runtime_contexts
WHERE mode = 'sandbox' AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[])) ORDER BY site_id
