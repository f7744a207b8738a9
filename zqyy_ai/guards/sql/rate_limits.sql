-- name: take
INSERT INTO biz.ai_rate_limits AS rate (rate_key, theoretical_arrival_at)
VALUES (%(rate_key)s, clock_timestamp() + %(interval)s)
ON CONFLICT (rate_key) DO UPDATE
SET theoretical_arrival_at = greatest(rate.theoretical_arrival_at, clock_timestamp()) + %(interval)s
WHERE rate.theoretical_arrival_at + %(interval)s <= clock_timestamp() + %(burst)s + %(longest_wait)s
RETURNING theoretical_arrival_at - %(burst)s - clock_timestamp() AS wait

-- name: push_forward
UPDATE biz.ai_rate_limits SET theoretical_arrival_at = greatest(theoretical_arrival_at, clock_timestamp() + %(ahead)s)
WHERE rate_key = %(rate_key)s
