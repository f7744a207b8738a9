-- name: add
INSERT INTO biz.ai_batches (id, site_id, selection, digest, calls_by_app, estimated_tokens, estimated_cny, estimated_minutes, created_by, expires_at)
VALUES (%(id)s, %(site_id)s, %(selection)s, %(digest)s, %(calls_by_app)s, %(estimated_tokens)s, %(estimated_cny)s, %(estimated_minutes)s,
        %(created_by)s, clock_timestamp() + %(lifetime)s)
RETURNING *, false AS is_expired

-- name: get
SELECT *, expires_at <= clock_timestamp() AS is_expired FROM biz.ai_batches WHERE id = %(id)s

-- name: get_unless_locked
-- SKIP LOCKED: of many confirmations at once one goes on, and none holds a connection to wait for it.
SELECT *, expires_at <= clock_timestamp() AS is_expired FROM biz.ai_batches WHERE id = %(id)s FOR UPDATE SKIP LOCKED

-- name: get_locked
SELECT *, expires_at <= clock_timestamp() AS is_expired FROM biz.ai_batches WHERE id = %(id)s FOR UPDATE

-- name: confirmed
UPDATE biz.ai_batches SET confirmed_by = %(by)s, confirmed_at = clock_timestamp() WHERE id = %(id)s

-- name: cancelled
UPDATE biz.ai_batches SET cancelled_by = %(by)s, cancelled_at = clock_timestamp() WHERE id = %(id)s

-- name: is_cancelled
SELECT cancelled_at IS NOT NULL AS is_cancelled FROM biz.ai_batches WHERE id = %(id)s

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_batches

-- name: count_old
-- One whose jobs are still there is still asked about.
SELECT count(*) AS rows FROM biz.ai_batches batch
WHERE created_at < %(before)s AND NOT EXISTS (SELECT FROM biz.ai_trigger_jobs job WHERE job.batch_id = batch.id)

-- name: pick_old
SELECT id::text AS key, created_at AS at FROM biz.ai_batches batch
WHERE created_at < %(before)s AND NOT EXISTS (SELECT FROM biz.ai_trigger_jobs job WHERE job.batch_id = batch.id)
  AND (created_at, id::text) > (%(after_at)s::timestamptz, %(after_key)s)
ORDER BY created_at, id::text LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_batches WHERE id IN (
    SELECT id FROM biz.ai_batches batch
    WHERE id = ANY(%(keys)s::uuid[]) AND created_at < %(before)s
      AND NOT EXISTS (SELECT FROM biz.ai_trigger_jobs job WHERE job.batch_id = batch.id)
    FOR UPDATE SKIP LOCKED
)

-- name: newest
SELECT *, expires_at <= clock_timestamp() AS is_expired FROM biz.ai_batches
WHERE (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
ORDER BY created_at DESC LIMIT %(rows)s
