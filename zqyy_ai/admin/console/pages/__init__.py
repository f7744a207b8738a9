"""One module a page: what it shows, and what can be done on it."""

from zqyy_ai.admin.console.pages import alerts, overview

PAGES = (overview, alerts)
