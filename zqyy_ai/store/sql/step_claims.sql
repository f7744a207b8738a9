-- name: take
INSERT INTO biz.ai_step_claims AS claim (cache_type, site_id, target_id, token, worker_id, lease_expires_at)
VALUES (%(cache_type)s, %(site_id)s, %(target_id)s, %(token)s, %(worker_id)s, clock_timestamp() + %(lease)s)
ON CONFLICT (cache_type, site_id, target_id) DO UPDATE
SET token = excluded.token, worker_id = excluded.worker_id, lease_expires_at = excluded.lease_expires_at
WHERE claim.lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds' OR claim.token = excluded.token
RETURNING token

-- name: take_for_job
-- FOR SHARE: whoever gives the job up at this moment is waited for, and decides.
WITH job AS (
    SELECT id FROM biz.ai_trigger_jobs WHERE id = %(job_id)s AND fencing_token = %(fencing_token)s AND status = 'running' FOR SHARE
), taken AS (
    INSERT INTO biz.ai_step_claims AS claim (cache_type, site_id, target_id, token, worker_id, lease_expires_at)
    SELECT %(cache_type)s, %(site_id)s, %(target_id)s, %(token)s, %(worker_id)s, clock_timestamp() + %(lease)s FROM job
    ON CONFLICT (cache_type, site_id, target_id) DO UPDATE
    SET token = excluded.token, worker_id = excluded.worker_id, lease_expires_at = excluded.lease_expires_at
    WHERE claim.lease_expires_at < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - interval '5 seconds' OR claim.token = excluded.token
    RETURNING token
)
SELECT EXISTS (SELECT FROM job) AS is_ours, EXISTS (SELECT FROM taken) AS is_taken

-- name: renew
UPDATE biz.ai_step_claims SET lease_expires_at = clock_timestamp() + %(lease)s
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND token = %(token)s

-- name: is_held
SELECT FROM biz.ai_step_claims
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND token = %(token)s

-- name: end
DELETE FROM biz.ai_step_claims
WHERE cache_type = %(cache_type)s AND site_id = %(site_id)s AND target_id = %(target_id)s AND token = %(token)s
RETURNING token
