-- Reads of ai_source.members, visits, assistants, tasks and notes.

-- name: member_data
-- What one member's prompts are made of, as one JSON text: one statement is one snapshot and one round trip. Numbers stay exact in it.
-- `last_day` and `until` bound what a sandbox may know: its business date, and the end of that; NULL: no bound.
WITH newest AS (
    SELECT
        visit_id, business_date, started_at, ended_at, guest_count, gross_cny, discount_cny, paid_cny, tables, assistants, goods, discounts,
        payments
    FROM ai_source.visits
    WHERE site_id = %(site_id)s AND member_id = %(member_id)s
      AND (%(until)s::timestamptz IS NULL OR business_date <= %(last_day)s AND ended_at < %(until)s)
    ORDER BY business_date DESC, started_at DESC, visit_id DESC
    LIMIT %(most_visits)s
), recent AS (
    SELECT * FROM newest WHERE business_date >= (SELECT max(business_date) FROM newest) - %(days)s::integer OR business_date IS NULL
), open_tasks AS (
    SELECT
        task_id, assistant_id, task_type, title, detail, created_at,
        CASE WHEN %(last_day)s::date IS NULL OR due_on <= %(last_day)s THEN due_on END AS due_on
    FROM ai_source.tasks
    WHERE site_id = %(site_id)s AND member_id = %(member_id)s AND status = 'open'
      AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
), newest_note AS (
    SELECT note_id, content, noted_by_name, created_at
    FROM ai_source.notes
    WHERE site_id = %(site_id)s AND member_id = %(member_id)s AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
    ORDER BY created_at DESC, note_id DESC
    LIMIT 1
), named_assistants AS (
    SELECT assistant_id, assistant_name, level, joined_on, is_active
    FROM ai_source.assistants
    WHERE site_id = %(site_id)s AND (%(last_day)s::date IS NULL OR joined_on IS NULL OR joined_on <= %(last_day)s)
      AND assistant_id IN (
          SELECT assistant_id FROM open_tasks
          UNION ALL
          -- What is no number is told when the visit is read.
          SELECT named.id::bigint
          FROM recent CROSS JOIN LATERAL jsonb_path_query(recent.assistants, '$[*].assistant_id ? (@.type() == "number")') AS named (id)
      )
)
SELECT json_build_object(
    'members', (
        SELECT json_agg(member)
        FROM (
            SELECT
                member_name, gender, level, joined_on, birthday,
                CASE WHEN %(last_day)s::date IS NULL THEN balance_cny END AS balance_cny,
                CASE WHEN %(last_day)s::date IS NULL THEN points END AS points,
                CASE WHEN %(last_day)s::date IS NULL OR last_visit_on <= %(last_day)s THEN last_visit_on END AS last_visit_on
            FROM ai_source.members
            WHERE site_id = %(site_id)s AND member_id = %(member_id)s
              AND (%(last_day)s::date IS NULL OR joined_on IS NULL OR joined_on <= %(last_day)s)
        ) AS member
    ),
    'visits', (SELECT json_agg(recent ORDER BY business_date DESC, started_at DESC, visit_id DESC) FROM recent),
    'tasks', (SELECT json_agg(open_tasks ORDER BY created_at DESC, task_id DESC) FROM open_tasks),
    'notes', (SELECT json_agg(newest_note) FROM newest_note),
    'assistants', (SELECT json_agg(named_assistants ORDER BY assistant_id) FROM named_assistants)
)::text

-- name: active_members
SELECT site_id::bigint, member_id::bigint
FROM ai_source.members
WHERE is_active AND last_visit_on >= %(since)s

-- name: members_of_site
SELECT member_id::bigint
FROM ai_source.members
WHERE site_id = %(site_id)s AND is_active AND (%(since)s::date IS NULL OR last_visit_on >= %(since)s)
ORDER BY member_id

-- name: known_members
SELECT member_id::bigint
FROM ai_source.members
WHERE site_id = %(site_id)s AND member_id = ANY(%(member_ids)s)

-- name: known_assistants
SELECT assistant_id::bigint
FROM ai_source.assistants
WHERE site_id = %(site_id)s AND assistant_id = ANY(%(assistant_ids)s)

-- name: visited_members
SELECT DISTINCT member_id::bigint FROM ai_source.visits WHERE site_id = %(site_id)s AND member_id = ANY(%(member_ids)s)

-- name: newest_notes
SELECT DISTINCT ON (member_id) member_id::bigint, coalesce(left(content, %(longest)s), '')
FROM ai_source.notes
WHERE site_id = %(site_id)s AND member_id = ANY(%(member_ids)s)
ORDER BY member_id, created_at DESC, note_id DESC

-- name: open_tasks_of_members
SELECT DISTINCT member_id::bigint, assistant_id::bigint FROM ai_source.tasks
WHERE site_id = %(site_id)s AND member_id = ANY(%(member_ids)s) AND status = 'open'
