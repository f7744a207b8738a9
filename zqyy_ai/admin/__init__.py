"""The HTTP face: the only room that knows HTTP serving. It never calls the model and never imports Dagster.

What is asked for here becomes a row of `biz.ai_trigger_jobs`, by the same use cases of `engine/` that the command line has.
"""
