-- name: lock_alerts
SELECT pg_advisory_xact_lock(7204103001)

-- name: same_trouble
SELECT id, alert_status, severity FROM biz.ai_alerts WHERE fingerprint = %(fingerprint)s FOR UPDATE

-- name: oldest_open
SELECT app_type FROM biz.ai_alerts
WHERE alert_type = %(alert_type)s AND alert_status IN ('open', 'acked') AND fingerprint IS NOT NULL AND app_type IS NOT NULL
ORDER BY opened_at, id LIMIT 1

-- name: open
INSERT INTO biz.ai_alerts (fingerprint, alert_type, severity, site_id, app_type, message, log_id, alert_status, occurrences, created_at,
                           opened_at, last_seen_at)
VALUES (%(fingerprint)s, %(alert_type)s, %(severity)s, %(site_id)s, %(app_type)s, %(message)s, %(log_id)s, 'open', 1, clock_timestamp(),
        clock_timestamp(), clock_timestamp())
RETURNING id

-- name: count_again
UPDATE biz.ai_alerts
SET occurrences = occurrences + 1, last_seen_at = clock_timestamp(), message = %(message)s, severity = %(severity)s,
    log_id = coalesce(%(log_id)s, log_id)
WHERE id = %(id)s

-- name: reopen
UPDATE biz.ai_alerts
SET occurrences = occurrences + 1, reopened_count = reopened_count + 1, last_seen_at = clock_timestamp(), opened_at = clock_timestamp(),
    message = %(message)s, severity = %(severity)s, log_id = %(log_id)s, alert_status = 'open', status_changed_at = clock_timestamp(),
    status_changed_by = 'zqyy_ai', status_reason = NULL, resolved_at = NULL
WHERE id = %(id)s

-- name: unresolved_id
SELECT id FROM biz.ai_alerts WHERE fingerprint = %(fingerprint)s AND alert_status IS DISTINCT FROM 'resolved'

-- name: get
SELECT * FROM biz.ai_alerts WHERE id = %(id)s

-- name: get_for_update
SELECT * FROM biz.ai_alerts WHERE id = %(id)s FOR UPDATE

-- name: set_status
UPDATE biz.ai_alerts
SET alert_status = %(status)s, status_changed_at = clock_timestamp(), status_changed_by = %(by)s, status_reason = %(reason)s,
    resolved_at = CASE WHEN %(status)s = 'resolved' THEN clock_timestamp() END
WHERE id = %(id)s
RETURNING *

-- name: list
SELECT * FROM biz.ai_alerts
-- Another system's row may have no status, or one that we do not know: nobody has dealt with it.
WHERE CASE WHEN alert_status IN ('acked', 'ignored', 'resolved') THEN alert_status ELSE 'open' END = ANY(%(statuses)s)
ORDER BY (severity = 'critical') DESC NULLS LAST, last_seen_at DESC NULLS LAST, id DESC
LIMIT %(limit)s

-- name: count_open
SELECT coalesce(alert_type, '') AS alert_type, coalesce(severity, '') AS severity, site_id, count(*) AS alerts FROM biz.ai_alerts
WHERE coalesce(alert_status, 'open') NOT IN ('acked', 'ignored', 'resolved')
  AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
GROUP BY 1, 2, 3

-- name: count_page
SELECT count(*) AS alerts FROM biz.ai_alerts
WHERE (%(status)s::text IS NULL
       OR CASE WHEN alert_status IN ('acked', 'ignored', 'resolved') THEN alert_status ELSE 'open' END = %(status)s)
  AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))

-- name: page
SELECT * FROM biz.ai_alerts
WHERE (%(status)s::text IS NULL
       OR CASE WHEN alert_status IN ('acked', 'ignored', 'resolved') THEN alert_status ELSE 'open' END = %(status)s)
  AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
ORDER BY coalesce(last_seen_at, opened_at, created_at) DESC NULLS LAST, id DESC OFFSET %(offset)s LIMIT %(rows)s

-- name: tell
INSERT INTO biz.ai_alert_deliveries (alert_id, change) VALUES (%(alert_id)s, %(change)s)

-- name: over
-- Open or acked alerts whose cause is over. Of the account: its hold has ended (and the process that ended it died before it said so). Of
-- breakers and throttling: closed, and not opened again for a short while. Of calls: those of their scope succeed, and it did not happen
-- again for a long while. An ignored one stays: resolved, its next occurrence would be told again.
SELECT fingerprint FROM biz.ai_alerts alert
WHERE fingerprint IS NOT NULL AND alert_status IN ('open', 'acked')
  AND CASE
      WHEN alert_type = 'account_held' THEN
          NOT EXISTS (SELECT FROM biz.ai_breakers WHERE app_type = '*' AND state <> 'closed')
      WHEN alert_type = 'circuit_open' THEN
          last_seen_at < clock_timestamp() - %(breaker_quiet)s
          -- One alert tells of all applications whose breakers opened in one trouble.
          AND NOT EXISTS (SELECT FROM biz.ai_breakers WHERE app_type <> '*' AND app_type NOT LIKE 'throttled:%%' AND state <> 'closed')
      WHEN fingerprint = %(throttled)s THEN
          last_seen_at < clock_timestamp() - %(breaker_quiet)s
          AND NOT EXISTS (SELECT FROM biz.ai_breakers WHERE app_type LIKE 'throttled:%%' AND state <> 'closed')
      WHEN alert_type IN ('timeout', 'configuration', 'budget_exceeded', 'rate_limited', 'log_unwritable') OR (alert_type = 'failed' AND app_type IS NOT NULL) THEN
          last_seen_at < clock_timestamp() - %(quiet)s
          AND EXISTS (SELECT FROM biz.ai_run_logs log
                      WHERE log.status = 'success' AND log.runtime_mode = 'live' AND log.created_at > alert.last_seen_at
                        AND (alert.site_id IS NULL OR log.site_id = alert.site_id)
                        AND (alert.app_type IS NULL OR log.app_type = alert.app_type))
      ELSE false
  END

-- name: count_rows
SELECT count(*) AS rows FROM biz.ai_alerts

-- name: count_resolved
SELECT count(*) AS rows FROM biz.ai_alerts WHERE alert_status = 'resolved' AND coalesce(resolved_at, last_seen_at, created_at) < %(before)s

-- name: pick_resolved
SELECT id AS key, coalesce(resolved_at, last_seen_at, created_at) AS at FROM biz.ai_alerts
WHERE alert_status = 'resolved' AND coalesce(resolved_at, last_seen_at, created_at) < %(before)s
  AND (coalesce(resolved_at, last_seen_at, created_at), id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY 2, 1 LIMIT %(rows)s

-- name: delete_resolved
DELETE FROM biz.ai_alerts WHERE id IN (
    SELECT id FROM biz.ai_alerts
    WHERE id = ANY(%(keys)s::bigint[]) AND alert_status = 'resolved' AND coalesce(resolved_at, last_seen_at, created_at) < %(before)s
    FOR UPDATE SKIP LOCKED
)

-- name: count_delivery_rows
SELECT count(*) AS rows FROM biz.ai_alert_deliveries

-- name: count_ended_deliveries
SELECT count(*) AS rows FROM biz.ai_alert_deliveries WHERE coalesce(sent_at, gave_up_at) < %(before)s

-- name: pick_ended_deliveries
SELECT id AS key, coalesce(sent_at, gave_up_at) AS at FROM biz.ai_alert_deliveries
WHERE coalesce(sent_at, gave_up_at) < %(before)s
  AND (coalesce(sent_at, gave_up_at), id) > (%(after_at)s::timestamptz, %(after_key)s::bigint)
ORDER BY 2, 1 LIMIT %(rows)s

-- name: delete_ended_deliveries
DELETE FROM biz.ai_alert_deliveries WHERE id IN (
    SELECT id FROM biz.ai_alert_deliveries
    WHERE id = ANY(%(keys)s::bigint[]) AND coalesce(sent_at, gave_up_at) < %(before)s FOR UPDATE SKIP LOCKED
)
