-- name: not_closed
SELECT app_type FROM biz.ai_breakers WHERE app_type = ANY(%(app_types)s) AND state <> 'closed'

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
UPDATE biz.ai_breakers
SET state = 'closed', failures = 0, retry_at = NULL, probe_token = NULL, probe_lease_expires_at = NULL, reason = NULL,
    changed_at = clock_timestamp()
WHERE app_type = ANY(%(app_types)s)
  AND ((state = 'closed' AND failures > 0) OR (state = 'half_open' AND probe_token = %(probe_token)s))

-- name: end_probe
UPDATE biz.ai_breakers
SET probe_lease_expires_at = clock_timestamp(), changed_at = clock_timestamp()
WHERE state = 'half_open' AND probe_token = %(probe_token)s
