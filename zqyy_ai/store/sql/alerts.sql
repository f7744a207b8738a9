-- name: count_again
UPDATE biz.ai_alerts SET occurrences = occurrences + 1, last_seen_at = clock_timestamp(), message = %(message)s, log_id = coalesce(%(log_id)s, log_id)
WHERE id = (SELECT id FROM biz.ai_alerts WHERE fingerprint = %(fingerprint)s AND alert_status = 'open' ORDER BY id DESC LIMIT 1 FOR UPDATE)
RETURNING id

-- name: open
INSERT INTO biz.ai_alerts (fingerprint, alert_type, severity, site_id, app_type, message, log_id)
VALUES (%(fingerprint)s, %(alert_type)s, %(severity)s, %(site_id)s, %(app_type)s, %(message)s, %(log_id)s)
RETURNING id

-- name: lock_fingerprint
SELECT pg_advisory_xact_lock(hashtextextended(%(fingerprint)s, 7204))
