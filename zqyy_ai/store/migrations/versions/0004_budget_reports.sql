-- The budget says more: which log a reservation's call has, when a refused call may come again, and what overshot.
--
-- The functions ai_reserve_budget and ai_settle_budget stay for processes of the former version that are still running.

-- Set together with sent_at, so that the charge of a call whose process died can be written into its log.
ALTER TABLE biz.ai_budget_reservations ADD COLUMN IF NOT EXISTS run_log_id bigint;

-- The four windows of a call. `on_chain` and `on_site` are the budget days of the chain and of the site.
CREATE OR REPLACE FUNCTION biz.ai_budget_windows_of(site bigint, on_chain date, on_site date)
RETURNS TABLE (scope text, kind text, starts_on date) LANGUAGE sql IMMUTABLE AS $$
    VALUES ('chain', 'day', on_chain), ('chain', 'month', date_trunc('month', on_chain::timestamp)::date),
           ('site:' || site, 'day', on_site), ('site:' || site, 'month', date_trunc('month', on_site::timestamp)::date)
$$;

-- Reserves tokens in the four windows of a call, all or nothing. `refused_by` is NULL when they are reserved, otherwise the limit that
-- would be passed (of several, the one that lasts longest), and `retry_at` the moment at which its next window starts; NULL when no
-- window would be enough. The chain's windows turn at midnight, a site's at its cut-off, both in Asia/Shanghai. The windows are locked
-- in key order, so that two reservations never wait for each other in a circle; used + reserved never passes a limit because the
-- comparison happens under those locks.
CREATE OR REPLACE FUNCTION biz.ai_reserve_tokens(
    reservation uuid, worker uuid, site bigint, app text, wanted_tokens bigint, lease interval, site_cutoff time,
    chain_daily_limit bigint, chain_monthly_limit bigint, site_daily_limit bigint, site_monthly_limit bigint,
    OUT refused_by text, OUT retry_at timestamptz
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    shanghai timestamp := clock_timestamp() AT TIME ZONE 'Asia/Shanghai';
    since_midnight interval := site_cutoff - time '00:00';
    on_chain date := shanghai::date;
    on_site  date := (shanghai - since_midnight)::date;
BEGIN
    -- Nothing is sent before the reservation is marked as sent, and that commit is synced with everything before it.
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO biz.ai_budget_windows (scope, kind, starts_on)
    SELECT scope, kind, starts_on FROM biz.ai_budget_windows_of(site, on_chain, on_site)
    ON CONFLICT DO NOTHING;
    PERFORM FROM biz.ai_budget_windows w JOIN biz.ai_budget_windows_of(site, on_chain, on_site) USING (scope, kind, starts_on)
    ORDER BY scope, kind, starts_on FOR UPDATE OF w;
    SELECT passed.name,
           CASE WHEN wanted_tokens <= passed.tokens THEN passed.next_starts_at AT TIME ZONE 'Asia/Shanghai' END
    INTO refused_by, retry_at
    FROM (
        SELECT limits.*, w.starts_on + limits.length + CASE limits.scope WHEN 'chain' THEN interval '0' ELSE since_midnight END AS next_starts_at
        FROM (VALUES (1, 'daily', 'chain', 'day', interval '1 day', chain_daily_limit),
                     (2, 'monthly', 'chain', 'month', interval '1 month', chain_monthly_limit),
                     (3, 'site_daily', 'site:' || site, 'day', interval '1 day', site_daily_limit),
                     (4, 'site_monthly', 'site:' || site, 'month', interval '1 month', site_monthly_limit)
             ) AS limits (rank, name, scope, kind, length, tokens)
        JOIN biz.ai_budget_windows_of(site, on_chain, on_site) USING (scope, kind)
        JOIN biz.ai_budget_windows w USING (scope, kind, starts_on)
        WHERE w.used_tokens + w.reserved_tokens + wanted_tokens > limits.tokens
    ) AS passed
    ORDER BY wanted_tokens > passed.tokens DESC, passed.next_starts_at DESC, passed.rank LIMIT 1;
    IF refused_by IS NOT NULL THEN
        RETURN;
    END IF;
    INSERT INTO biz.ai_budget_reservations (token, site_id, app_type, tokens, chain_day, site_day, worker_id, lease_expires_at)
    VALUES (reservation, site, app, wanted_tokens, on_chain, on_site, worker, clock_timestamp() + lease);
    UPDATE biz.ai_budget_windows w SET reserved_tokens = w.reserved_tokens + wanted_tokens
    FROM biz.ai_budget_windows_of(site, on_chain, on_site) AS k
    WHERE w.scope = k.scope AND w.kind = k.kind AND w.starts_on = k.starts_on;
END
$$;

-- Ends a reservation against the windows that it was taken from: `spent_tokens` becomes used (0 releases it), what it spent beyond the
-- estimate is counted as overshoot. Returns the windows as they are then, with the log of the call; no rows when the reservation was
-- ended before: deleting its row decides, so a replay changes nothing.
CREATE OR REPLACE FUNCTION biz.ai_settle_tokens(reservation uuid, spent_tokens bigint)
RETURNS TABLE (scope text, kind text, starts_on date, used_tokens bigint, reserved_tokens bigint, run_log_id bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ended biz.ai_budget_reservations;
BEGIN
    DELETE FROM biz.ai_budget_reservations WHERE token = reservation RETURNING * INTO ended;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM FROM biz.ai_budget_windows w
    JOIN biz.ai_budget_windows_of(ended.site_id, ended.chain_day, ended.site_day) USING (scope, kind, starts_on)
    ORDER BY scope, kind, starts_on FOR UPDATE OF w;
    RETURN QUERY
        UPDATE biz.ai_budget_windows w
        SET reserved_tokens = w.reserved_tokens - ended.tokens,
            used_tokens = w.used_tokens + spent_tokens,
            overshoot_tokens = w.overshoot_tokens + greatest(0, spent_tokens - ended.tokens)
        FROM biz.ai_budget_windows_of(ended.site_id, ended.chain_day, ended.site_day) AS k
        WHERE w.scope = k.scope AND w.kind = k.kind AND w.starts_on = k.starts_on
        RETURNING w.scope, w.kind, w.starts_on, w.used_tokens, w.reserved_tokens, ended.run_log_id;
END
$$;
