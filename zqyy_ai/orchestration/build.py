"""Puts the definitions together from explicit tuples: whatever Dagster knows of us is listed here."""

import dagster as dg

from zqyy_ai.orchestration.app2_finance import app2_finance, finance_view
from zqyy_ai.orchestration.jobs import member_events, prewarm_site
from zqyy_ai.orchestration.member_answers import (
    assistants_view,
    member_answers,
    members_view,
    notes_view,
    retention_clues,
    tasks_view,
    visits_view,
)
from zqyy_ai.orchestration.resources import DatabaseResource, EngineResource
from zqyy_ai.orchestration.retention import retention
from zqyy_ai.orchestration.schedules import ai_dws_prewarm, retention_daily
from zqyy_ai.orchestration.sensors import (
    ai_events,
    etl_completed,
    reaper,
    run_canceled,
    run_failed,
    send_alerts,
    sync_member_partitions,
    sync_site_partitions,
)

ASSETS = (
    finance_view,
    app2_finance,
    members_view,
    visits_view,
    assistants_view,
    tasks_view,
    notes_view,
    member_answers,
    retention_clues,
)
JOBS = (prewarm_site, member_events, retention)
SCHEDULES = (ai_dws_prewarm, retention_daily)
SENSORS = (ai_events, etl_completed, reaper, sync_site_partitions, sync_member_partitions, run_failed, run_canceled, send_alerts)


def build_definitions() -> dg.Definitions:
    return dg.Definitions(
        assets=ASSETS,
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={"engine": EngineResource(), "database": DatabaseResource()},
        # The multiprocess executor would pay a process start for each step; the calls run in threads of our own.
        executor=dg.in_process_executor,
    )
