"""zqyy_ai: the Dagster project that keeps `biz.ai_cache` filled, correct, affordable and watchable."""
