from datetime import UTC, datetime

import pytest

from zqyy_ai.domain.events import DedupPolicy, EventName
from zqyy_ai.store import triggers
from zqyy_ai.store.database import Connection
from zqyy_ai.store.triggers import PREWARM_JOB_TYPE, Trigger

NOW = datetime(2025, 6, 18, 2, 0, tzinfo=UTC)


def trigger_of(connection: Connection, event_name: str) -> Trigger:
    found = triggers.trigger_for_event(connection, event_name)
    assert found is not None
    return found


def test_an_event_finds_its_trigger_by_the_name_in_the_config(connection: Connection) -> None:
    found = trigger_of(connection, EventName.DWS_COMPLETED)
    assert (found.job_name, found.is_enabled) == ("ai_dws_completed", True)
    assert triggers.trigger_for_event(connection, "no_such_event") is None


def test_finished_loads_coalesce_and_other_events_have_one_job_a_business_day(connection: Connection) -> None:
    assert trigger_of(connection, EventName.DWS_COMPLETED).dedup_policy is DedupPolicy.COALESCE
    assert trigger_of(connection, EventName.NOTE_CREATED).dedup_policy is DedupPolicy.BUSINESS_DAY


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        ('{"dedup_policy": "business_day"}', DedupPolicy.BUSINESS_DAY),
        ('{"dedup_policy": "coalesce"}', DedupPolicy.COALESCE),
        ('{"dedup_policy": "typo"}', DedupPolicy.COALESCE),
        ('{"dedup_policy": ["coalesce"]}', DedupPolicy.COALESCE),
    ],
)
def test_the_config_sets_the_policy_and_a_typo_falls_back_to_the_default(connection: Connection, config: str, policy: DedupPolicy) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET trigger_config = trigger_config || %s::jsonb", [config])
    assert trigger_of(connection, EventName.DWS_COMPLETED).dedup_policy is policy


@pytest.mark.parametrize("status", ["disabled", None])
def test_a_trigger_that_does_not_say_enabled_is_not(connection: Connection, status: str | None) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET status = %s", [status])
    assert not trigger_of(connection, EventName.DWS_COMPLETED).is_enabled


def test_the_prewarms_cron_row_is_found_and_keeps_when_it_is_due(connection: Connection) -> None:
    [trigger] = triggers.cron_triggers(connection, PREWARM_JOB_TYPE)
    assert (trigger.job_name, trigger.cron_expression) == ("ai_dws_prewarm_0830", "30 8 * * *")
    triggers.schedule_next(connection, trigger, NOW)
    triggers.record_run(connection, trigger.id, NOW)
    [again] = triggers.cron_triggers(connection, PREWARM_JOB_TYPE)
    assert (again.next_run_at, again.last_run_at, again.scheduled_expression) == (NOW, NOW, "30 8 * * *")
