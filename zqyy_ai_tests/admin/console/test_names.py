"""Everything that has a name of its own in the code has one on the pages."""

from zqyy_ai.admin.console import names
from zqyy_ai.admin.console.runbook import RUNBOOK
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.events import DedupPolicy, EventName, EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.store.alerts import AlertStatus, AlertType, Severity
from zqyy_ai.store.clues import ClueSource
from zqyy_ai.store.prewarm_windows import WindowState
from zqyy_ai.store.run_logs import RunStatus


def test_each_value_has_its_title() -> None:
    assert set(names.ALERT_TYPES) == set(AlertType) == set(RUNBOOK)
    assert set(names.ALERT_STATUS) == set(AlertStatus)
    assert set(names.SEVERITY) == set(Severity)
    assert set(names.APP_TITLES) == set(AppType)
    assert set(names.EVENT_TITLES) == set(EventType)
    assert set(names.EVENT_NAME_TITLES) == set(EventName)
    assert set(names.JOB_STATUS) == set(JobStatus)
    assert set(names.CELL_STATES) == set(WindowState)
    assert set(names.DEDUP_POLICIES) == set(DedupPolicy)
    assert set(names.OUTCOMES) == {*RunStatus, "refused"}
    assert set(ClueSource) < set(names.CLUE_SOURCES)


def test_what_has_none_is_shown_as_it_is() -> None:
    assert names.app_title("app9_other") == "app9_other"
    assert names.window_title("yesterday__roof") == "yesterday__roof"
    assert names.chain_titles("app3→app9", "consumption") == "客户线索 → app9"
    assert names.chain_titles("app2", "dws_completed") == "财务洞察 72 个窗口"
    assert names.chain_titles("app2", "run_app") == "财务洞察 1 个窗口"
    assert names.advice_of("budget_exceeded:daily") is not None
    assert names.advice_of("something_new") is None
    assert names.with_field_titles("body.cron_expression：应为五段") == "cron 表达式：应为五段"
