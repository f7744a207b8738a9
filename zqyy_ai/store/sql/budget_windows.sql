-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_budget_windows

-- name: count_old
-- A window that something is still reserved in is settled first.
SELECT count(*) AS rows FROM biz.ai_budget_windows WHERE starts_on < (%(before)s AT TIME ZONE 'Asia/Shanghai')::date AND reserved_tokens = 0

-- name: pick_old
SELECT concat_ws('|', scope, kind, starts_on) AS key, starts_on::timestamp AT TIME ZONE 'Asia/Shanghai' AS at FROM biz.ai_budget_windows
WHERE starts_on < (%(before)s AT TIME ZONE 'Asia/Shanghai')::date AND reserved_tokens = 0
  AND (starts_on::timestamp AT TIME ZONE 'Asia/Shanghai', concat_ws('|', scope, kind, starts_on)) > (%(after_at)s::timestamptz, %(after_key)s)
ORDER BY 2, 1 LIMIT %(rows)s

-- name: delete_old
DELETE FROM biz.ai_budget_windows WHERE (scope, kind, starts_on) IN (
    SELECT scope, kind, starts_on FROM biz.ai_budget_windows
    WHERE concat_ws('|', scope, kind, starts_on) = ANY(%(keys)s) AND starts_on < (%(before)s AT TIME ZONE 'Asia/Shanghai')::date AND reserved_tokens = 0
    FOR UPDATE SKIP LOCKED
)
