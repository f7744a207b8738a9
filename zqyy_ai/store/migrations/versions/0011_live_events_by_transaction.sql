-- Ids are given before the commit: a reader that goes on behind the last id it saw passes over what is committed late. By the writing
-- transaction and a snapshot, what became visible since is exact. Rows from before count as seen by everybody (0 is in every snapshot).
ALTER TABLE biz.ai_live_events ADD COLUMN transaction_id xid8 NOT NULL DEFAULT '0';
ALTER TABLE biz.ai_live_events ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id();
CREATE INDEX ai_live_events_transaction_idx ON biz.ai_live_events (transaction_id);

-- What a browser opens a stream with, since it can't send a header there: once, within a minute. The hash alone is kept.
CREATE TABLE biz.ai_stream_tickets (
    ticket_hash  bytea PRIMARY KEY,
    token_id     bigint NOT NULL REFERENCES biz.ai_api_tokens (id) ON DELETE CASCADE,
    -- The console's login that asked for it; NULL: the token itself did.
    session_hash bytea REFERENCES biz.ai_sessions (session_hash) ON DELETE CASCADE,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX ai_stream_tickets_expires_idx ON biz.ai_stream_tickets (expires_at);
CREATE INDEX ai_stream_tickets_session_idx ON biz.ai_stream_tickets (session_hash);

GRANT SELECT, INSERT, DELETE ON biz.ai_stream_tickets TO zqyy_api;
