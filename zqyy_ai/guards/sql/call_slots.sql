-- name: provide
INSERT INTO biz.ai_call_slots (slot_number) SELECT generate_series(1, %(slots)s::integer) ON CONFLICT DO NOTHING

-- name: take
UPDATE biz.ai_call_slots
SET token = %(token)s, worker_id = %(worker_id)s, lease_expires_at = clock_timestamp() + %(lease)s
WHERE slot_number = (
    SELECT slot_number FROM biz.ai_call_slots
    WHERE slot_number <= %(slots)s AND (token IS NULL OR lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds')
    ORDER BY slot_number LIMIT 1 FOR UPDATE SKIP LOCKED
)
-- Not synced: the commit that marks the call as sent is, and everything before it with it.
RETURNING slot_number, set_config('synchronous_commit', 'off', true)

-- name: renew
UPDATE biz.ai_call_slots SET lease_expires_at = clock_timestamp() + %(lease)s WHERE slot_number = %(slot_number)s AND token = %(token)s

-- name: held
SELECT slot_number FROM biz.ai_call_slots WHERE token = %(token)s

-- name: release
UPDATE biz.ai_call_slots SET token = NULL, worker_id = NULL, lease_expires_at = NULL
WHERE slot_number = %(slot_number)s AND token = %(token)s
-- Not synced either: a crash leaves it taken until its worker's lease runs out.
RETURNING set_config('synchronous_commit', 'off', true)
