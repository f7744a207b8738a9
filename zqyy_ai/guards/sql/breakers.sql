-- name: not_closed
-- A pause comes along in the same look: '' is no breaker's name.
SELECT app_type FROM biz.ai_breakers WHERE app_type = ANY(%(app_types)s) AND state <> 'closed'
UNION ALL SELECT '' FROM biz.ai_call_pauses WHERE resumed_at IS NULL

-- name: lock
INSERT INTO biz.ai_breakers AS breaker (app_type) VALUES (%(app_type)s)
ON CONFLICT (app_type) DO UPDATE SET app_type = breaker.app_type
RETURNING state, failures, retry_at, probe_token, probe_lease_expires_at, reason, clock_timestamp() AS now

-- name: save
UPDATE biz.ai_breakers
SET state = %(state)s, failures = %(failures)s, retry_at = %(retry_at)s, probe_token = %(probe_token)s,
    probe_lease_expires_at = %(probe_lease_expires_at)s, reason = %(reason)s, changed_at = clock_timestamp()
WHERE app_type = %(app_type)s

-- name: succeeded
WITH closing AS MATERIALIZED (
    SELECT app_type FROM biz.ai_breakers
    WHERE app_type = ANY(%(app_types)s)
      AND ((state = 'closed' AND failures > 0) OR (state = 'half_open' AND probe_token = %(probe_token)s))
    ORDER BY app_type COLLATE "C" FOR UPDATE
)
UPDATE biz.ai_breakers AS breaker
SET state = 'closed', failures = 0, retry_at = NULL, probe_token = NULL, probe_lease_expires_at = NULL, reason = NULL,
    changed_at = clock_timestamp()
FROM closing WHERE breaker.app_type = closing.app_type
RETURNING breaker.app_type

-- name: end_probe
WITH probed AS MATERIALIZED (
    SELECT app_type FROM biz.ai_breakers
    WHERE state = 'half_open' AND probe_token = %(probe_token)s
    ORDER BY app_type COLLATE "C" FOR UPDATE
)
UPDATE biz.ai_breakers AS breaker
SET probe_lease_expires_at = clock_timestamp(), changed_at = clock_timestamp()
FROM probed WHERE breaker.app_type = probed.app_type
