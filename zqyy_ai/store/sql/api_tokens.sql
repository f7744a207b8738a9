-- name: create
INSERT INTO biz.ai_api_tokens (public_id, secret_hash, name, role, site_ids)
VALUES (%(public_id)s, %(secret_hash)s, %(name)s, %(role)s, %(site_ids)s::bigint[])

-- name: by_public_id
SELECT id, secret_hash, name, role, site_ids, coalesce(last_used_at < clock_timestamp() - interval '1 minute', true) AS is_use_due
FROM biz.ai_api_tokens WHERE public_id = %(public_id)s AND revoked_at IS NULL

-- name: used
-- SKIP LOCKED: of requests at once, one notes it.
UPDATE biz.ai_api_tokens SET last_used_at = clock_timestamp()
WHERE id IN (SELECT id FROM biz.ai_api_tokens WHERE id = %(token_id)s FOR UPDATE SKIP LOCKED)

-- name: all
SELECT id, name, role, site_ids, created_at, revoked_at, last_used_at FROM biz.ai_api_tokens ORDER BY id DESC

-- name: revoke
UPDATE biz.ai_api_tokens SET revoked_at = clock_timestamp() WHERE id = %(token_id)s AND revoked_at IS NULL

-- name: open_session
INSERT INTO biz.ai_sessions (session_hash, token_id, csrf_token, expires_at)
VALUES (%(session_hash)s, %(token_id)s, %(csrf_token)s, clock_timestamp() + %(lifetime)s) RETURNING expires_at

-- name: session
SELECT token.id, token.name, token.role, token.site_ids, session.csrf_token, session.expires_at
FROM biz.ai_sessions session JOIN biz.ai_api_tokens token ON token.id = session.token_id AND token.revoked_at IS NULL
WHERE session.session_hash = %(session_hash)s AND session.expires_at > clock_timestamp()

-- name: close_session
DELETE FROM biz.ai_sessions WHERE session_hash = %(session_hash)s

-- name: clear_sessions
DELETE FROM biz.ai_sessions WHERE expires_at <= clock_timestamp()

-- name: still_valid
SELECT array(SELECT id FROM biz.ai_api_tokens WHERE id = ANY(%(token_ids)s::bigint[]) AND revoked_at IS NULL) AS token_ids,
       array(SELECT session_hash FROM biz.ai_sessions
             WHERE session_hash = ANY(%(session_hashes)s::bytea[]) AND expires_at > clock_timestamp()) AS session_hashes
