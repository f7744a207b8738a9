"""Business data in: the `ai_source` SQL contract -> pandas frames. Read only."""
