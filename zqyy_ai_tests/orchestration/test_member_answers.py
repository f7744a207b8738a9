"""App3-App8 in Dagster: what a person starts on partitions, and what the run that takes events tells of them. Real runs throughout."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

# Not exported, though the storage's public methods take it: dagster's version is pinned.
from dagster._core.event_api import PartitionKeyFilter

from zqyy_ai.definitions import defs
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.events import MEMBER_APPS
from zqyy_ai.domain.runtime_context import RuntimeContext, RuntimeMode
from zqyy_ai.domain.windows import WindowKey
from zqyy_ai.engine.member_requests import add_window_job, plan_backfill, request_app, request_backfill
from zqyy_ai.orchestration.member_answers import CHECK_NAME
from zqyy_ai.orchestration.partitions import MEMBER_PARTITIONS_NAME, finance_key, member_key
from zqyy_ai.settings import load_settings
from zqyy_ai.store import event_runs, events, runtime_contexts
from zqyy_ai_tests.orchestration.conftest import SITES, Stage, emulator_counts, plan_faults, rows

SITE, OTHER_SITE = SITES
ALL_APPS = {app.value for app in MEMBER_APPS}
Told = set[tuple[str, str | None]]


# The definitions


def test_lineage_leads_from_the_warehouse_through_the_chains_to_the_clues_of_the_back_office() -> None:
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()
    }
    assert parents["member_retention_clue"] == {"app8_consolidation"}
    assert parents["app8_consolidation"] >= {"app3_clue", "app6_note"}
    assert "app8_consolidation" in parents["app7_customer"]
    assert "app4_analysis" in parents["app5_tactics"]
    assert parents["app3_clue"] == {"ai_source/members", "ai_source/visits"}
    assert parents["app6_note"] == {"ai_source/members", "ai_source/notes"}
    assert parents["app4_analysis"] == {f"ai_source/{view}" for view in ("members", "visits", "assistants", "tasks")}
    for view in ("members", "visits", "assistants", "tasks", "notes"):
        assert parents[f"ai_source/{view}"] == set()
        assert not graph.get(dg.AssetKey(["ai_source", view])).is_materializable


def test_every_application_is_partitioned_by_member_and_has_a_check_of_each_partition() -> None:
    graph = defs.resolve_asset_graph()
    for app in MEMBER_APPS:
        node = graph.get(dg.AssetKey(app.value))
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
        assert node.partitions_def.name == MEMBER_PARTITIONS_NAME
        assert [key.name for key in node.check_keys] == [CHECK_NAME]
        assert node.description is not None and "失败的原因" in node.description


# Runs that people start


def members(stage: Stage, site_id: int = SITE) -> list[int]:
    """Members who have visits, notes and an open task of one assistant, as the demo has them: every application has something to ask."""
    found = rows(
        stage,
        "SELECT member_id FROM ai_source.members m WHERE site_id = %s AND is_active AND last_visit_on IS NOT NULL"
        " AND EXISTS (SELECT FROM ai_source.notes n WHERE n.site_id = m.site_id AND n.member_id = m.member_id)"
        " AND (SELECT count(DISTINCT assistant_id) FROM ai_source.tasks t"
        "      WHERE t.site_id = m.site_id AND t.member_id = m.member_id AND t.status = 'open') = 1 ORDER BY 1",
        site_id,
    )
    return [row["member_id"] for row in found]


def make_partitions(stage: Stage, *keys: str) -> None:
    stage.instance.add_dynamic_partitions(MEMBER_PARTITIONS_NAME, list(keys))


def run_one(stage: Stage, key: str, apps: Sequence[str] = (), config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("member_events").execute_in_process(
        instance=stage.instance,
        partition_key=key,
        asset_selection=[dg.AssetKey(app) for app in apps] or None,
        run_config={"ops": {"member_answers": {"config": config or {}}}},
        raise_on_error=False,
    )


def run_range(stage: Stage, first: str, last: str) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("member_events").execute_in_process(
        instance=stage.instance,
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        raise_on_error=False,
    )


def materialised(result: dg.ExecuteInProcessResult) -> Told:
    told = [(event.asset_key.to_user_string(), event.partition) for event in result.get_asset_materialization_events() if event.asset_key]
    assert len(told) == len(set(told))
    return set(told)


def judged(result: dg.ExecuteInProcessResult, *, passed: bool) -> Told:
    return {
        (evaluation.asset_key.to_user_string(), evaluation.partition)
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.passed is passed
    }


def newest_check(stage: Stage, app: str, key: str) -> str | None:
    """What Dagster shows for a partition: SUCCEEDED, FAILED, PLANNED (by a run that did not come to it), or nothing."""
    check = dg.AssetCheckKey(dg.AssetKey(app), CHECK_NAME)
    found = stage.instance.event_log_storage.get_latest_asset_check_execution_by_key([check], partition_filter=PartitionKeyFilter(key=key))
    return found[check].status.value if check in found else None


def failed(app: str, **more: Any) -> dict[str, Any]:
    """A fault that no retry cures, for one application."""
    return {"kind": "http_error", "status": 400, "app": app, **more}


def test_one_member_is_asked_by_all_applications_and_each_answer_is_a_materialisation(stage: Stage) -> None:
    member = members(stage)[0]
    key = member_key(SITE, member)
    make_partitions(stage, key)

    result = run_one(stage, key)

    assert result.success
    assert materialised(result) == {(app, key) for app in ALL_APPS}
    assert judged(result, passed=True) == {(app, key) for app in ALL_APPS}
    assert judged(result, passed=False) == set()
    assert {row["cache_type"] for row in rows(stage, "SELECT cache_type FROM biz.ai_cache")} == {
        "app3_clue",
        "app4_analysis",
        "app5_tactics",
        "app6_note_analysis",
        "app7_customer_analysis",
        "app8_clue_consolidated",
    }
    assert rows(stage, "SELECT DISTINCT source, member_id FROM member_retention_clue") == [
        {"source": "ai_consumption", "member_id": member}
    ]
    [job] = rows(stage, "SELECT event_type, status, member_id, app_chain, is_own_run, progress, run_id FROM biz.ai_trigger_jobs")
    assert (job["event_type"], job["status"], job["member_id"], job["is_own_run"]) == ("backfill", "completed", member, True)
    assert (job["app_chain"], job["run_id"]) == ("app3→app6→app8→app7→app4→app5", result.run_id)
    assert (job["progress"]["done"], job["progress"]["failed"]) == (6, 0)


def test_a_materialisation_tells_the_operator_what_was_answered_and_what_it_cost(stage: Stage) -> None:
    member = members(stage)[0]
    make_partitions(stage, member_key(SITE, member))

    result = run_one(stage, member_key(SITE, member), ["app7_customer"])

    [event] = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert {"预览", "tokens", "耗时_ms", "费用_元", "过期时间", "run_log_id", "结果", "模型"} <= set(metadata)
    assert isinstance(metadata["tokens"], dg.IntMetadataValue)
    assert (metadata["tokens"].value or 0) > 0
    assert f"客户分析 · 会员 {member}（门店 {SITE}）" in str(metadata["预览"].value)
    assert metadata["结果"].value == "新回答"


def test_one_application_of_one_member_is_a_job_of_that_application_alone(stage: Stage) -> None:
    member = members(stage)[0]
    key = member_key(SITE, member)
    make_partitions(stage, key)

    result = run_one(stage, key, ["app3_clue"])

    assert result.success
    assert materialised(result) == {("app3_clue", key)}
    [job] = rows(stage, "SELECT event_type, status, app_chain, payload FROM biz.ai_trigger_jobs")
    assert (job["event_type"], job["status"], job["app_chain"]) == ("run_app", "completed", "app3")
    assert (job["payload"]["apps"], job["payload"]["source"]) == (["app3_clue"], "dagster")


def test_a_range_is_one_run_with_a_job_for_each_site(stage: Stage) -> None:
    keys = [member_key(site_id, member) for site_id in SITES for member in members(stage, site_id)[:2]]
    make_partitions(stage, *keys)

    result = run_range(stage, keys[0], keys[-1])

    assert result.success
    assert materialised(result) == {(app, key) for app in ALL_APPS for key in keys}
    jobs = rows(stage, "SELECT site_id, event_type, status, member_id, payload FROM biz.ai_trigger_jobs ORDER BY site_id")
    assert [(job["site_id"], job["event_type"], job["status"], job["member_id"]) for job in jobs] == [
        (SITE, "backfill", "completed", None),
        (OTHER_SITE, "backfill", "completed", None),
    ]
    assert [job["payload"]["member_count"] for job in jobs] == [2, 2]


def test_a_failed_step_makes_the_run_red_while_the_others_are_materialised(stage: Stage) -> None:
    keys = [member_key(SITE, member) for member in members(stage)[:2]]
    make_partitions(stage, *keys)
    plan_faults(stage, failed("app3_clue", count=1))

    result = run_range(stage, *keys)

    assert not result.success
    missing = {(app, key) for app in ALL_APPS for key in keys} - materialised(result)
    [key] = {key for _, key in missing}
    app = "app3_clue"
    # Where the note holds no clue either, which is one member's or the other's case, there is nothing to merge.
    assert {app} <= {app for app, _ in missing} <= {app, "app8_consolidation"}
    assert judged(result, passed=False) == {(app, key)}
    failure = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    assert "1 处失败" in str(failure.step_failure_data.error) and str(key) in str(failure.step_failure_data.error)
    [job] = rows(stage, "SELECT status, error_message, progress FROM biz.ai_trigger_jobs")
    assert (job["status"], job["progress"]["failed"], job["progress"]["done"]) == ("partial", 1, 12 - len(missing))
    assert newest_check(stage, app, str(key)) == "FAILED"


def test_a_rerun_calls_only_for_what_failed_and_its_check_is_green_again(stage: Stage) -> None:
    key = member_key(SITE, members(stage)[0])
    make_partitions(stage, key)
    plan_faults(stage, failed("app7_customer"))
    run_one(stage, key)
    plan_faults(stage)
    posts = emulator_counts(stage)["posts"]

    rerun = run_one(stage, key)

    assert rerun.success
    assert materialised(rerun) == {(app, key) for app in ALL_APPS}
    assert emulator_counts(stage)["posts"] == posts + 1
    assert judged(rerun, passed=False) == set()
    assert newest_check(stage, "app7_customer", key) == "SUCCEEDED"


def test_regenerate_asks_anew_and_only_missing_leaves_valid_answers_as_they_are(stage: Stage) -> None:
    key = member_key(SITE, members(stage)[0])
    make_partitions(stage, key)
    run_one(stage, key)
    first = rows(stage, "SELECT id, expires_at FROM biz.ai_cache ORDER BY id")
    posts = emulator_counts(stage)["posts"]

    missing = run_one(stage, key, config={"only_missing": True})
    assert materialised(missing) == {(app, key) for app in ALL_APPS}
    assert rows(stage, "SELECT id, expires_at FROM biz.ai_cache ORDER BY id") == first
    assert emulator_counts(stage)["posts"] == posts

    anew = run_one(stage, key, config={"regenerate": True})
    assert materialised(anew) == {(app, key) for app in ALL_APPS}
    assert emulator_counts(stage)["posts"] == 2 * posts


def test_a_member_without_anything_to_ask_about_is_skipped_and_the_run_is_good(stage: Stage) -> None:
    key = member_key(SITE, 999_999)
    make_partitions(stage, key)

    result = run_one(stage, key)

    assert result.success
    assert materialised(result) == set()
    assert emulator_counts(stage)["posts"] == 0
    assert [row["status"] for row in rows(stage, "SELECT status FROM biz.ai_trigger_jobs")] == ["completed"]


def test_a_site_that_is_closed_or_unknown_is_its_own_failure_and_not_the_next_ones(stage: Stage) -> None:
    good = member_key(OTHER_SITE, members(stage, OTHER_SITE)[0])
    unknown = member_key(999, 1)
    make_partitions(stage, unknown, good)

    result = run_range(stage, unknown, good)

    assert not result.success
    assert materialised(result) == {(app, good) for app in ALL_APPS}
    failure = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    assert "999" in str(failure.step_failure_data.error)


# The run that takes events


def fire(stage: Stage, name: str, member_id: int, *, site_id: int = SITE, **more: Any) -> None:
    with stage.database.autocommit() as connection:
        assert events.fire(connection, name, {"site_id": site_id, "member_id": member_id, **more}) is not None


def take_events(stage: Stage) -> dg.ExecuteInProcessResult:
    """The run that the sensor asks for: without a partition; it ends when it has been idle."""
    return defs.resolve_job_def("member_events").execute_in_process(instance=stage.instance, raise_on_error=False)


def jobs(stage: Stage) -> list[tuple[str, int, str]]:
    found = rows(stage, "SELECT event_type, member_id, status FROM biz.ai_trigger_jobs ORDER BY id")
    return [(job["event_type"], job["member_id"], job["status"]) for job in found]


def test_events_become_materialisations_of_their_members_in_one_run_without_a_partition(stage: Stage) -> None:
    one, other = members(stage)[:2]
    [elsewhere, *_] = members(stage, OTHER_SITE)
    fire(stage, "ai_consumption_settled", one)
    fire(stage, "ai_note_created", other, note_content="客人说周末要带八位同事来团建", noted_by_name="小王")
    fire(stage, "ai_consumption_settled", elsewhere, site_id=OTHER_SITE)

    result = take_events(stage)

    assert result.success
    consumption, note = ("app3_clue", "app8_consolidation", "app7_customer"), ("app6_note", "app8_consolidation")
    assert materialised(result) == {
        *((app, member_key(SITE, one)) for app in consumption),
        *((app, member_key(SITE, other)) for app in note),
        *((app, member_key(OTHER_SITE, elsewhere)) for app in consumption),
    }
    assert jobs(stage) == [("consumption", one, "completed"), ("note_created", other, "completed"), ("consumption", elsewhere, "completed")]
    assert {row["run_id"] for row in rows(stage, "SELECT run_id FROM biz.ai_trigger_jobs")} == {result.run_id}
    assert [row["closed_at"] is not None for row in rows(stage, "SELECT closed_at FROM biz.ai_event_runs")] == [True]


@pytest.mark.parametrize("result", ["[1, 2]", '"text"', '{"_number_check": 7}'])
def test_a_row_of_another_writer_that_cannot_be_shown_stops_no_run(stage: Stage, result: str) -> None:
    member, other = members(stage)[:2]
    with stage.database.autocommit() as connection:
        connection.execute(
            "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, status, created_at, expires_at)"
            " VALUES ('app7_customer_analysis', %s, %s, %s, 'valid', now(), now() + interval '3 days')",
            [SITE, str(member), result],
        )
    plan = plan_backfill(stage.database, load_settings(), SITE, (AppType.CLUE, AppType.CUSTOMER), str(member), only_missing=True)
    request_backfill(stage.database, plan)
    fire(stage, "ai_consumption_settled", other)

    told = take_events(stage)

    assert told.success
    assert {("app3_clue", member_key(SITE, member)), ("app7_customer", member_key(SITE, member))} <= materialised(told)
    assert {status for _, _, status in jobs(stage)} == {"completed"}


def test_a_sandboxs_answers_are_not_told_to_dagster_and_those_of_other_sites_in_the_same_run_are(stage: Stage) -> None:
    [one, *_], [elsewhere, *_] = members(stage), members(stage, OTHER_SITE)
    day = stage.business_date - timedelta(days=2)
    with stage.database.transaction() as connection:
        runtime_contexts.put(connection, SITE, RuntimeContext(RuntimeMode.SANDBOX, day), "小李")
    fire(stage, "ai_consumption_settled", one)
    fire(stage, "ai_consumption_settled", elsewhere, site_id=OTHER_SITE)
    make_partitions(stage, member_key(SITE, one))

    result = take_events(stage)

    assert result.success
    assert {partition for _, partition in materialised(result)} == {member_key(OTHER_SITE, elsewhere)}
    assert {partition for _, partition in judged(result, passed=False)} == set()
    assert {row["site_id"] for row in rows(stage, "SELECT site_id FROM biz.ai_cache")} == {OTHER_SITE}
    assert {row["site_id"] for row in rows(stage, "SELECT site_id FROM biz.ai_sandbox_answers")} == {SITE}

    refused = run_one(stage, member_key(SITE, one))
    assert not refused.success
    assert materialised(refused) == set()


def test_new_members_become_partitions_on_their_first_event(stage: Stage) -> None:
    known, new, *_ = members(stage)
    make_partitions(stage, member_key(SITE, known))
    for member in (known, new):
        fire(stage, "ai_consumption_settled", member)

    result = take_events(stage)

    assert result.success
    assert set(stage.instance.get_dynamic_partitions(MEMBER_PARTITIONS_NAME)) == {member_key(SITE, known), member_key(SITE, new)}
    assert stage.instance.get_materialized_partitions(dg.AssetKey("app3_clue")) == {member_key(SITE, known), member_key(SITE, new)}


def test_a_failed_step_is_a_failed_check_of_its_partition_in_a_green_run_and_a_later_success_passes_it(stage: Stage) -> None:
    member, other = members(stage)[:2]
    key = member_key(SITE, member)
    plan_faults(stage, failed("app3_clue"))
    fire(stage, "ai_consumption_settled", member)
    first = take_events(stage)

    assert first.success
    assert materialised(first) == {(app, key) for app in ("app8_consolidation", "app7_customer")} or materialised(first) == {
        ("app7_customer", key)
    }
    assert judged(first, passed=False) >= {("app3_clue", key)}
    assert newest_check(stage, "app3_clue", key) == "FAILED"
    assert jobs(stage) == [("consumption", member, "partial")]

    plan_faults(stage)
    for again in (member, other):
        fire(stage, "ai_consumption_settled", again, is_forced=True)
    second = take_events(stage)

    assert second.success
    assert ("app3_clue", key) in judged(second, passed=True)
    assert {partition for _, partition in judged(second, passed=True)} == {key}
    assert newest_check(stage, "app3_clue", key) == "SUCCEEDED"
    assert newest_check(stage, "app3_clue", member_key(SITE, other)) is None


def test_a_check_that_fails_and_passes_by_turns_within_one_run_shows_its_last_word(stage: Stage) -> None:
    """One run tells of a member as often as events come: PostgreSQL's storage must not take the second evaluation for the first."""
    member = members(stage)[0]
    key = member_key(SITE, member)
    plan_faults(stage, failed("app6_note", nth=[1, 3]))
    for number in range(1, 5):
        fire(stage, "ai_note_created", member, note_id=number, note_content=f"第 {number} 条备注：喜欢靠窗的台")

    result = take_events(stage)

    assert result.success
    told = [evaluation.passed for evaluation in result.get_asset_check_evaluations() if evaluation.asset_key == dg.AssetKey("app6_note")]
    assert told == [False, True, False, True]
    assert newest_check(stage, "app6_note", key) == "SUCCEEDED"
    assert [status == "completed" for _, _, status in jobs(stage)] == told


def test_a_job_that_a_person_asked_for_is_taken_by_the_same_run(stage: Stage) -> None:
    member = members(stage)[0]
    key = member_key(SITE, member)
    request_app(stage.database, AppType.CUSTOMER, SITE, member)

    result = take_events(stage)

    assert materialised(result) == {("app7_customer", key)}
    assert jobs(stage) == [("run_app", member, "completed")]


def test_a_finance_window_that_a_person_asked_for_is_taken_by_the_same_run(stage: Stage) -> None:
    window = WindowKey.parse("last_month__all")
    key = finance_key(SITE, window)
    with stage.database.transaction() as connection:
        add_window_job(connection, window, SITE, source="api")

    result = take_events(stage)

    assert result.success
    assert materialised(result) == {("app2_finance", key)}
    told = {(evaluation.check_name, evaluation.partition, evaluation.passed) for evaluation in result.get_asset_check_evaluations()}
    assert {("answer_validates", key, True), ("not_stale", key, True)} <= told
    assert [(kind, status) for kind, _, status in jobs(stage)] == [("run_app", "completed")]


def test_an_event_run_that_finds_nothing_opens_closes_and_is_good(stage: Stage) -> None:
    result = take_events(stage)

    assert result.success
    assert result.get_asset_materialization_events() == []
    with stage.database.autocommit() as connection:
        assert event_runs.known_runs(connection, [result.run_id]) == {result.run_id}
        assert event_runs.open_runs(connection) == []


def test_two_assistants_of_one_member_are_two_answers_under_one_partition(stage: Stage) -> None:
    member = members(stage)[0]
    key = member_key(SITE, member)
    assistants = [row["assistant_id"] for row in rows(stage, "SELECT assistant_id FROM ai_source.assistants WHERE site_id = 1001 LIMIT 2")]
    for assistant in assistants:
        fire(stage, "ai_task_assigned", member, assistant_id=assistant)

    result = take_events(stage)

    told = [(event.asset_key.to_user_string(), event.partition) for event in result.get_asset_materialization_events() if event.asset_key]
    assert sorted(told) == [("app4_analysis", key)] * 2 + [("app5_tactics", key)] * 2
    previews = [str(event.materialization.metadata["预览"].value) for event in result.get_asset_materialization_events()]
    assert {assistant for assistant in assistants for preview in previews if f"助教 {assistant}" in preview} == set(assistants)


def test_a_check_that_a_persons_run_planned_and_never_came_to_is_passed_by_the_event_that_does(stage: Stage) -> None:
    """Dagster plans a check of each partition that a run is started for; left so, it would look as if nobody had ever answered."""
    [silent, *_] = rows(
        stage,
        "SELECT member_id FROM ai_source.members m WHERE site_id = 1001 AND is_active"
        " AND NOT EXISTS (SELECT FROM ai_source.notes n WHERE n.site_id = m.site_id AND n.member_id = m.member_id)",
    )
    key = member_key(SITE, silent["member_id"])
    make_partitions(stage, key)
    skipped = run_one(stage, key, ["app6_note"])
    assert skipped.success and materialised(skipped) == set()
    assert newest_check(stage, "app6_note", key) == "PLANNED"
    fire(stage, "ai_note_created", silent["member_id"], note_content="喜欢靠窗的台")

    result = take_events(stage)

    assert judged(result, passed=True) == {("app6_note", key)}
    assert newest_check(stage, "app6_note", key) == "SUCCEEDED"
