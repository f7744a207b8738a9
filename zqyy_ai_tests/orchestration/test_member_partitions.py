"""The `member` partitions follow who is active: by visits in the warehouse, by jobs, and by which sites are open."""

import time
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.orchestration import sensors
from zqyy_ai.orchestration.member_partitions import MembersSynced, sync_members
from zqyy_ai.orchestration.partitions import MEMBER_PARTITIONS_NAME, member_key, parse_member_key
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.store import trigger_jobs
from zqyy_ai.store.trigger_jobs import NewJob
from zqyy_ai_tests.orchestration.conftest import Stage

SITE, OTHER_SITE = 1001, 1002
ACTIVE_DAYS = 180


@pytest.fixture
def empty_stage(stage: Stage) -> Stage:
    """Without the demo's own members."""
    with stage.database.autocommit() as connection:
        connection.execute("DELETE FROM demo_dws.members")
    return stage


def add_members(stage: Stage, last_visit_on: date | None, *member_ids: int, site_id: int = SITE) -> None:
    with stage.database.autocommit() as connection:
        connection.execute(
            "INSERT INTO demo_dws.members (site_id, member_id, member_name, last_visit_on) SELECT %s, id, '客人', %s FROM unnest(%s::bigint[]) id",
            [site_id, last_visit_on, list(member_ids)],
        )


def days_ago(stage: Stage, days: int) -> date:
    return stage.business_date - timedelta(days=days)


def add_job(stage: Stage, member_id: int, *, days_ago: int = 0, site_id: int = SITE) -> None:
    job = NewJob(EventType.CONSUMPTION, site_id, stage.business_date, f"consumption|{member_id}", "app3", {}, LIVE, member_id=member_id)
    with stage.database.autocommit() as connection:
        job_id = trigger_jobs.add(connection, job)
        connection.execute(
            "UPDATE biz.ai_trigger_jobs SET created_at = created_at - make_interval(days => %s) WHERE id = %s", [days_ago, job_id]
        )


def sync(stage: Stage) -> MembersSynced:
    return sync_members(stage.database, stage.instance, now=datetime.now(UTC), active_days=ACTIVE_DAYS)


def partitions(stage: Stage) -> list[str]:
    return list(stage.instance.get_dynamic_partitions(MEMBER_PARTITIONS_NAME))


def test_members_who_came_in_the_last_180_days_are_partitions_in_the_order_of_their_numbers(empty_stage: Stage) -> None:
    add_members(empty_stage, days_ago(empty_stage, 180), 9, 10)
    add_members(empty_stage, days_ago(empty_stage, 0), 2, site_id=OTHER_SITE)
    add_members(empty_stage, days_ago(empty_stage, 181), 3)
    add_members(empty_stage, None, 4)

    synced = sync(empty_stage)

    assert synced == MembersSynced(added=3)
    assert partitions(empty_stage) == ["1001|9", "1001|10", "1002|2"]
    assert sync(empty_stage) == MembersSynced()


def test_a_member_with_a_job_in_that_time_is_a_partition_known_to_the_warehouse_or_not(empty_stage: Stage) -> None:
    add_members(empty_stage, days_ago(empty_stage, 300), 7, 8)
    add_job(empty_stage, 7)
    add_job(empty_stage, 99)
    add_job(empty_stage, 8, days_ago=181)

    sync(empty_stage)

    assert partitions(empty_stage) == ["1001|7", "1001|99"]


def test_who_is_active_no_more_is_removed_and_who_comes_again_is_back(empty_stage: Stage) -> None:
    add_members(empty_stage, days_ago(empty_stage, 1), 7, 8)
    sync(empty_stage)
    with empty_stage.database.autocommit() as connection:
        connection.execute("UPDATE demo_dws.members SET last_visit_on = last_visit_on - 300 WHERE member_id = 7")
        assert sync(empty_stage) == MembersSynced(removed=1)
        assert partitions(empty_stage) == ["1001|8"]
        connection.execute("UPDATE demo_dws.members SET last_visit_on = last_visit_on + 300 WHERE member_id = 7")
    assert sync(empty_stage) == MembersSynced(added=1)


def test_members_who_left_and_members_of_closed_sites_are_removed(empty_stage: Stage) -> None:
    add_members(empty_stage, days_ago(empty_stage, 1), 7, 8)
    add_members(empty_stage, days_ago(empty_stage, 1), 9, site_id=OTHER_SITE)
    add_job(empty_stage, 10, site_id=OTHER_SITE)
    sync(empty_stage)
    assert len(partitions(empty_stage)) == 4
    with empty_stage.database.autocommit() as connection:
        connection.execute("UPDATE demo_dws.members SET left_on = last_visit_on WHERE member_id = 7")
        connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = %s", [OTHER_SITE])

    assert sync(empty_stage) == MembersSynced(removed=3)

    assert partitions(empty_stage) == ["1001|8"]


def test_a_deployment_without_the_members_view_keeps_its_partitions_and_is_told_so(empty_stage: Stage) -> None:
    add_members(empty_stage, days_ago(empty_stage, 1), 7)
    sync(empty_stage)
    with empty_stage.database.autocommit() as connection:
        connection.execute("DROP VIEW ai_source.members CASCADE")

    synced = sync(empty_stage)

    assert (synced.added, synced.removed) == (0, 0)
    assert synced.problem is not None and "ai_source.members" in synced.problem
    assert str(synced).startswith("会员分区未更新")
    assert partitions(empty_stage) == ["1001|7"]


def test_a_key_that_is_no_members_is_removed_with_the_stale(empty_stage: Stage) -> None:
    empty_stage.instance.add_dynamic_partitions(MEMBER_PARTITIONS_NAME, ["1001", "x|y"])
    add_members(empty_stage, days_ago(empty_stage, 1), 7)

    assert sync(empty_stage) == MembersSynced(added=1, removed=2)

    assert partitions(empty_stage) == ["1001|7"]


def test_a_key_names_its_site_and_member() -> None:
    assert parse_member_key(member_key(1001, 7)) == (1001, 7)
    for wrong in ("1001", "1001|", "x|7", ""):
        with pytest.raises(ValueError, match="invalid literal"):
            parse_member_key(wrong)


def test_where_more_than_half_of_many_are_suddenly_gone_none_is_removed_and_it_is_said(empty_stage: Stage) -> None:
    """A view that a mistake has emptied looks the same as a chain that everybody has left."""
    add_members(empty_stage, days_ago(empty_stage, 1), *range(1, 251))
    sync(empty_stage)
    with empty_stage.database.autocommit() as connection:
        connection.execute("UPDATE demo_dws.members SET last_visit_on = NULL WHERE member_id > 100")

        synced = sync(empty_stage)
        assert synced == MembersSynced(kept=150)
        assert "150" in str(synced) and "ai_source.members" in str(synced)
        assert len(partitions(empty_stage)) == 250

        connection.execute("UPDATE demo_dws.members SET last_visit_on = %s WHERE member_id <= 150", [days_ago(empty_stage, 1)])
    assert sync(empty_stage) == MembersSynced(removed=100)


def test_a_site_that_closes_takes_its_members_along_though_they_are_most(empty_stage: Stage) -> None:
    add_members(empty_stage, days_ago(empty_stage, 1), *range(1, 201))
    add_members(empty_stage, days_ago(empty_stage, 1), 7, site_id=OTHER_SITE)
    sync(empty_stage)
    with empty_stage.database.autocommit() as connection:
        connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = %s", [SITE])

    assert sync(empty_stage) == MembersSynced(removed=200)

    assert partitions(empty_stage) == ["1002|7"]


def tick(stage: Stage, cursor: str | None = None) -> tuple[str, str | None]:
    """What the sensor says, and its cursor."""
    context = dg.build_sensor_context(
        instance=stage.instance,
        sensor_name=sensors.sync_member_partitions.name,
        resources={"database": DatabaseResource()},
        cursor=cursor,
    )
    skipped = sensors.sync_member_partitions(context)
    assert isinstance(skipped, dg.SkipReason)
    return skipped.skip_message or "", context.cursor


def test_the_sensor_says_what_it_changed_and_rests_for_a_minute(stage: Stage) -> None:
    said, cursor = tick(stage)
    assert said == f"新增 {len(partitions(stage))} 个会员分区，移除 0 个"
    assert len(partitions(stage)) > 20

    assert tick(stage, cursor)[0] == "会员分区刚刚同步过"
    assert tick(stage, str(time.time() - 61))[0] == "新增 0 个会员分区，移除 0 个"


def seconds_of_ticks(stage: Stage) -> list[float]:
    """Ticks until nothing is left to do; each with its seconds."""
    seconds = []
    while True:
        started = time.monotonic()
        synced = sync(stage)
        seconds.append(time.monotonic() - started)
        if not synced.left_added + synced.left_removed:
            return seconds
        assert synced.added + synced.removed > 0


@pytest.mark.journey
def test_a_hundred_thousand_members_are_in_step_within_a_minute_and_no_tick_is_long(empty_stage: Stage) -> None:
    """The daemon cuts a tick off after a minute: one that did everything at once would begin anew for ever."""
    with empty_stage.database.autocommit() as connection:
        connection.execute(
            "INSERT INTO demo_dws.members (site_id, member_id, member_name, last_visit_on)"
            " SELECT 1001 + n %% 2, n, '客人', %s - (n %% 90)::integer FROM generate_series(1, 100000) AS n",
            [empty_stage.business_date],
        )
        coming = seconds_of_ticks(empty_stage)
        assert len(partitions(empty_stage)) == 100_000
        connection.execute("UPDATE demo_dws.members SET last_visit_on = NULL WHERE member_id <= 1000")
        leaving = seconds_of_ticks(empty_stage)
        assert len(partitions(empty_stage)) == 99_000
    print(f"100,000 come in {len(coming)} ticks, {sum(coming):.1f} s; 1,000 leave in {len(leaving)} ticks, {sum(leaving):.1f} s")
    assert sum(coming) < 60
    assert max(*coming, *leaving) < 5
