-- name: reserve
SELECT biz.ai_reserve_budget(%(token)s, %(worker_id)s, %(site_id)s, %(app_type)s, %(tokens)s, %(lease)s, %(site_cutoff)s,
                             %(daily)s, %(monthly)s, %(site_daily)s, %(site_monthly)s) AS refused_by

-- name: mark_sent
UPDATE biz.ai_budget_reservations SET sent_at = clock_timestamp() WHERE token = %(token)s

-- name: settle
SELECT biz.ai_settle_budget(%(token)s, %(spent_tokens)s) AS settled

-- name: of_the_dead
SELECT token, tokens, sent_at FROM biz.ai_budget_reservations
WHERE lease_expires_at < clock_timestamp() OR (%(worker_id)s::uuid IS NOT NULL AND worker_id = %(worker_id)s)
ORDER BY token FOR UPDATE SKIP LOCKED
