-- Checks of the `ai_source` contract. Each looks at the last `days` business dates of the view (of visits, the newest `visits` of them), or
-- at the newest `rows` where rows have no business date, and tells at most `listed` findings, with the number of all of them.

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
FROM (SELECT * FROM ai_source.etl_runs ORDER BY started_at DESC NULLS FIRST LIMIT %(rows)s) AS recent
WHERE etl_run_id IS NULL
   OR status IS NULL
   OR status NOT IN ('success', 'failed', 'running')
   OR (status = 'success' AND (finished_at IS NULL OR loaded_through IS NULL))
ORDER BY started_at DESC NULLS FIRST
LIMIT %(listed)s

-- name: unusable_members
-- Of those who came in the last `days`: NULL where the contract wants a value, and members held twice.
WITH recent AS MATERIALIZED (
    SELECT site_id, member_id, member_name, is_active
    FROM ai_source.members
    WHERE last_visit_on > (SELECT max(last_visit_on) FROM ai_source.members) - %(days)s::integer
), findings AS (
    SELECT site_id, member_id AS row_id, count(*) AS held, missing.columns
    FROM recent
    CROSS JOIN LATERAL (
        SELECT concat_ws('、',
            CASE WHEN site_id IS NULL THEN 'site_id' END,
            CASE WHEN member_id IS NULL THEN 'member_id' END,
            CASE WHEN member_name IS NULL THEN 'member_name' END,
            CASE WHEN is_active IS NULL THEN 'is_active' END
        ) AS columns
    ) AS missing
    GROUP BY site_id, member_id, missing.columns
    HAVING count(*) > 1 OR missing.columns <> ''
)
SELECT site_id, row_id, held, columns, NULL AS status, count(*) OVER () AS found
FROM findings
ORDER BY site_id, row_id, columns
LIMIT %(listed)s

-- name: unusable_assistants
WITH findings AS (
    SELECT site_id, assistant_id AS row_id, count(*) AS held, missing.columns
    FROM ai_source.assistants
    CROSS JOIN LATERAL (
        SELECT concat_ws('、',
            CASE WHEN site_id IS NULL THEN 'site_id' END,
            CASE WHEN assistant_id IS NULL THEN 'assistant_id' END,
            CASE WHEN assistant_name IS NULL THEN 'assistant_name' END,
            CASE WHEN is_active IS NULL THEN 'is_active' END
        ) AS columns
    ) AS missing
    GROUP BY site_id, assistant_id, missing.columns
    HAVING count(*) > 1 OR missing.columns <> ''
)
SELECT site_id, row_id, held, columns, NULL AS status, count(*) OVER () AS found
FROM findings
ORDER BY site_id, row_id, columns
LIMIT %(listed)s

-- name: unusable_tasks
WITH recent AS MATERIALIZED (
    SELECT * FROM ai_source.tasks ORDER BY created_at DESC NULLS FIRST LIMIT %(rows)s
), findings AS (
    SELECT site_id, task_id AS row_id, count(*) AS held, missing.columns,
        min(status) FILTER (WHERE status <> ALL(%(task_statuses)s)) AS status
    FROM recent
    CROSS JOIN LATERAL (
        SELECT concat_ws('、',
            CASE WHEN site_id IS NULL THEN 'site_id' END,
            CASE WHEN task_id IS NULL THEN 'task_id' END,
            CASE WHEN member_id IS NULL THEN 'member_id' END,
            CASE WHEN assistant_id IS NULL THEN 'assistant_id' END,
            CASE WHEN task_type IS NULL THEN 'task_type' END,
            CASE WHEN title IS NULL THEN 'title' END,
            CASE WHEN status IS NULL THEN 'status' END,
            CASE WHEN created_at IS NULL THEN 'created_at' END
        ) AS columns
    ) AS missing
    GROUP BY site_id, task_id, missing.columns
    HAVING count(*) > 1 OR missing.columns <> '' OR bool_or(status <> ALL(%(task_statuses)s))
)
SELECT site_id, row_id, held, columns, status, count(*) OVER () AS found
FROM findings
ORDER BY site_id, row_id, columns
LIMIT %(listed)s

-- name: unusable_notes
WITH recent AS MATERIALIZED (
    SELECT * FROM ai_source.notes ORDER BY created_at DESC NULLS FIRST LIMIT %(rows)s
), findings AS (
    SELECT site_id, note_id AS row_id, count(*) AS held, missing.columns
    FROM recent
    CROSS JOIN LATERAL (
        SELECT concat_ws('、',
            CASE WHEN site_id IS NULL THEN 'site_id' END,
            CASE WHEN note_id IS NULL THEN 'note_id' END,
            CASE WHEN member_id IS NULL THEN 'member_id' END,
            CASE WHEN content IS NULL THEN 'content' END,
            CASE WHEN created_at IS NULL THEN 'created_at' END
        ) AS columns
    ) AS missing
    GROUP BY site_id, note_id, missing.columns
    HAVING count(*) > 1 OR missing.columns <> ''
)
SELECT site_id, row_id, held, columns, NULL AS status, count(*) OVER () AS found
FROM findings
ORDER BY site_id, row_id, columns
LIMIT %(listed)s

-- name: unusable_visits
WITH recent AS MATERIALIZED (
    SELECT site_id, visit_id, member_id, business_date, started_at, ended_at, gross_cny, discount_cny, paid_cny
    FROM ai_source.visits
    WHERE business_date > (SELECT max(business_date) FROM ai_source.visits) - %(days)s::integer OR business_date IS NULL
    ORDER BY business_date DESC
    LIMIT %(visits)s
), findings AS (
    SELECT site_id, visit_id AS row_id, count(*) AS held, missing.columns
    FROM recent
    CROSS JOIN LATERAL (
        SELECT concat_ws('、',
            CASE WHEN site_id IS NULL THEN 'site_id' END,
            CASE WHEN visit_id IS NULL THEN 'visit_id' END,
            CASE WHEN member_id IS NULL THEN 'member_id' END,
            CASE WHEN business_date IS NULL THEN 'business_date' END,
            CASE WHEN started_at IS NULL THEN 'started_at' END,
            CASE WHEN ended_at IS NULL THEN 'ended_at' END,
            CASE WHEN gross_cny IS NULL THEN 'gross_cny' END,
            CASE WHEN discount_cny IS NULL THEN 'discount_cny' END,
            CASE WHEN paid_cny IS NULL THEN 'paid_cny' END
        ) AS columns
    ) AS missing
    GROUP BY site_id, visit_id, missing.columns
    HAVING count(*) > 1 OR missing.columns <> ''
)
SELECT site_id, row_id, held, columns, NULL AS status, count(*) OVER () AS found
FROM findings
ORDER BY site_id, row_id, columns
LIMIT %(listed)s

-- name: unusable_visit_parts
-- Objects in the arrays of visits whose fields are missing or of another kind, and areas that are not measured.
WITH recent AS MATERIALIZED (
    SELECT site_id, visit_id, business_date, tables, assistants, goods, discounts, payments
    FROM ai_source.visits
    WHERE business_date > (SELECT max(business_date) FROM ai_source.visits) - %(days)s::integer
    ORDER BY business_date DESC
    LIMIT %(visits)s
), lists AS (
    SELECT recent.site_id, recent.visit_id, recent.business_date, list.column_name, list.parts
    FROM recent
    CROSS JOIN LATERAL (
        VALUES ('tables', tables), ('assistants', assistants), ('goods', goods), ('discounts', discounts), ('payments', payments)
    ) AS list (column_name, parts)
    WHERE list.parts IS NOT NULL AND list.parts <> 'null'
), wanted (column_name, field, kind) AS (
    VALUES
        ('tables', 'table_name', 'string'), ('tables', 'area', 'area'), ('tables', 'started_at', 'moment'), ('tables', 'ended_at', 'moment'),
        ('tables', 'hours', 'amount'), ('tables', 'fee_cny', 'amount'),
        ('assistants', 'assistant_id', 'whole'), ('assistants', 'assistant_name', 'string'), ('assistants', 'hours', 'amount'),
        ('assistants', 'fee_cny', 'amount'),
        ('goods', 'name', 'string'), ('goods', 'quantity', 'whole or null'), ('goods', 'amount_cny', 'amount'),
        ('discounts', 'name', 'string'), ('discounts', 'amount_cny', 'amount'),
        ('payments', 'method', 'string'), ('payments', 'amount_cny', 'amount')
), fields AS (
    SELECT lists.site_id, lists.visit_id, lists.business_date, lists.column_name, wanted.field, wanted.kind, part.value -> wanted.field AS value
    FROM lists
    CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(lists.parts) WHEN 'array' THEN lists.parts ELSE '[]' END) AS part (value)
    JOIN wanted ON wanted.column_name = lists.column_name
), findings AS (
    SELECT site_id, visit_id, business_date, column_name, NULL AS field, 'array' AS kind, jsonb_typeof(parts) AS value
    FROM lists
    WHERE jsonb_typeof(parts) <> 'array'
    UNION ALL
    SELECT site_id, visit_id, business_date, column_name, field, kind, left(value::text, 40)
    FROM fields
    WHERE NOT CASE kind
        WHEN 'string' THEN coalesce(jsonb_typeof(value), 'null') = 'string'
        WHEN 'area' THEN coalesce(value #>> '{}', '') = ANY(%(base_areas)s)
        -- With its offset: without one nobody knows which moment is meant.
        WHEN 'moment' THEN coalesce(value #>> '{}', '') ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)$'
        WHEN 'whole or null' THEN coalesce(jsonb_typeof(value), 'null') = 'null'
            OR (jsonb_typeof(value) = 'number' AND CASE jsonb_typeof(value) WHEN 'number' THEN value::numeric %% 1 = 0 END)
        WHEN 'whole' THEN coalesce(CASE jsonb_typeof(value) WHEN 'number' THEN value::numeric %% 1 = 0 END, false)
        ELSE coalesce(CASE jsonb_typeof(value) WHEN 'number' THEN value::numeric = round(value::numeric, 2) END, false)
    END
)
SELECT site_id, visit_id, business_date, column_name, field, kind, value, count(*) OVER () AS found
FROM findings
ORDER BY site_id, business_date, visit_id, column_name, field
LIMIT %(listed)s

-- name: broken_visit_identities
-- gross = tables + assistants + goods; discount = its kinds; paid = gross - discount = its methods. What is no number counts as nothing here.
WITH recent AS MATERIALIZED (
    SELECT *
    FROM ai_source.visits
    WHERE business_date > (SELECT max(business_date) FROM ai_source.visits) - %(days)s::integer
    ORDER BY business_date DESC
    LIMIT %(visits)s
), sums AS (
    SELECT site_id, visit_id, business_date, gross_cny, discount_cny, paid_cny,
        (SELECT coalesce(sum(fee::numeric), 0) FROM jsonb_path_query(tables, '$[*].fee_cny ? (@.type() == "number")') AS fee)
        + (SELECT coalesce(sum(fee::numeric), 0) FROM jsonb_path_query(assistants, '$[*].fee_cny ? (@.type() == "number")') AS fee)
        + (SELECT coalesce(sum(amount::numeric), 0) FROM jsonb_path_query(goods, '$[*].amount_cny ? (@.type() == "number")') AS amount)
            AS gross_parts,
        (SELECT coalesce(sum(amount::numeric), 0) FROM jsonb_path_query(discounts, '$[*].amount_cny ? (@.type() == "number")') AS amount)
            AS discount_parts,
        (SELECT coalesce(sum(amount::numeric), 0) FROM jsonb_path_query(payments, '$[*].amount_cny ? (@.type() == "number")') AS amount)
            AS payment_parts
    FROM recent
), findings AS (
    SELECT sums.site_id, sums.visit_id, sums.business_date, identity.column_name, identity.rule, identity.value, identity.expected
    FROM sums
    CROSS JOIN LATERAL (
        VALUES
            ('gross_cny', 'gross = tables.fee + assistants.fee + goods.amount', gross_cny, gross_parts),
            ('discount_cny', 'discount = discounts.amount', discount_cny, discount_parts),
            ('paid_cny', 'paid = gross - discount', paid_cny, gross_cny - discount_cny),
            ('paid_cny', 'paid = payments.amount', paid_cny, payment_parts)
    ) AS identity (column_name, rule, value, expected)
    WHERE identity.value <> identity.expected
)
SELECT site_id, visit_id, business_date, column_name, rule, value, expected, count(*) OVER () AS found
FROM findings
ORDER BY site_id, business_date, visit_id, rule
LIMIT %(listed)s
