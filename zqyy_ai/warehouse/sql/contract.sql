-- Checks of the `ai_source` contract. Each looks at the last `days` business dates of the view and tells at most `listed` findings, with
-- the number of all of them.

-- name: columns
-- Every column of the views, as declared; a view that the account may not read has none.
SELECT relation.relname AS view_name, attribute.attname AS column_name, format_type(attribute.atttypid, NULL) AS type_name
FROM pg_class AS relation
JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
WHERE schema.nspname = 'ai_source'
  AND relation.relname = ANY(%(views)s)
  AND relation.relkind IN ('v', 'm', 'r', 'p', 'f')
  AND has_schema_privilege(schema.oid, 'USAGE')
  AND has_table_privilege(relation.oid, 'SELECT')

-- name: rows_of_no_use
-- Keys that are held twice or not at all, and areas that are none.
WITH recent AS MATERIALIZED (
    SELECT site_id, business_date, area
    FROM ai_source.finance_daily
    WHERE business_date > (SELECT max(business_date) FROM ai_source.finance_daily) - %(days)s::integer
), findings AS (
    SELECT site_id, business_date, area,
        CASE WHEN count(*) > 1 THEN 'doubled' ELSE 'unknown_area' END AS finding
    FROM recent
    GROUP BY site_id, business_date, area
    HAVING count(*) > 1 OR site_id IS NULL OR area IS NULL OR area <> ALL(%(areas)s)
)
SELECT site_id, business_date, area, finding, count(*) OVER () AS found
FROM findings
ORDER BY site_id, business_date, area
LIMIT %(listed)s

-- name: unusable_figures
-- NULL where the contract wants a figure, NaN, and fractions of a fen or of a hundredth of an hour, which would make sums inexact.
WITH recent AS MATERIALIZED (
    SELECT *
    FROM ai_source.finance_daily
    WHERE business_date > (SELECT max(business_date) FROM ai_source.finance_daily) - %(days)s::integer
), findings AS (
    SELECT recent.site_id, recent.business_date, recent.area, figure.column_name, figure.value
    FROM recent
    CROSS JOIN LATERAL (
        VALUES
            ('gross_revenue_cny', gross_revenue_cny, false),
            ('table_fee_cny', table_fee_cny, false),
            ('assistant_fee_cny', assistant_fee_cny, false),
            ('goods_cny', goods_cny, false),
            ('other_revenue_cny', other_revenue_cny, false),
            ('member_discount_cny', member_discount_cny, false),
            ('coupon_discount_cny', coupon_discount_cny, false),
            ('promotion_discount_cny', promotion_discount_cny, false),
            ('manual_discount_cny', manual_discount_cny, false),
            ('rounding_discount_cny', rounding_discount_cny, false),
            ('refund_cny', refund_cny, false),
            ('net_revenue_cny', net_revenue_cny, false),
            ('recharge_cny', recharge_cny, true),
            ('card_spending_cny', card_spending_cny, true),
            ('order_count', order_count, false),
            ('guest_count', guest_count, true),
            ('table_hours_used', table_hours_used, false),
            ('table_hours_available', table_hours_available, false)
    ) AS figure (column_name, value, may_be_null)
    WHERE (figure.value IS NULL AND NOT figure.may_be_null)
       OR figure.value <> round(figure.value, 2)
       OR figure.value - figure.value <> 0  -- NaN and infinity
)
SELECT site_id, business_date, area, column_name, value, count(*) OVER () AS found
FROM findings
ORDER BY site_id, business_date, area, column_name
LIMIT %(listed)s

-- name: broken_sums
-- `hall` and `all` beside the sum of their parts. A column that any part leaves NULL is not measured by area, and not compared.
WITH recent AS MATERIALIZED (
    SELECT *
    FROM ai_source.finance_daily
    WHERE business_date > (SELECT max(business_date) FROM ai_source.finance_daily) - %(days)s::integer
), figures AS (
    SELECT recent.site_id, recent.business_date, recent.area, figure.column_name, figure.value
    FROM recent
    CROSS JOIN LATERAL (
        VALUES
            ('gross_revenue_cny', gross_revenue_cny),
            ('table_fee_cny', table_fee_cny),
            ('assistant_fee_cny', assistant_fee_cny),
            ('goods_cny', goods_cny),
            ('other_revenue_cny', other_revenue_cny),
            ('member_discount_cny', member_discount_cny),
            ('coupon_discount_cny', coupon_discount_cny),
            ('promotion_discount_cny', promotion_discount_cny),
            ('manual_discount_cny', manual_discount_cny),
            ('rounding_discount_cny', rounding_discount_cny),
            ('refund_cny', refund_cny),
            ('net_revenue_cny', net_revenue_cny),
            ('recharge_cny', recharge_cny),
            ('card_spending_cny', card_spending_cny),
            ('order_count', order_count),
            ('guest_count', guest_count),
            ('table_hours_used', table_hours_used),
            ('table_hours_available', table_hours_available)
    ) AS figure (column_name, value)
), sums AS (
    SELECT
        figures.site_id,
        figures.business_date,
        whole.area,
        figures.column_name,
        count(*) FILTER (WHERE figures.area = whole.area) AS whole_rows,
        count(*) FILTER (WHERE figures.area = ANY(whole.parts)) AS part_rows,
        max(figures.value) FILTER (WHERE figures.area = whole.area) AS whole_value,
        sum(figures.value) FILTER (WHERE figures.area = ANY(whole.parts)) AS parts_value,
        count(*) FILTER (WHERE figures.area = ANY(whole.parts) AND figures.value IS NULL) AS unmeasured
    FROM figures
    JOIN (VALUES ('hall', %(hall_parts)s::text[]), ('all', %(base_areas)s::text[])) AS whole (area, parts)
        ON figures.area = whole.area OR figures.area = ANY(whole.parts)
    GROUP BY figures.site_id, figures.business_date, whole.area, figures.column_name
), findings AS (
    SELECT * FROM sums
    WHERE
        -- A missing row is one finding, told at the first column, and not one for each of eighteen.
        ((whole_rows = 0 OR part_rows = 0) AND column_name = 'gross_revenue_cny')
        OR (whole_rows > 0 AND part_rows > 0 AND unmeasured = 0 AND whole_value IS DISTINCT FROM parts_value)
)
SELECT site_id, business_date, area, column_name, whole_rows, part_rows, whole_value, parts_value, count(*) OVER () AS found
FROM findings
ORDER BY site_id, business_date, area, column_name
LIMIT %(listed)s

-- name: broken_identities
-- gross = its kinds; net = gross - discounts - refund.
WITH recent AS MATERIALIZED (
    SELECT *
    FROM ai_source.finance_daily
    WHERE business_date > (SELECT max(business_date) FROM ai_source.finance_daily) - %(days)s::integer
), findings AS (
    SELECT recent.site_id, recent.business_date, recent.area, identity.column_name, identity.value, identity.expected
    FROM recent
    CROSS JOIN LATERAL (
        VALUES
            ('gross_revenue_cny', gross_revenue_cny, table_fee_cny + assistant_fee_cny + goods_cny + other_revenue_cny),
            (
                'net_revenue_cny',
                net_revenue_cny,
                gross_revenue_cny - member_discount_cny - coupon_discount_cny - promotion_discount_cny - manual_discount_cny
                - rounding_discount_cny - refund_cny
            )
    ) AS identity (column_name, value, expected)
    WHERE identity.value <> identity.expected
)
SELECT site_id, business_date, area, column_name, value, expected, count(*) OVER () AS found
FROM findings
ORDER BY site_id, business_date, area, column_name
LIMIT %(listed)s

-- name: unusable_loads
SELECT etl_run_id, site_id, status, finished_at, loaded_through, count(*) OVER () AS found
FROM (SELECT * FROM ai_source.etl_runs ORDER BY started_at DESC NULLS FIRST LIMIT %(runs)s) AS recent
WHERE etl_run_id IS NULL
   OR status IS NULL
   OR status NOT IN ('success', 'failed', 'running')
   OR (status = 'success' AND (finished_at IS NULL OR loaded_through IS NULL))
ORDER BY started_at DESC NULLS FIRST
LIMIT %(listed)s
