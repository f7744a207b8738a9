"""Whatever goes wrong and in which order: the logs, the budget, the cache and what DashScope saw tell the same story."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zqyy_ai.engine.step import StepRequest, StepResult, StepStatus
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.sites import Site
from zqyy_ai_tests.engine.workbench import NOW, SITE, EmulatorControl, cached, engine_on, held_rows, logs, request
from zqyy_ai_tests.restored_database import restore

SITES = (SITE, Site(1002, "浦东店", SITE.is_active, SITE.business_day_cutoff))
TARGETS = ("this_month__all", "last_month__all", "this_month__vip")
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "usage_flat"},
    {"kind": "usage_missing"},
    {"kind": "trailing_comma"},
    {"kind": "http_error", "status": 429},
    {"kind": "http_error", "status": 429, "code": "Throttling.AllocationQuota"},
    {"kind": "http_error", "status": 500},
    {"kind": "http_error", "status": 504},
    {"kind": "http_error", "status": 400},
    {"kind": "http_error", "status": 401},
    {"kind": "http_error", "status": 404},
    {"kind": "html_error"},
    {"kind": "data_inspection", "with_usage": True},
    {"kind": "error_in_200"},
    {"kind": "close"},
    {"kind": "reset"},
    {"kind": "close_in_body"},
    {"kind": "bad_json"},
    {"kind": "informational", "status": 103, "interval_seconds": 0.01},
    {"kind": "stall"},
    {"kind": "drip", "interval_seconds": 0.01},
    {"kind": "truncated"},
    {"kind": "prose", "with_usage": False},
    {"kind": "wrong_schema"},
)


@dataclass(frozen=True)
class Ask:
    """One step: the same site, target and figure again is the same input."""

    site: Site
    target_id: str
    net_revenue_cny: int
    regenerates: bool

    def request(self) -> StepRequest:
        more: dict[str, Any] = {"reuse_not_before": NOW.replace(year=2099)} if self.regenerates else {}
        return request(self.target_id, net_revenue_cny=self.net_revenue_cny, site=self.site, **more)


ASKS = st.builds(Ask, st.sampled_from(SITES), st.sampled_from(TARGETS), st.sampled_from([100, 200]), st.booleans())
# A round's steps run side by side; whether, before it, the holds of breakers run out.
ROUNDS = st.lists(st.tuples(st.lists(ASKS, min_size=1, max_size=6), st.booleans()), min_size=2, max_size=4)


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(faults=st.lists(st.sampled_from(FAULTS), min_size=4, max_size=24), rounds=ROUNDS)
def test_after_any_faults_in_any_order_all_books_agree(
    faults: list[dict[str, Any]],
    rounds: list[tuple[list[Ask], bool]],
    module_database: Database,
    module_emulator: EmulatorControl,
) -> None:
    restore(module_database)
    module_emulator.reset()
    module_emulator.plan(*(fault | {"count": 1} for fault in faults))  # each call meets the next
    results: list[StepResult] = []
    with (
        pytest.MonkeyPatch.context() as turned,
        engine_on(
            module_database, module_emulator, ZQYY_STEP_TIMEOUT_SECONDS="1", ZQYY_GUARD_WAIT_SECONDS="0.5", ZQYY_BREAKER_FAILURES="3"
        ) as engine,
        module_database.autocommit() as connection,
        ThreadPoolExecutor(6) as pool,
    ):
        turned.setattr("zqyy_ai.engine.step._FIRST_BACKOFF_SECONDS", 0.05)
        for asks, holds_run_out in rounds:
            if holds_run_out:
                connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp() WHERE state = 'open'")
            results += pool.map(engine.step.run, [ask.request() for ask in asks])
            assert_the_books_agree(connection, results, module_emulator)


def assert_the_books_agree(connection: Connection, results: list[StepResult], emulator: EmulatorControl) -> None:
    written = logs(connection)
    sent = [log for log in written if log["request_prompt"] is not None]
    assert emulator.posts == len(sent) == sum(result.calls for result in results)
    assert {log["status"] for log in sent} <= {"success", "failed", "timeout"}
    assert not any(log["tokens_used"] for log in written if log not in sent), "what was not sent costs nothing"

    used = {site.site_id: sum(log["tokens_used"] for log in written if log["site_id"] == site.site_id) for site in SITES}
    assert sum(used.values()) == sum(result.tokens for result in results)
    for window in connection.execute("SELECT * FROM biz.ai_budget_windows").fetchall():
        of_site = window["scope"].removeprefix("site:")
        assert window["used_tokens"] == (sum(used.values()) if of_site == "chain" else used[int(of_site)])
        assert window["reserved_tokens"] == 0
    assert held_rows(connection) == 0

    successes = {log["id"]: log for log in written if log["status"] == "success"}
    answers = cached(connection)
    assert sorted(answer["run_log_id"] for answer in answers) == sorted(successes), "an answer for each success, and no other"
    for answer in answers:
        log = successes[answer["run_log_id"]]
        assert (answer["site_id"], answer["target_id"], answer["input_hash"]) == (log["site_id"], log["target_id"], log["input_hash"])
    assert len(answers) == sum(result.status is StepStatus.ANSWERED for result in results)
