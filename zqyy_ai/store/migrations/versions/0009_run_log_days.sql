-- The sums of the run logs: by day (of Asia/Shanghai) for who looks at a range, since ever for counters that must never go back.
--
-- A row of the run logs is in exactly one place: in the sums, when it was created before `closed_until`, and otherwise read from
-- biz.ai_run_logs itself. Hours are closed when their rows have ended (store/run_log_sums.py); the day's row grows with each of them.
-- By day and not by hour: of a chain with some hundred calls an hour, hours by site and application are as many rows as the logs.

-- What became of a row: its status, but `refused` for what never reached the model because a guard said no. Such a row has the guard's
-- reason in place of a message (`budget_exceeded:daily`); those of the old dispatcher have no error code.
CREATE FUNCTION biz.ai_run_outcome(status text, error_code text, error_message text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN status = 'failed' AND (
            error_code = 'not_sent'
            OR error_message ~ '^[a-z_]+(:[a-z_]+)?$' AND (split_part(error_message, ':', 1) = error_code
                OR error_code IS NULL AND split_part(error_message, ':', 1) IN ('circuit_open', 'rate_limited', 'budget_exceeded'))
        ) THEN 'refused'
        ELSE coalesce(status, '')
    END
$$;

-- The old dispatcher's name of App8.
CREATE FUNCTION biz.ai_run_app(app_type text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE app_type WHEN 'app8_consolidate' THEN 'app8_consolidation' ELSE coalesce(app_type, '') END
$$;

-- `refusal`: of refused rows the reason without its detail, else ''. `tokens` is what was charged; of calls whose usage was not reported it
-- is an estimate, and input and output are 0.
CREATE TABLE biz.ai_run_log_days (
    day           date NOT NULL,
    site_id       bigint,
    app_type      text NOT NULL,
    trigger_type  text NOT NULL,
    outcome       text NOT NULL,
    refusal       text NOT NULL,
    logs          bigint NOT NULL,
    tokens        bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL,
    latency_ms    bigint NOT NULL
);
-- Adopted logs may lack their site.
CREATE UNIQUE INDEX ai_run_log_days_key ON biz.ai_run_log_days (day, coalesce(site_id, 0), app_type, trigger_type, outcome, refusal);
CREATE INDEX ai_run_log_days_site_idx ON biz.ai_run_log_days (site_id, day);

-- The same since ever; retention leaves it alone. `latency_counts[i]`: rows of at most the i-th bound of store/run_log_sums.py.
CREATE TABLE biz.ai_run_log_totals (
    site_id        bigint,
    app_type       text NOT NULL,
    outcome        text NOT NULL,
    refusal        text NOT NULL,
    logs           bigint NOT NULL,
    tokens         bigint NOT NULL,
    input_tokens   bigint NOT NULL,
    output_tokens  bigint NOT NULL,
    latency_ms     bigint NOT NULL,
    latency_counts bigint[] NOT NULL,
    last_at        timestamptz NOT NULL
);
CREATE UNIQUE INDEX ai_run_log_totals_key ON biz.ai_run_log_totals (coalesce(site_id, 0), app_type, outcome, refusal);

CREATE FUNCTION biz.ai_add_counts(counts bigint[], more bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY place) FROM unnest(counts, more) WITH ORDINALITY AS pair (a, b, place)
$$;

-- One row. NULL: nothing is closed yet.
CREATE TABLE biz.ai_run_log_watermark (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    closed_until timestamptz
);
INSERT INTO biz.ai_run_log_watermark DEFAULT VALUES;

SELECT biz.ai_isolate_by_site('biz.ai_run_log_days');
SELECT biz.ai_isolate_by_site('biz.ai_run_log_totals');
GRANT SELECT, INSERT, UPDATE ON biz.ai_run_log_days, biz.ai_run_log_totals TO zqyy_api;
GRANT SELECT, UPDATE ON biz.ai_run_log_watermark TO zqyy_api;

-- What the lists look for.
CREATE INDEX IF NOT EXISTS ai_run_logs_member_idx ON biz.ai_run_logs (member_id, created_at DESC) WHERE member_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS ai_events_rejected_idx ON biz.ai_events (id) WHERE rejected_reason IS NOT NULL;
CREATE INDEX IF NOT EXISTS ai_trigger_jobs_last_event_idx ON biz.ai_trigger_jobs (last_event_at) WHERE last_event_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ai_trigger_jobs_created_idx ON biz.ai_trigger_jobs (created_at DESC, id DESC);
