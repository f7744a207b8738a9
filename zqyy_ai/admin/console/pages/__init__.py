"""One module a page: what it shows, and what can be done on it."""

from zqyy_ai.admin.console.pages import alerts, batches, cache, jobs, logs, members, overview, prewarm, triggers

PAGES = (overview, prewarm, jobs, logs, alerts, members, batches, triggers, cache)
