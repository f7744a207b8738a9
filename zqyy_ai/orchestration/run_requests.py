"""Asking for runs: range runs, one a site, only while a job of the site waits and no run that will take it is under way; and one run for
members' jobs, which stays open and takes them as they come.

No run keys: a key once used silently blocks the second attempt for ever. The state of the rows decides instead. Only the sensor
`ai_events` asks: its ticks come one after another, so none asks while another one's runs are being made.
"""

import time
from collections.abc import Collection
from datetime import timedelta

import dagster as dg
from dagster import DagsterInstance

from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.assembly import build_budget_guard
from zqyy_ai.engine.call_pauses import pause_in_force
from zqyy_ai.engine.prewarm_requests import sites_wanting_a_run
from zqyy_ai.engine.recovery import Recovered, recover_dead_run, recover_lost_leases
from zqyy_ai.orchestration.jobs import member_events, prewarm_site
from zqyy_ai.orchestration.partitions import SITE_PARTITIONS_NAME, range_of_site
from zqyy_ai.orchestration.tags import ASKED_BY_TAG, EVENTS_WORK, SENSOR, SITE_TAG, WORK_TAG
from zqyy_ai.settings import Settings
from zqyy_ai.store import event_runs, trigger_jobs
from zqyy_ai.store.database import Database

_RANGE_START_TAG = "dagster/asset_partition_range_start"
_RANGE_END_TAG = "dagster/asset_partition_range_end"
# A busy machine takes half a minute from a run's start to its first line.
_LONGEST_TO_OPEN_SECONDS = 120.0
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def runs_wanted(database: Database, instance: DagsterInstance, clock: Clock, settings: Settings) -> list[dg.RunRequest]:
    """The runs to ask for now. None while all calls are paused: a run would only find out that it may not call."""
    if pause_in_force(database) is not None:
        return []
    return [*_range_runs_wanted(database, instance, clock), *_event_run_wanted(database, instance, settings)]


def _event_run_wanted(database: Database, instance: DagsterInstance, settings: Settings) -> list[dg.RunRequest]:
    """A run that takes members' jobs, when some wait and none is open or on its way; or when the open one has reached its age.

    An old run goes on until its successor is open, so that no event waits for the start of a process.
    """
    with database.autocommit() as connection:
        opened = event_runs.open_runs(connection)
        is_wanted = bool(opened) or trigger_jobs.has_member_work(connection)
    greatest_age = timedelta(seconds=settings.event_run_max_age_seconds)
    if not is_wanted or any(run.age < greatest_age for run in opened):
        return []
    if _is_event_run_on_its_way(database, instance):
        return []
    return [dg.RunRequest(job_name=member_events.name, tags={ASKED_BY_TAG: SENSOR})]


def _is_event_run_on_its_way(database: Database, instance: DagsterInstance) -> bool:
    """Queued, starting, or started and about to open. One that was open and is not any more takes nothing."""
    records = instance.get_run_records(filters=dg.RunsFilter(statuses=_UNDER_WAY, tags={ASKED_BY_TAG: SENSOR, WORK_TAG: EVENTS_WORK}))
    if not records:
        return False
    with database.autocommit() as connection:
        known = event_runs.known_runs(connection, [record.dagster_run.run_id for record in records])
    latest_start = time.time() - _LONGEST_TO_OPEN_SECONDS
    # One that has not opened for so long has died on its way, and its code server with it.
    return any(record.dagster_run.run_id not in known and (record.start_time or time.time()) >= latest_start for record in records)


def _range_runs_wanted(database: Database, instance: DagsterInstance, clock: Clock) -> list[dg.RunRequest]:
    """Range runs for the sites whose jobs may start now; marks the jobs as asked for, so that no other tick asks again."""
    waiting = sites_wanting_a_run(database, clock, LIVE)
    if not waiting:
        return []
    under_way = _sites_under_way(instance)
    free = [site_id for site_id in waiting if site_id not in under_way]
    if not free:
        return []
    with database.transaction() as connection:
        marked = trigger_jobs.mark_run_requested(connection, free)
    instance.add_dynamic_partitions(SITE_PARTITIONS_NAME, [str(site_id) for site_id in sorted(marked)])
    return [_range_run(site_id) for site_id in sorted(marked)]


def put_right(database: Database, instance: DagsterInstance, settings: Settings) -> Recovered:
    """What dead processes left: their work is given back, and their runs are reported as failed.

    Runs that Dagster has found dead are looked for as well: the daemon comes to the sensor `run_failed` only every 5 s.
    """
    with database.autocommit() as connection:
        opened = [run.run_id for run in event_runs.open_runs(connection)]
        at_work = list({*trigger_jobs.runs_at_work(connection), *opened})
    if at_work:
        for run in instance.get_runs(filters=dg.RunsFilter(run_ids=at_work, statuses=[dg.DagsterRunStatus.FAILURE])):
            recover_dead_run(database, build_budget_guard(settings), run.run_id, max_attempts=settings.job_max_attempts)
    # A step may wait at guards, call and wait again without progress.
    stuck_after = timedelta(seconds=max(settings.job_stuck_seconds, settings.guard_wait_seconds + settings.step_timeout_seconds + 60))
    found = recover_lost_leases(database, build_budget_guard(settings), max_attempts=settings.job_max_attempts, stuck_after=stuck_after)
    end_abandoned_runs(database, instance, lease=timedelta(seconds=settings.lease_seconds), lost_run_ids=found.lost_run_ids)
    return found


def end_abandoned_runs(database: Database, instance: DagsterInstance, *, lease: timedelta, lost_run_ids: Collection[str] = ()) -> list[str]:
    """Reports runs as failed that are dead by our own tables; returns their ids.

    A prewarm whose job was just taken from it, or has left it for longer than a lease; a run for members' jobs that is open and whose lease is
    over. Where a run's process and the code server died together, Dagster takes the run for alive, and no other run would start.
    """
    started = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={ASKED_BY_TAG: SENSOR}))
    if not started:
        return []
    takes_events = {run.run_id for run in started if run.tags.get(WORK_TAG) == EVENTS_WORK}
    with database.autocommit() as connection:
        prewarms = [run.run_id for run in started if run.run_id not in takes_events]
        abandoned = trigger_jobs.runs_left_by_their_job(connection, prewarms, lease) | (set(lost_run_ids) - takes_events)
        abandoned |= event_runs.dead_runs(connection, list(takes_events))
        never_opened = takes_events - event_runs.known_runs(connection, list(takes_events))
    abandoned |= _started_long_ago(instance, never_opened)
    for run in started:
        if run.run_id in abandoned:
            instance.report_run_failed(run, "执行进程已不存在（租约过期）；任务已由 biz.ai_trigger_jobs 收回")
    return sorted(run.run_id for run in started if run.run_id in abandoned)


def _started_long_ago(instance: DagsterInstance, run_ids: Collection[str]) -> set[str]:
    """Those of the runs that should have opened by now: they died on their way, and their code server with them."""
    if not run_ids:
        return set()
    records = instance.get_run_records(filters=dg.RunsFilter(run_ids=list(run_ids)))
    latest_start = time.time() - _LONGEST_TO_OPEN_SECONDS
    return {record.dagster_run.run_id for record in records if (record.start_time or time.time()) < latest_start}


def _sites_under_way(instance: DagsterInstance) -> set[int]:
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=_UNDER_WAY, tags={ASKED_BY_TAG: SENSOR}))
    return {int(run.tags[SITE_TAG]) for run in runs if SITE_TAG in run.tags}


def _range_run(site_id: int) -> dg.RunRequest:
    first, last = range_of_site(site_id)
    return dg.RunRequest(
        job_name=prewarm_site.name,
        tags={_RANGE_START_TAG: first, _RANGE_END_TAG: last, SITE_TAG: str(site_id), ASKED_BY_TAG: SENSOR},
    )
