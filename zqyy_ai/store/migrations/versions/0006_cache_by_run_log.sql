-- Recovery asks which unfinished run logs have their answer in the cache; without an index it would read the whole cache each time.
CREATE INDEX IF NOT EXISTS ai_cache_run_log_idx ON biz.ai_cache (run_log_id) WHERE run_log_id IS NOT NULL;
