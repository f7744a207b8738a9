-- Batches that people ask for through the API: an estimate that is bound to its selection, confirmed once, and may be cancelled.

-- `selection`: the applications and members as asked for. `digest`: the targets that the estimate found; a confirmation that finds others is
-- refused. The jobs of a confirmed batch name it in ai_trigger_jobs.batch_id.
CREATE TABLE biz.ai_batches (
    id               uuid PRIMARY KEY,
    site_id          bigint NOT NULL,
    selection        jsonb NOT NULL,
    digest           text NOT NULL,
    calls_by_app     jsonb NOT NULL,
    estimated_tokens bigint NOT NULL,
    estimated_cny    numeric(14, 2) NOT NULL,
    estimated_minutes double precision NOT NULL,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at       timestamptz NOT NULL,
    confirmed_by     text,
    confirmed_at     timestamptz,
    cancelled_by     text,
    cancelled_at     timestamptz
);
CREATE INDEX ai_batches_created_idx ON biz.ai_batches (created_at);

SELECT biz.ai_isolate_by_site('biz.ai_batches');

DO $$
BEGIN
    GRANT SELECT, INSERT, UPDATE ON biz.ai_batches TO zqyy_api;
    -- How many calls are under way when a pause begins.
    GRANT SELECT ON biz.ai_call_slots TO zqyy_api;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'zqyy_ai: % may not grant zqyy_api what the API needs: %. Nothing was changed. Migrate as an administrator.',
            current_user, SQLERRM USING ERRCODE = 'ZQ001';
END
$$;
