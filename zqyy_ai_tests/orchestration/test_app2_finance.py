"""Runs of the asset on PostgreSQL storage, with the real SDK against the emulator."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from zqyy_ai.definitions import defs
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey
from zqyy_ai.engine.intake import take_in
from zqyy_ai.orchestration.partitions import finance_key, range_of_site
from zqyy_ai.orchestration.tags import ASKED_BY_TAG, SENSOR
from zqyy_ai.store import events, runtime_contexts
from zqyy_ai_tests.orchestration.conftest import Stage, emulator_counts, plan_faults, rows

SITE = 1001
ASSET = dg.AssetKey("app2_finance")
# How the emulator recognises one window by its prompt.
LAST_MONTH_KTV = '"区域":"KTV","时间维度":"上月"'
LAST_WEEK_KTV = '"区域":"KTV","时间维度":"上周"'


def run_site(
    stage: Stage, *, site_id: int = SITE, run_config: dict[str, Any] | None = None, asked_by_sensor: bool = False
) -> dg.ExecuteInProcessResult:
    first, last = range_of_site(site_id)
    return defs.resolve_job_def("prewarm_site").execute_in_process(
        instance=stage.instance,
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
            **({ASKED_BY_TAG: SENSOR} if asked_by_sensor else {}),
        },
        run_config=run_config,
        raise_on_error=False,
    )


def materialised(result: dg.ExecuteInProcessResult) -> set[str]:
    found = [event.partition for event in result.get_asset_materialization_events()]
    assert len(found) == len(set(found))
    return {partition for partition in found if partition is not None}


def all_keys(site_id: int = SITE) -> set[str]:
    return {finance_key(site_id, window) for window in WINDOW_KEYS}


def windows_with_an_answer_of_the_model(stage: Stage) -> int:
    return int(
        rows(stage, "SELECT count(*) AS n FROM biz.ai_cache c JOIN biz.ai_run_logs l ON l.id = c.run_log_id AND l.status = 'success'")[0][
            "n"
        ]
    )


def test_one_run_materialises_every_window_of_a_site_and_no_other(stage: Stage) -> None:
    result = run_site(stage)

    assert result.success
    assert materialised(result) == all_keys()
    cached = rows(stage, "SELECT cache_type, site_id, target_id, status FROM biz.ai_cache")
    assert {row["target_id"] for row in cached} == {str(window) for window in WINDOW_KEYS}
    assert {(row["site_id"], row["status"]) for row in cached} == {(SITE, "valid")}
    assert Counter(row["cache_type"] for row in cached) == {"app2_finance": 8, "app2a_finance_area": 64}


def test_a_sandboxs_prewarm_materialises_nothing_and_is_judged_by_no_check(stage: Stage) -> None:
    day = stage.business_date - timedelta(days=30)
    with stage.database.transaction() as connection:
        runtime_contexts.put(connection, SITE, RuntimeContext(RuntimeMode.SANDBOX, day), "小李")
        events.fire(connection, "ai_dws_completed", {"site_id": SITE})
    take_in(stage.database, SystemClock(), LIVE)

    refused = run_site(stage)
    assert not refused.success
    assert rows(stage, "SELECT status FROM biz.ai_trigger_jobs") == [{"status": "pending"}]

    result = run_site(stage, asked_by_sensor=True)
    assert result.success
    assert materialised(result) == set()
    assert result.get_asset_check_evaluations() == []
    assert rows(stage, "SELECT * FROM biz.ai_cache") == []
    assert rows(stage, "SELECT count(*) AS n, min(sandbox_date) AS day FROM biz.ai_sandbox_answers") == [{"n": 72, "day": day}]
    assert rows(stage, "SELECT status FROM biz.ai_trigger_jobs") == [{"status": "completed"}]


def test_a_materialisation_tells_the_operator_what_it_cost_and_when_it_expires(stage: Stage) -> None:
    result = run_site(stage)

    event = next(
        event
        for event in result.get_asset_materialization_events()
        if event.partition == finance_key(SITE, WindowKey.parse("last_month__all"))
    )
    metadata = event.materialization.metadata
    assert {"预览", "tokens", "耗时_ms", "费用_元", "过期时间", "run_log_id", "结果", "模型", "数字核对"} <= set(metadata)
    assert isinstance(metadata["tokens"], dg.IntMetadataValue)
    assert (metadata["tokens"].value or 0) > 0
    assert metadata["模型"].value == "emulator"
    assert "上月 · 全店" in str(metadata["预览"].value)


def test_every_good_window_passes_all_checks_under_its_own_partition(stage: Stage) -> None:
    result = run_site(stage)

    evaluations = result.get_asset_check_evaluations()
    assert all(evaluation.passed for evaluation in evaluations)
    for check in ("answer_validates", "not_stale", "numbers_explained"):
        assert {evaluation.partition for evaluation in evaluations if evaluation.check_name == check} == all_keys()


def test_an_unexplained_number_is_a_warning_that_shows_it_in_its_sentence_and_leaves_the_run_good(stage: Stage) -> None:
    run_site(stage)
    body, number = (
        "净收入 999 元。净收入增长 99.9%，需要留意。台时利用率平稳。",
        {"seq": 1, "field": "body", "text": "99.9%", "start": 16, "end": 21},
    )
    assert body[16:21] == "99.9%"
    with stage.database.autocommit() as connection:
        connection.execute(
            "UPDATE biz.ai_cache SET result_json = jsonb_set(jsonb_set(result_json::jsonb, '{insights,0,body}', to_jsonb(%s::text)),"
            " '{_number_check}', %s::jsonb) WHERE target_id = 'last_month__ktv'",
            [body, json.dumps({"checked": 5, "unexplained": [number]})],
        )

    reused = run_site(stage)

    assert reused.success
    [failed] = [evaluation for evaluation in reused.get_asset_check_evaluations() if not evaluation.passed]
    assert (failed.partition, failed.check_name, failed.severity) == (
        finance_key(SITE, WindowKey.parse("last_month__ktv")),
        "numbers_explained",
        dg.AssetCheckSeverity.WARN,
    )
    assert failed.metadata["已核对数字"].value == 5
    assert failed.metadata["未能解释"].value == "- 1. 净收入增长 **99.9%**，需要留意。"


def test_a_second_run_of_unchanged_data_materialises_all_and_calls_nobody(stage: Stage) -> None:
    run_site(stage)
    calls = emulator_counts(stage)["posts"]

    second = run_site(stage)

    assert second.success
    assert materialised(second) == all_keys()
    assert emulator_counts(stage)["posts"] == calls


def test_regenerate_in_the_run_config_calls_again(stage: Stage) -> None:
    run_site(stage)
    answered = windows_with_an_answer_of_the_model(stage)

    run_site(stage, run_config={"ops": {"app2_finance": {"config": {"regenerate": True}}}})

    assert emulator_counts(stage)["posts"] == 2 * answered


def test_a_bad_window_fails_the_run_and_leaves_the_good_ones_materialised(stage: Stage) -> None:
    plan_faults(stage, {"kind": "http_error", "status": 400, "prompt_contains": LAST_MONTH_KTV})
    bad = finance_key(SITE, WindowKey.parse("last_month__ktv"))

    result = run_site(stage)

    assert not result.success
    assert materialised(result) == all_keys() - {bad}
    failed_checks = {(e.partition, e.check_name) for e in result.get_asset_check_evaluations() if not e.passed}
    assert failed_checks == {(bad, "not_stale")}
    job = rows(stage, "SELECT status, error_message, progress FROM biz.ai_trigger_jobs")[0]
    assert job["status"] == "partial"
    assert "last_month__ktv" in job["error_message"]
    assert (job["progress"]["done"], job["progress"]["failed"]) == (71, 1)


def test_an_answer_that_does_not_validate_fails_the_check_and_never_reaches_the_cache(stage: Stage) -> None:
    plan_faults(stage, {"kind": "wrong_schema", "prompt_contains": LAST_MONTH_KTV})
    bad = finance_key(SITE, WindowKey.parse("last_month__ktv"))

    result = run_site(stage)

    failed_checks = {(e.partition, e.check_name) for e in result.get_asset_check_evaluations() if not e.passed}
    assert failed_checks == {(bad, "answer_validates"), (bad, "not_stale")}
    assert rows(stage, "SELECT id FROM biz.ai_cache WHERE target_id = 'last_month__ktv'") == []


def test_a_rerun_after_a_partial_failure_calls_only_for_the_bad_windows_and_materialises_all(stage: Stage) -> None:
    plan_faults(
        stage,
        {"kind": "http_error", "status": 400, "prompt_contains": LAST_MONTH_KTV},
        {"kind": "http_error", "status": 400, "prompt_contains": LAST_WEEK_KTV},
    )
    run_site(stage)
    plan_faults(stage)
    calls = emulator_counts(stage)["posts"]

    rerun = run_site(stage)

    assert rerun.success
    assert materialised(rerun) == all_keys()
    assert emulator_counts(stage)["posts"] == calls + 2


def test_one_partition_alone_can_be_materialised(stage: Stage) -> None:
    key = finance_key(SITE, WindowKey.parse("last_quarter__vip"))

    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=stage.instance, asset_selection=[ASSET], partition_key=key
    )

    assert materialised(result) == {key}
    job = rows(stage, "SELECT event_type, status, payload FROM biz.ai_trigger_jobs")[0]
    assert (job["event_type"], job["status"]) == ("run_app", "completed")
    assert job["payload"]["targets"] == ["last_quarter__vip"]


def test_a_site_that_does_not_exist_is_refused_with_its_number(stage: Stage) -> None:
    stage.instance.add_dynamic_partitions("site", ["9999"])

    result = run_site(stage, site_id=9999)

    assert not result.success
    failure = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    assert "9999" in str(failure.step_failure_data.error)


def dagster_materialize(stage: Stage, *partition: str) -> subprocess.Popen[bytes]:
    command = ["-m", "dagster", "asset", "materialize", "-m", "zqyy_ai.definitions", "--select", "app2_finance", *partition]
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **stage.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_dagsters_own_cli_materialises_one_partition(stage: Stage) -> None:
    assert dagster_materialize(stage, "--partition", "1001|this_month__all").wait(120) == 0

    assert [row["target_id"] for row in rows(stage, "SELECT target_id FROM biz.ai_cache")] == ["this_month__all"]


@pytest.mark.timeout(180)
def test_a_run_killed_in_the_middle_is_completed_by_a_rerun_that_pays_for_no_written_answer_again(stage: Stage) -> None:
    first, last = range_of_site(SITE)
    plan_faults(stage, latency_seconds=0.2)
    stage.environment["ZQYY_LLM_CONCURRENCY"] = "4"
    doomed = dagster_materialize(stage, "--partition-range", f"{first}...{last}")
    deadline = time.monotonic() + 90
    while windows_with_an_answer_of_the_model(stage) < 12:
        assert doomed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.wait()
    plan_faults(stage)
    written = windows_with_an_answer_of_the_model(stage)
    before = emulator_counts(stage)

    rerun = run_site(stage)

    assert rerun.success
    assert materialised(rerun) == all_keys()
    assert emulator_counts(stage)["posts"] - before["posts"] == windows_with_an_answer_of_the_model(stage) - written
