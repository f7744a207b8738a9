-- Retention: finds what is old without reading what is not.

-- When prompt and reply were taken out of the row.
ALTER TABLE biz.ai_run_logs ADD COLUMN IF NOT EXISTS redacted_at timestamptz;

CREATE INDEX IF NOT EXISTS ai_run_logs_created_idx ON biz.ai_run_logs (created_at, id);
CREATE INDEX IF NOT EXISTS ai_run_logs_with_text_idx ON biz.ai_run_logs (created_at, id) WHERE redacted_at IS NULL;
CREATE INDEX IF NOT EXISTS ai_live_events_created_idx ON biz.ai_live_events (created_at, id);
CREATE INDEX IF NOT EXISTS ai_trigger_jobs_finished_idx ON biz.ai_trigger_jobs (finished_at, id)
    WHERE status IN ('completed', 'partial', 'failed', 'dead');
CREATE INDEX IF NOT EXISTS ai_trigger_jobs_retry_idx ON biz.ai_trigger_jobs (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX IF NOT EXISTS ai_events_handled_idx ON biz.ai_events (handled_at, id) WHERE handled_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ai_events_job_idx ON biz.ai_events (trigger_job_id) WHERE trigger_job_id IS NOT NULL;
-- In place of ai_cache_target_idx, which has neither the id that ties are broken by nor the status: the ranks within a target are read from
-- the index alone, without the answers, which are large.
CREATE INDEX IF NOT EXISTS ai_cache_newest_of_target_idx ON biz.ai_cache (cache_type, site_id, target_id, created_at DESC, id DESC) INCLUDE (status);
DROP INDEX IF EXISTS biz.ai_cache_target_idx;
CREATE INDEX IF NOT EXISTS ai_cache_generating_idx ON biz.ai_cache (created_at, id) WHERE status = 'generating';

-- Jobs that must stay although they ended before `before`: those that a younger or unfinished retry names, and what these retried.
CREATE OR REPLACE FUNCTION biz.ai_jobs_needed(before timestamptz) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    WITH RECURSIVE needed AS (
        SELECT child.retry_of AS id FROM biz.ai_trigger_jobs child
        WHERE child.retry_of IS NOT NULL
          AND (coalesce(child.status, '') NOT IN ('completed', 'partial', 'failed', 'dead') OR child.finished_at IS NULL
               OR child.finished_at >= before)
        UNION
        SELECT parent.retry_of FROM needed JOIN biz.ai_trigger_jobs parent ON parent.id = needed.id WHERE parent.retry_of IS NOT NULL
    )
    SELECT id FROM needed
$$;
