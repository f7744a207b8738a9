-- name: take
-- Both keys at once; a key that is not returned was refused. The site's row is always locked before the application's.
WITH
    site AS (
        INSERT INTO biz.ai_rate_limits AS rate (rate_key, theoretical_arrival_at)
        VALUES (%(site_key)s, clock_timestamp() + %(site_interval)s)
        ON CONFLICT (rate_key) DO UPDATE
        SET theoretical_arrival_at = greatest(rate.theoretical_arrival_at, clock_timestamp()) + %(site_interval)s
        WHERE rate.theoretical_arrival_at + %(site_interval)s <= clock_timestamp() + %(site_burst)s + %(longest_wait)s
        RETURNING rate_key, theoretical_arrival_at - %(site_burst)s - clock_timestamp() AS wait
    ),
    app AS (
        INSERT INTO biz.ai_rate_limits AS rate (rate_key, theoretical_arrival_at)
        SELECT %(app_key)s, clock_timestamp() + %(app_interval)s FROM site
        ON CONFLICT (rate_key) DO UPDATE
        SET theoretical_arrival_at = greatest(rate.theoretical_arrival_at, clock_timestamp()) + %(app_interval)s
        WHERE rate.theoretical_arrival_at + %(app_interval)s <= clock_timestamp() + %(app_burst)s + %(longest_wait)s
        RETURNING rate_key, theoretical_arrival_at - %(app_burst)s - clock_timestamp() AS wait
    )
SELECT rate_key, wait FROM site UNION ALL SELECT rate_key, wait FROM app

-- name: push_forward
UPDATE biz.ai_rate_limits SET theoretical_arrival_at = greatest(theoretical_arrival_at, clock_timestamp() + %(ahead)s)
WHERE rate_key = %(rate_key)s
