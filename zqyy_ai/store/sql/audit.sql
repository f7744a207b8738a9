-- name: record
INSERT INTO biz.ai_audit (token_id, actor, action, site_id, subject, before, after, request_id)
VALUES (%(token_id)s, %(actor)s, %(action)s, %(site_id)s, %(subject)s, %(before)s, %(after)s, %(request_id)s)
