"""One module a page: what it shows, and what can be done on it."""

from zqyy_ai.admin.console.pages import alerts, jobs, logs, overview, prewarm

PAGES = (overview, prewarm, jobs, logs, alerts)
