-- name: publish
WITH event AS (
    INSERT INTO biz.ai_live_events (event_type, site_id, payload) VALUES (%(event_type)s, %(site_id)s, %(payload)s) RETURNING id
)
SELECT pg_notify('zqyy_ai_live', event.id::text) FROM event

-- name: since
-- One statement is one snapshot: the rows that it finds are those that the snapshot beside them sees. A database that was restored from a dump
-- may hold numbers of transactions that are still to come: nobody sees those.
SELECT pg_current_snapshot()::text AS snapshot, floor(extract(epoch FROM clock_timestamp()))::bigint AS read_at,
       floor(extract(epoch FROM pg_postmaster_start_time()))::bigint AS server_started_at,
       event.id, event.event_type, event.site_id, event.payload, event.created_at, event.transaction_id::text
FROM (VALUES (true)) AS always LEFT JOIN LATERAL (
    SELECT * FROM biz.ai_live_events
    WHERE transaction_id >= pg_snapshot_xmin(%(since)s::pg_snapshot)
      AND NOT pg_visible_in_snapshot(transaction_id, %(since)s::pg_snapshot)
      AND pg_visible_in_snapshot(transaction_id, pg_current_snapshot())
      AND (%(further)s::pg_snapshot IS NULL OR id > %(event_id)s OR NOT pg_visible_in_snapshot(transaction_id, %(further)s::pg_snapshot))
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s))
      AND (%(event_types)s::text[] IS NULL OR event_type = ANY(%(event_types)s))
    ORDER BY id LIMIT %(rows)s
) AS event ON true
ORDER BY event.id

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
