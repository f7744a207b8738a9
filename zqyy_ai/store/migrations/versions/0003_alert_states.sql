-- Alerts: one row a fingerprint, who changed its state and why, and the outbox of what is to be told.
--
-- biz.ai_alerts may have been another system's before (see 0001): its rows have no fingerprint and stay as they are.

DO $$
DECLARE
    refused record;
BEGIN
    -- What would make an alert fail to be written later is said now.
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS present, wanted.type_name INTO refused
    FROM (VALUES ('reopened_count', 'integer'), ('opened_at', 'timestamp with time zone'), ('status_changed_at', 'timestamp with time zone'),
                 ('status_changed_by', 'text'), ('status_reason', 'text'), ('resolved_at', 'timestamp with time zone'))
         AS wanted (name, type_name)
    JOIN pg_attribute a ON a.attrelid = 'biz.ai_alerts'::regclass AND a.attname = wanted.name AND NOT a.attisdropped
    WHERE format_type(a.atttypid, NULL) <> wanted.type_name
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'zqyy_ai: column biz.ai_alerts.% has type %, but % is needed. Nothing was changed. Convert the column, or give this deployment a database of its own, and run the migration again.',
            refused.attname, refused.present, refused.type_name USING ERRCODE = 'ZQ001';
    END IF;
    SELECT a.attname, a.atttypmod - 4 AS longest, wanted.characters INTO refused
    FROM (VALUES ('fingerprint', 250), ('alert_type', 30)) AS wanted (name, characters)
    JOIN pg_attribute a ON a.attrelid = 'biz.ai_alerts'::regclass AND a.attname = wanted.name AND NOT a.attisdropped
    WHERE a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod BETWEEN 4 AND wanted.characters + 3
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'zqyy_ai: column biz.ai_alerts.% holds at most % characters, but % are needed. Nothing was changed. Widen the column (or make it text), and run the migration again.',
            refused.attname, refused.longest, refused.characters USING ERRCODE = 'ZQ001';
    END IF;
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS names INTO refused
    FROM pg_attribute a
    WHERE a.attrelid = 'biz.ai_alerts'::regclass AND a.attname IN ('site_id', 'app_type', 'log_id') AND a.attnotnull;
    IF refused.names IS NOT NULL THEN
        RAISE EXCEPTION 'zqyy_ai: biz.ai_alerts does not allow NULL in columns that zqyy_ai leaves empty in some rows: %. Nothing was changed. Drop NOT NULL and run the migration again.',
            refused.names USING ERRCODE = 'ZQ001';
    END IF;
    SELECT c.conname, pg_get_constraintdef(c.oid) AS definition, wanted.name, array_to_string(wanted.states, ', ') AS states INTO refused
    FROM (VALUES ('alert_status', ARRAY['open', 'acked', 'ignored', 'resolved']), ('severity', ARRAY['warning', 'critical'])) AS wanted (name, states)
    JOIN pg_attribute a ON a.attrelid = 'biz.ai_alerts'::regclass AND a.attname = wanted.name AND NOT a.attisdropped
    JOIN pg_constraint c ON c.conrelid = a.attrelid AND c.contype = 'c' AND c.conkey = ARRAY[a.attnum]
    WHERE EXISTS (SELECT FROM unnest(wanted.states) AS state WHERE position(quote_literal(state) IN pg_get_constraintdef(c.oid)) = 0)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'zqyy_ai: constraint % on biz.ai_alerts does not allow all of the states %: %. Nothing was changed. Widen or drop the constraint and run the migration again.',
            refused.conname, refused.states, refused.definition USING ERRCODE = 'ZQ001';
    END IF;
END
$$;

ALTER TABLE biz.ai_alerts
    ADD COLUMN IF NOT EXISTS reopened_count    integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS opened_at         timestamptz,
    ADD COLUMN IF NOT EXISTS status_changed_at timestamptz,
    ADD COLUMN IF NOT EXISTS status_changed_by text,
    ADD COLUMN IF NOT EXISTS status_reason     text,
    ADD COLUMN IF NOT EXISTS resolved_at       timestamptz;

-- Until now trouble after a closed alert opened another row. The newest open row of a fingerprint, else the newest, goes on and counts
-- what the others counted; those stay as history, without the fingerprint.
WITH ranked AS (
    SELECT id, fingerprint, first_value(id) OVER same AS kept_id, sum(occurrences) OVER (PARTITION BY fingerprint) AS occurrences,
           count(*) OVER (PARTITION BY fingerprint) - 1 AS older
    FROM biz.ai_alerts WHERE fingerprint IS NOT NULL
    WINDOW same AS (PARTITION BY fingerprint ORDER BY (alert_status = 'open') DESC NULLS LAST, id DESC
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
)
UPDATE biz.ai_alerts alert
SET fingerprint = CASE WHEN ranked.id = ranked.kept_id THEN alert.fingerprint END,
    occurrences = CASE WHEN ranked.id = ranked.kept_id THEN ranked.occurrences ELSE alert.occurrences END,
    reopened_count = CASE WHEN ranked.id = ranked.kept_id THEN ranked.older ELSE 0 END,
    alert_status = CASE WHEN ranked.id = ranked.kept_id THEN alert.alert_status ELSE 'resolved' END,
    status_changed_at = CASE WHEN ranked.id <> ranked.kept_id THEN clock_timestamp() END,
    status_changed_by = CASE WHEN ranked.id <> ranked.kept_id THEN 'zqyy_ai' END,
    status_reason = CASE WHEN ranked.id <> ranked.kept_id THEN format('并入告警 %s', ranked.kept_id) END
FROM ranked WHERE ranked.id = alert.id AND ranked.older > 0;

UPDATE biz.ai_alerts SET opened_at = created_at WHERE opened_at IS NULL AND fingerprint IS NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS ai_alerts_fingerprint_unique ON biz.ai_alerts (fingerprint);
DROP INDEX IF EXISTS biz.ai_alerts_fingerprint_idx;

-- One row for each change of an alert that people are to be told of; when it is delivered, one for each target in its place.
CREATE TABLE IF NOT EXISTS biz.ai_alert_deliveries (
    id          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    alert_id    bigint NOT NULL,
    change      text NOT NULL CHECK (change IN ('opened', 'reopened', 'escalated', 'resolved')),
    -- NULL: not addressed yet. Who raises an alert does not know the targets.
    target      text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts    integer NOT NULL DEFAULT 0,
    -- Also the lease of the attempt that is under way.
    next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at     timestamptz,
    gave_up_at  timestamptz,
    last_error  text
);
CREATE INDEX IF NOT EXISTS ai_alert_deliveries_waiting_idx ON biz.ai_alert_deliveries (target, next_try_at)
    WHERE sent_at IS NULL AND gave_up_at IS NULL;
