-- name: in_force
SELECT id, reason, paused_by, paused_at FROM biz.ai_call_pauses WHERE resumed_at IS NULL

-- name: pause
INSERT INTO biz.ai_call_pauses (reason, paused_by) VALUES (%(reason)s, %(paused_by)s)
ON CONFLICT ((true)) WHERE resumed_at IS NULL DO NOTHING
RETURNING id, reason, paused_by, paused_at

-- name: resume
UPDATE biz.ai_call_pauses SET resumed_by = %(resumed_by)s, resumed_at = clock_timestamp() WHERE resumed_at IS NULL
RETURNING id, reason, paused_by, paused_at

-- name: calls_in_flight
SELECT count(*) AS calls FROM biz.ai_call_slots WHERE token IS NOT NULL AND lease_expires_at >= clock_timestamp()
