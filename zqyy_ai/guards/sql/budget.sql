-- name: reserve
SELECT refused_by, retry_at
FROM biz.ai_reserve_tokens(%(token)s, %(worker_id)s, %(site_id)s, %(app_type)s, %(tokens)s, %(lease)s, %(site_cutoff)s,
                           %(daily)s, %(monthly)s, %(site_daily)s, %(site_monthly)s)

-- name: reserve_in_sandbox
SELECT refused_by, retry_at
FROM biz.ai_reserve_sandbox_tokens(%(token)s, %(worker_id)s, %(site_id)s, %(app_type)s, %(tokens)s, %(lease)s, %(sandbox_daily)s)

-- name: mark_sent
UPDATE biz.ai_budget_reservations
SET sent_at = clock_timestamp(), run_log_id = %(run_log_id)s, lease_expires_at = clock_timestamp() + %(lease)s
WHERE token = %(token)s

-- name: settle
SELECT scope, kind, starts_on, used_tokens, reserved_tokens, run_log_id FROM biz.ai_settle_tokens(%(token)s, %(spent_tokens)s)

-- name: of_the_dead
SELECT token, tokens, sent_at FROM biz.ai_budget_reservations
WHERE CASE WHEN %(worker_ids)s::uuid[] IS NULL THEN lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds'
           ELSE worker_id = ANY(%(worker_ids)s) END
ORDER BY token FOR UPDATE SKIP LOCKED

-- name: lock_windows
-- Those of several reservations: before the first of them is settled, so that all are locked in key order.
SELECT FROM biz.ai_budget_windows AS budget_window
WHERE (scope, kind, starts_on) IN (
    SELECT own.scope, own.kind, own.starts_on
    FROM biz.ai_budget_reservations AS reservation, biz.ai_budget_windows_of(site_id, chain_day, site_day, is_sandbox) AS own
    WHERE token = ANY(%(tokens)s)
)
ORDER BY scope, kind, starts_on FOR UPDATE OF budget_window

-- name: current_windows
SELECT scope, kind, starts_on, used_tokens, reserved_tokens, overshoot_tokens
FROM (
    SELECT scope, time '00:00' AS cutoff FROM (VALUES ('chain'), ('sandbox')) AS shared (scope)
    UNION ALL
    SELECT 'site:' || site_id, coalesce(business_day_cutoff, time '00:00') FROM biz.sites WHERE site_id IS NOT NULL
) AS scopes
CROSS JOIN LATERAL (SELECT (clock_timestamp() AT TIME ZONE 'Asia/Shanghai' - (cutoff - time '00:00'))::date AS on_day) AS today
JOIN biz.ai_budget_windows USING (scope)
WHERE (kind = 'day' AND starts_on = on_day) OR (kind = 'month' AND starts_on = date_trunc('month', on_day::timestamp)::date)
ORDER BY scope, kind
