-- name: clear
DELETE FROM biz.ai_stream_tickets WHERE expires_at <= clock_timestamp()

-- name: issue
INSERT INTO biz.ai_stream_tickets (ticket_hash, token_id, session_hash, expires_at)
VALUES (%(ticket_hash)s, %(token_id)s, %(session_hash)s, clock_timestamp() + %(lifetime)s) RETURNING expires_at

-- name: redeem
-- Of two at once, the second finds nothing to delete.
WITH used AS (
    DELETE FROM biz.ai_stream_tickets WHERE ticket_hash = %(ticket_hash)s RETURNING token_id, session_hash, expires_at
)
SELECT token.id, token.name, token.role, token.site_ids, used.session_hash
FROM used JOIN biz.ai_api_tokens token ON token.id = used.token_id AND token.revoked_at IS NULL
WHERE used.expires_at > clock_timestamp()
