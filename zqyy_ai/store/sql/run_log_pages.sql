-- name: count
SELECT count(*) AS logs FROM biz.ai_run_logs log
WHERE log.created_at IS NOT NULL
  AND (%(site_ids)s::bigint[] IS NULL OR log.site_id = ANY(%(site_ids)s::bigint[]))
  AND (%(app_type)s::text IS NULL OR biz.ai_run_app(log.app_type) = %(app_type)s)
  AND (%(status)s::text IS NULL OR log.status = %(status)s)
  AND (%(runtime_mode)s::text IS NULL OR log.runtime_mode = %(runtime_mode)s)
  AND (%(trigger_type)s::text IS NULL OR log.trigger_type = %(trigger_type)s)
  AND (%(member_id)s::bigint IS NULL OR log.member_id = %(member_id)s)
  AND (%(trigger_job_id)s::bigint IS NULL OR log.trigger_job_id = %(trigger_job_id)s)
  AND (%(begins_at)s::timestamptz IS NULL OR log.created_at >= %(begins_at)s)
  AND (%(ends_at)s::timestamptz IS NULL OR log.created_at < %(ends_at)s)

-- name: count_by_day
SELECT day, sum(logs)::bigint AS logs
FROM (
    SELECT day, logs FROM biz.ai_run_log_days
    WHERE (%(day_from)s::date IS NULL OR day >= %(day_from)s) AND (%(day_to)s::date IS NULL OR day <= %(day_to)s)
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
      AND (%(app_type)s::text IS NULL OR app_type = %(app_type)s)
      AND (%(outcomes)s::text[] IS NULL OR outcome = ANY(%(outcomes)s))
      AND (%(trigger_type)s::text IS NULL OR trigger_type = %(trigger_type)s)
    UNION ALL
    SELECT (created_at AT TIME ZONE 'Asia/Shanghai')::date, count(*) FROM biz.ai_run_logs
    WHERE created_at >= (SELECT coalesce(closed_until, '-infinity') FROM biz.ai_run_log_watermark) AND runtime_mode = 'live'
      AND (%(begins_at)s::timestamptz IS NULL OR created_at >= %(begins_at)s)
      AND (%(ends_at)s::timestamptz IS NULL OR created_at < %(ends_at)s)
      AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[]))
      AND (%(app_type)s::text IS NULL OR biz.ai_run_app(app_type) = %(app_type)s)
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(trigger_type)s::text IS NULL OR trigger_type = %(trigger_type)s)
    GROUP BY 1
) AS parts
GROUP BY day HAVING sum(logs) > 0
ORDER BY day DESC

-- name: page
SELECT log.id, biz.ai_run_app(log.app_type) AS app_type, coalesce(log.trigger_type, '') AS trigger_type, log.trigger_job_id,
       coalesce(log.site_id, 0) AS site_id, log.member_id, log.assistant_id, log.target_id, coalesce(log.tokens_used, 0) AS tokens_used,
       log.input_tokens, log.output_tokens, log.latency_ms, coalesce(log.status, '') AS status,
       biz.ai_run_outcome(log.status, log.error_code, log.error_message) AS outcome, log.error_code, log.runtime_mode, log.sandbox_date, log.created_at, log.finished_at
FROM biz.ai_run_logs log
WHERE log.created_at IS NOT NULL
  AND (%(site_ids)s::bigint[] IS NULL OR log.site_id = ANY(%(site_ids)s::bigint[]))
  AND (%(app_type)s::text IS NULL OR biz.ai_run_app(log.app_type) = %(app_type)s)
  AND (%(status)s::text IS NULL OR log.status = %(status)s)
  AND (%(runtime_mode)s::text IS NULL OR log.runtime_mode = %(runtime_mode)s)
  AND (%(trigger_type)s::text IS NULL OR log.trigger_type = %(trigger_type)s)
  AND (%(member_id)s::bigint IS NULL OR log.member_id = %(member_id)s)
  AND (%(trigger_job_id)s::bigint IS NULL OR log.trigger_job_id = %(trigger_job_id)s)
  AND (%(begins_at)s::timestamptz IS NULL OR log.created_at >= %(begins_at)s)
  AND (%(ends_at)s::timestamptz IS NULL OR log.created_at < %(ends_at)s)
ORDER BY log.created_at DESC, log.id DESC OFFSET %(offset)s LIMIT %(rows)s

-- name: of_job
SELECT log.id, biz.ai_run_app(log.app_type) AS app_type, coalesce(log.trigger_type, '') AS trigger_type, log.trigger_job_id,
       coalesce(log.site_id, 0) AS site_id, log.member_id, log.assistant_id, log.target_id, coalesce(log.tokens_used, 0) AS tokens_used,
       log.input_tokens, log.output_tokens, log.latency_ms, coalesce(log.status, '') AS status,
       biz.ai_run_outcome(log.status, log.error_code, log.error_message) AS outcome, log.error_code, log.runtime_mode, log.sandbox_date, log.created_at, log.finished_at
FROM biz.ai_run_logs log
WHERE log.trigger_job_id = %(job_id)s AND log.created_at IS NOT NULL
  AND (%(site_ids)s::bigint[] IS NULL OR log.site_id = ANY(%(site_ids)s::bigint[]))
ORDER BY log.id LIMIT %(rows)s

-- name: get
SELECT log.id, biz.ai_run_app(log.app_type) AS app_type, coalesce(log.trigger_type, '') AS trigger_type, log.trigger_job_id,
       coalesce(log.site_id, 0) AS site_id, log.member_id, log.assistant_id, log.target_id, coalesce(log.tokens_used, 0) AS tokens_used,
       log.input_tokens, log.output_tokens, log.latency_ms, coalesce(log.status, '') AS status,
       biz.ai_run_outcome(log.status, log.error_code, log.error_message) AS outcome, log.error_code, log.runtime_mode, log.sandbox_date, log.created_at, log.finished_at,
       log.request_prompt, log.response_text, log.error_message, log.session_id, log.request_id, log.dagster_run_id, log.model_ids,
       log.usage_reported, log.redacted_at, answer.id AS cache_id, answer.number_check
FROM biz.ai_run_logs log
LEFT JOIN LATERAL (
    SELECT id, number_check FROM (
        (SELECT id, result_json -> '_number_check' AS number_check FROM biz.ai_cache WHERE run_log_id = log.id ORDER BY id DESC LIMIT 1)
        UNION ALL
        -- What was reused is another log's answer.
        (SELECT id, result_json -> '_number_check' FROM biz.ai_cache cached
         WHERE log.status = 'reused' AND log.runtime_mode = 'live' AND cached.cache_type = %(cache_types)s::jsonb ->> biz.ai_run_app(log.app_type)
           AND cached.site_id = log.site_id AND cached.target_id = log.target_id AND cached.input_hash = log.input_hash
         ORDER BY cached.created_at DESC, cached.id DESC LIMIT 1)
        UNION ALL
        -- A sandbox's answer is in no cache.
        (SELECT NULL, result_json -> '_number_check' FROM biz.ai_sandbox_answers WHERE run_log_id = log.id ORDER BY id DESC LIMIT 1)
    ) AS found LIMIT 1
) AS answer ON true
WHERE log.id = %(log_id)s AND log.created_at IS NOT NULL
  AND (%(site_ids)s::bigint[] IS NULL OR log.site_id = ANY(%(site_ids)s::bigint[]))
