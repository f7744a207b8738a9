-- Reads of ai_source.finance_daily and ai_source.etl_runs. In a frame yuan are fen and hours are hundredths of an hour: whole numbers add
-- up exactly and travel in binary.

-- name: daily_of_site
SELECT
    business_date,
    area,
    round(gross_revenue_cny * 100)::bigint,
    round(table_fee_cny * 100)::bigint,
    round(assistant_fee_cny * 100)::bigint,
    round(goods_cny * 100)::bigint,
    round(other_revenue_cny * 100)::bigint,
    round(member_discount_cny * 100)::bigint,
    round(coupon_discount_cny * 100)::bigint,
    round(promotion_discount_cny * 100)::bigint,
    round(manual_discount_cny * 100)::bigint,
    round(rounding_discount_cny * 100)::bigint,
    round(refund_cny * 100)::bigint,
    round(net_revenue_cny * 100)::bigint,
    round(recharge_cny * 100)::bigint,
    round(card_spending_cny * 100)::bigint,
    order_count::bigint,
    guest_count::bigint,
    round(table_hours_used * 100)::bigint,
    round(table_hours_available * 100)::bigint
FROM ai_source.finance_daily
WHERE site_id = %(site_id)s
  AND business_date BETWEEN %(first_day)s AND %(last_day)s
  AND area = ANY(%(areas)s)
ORDER BY business_date, area COLLATE "C"

-- name: loaded_through
SELECT max(loaded_through)
FROM ai_source.etl_runs
WHERE status = 'success' AND (site_id = %(site_id)s OR site_id IS NULL)

-- name: finished_loads
SELECT etl_run_id, site_id, finished_at, loaded_through
FROM ai_source.etl_runs
WHERE status = 'success' AND finished_at >= %(since)s AND etl_run_id IS NOT NULL
ORDER BY finished_at, etl_run_id, site_id
