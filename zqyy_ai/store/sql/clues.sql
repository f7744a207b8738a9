-- name: present
SELECT category::text, summary, coalesce(detail, '') AS detail, coalesce(recorded_by_name, '') AS recorded_by_name
FROM public.member_retention_clue
WHERE member_id = %(member_id)s AND site_id = %(site_id)s AND source::text = %(source)s
ORDER BY id

-- name: delete
DELETE FROM public.member_retention_clue WHERE member_id = %(member_id)s AND site_id = %(site_id)s AND source::text = %(source)s

-- name: insert
INSERT INTO public.member_retention_clue (member_id, category, summary, detail, site_id, source, recorded_by_name, recorded_by_assistant_id)
VALUES (%(member_id)s, %(category)s, %(summary)s, %(detail)s, %(site_id)s, %(source)s, %(recorded_by_name)s, NULL)

-- name: of_member
-- Whoever else writes clues may have put anything there; a table that was adopted need not say when.
SELECT category::text AS category, coalesce(summary::text, '') AS summary, coalesce(detail::text, '') AS detail,
       coalesce(recorded_by_name::text, '') AS recorded_by_name, coalesce(source::text, '') AS source,
       to_jsonb(clue) ->> 'created_at' AS created_at
FROM public.member_retention_clue AS clue
WHERE member_id = %(member_id)s AND site_id = %(site_id)s
ORDER BY source, id LIMIT %(rows)s
