-- The demo warehouse: a small DWS in schema demo_dws, and the ai_source views over it. The views are also the worked example of how a
-- deployment maps its own tables (docs/warehouse.md): areas are measured, `hall` and `all` are summed from them.

-- name: one_fill_at_a_time
SELECT pg_advisory_xact_lock(hashtext('zqyy_ai demo warehouse'))

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS demo_dws;
CREATE SCHEMA IF NOT EXISTS ai_source;

CREATE TABLE IF NOT EXISTS demo_dws.sites (
    site_id bigint PRIMARY KEY,
    site_name text NOT NULL,
    city text NOT NULL,
    opened_on date NOT NULL,
    is_active boolean NOT NULL
);

CREATE TABLE IF NOT EXISTS demo_dws.area_daily (
    site_id bigint NOT NULL,
    business_date date NOT NULL,
    area text NOT NULL,
    gross_revenue_cny numeric(14, 2) NOT NULL,
    table_fee_cny numeric(14, 2) NOT NULL,
    assistant_fee_cny numeric(14, 2) NOT NULL,
    goods_cny numeric(14, 2) NOT NULL,
    other_revenue_cny numeric(14, 2) NOT NULL,
    member_discount_cny numeric(14, 2) NOT NULL,
    coupon_discount_cny numeric(14, 2) NOT NULL,
    promotion_discount_cny numeric(14, 2) NOT NULL,
    manual_discount_cny numeric(14, 2) NOT NULL,
    rounding_discount_cny numeric(14, 2) NOT NULL,
    refund_cny numeric(14, 2) NOT NULL,
    net_revenue_cny numeric(14, 2) NOT NULL,
    recharge_cny numeric(14, 2) NOT NULL,
    card_spending_cny numeric(14, 2) NOT NULL,
    order_count integer NOT NULL,
    guest_count integer NOT NULL,
    table_hours_used numeric(10, 2) NOT NULL,
    table_hours_available numeric(10, 2) NOT NULL,
    PRIMARY KEY (site_id, business_date, area)
);

CREATE TABLE IF NOT EXISTS demo_dws.etl_runs (
    etl_run_id text PRIMARY KEY,
    site_id bigint,
    status text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    loaded_through date
);

-- One row: what the last fill made, so that a next day can be appended to it.
CREATE TABLE IF NOT EXISTS demo_dws.filled (
    is_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    seed bigint NOT NULL,
    site_count integer NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL
);
ALTER TABLE demo_dws.filled ADD COLUMN IF NOT EXISTS members_per_site integer NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS demo_dws.members (
    site_id bigint NOT NULL,
    member_id bigint NOT NULL,
    member_name text NOT NULL,
    gender text,
    level text,
    joined_on date,
    birthday date,
    balance_cny numeric(14, 2),
    points bigint,
    left_on date,
    last_visit_on date,
    PRIMARY KEY (site_id, member_id)
);

CREATE TABLE IF NOT EXISTS demo_dws.visits (
    site_id bigint NOT NULL,
    visit_id bigint NOT NULL,
    member_id bigint NOT NULL,
    business_date date NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    guest_count integer,
    gross_cny numeric(14, 2) NOT NULL,
    discount_cny numeric(14, 2) NOT NULL,
    paid_cny numeric(14, 2) NOT NULL,
    tables jsonb,
    assistants jsonb,
    goods jsonb,
    discounts jsonb,
    payments jsonb,
    PRIMARY KEY (site_id, visit_id)
);
CREATE INDEX IF NOT EXISTS visits_of_member ON demo_dws.visits (site_id, member_id, business_date);

CREATE TABLE IF NOT EXISTS demo_dws.assistants (
    site_id bigint NOT NULL,
    assistant_id bigint NOT NULL,
    assistant_name text NOT NULL,
    level text,
    joined_on date,
    is_active boolean NOT NULL,
    PRIMARY KEY (site_id, assistant_id)
);

-- A task is open until the day on which it is closed; without one it stays open.
CREATE TABLE IF NOT EXISTS demo_dws.tasks (
    site_id bigint NOT NULL,
    task_id bigint NOT NULL,
    member_id bigint NOT NULL,
    assistant_id bigint NOT NULL,
    task_type text NOT NULL,
    title text NOT NULL,
    detail text,
    created_at timestamptz NOT NULL,
    due_on date,
    closed_on date,
    closed_as text NOT NULL DEFAULT 'done',
    PRIMARY KEY (site_id, task_id)
);
CREATE INDEX IF NOT EXISTS tasks_of_member ON demo_dws.tasks (site_id, member_id);

CREATE TABLE IF NOT EXISTS demo_dws.notes (
    site_id bigint NOT NULL,
    note_id bigint NOT NULL,
    member_id bigint NOT NULL,
    content text NOT NULL,
    noted_by_name text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (site_id, note_id)
);
CREATE INDEX IF NOT EXISTS notes_of_member ON demo_dws.notes (site_id, member_id);

CREATE OR REPLACE VIEW ai_source.sites AS
SELECT site_id, site_name, city, opened_on, is_active
FROM demo_dws.sites;

CREATE OR REPLACE VIEW ai_source.finance_daily AS
SELECT
    site_id,
    business_date,
    totals.area,
    sum(gross_revenue_cny) AS gross_revenue_cny,
    sum(table_fee_cny) AS table_fee_cny,
    sum(assistant_fee_cny) AS assistant_fee_cny,
    sum(goods_cny) AS goods_cny,
    sum(other_revenue_cny) AS other_revenue_cny,
    sum(member_discount_cny) AS member_discount_cny,
    sum(coupon_discount_cny) AS coupon_discount_cny,
    sum(promotion_discount_cny) AS promotion_discount_cny,
    sum(manual_discount_cny) AS manual_discount_cny,
    sum(rounding_discount_cny) AS rounding_discount_cny,
    sum(refund_cny) AS refund_cny,
    sum(net_revenue_cny) AS net_revenue_cny,
    sum(recharge_cny) AS recharge_cny,
    sum(card_spending_cny) AS card_spending_cny,
    sum(order_count) AS order_count,
    sum(guest_count) AS guest_count,
    sum(table_hours_used) AS table_hours_used,
    sum(table_hours_available) AS table_hours_available
FROM demo_dws.area_daily AS part
CROSS JOIN LATERAL (
    -- A measured area counts for itself, for the whole site, and one of the three hall areas for the hall as well.
    VALUES (part.area), ('all'), (CASE WHEN part.area IN ('hallA', 'hallB', 'hallC') THEN 'hall' END)
) AS totals (area)
WHERE totals.area IS NOT NULL
GROUP BY site_id, business_date, totals.area;

CREATE OR REPLACE VIEW ai_source.etl_runs AS
SELECT etl_run_id, site_id, status, started_at, finished_at, loaded_through
FROM demo_dws.etl_runs;

CREATE OR REPLACE VIEW ai_source.members AS
SELECT
    site_id, member_id, member_name, gender, level, joined_on, birthday, balance_cny, points, last_visit_on,
    left_on IS NULL OR left_on > (SELECT last_day FROM demo_dws.filled) AS is_active
FROM demo_dws.members;

CREATE OR REPLACE VIEW ai_source.visits AS
SELECT
    site_id, visit_id, member_id, business_date, started_at, ended_at, guest_count, gross_cny, discount_cny, paid_cny, tables, assistants,
    goods, discounts, payments
FROM demo_dws.visits;

CREATE OR REPLACE VIEW ai_source.assistants AS
SELECT site_id, assistant_id, assistant_name, level, joined_on, is_active
FROM demo_dws.assistants;

CREATE OR REPLACE VIEW ai_source.tasks AS
SELECT
    site_id, task_id, member_id, assistant_id, task_type, title, detail,
    CASE WHEN closed_on <= (SELECT last_day FROM demo_dws.filled) THEN closed_as ELSE 'open' END AS status,
    created_at, due_on
FROM demo_dws.tasks;

CREATE OR REPLACE VIEW ai_source.notes AS
SELECT site_id, note_id, member_id, content, noted_by_name, created_at
FROM demo_dws.notes;

DO $$
BEGIN
    -- The admin API looks members up as its own role; a database without our tables has none.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'zqyy_api') THEN
        GRANT USAGE ON SCHEMA ai_source TO zqyy_api;
        GRANT SELECT ON ALL TABLES IN SCHEMA ai_source TO zqyy_api;
    END IF;
END
$$;

-- name: foreign_views
-- Relations under the contract's names that do not read from demo_dws alone: somebody else's.
SELECT relation.relname
FROM pg_class AS relation
JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace AND schema.nspname = 'ai_source'
LEFT JOIN pg_rewrite AS rule ON rule.ev_class = relation.oid
LEFT JOIN pg_depend AS dependency
    ON dependency.classid = 'pg_rewrite'::regclass AND dependency.objid = rule.oid
    AND dependency.refclassid = 'pg_class'::regclass AND dependency.refobjid <> relation.oid
LEFT JOIN pg_class AS source ON source.oid = dependency.refobjid
LEFT JOIN pg_namespace AS source_schema ON source_schema.oid = source.relnamespace
WHERE relation.relname IN ('sites', 'finance_daily', 'etl_runs', 'members', 'visits', 'assistants', 'tasks', 'notes')
GROUP BY relation.relname, relation.relkind
HAVING relation.relkind <> 'v' OR NOT coalesce(bool_and(source_schema.nspname = 'demo_dws'), false)
ORDER BY relation.relname

-- name: upsert_site
INSERT INTO demo_dws.sites (site_id, site_name, city, opened_on, is_active)
VALUES (%(site_id)s, %(site_name)s, %(city)s, %(opened_on)s, true)
ON CONFLICT (site_id) DO UPDATE
SET site_name = excluded.site_name, city = excluded.city, opened_on = excluded.opened_on, is_active = true

-- name: upsert_known_site
-- Before upsert_site. A site of the demo that an operator has closed stays closed; one that is new to the demo is open.
INSERT INTO biz.sites (site_id, site_name, is_active)
VALUES (%(site_id)s, %(site_name)s, true)
ON CONFLICT (site_id) DO UPDATE
SET site_name = excluded.site_name,
    is_active = sites.is_active OR NOT EXISTS (SELECT FROM demo_dws.sites AS demo WHERE demo.site_id = excluded.site_id)

-- name: drop_sites_from
-- Sites of a larger fill before this one stay known, but nobody shall prewarm what has no data any more.
WITH left_out AS (
    DELETE FROM demo_dws.sites WHERE site_id >= %(site_id)s RETURNING site_id
)
UPDATE biz.sites SET is_active = false WHERE site_id IN (SELECT site_id FROM left_out)

-- name: empty
DELETE FROM demo_dws.area_daily;
DELETE FROM demo_dws.etl_runs;
DELETE FROM demo_dws.members;
DELETE FROM demo_dws.visits;
DELETE FROM demo_dws.assistants;
DELETE FROM demo_dws.tasks;
DELETE FROM demo_dws.notes;
DELETE FROM demo_dws.filled;

-- name: filled
SELECT seed, site_count AS sites, members_per_site AS members, first_day, last_day FROM demo_dws.filled FOR UPDATE

-- name: note_fill
INSERT INTO demo_dws.filled (seed, site_count, members_per_site, first_day, last_day)
VALUES (%(seed)s, %(sites)s, %(members)s, %(first_day)s, %(last_day)s)

-- name: note_advance
UPDATE demo_dws.filled SET last_day = %(last_day)s

-- name: note_last_visits
UPDATE demo_dws.members
SET last_visit_on = newest.business_date
FROM (
    SELECT site_id, member_id, max(business_date) AS business_date
    FROM demo_dws.visits
    WHERE business_date >= %(first_day)s
    GROUP BY site_id, member_id
) AS newest
WHERE members.site_id = newest.site_id AND members.member_id = newest.member_id

-- name: analyze
ANALYZE demo_dws.area_daily, demo_dws.etl_runs, demo_dws.members, demo_dws.visits, demo_dws.assistants, demo_dws.tasks, demo_dws.notes
