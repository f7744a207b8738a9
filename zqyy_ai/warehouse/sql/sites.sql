-- name: list_sites
SELECT site_id, site_name, city, opened_on, is_active
FROM ai_source.sites
ORDER BY site_id
