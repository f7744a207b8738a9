-- name: give_up_old
UPDATE biz.ai_alert_deliveries SET gave_up_at = clock_timestamp(), last_error = coalesce(last_error, %(reason)s)
WHERE sent_at IS NULL AND gave_up_at IS NULL AND created_at < clock_timestamp() - %(after)s

-- name: address
WITH unaddressed AS (
    DELETE FROM biz.ai_alert_deliveries
    WHERE id IN (SELECT id FROM biz.ai_alert_deliveries WHERE target IS NULL AND sent_at IS NULL AND gave_up_at IS NULL FOR UPDATE SKIP LOCKED)
    RETURNING id, alert_id, change, created_at
)
INSERT INTO biz.ai_alert_deliveries (alert_id, change, created_at, target)
SELECT alert_id, change, created_at, target FROM unaddressed CROSS JOIN unnest(%(targets)s::text[]) AS target ORDER BY unaddressed.id

-- name: claim
-- A target with a row that has to wait, because an attempt failed or is under way, is left alone with all its rows: one that does not
-- answer is not asked again for each new alert, and two deliverers do not write to one target side by side.
UPDATE biz.ai_alert_deliveries SET attempts = attempts + 1, next_try_at = clock_timestamp() + %(lease)s
WHERE id IN (
    SELECT id FROM biz.ai_alert_deliveries waiting
    WHERE target = %(target)s AND sent_at IS NULL AND gave_up_at IS NULL
      -- Looked at again on the row as it is when it is locked; the other look is as old as the statement, and does not see who was faster.
      AND next_try_at <= clock_timestamp()
      AND NOT EXISTS (SELECT FROM biz.ai_alert_deliveries held
                      WHERE held.target = waiting.target AND held.sent_at IS NULL AND held.gave_up_at IS NULL
                        AND held.next_try_at > clock_timestamp())
    ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, alert_id, change, attempts

-- name: mark_sent
UPDATE biz.ai_alert_deliveries SET sent_at = clock_timestamp(), last_error = NULL WHERE id = ANY(%(ids)s)

-- name: mark_failed
UPDATE biz.ai_alert_deliveries
SET last_error = %(error)s, next_try_at = clock_timestamp() + %(pause)s,
    gave_up_at = CASE WHEN attempts >= %(most_attempts)s THEN clock_timestamp() END
WHERE id = ANY(%(ids)s) AND sent_at IS NULL

-- name: undelivered
SELECT target, count(*) AS deliveries, max(last_error) AS last_error FROM biz.ai_alert_deliveries
WHERE sent_at IS NULL AND target IS NOT NULL AND last_error IS NOT NULL AND created_at > clock_timestamp() - %(since)s
GROUP BY target ORDER BY target
