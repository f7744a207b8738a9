-- name: publish
WITH event AS (
    INSERT INTO biz.ai_live_events (event_type, site_id, payload) VALUES (%(event_type)s, %(site_id)s, %(payload)s) RETURNING id
)
SELECT pg_notify('zqyy_ai_live', event.id::text) FROM event

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_live_events

-- name: count_old
SELECT count(*) AS rows FROM biz.ai_live_events WHERE created_at < %(before)s

-- name: pick_old
SELECT id AS key, created_at AS at FROM biz.ai_live_events
WHERE created_at < %(before)s AND (created_at, id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY created_at, id LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_live_events WHERE id IN (SELECT id FROM biz.ai_live_events WHERE id = ANY(%(keys)s::bigint[]) FOR UPDATE SKIP LOCKED)
