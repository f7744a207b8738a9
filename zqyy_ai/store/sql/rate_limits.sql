-- A row whose arrival time is in the past means the same as no row.

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_rate_limits

-- name: count_idle
SELECT count(*) AS rows FROM biz.ai_rate_limits WHERE theoretical_arrival_at < %(before)s

-- name: pick_idle
SELECT rate_key AS key, theoretical_arrival_at AS at FROM biz.ai_rate_limits
WHERE theoretical_arrival_at < %(before)s AND (theoretical_arrival_at, rate_key) > (%(after_at)s::timestamptz, %(after_key)s)
ORDER BY 2, 1 LIMIT %(rows)s

-- name: delete_idle
DELETE FROM biz.ai_rate_limits WHERE rate_key IN (
    SELECT rate_key FROM biz.ai_rate_limits WHERE rate_key = ANY(%(keys)s) AND theoretical_arrival_at < %(before)s FOR UPDATE SKIP LOCKED
)
