"""Tags of runs: who asked, for which site, and what kind of work, by which the queue in dagster.yaml limits them."""

ASKED_BY_TAG = "zqyy/asked_by"
SENSOR = "sensor"
SITE_TAG = "zqyy/site_id"
WORK_TAG = "zqyy/work"
EVENTS_WORK = "events"
PREWARM_WORK = "prewarm"
PRIORITY_TAG = "dagster/priority"
