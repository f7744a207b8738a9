"""The original cache service's statements, word for word: other systems go on using them on our tables."""

GET_LATEST = """
                    SELECT id, cache_type, site_id, target_id,
                           result_json, score, triggered_by,
                           created_at, expires_at, status
                    FROM biz.ai_cache
                    WHERE cache_type = %s AND site_id = %s AND target_id = %s
                      AND (status = 'valid' OR status IS NULL)
                      AND (expires_at IS NULL OR expires_at > now())
                    ORDER BY created_at DESC
                    LIMIT 1
"""
GET_HISTORY = """
                    SELECT id, cache_type, site_id, target_id,
                           result_json, score, triggered_by,
                           created_at, expires_at
                    FROM biz.ai_cache
                    WHERE cache_type = %s AND site_id = %s AND target_id = %s
                    ORDER BY created_at DESC
                    LIMIT %s
"""
WRITE_CACHE = """
                    INSERT INTO biz.ai_cache
                        (cache_type, site_id, target_id, result_json,
                         triggered_by, score, expires_at, status)
                    VALUES (%s, %s, %s, %s, %s, %s, %s, 'valid')
                    RETURNING id
"""
SET_GENERATING = """
                    INSERT INTO biz.ai_cache
                        (cache_type, site_id, target_id, result_json, status, triggered_by)
                    VALUES (%s, %s, %s, '{}', 'generating', %s)
                    RETURNING id
"""
FINALIZE_CACHE = """
                    UPDATE biz.ai_cache
                    SET result_json = %s, score = %s, status = 'valid', expires_at = %s
                    WHERE id = %s AND status = 'generating'
"""
CLEANUP_EXCESS = """
                    DELETE FROM biz.ai_cache
                    WHERE id IN (
                        SELECT id FROM biz.ai_cache
                        WHERE cache_type = %s AND site_id = %s AND target_id = %s
                        ORDER BY created_at DESC
                        OFFSET %s
                    )
"""
