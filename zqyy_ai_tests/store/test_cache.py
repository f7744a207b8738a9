from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zqyy_ai.store import cache, run_logs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.run_logs import RunEnd, RunStatus, RunSubject

APP2, SITE, TARGET = "app2_finance", 1001, "this_month__all"
NOW = datetime(2025, 6, 18, 2, 0, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(hours=1)


def write(
    connection: Connection, result: str = "", *, site_id: int = SITE, target_id: str = TARGET, expires_at: datetime | None = LATER
) -> int:
    return cache.write_cache(connection, APP2, site_id, target_id, {"result": result}, expires_at=expires_at)


def set_status(connection: Connection, cache_id: int, status: str | None) -> None:
    connection.execute("UPDATE biz.ai_cache SET status = %s WHERE id = %s", [status, cache_id])


def latest(connection: Connection) -> int | None:
    found = cache.get_latest(connection, APP2, SITE, TARGET, now=NOW)
    return found.id if found else None


def test_a_target_without_rows_has_no_answer_and_no_history(connection: Connection) -> None:
    assert latest(connection) is None
    assert cache.get_history(connection, APP2, SITE, TARGET) == []


def test_the_newest_valid_answer_is_the_latest(connection: Connection) -> None:
    write(connection, "old")
    newest = write(connection, "new")
    assert latest(connection) == newest


@pytest.mark.parametrize("status", ["expired", "invalidated", "generating"])
def test_an_answer_of_another_status_is_passed_over(connection: Connection, status: str) -> None:
    valid = write(connection)
    set_status(connection, write(connection), status)
    assert latest(connection) == valid


@pytest.mark.parametrize("result", ["[1, 2]", '"text"', "7", "null"])
def test_a_row_that_holds_no_object_is_no_answer_of_ours(connection: Connection, result: str) -> None:
    connection.execute("UPDATE biz.ai_cache SET result_json = %s::jsonb WHERE id = %s", [result, write(connection)])
    assert latest(connection) is None
    assert cache.get_reusable(connection, APP2, SITE, TARGET) is None
    assert cache.get_history(connection, APP2, SITE, TARGET) == []
    assert cache.valid_targets(connection, SITE, [TARGET], now=NOW) == {}


def test_a_row_without_status_counts_as_valid(connection: Connection) -> None:
    row = write(connection)
    set_status(connection, row, None)
    assert latest(connection) == row


@pytest.mark.parametrize(("expires_at", "is_found"), [(None, True), (LATER, True), (NOW, False), (EARLIER, False)])
def test_an_answer_lasts_until_it_expires(connection: Connection, expires_at: datetime | None, is_found: bool) -> None:
    write(connection, expires_at=expires_at)
    assert (latest(connection) is not None) == is_found


def test_the_history_holds_rows_of_any_status_newest_first(connection: Connection) -> None:
    ids = [write(connection, expires_at=EARLIER) for _ in range(4)]
    set_status(connection, ids[2], "invalidated")
    assert [answer.id for answer in cache.get_history(connection, APP2, SITE, TARGET)] == [ids[3], ids[2]]
    assert len(cache.get_history(connection, APP2, SITE, TARGET, limit=10)) == 4


def test_answers_of_one_transaction_have_an_order_too(database: Database) -> None:
    """The original's reads order by created_at alone: two rows of one transaction must not share it."""
    with database.transaction() as connection:
        ids = [write(connection) for _ in range(3)]
        moments = [answer.created_at for answer in cache.get_history(connection, APP2, SITE, TARGET, limit=3)]
        assert latest(connection) == ids[2]
    assert len(set(moments)) == 3


def test_another_site_and_another_target_are_not_seen(connection: Connection) -> None:
    write(connection, site_id=1002)
    write(connection, target_id="last_month__all")
    assert latest(connection) is None


def test_an_expired_answer_can_be_reused_and_its_expiry_only_moves_on(connection: Connection) -> None:
    row = write(connection, expires_at=EARLIER)
    reusable = cache.get_reusable(connection, APP2, SITE, TARGET)
    assert reusable is not None
    assert reusable.id == row
    cache.extend(connection, row, LATER)
    cache.extend(connection, row, EARLIER)
    found = cache.get_latest(connection, APP2, SITE, TARGET, now=NOW)
    assert found is not None
    assert found.expires_at == LATER


def test_an_answer_that_never_expires_is_not_given_an_end(connection: Connection) -> None:
    row = write(connection, expires_at=None)
    cache.extend(connection, row, EARLIER)
    assert latest(connection) == row


def test_an_invalidated_answer_is_not_reused(connection: Connection) -> None:
    set_status(connection, write(connection), "invalidated")
    assert cache.get_reusable(connection, APP2, SITE, TARGET) is None


def test_a_placeholder_becomes_an_answer_once(connection: Connection) -> None:
    valid = write(connection)
    placeholder = cache.set_generating(connection, APP2, SITE, TARGET, triggered_by="cli")
    assert latest(connection) == valid
    assert cache.finalize_cache(connection, placeholder, {"result": "done"}, expires_at=LATER, score=7)
    assert not cache.finalize_cache(connection, placeholder, {"result": "again"}, expires_at=LATER)
    found = cache.get_latest(connection, APP2, SITE, TARGET, now=NOW)
    assert found is not None
    assert (found.id, found.result_json, found.score, found.triggered_by) == (placeholder, {"result": "done"}, 7, "cli")


def test_finalizing_never_touches_a_valid_answer(connection: Connection) -> None:
    valid = write(connection, "good")
    assert not cache.finalize_cache(connection, valid, {"result": "bad"}, expires_at=None)
    assert cache.get_history(connection, APP2, SITE, TARGET)[0].result_json == {"result": "good"}


def test_valid_targets_are_the_newest_valid_finance_answers_of_a_site(connection: Connection) -> None:
    write(connection, "old")
    newest = write(connection, "new")
    area = cache.write_cache(connection, "app2a_finance_area", SITE, "this_month__vip", {}, expires_at=LATER)
    write(connection, target_id="last_month__all", expires_at=EARLIER)
    write(connection, target_id="this_week__all", site_id=1002)
    cache.write_cache(connection, "app3_clue", SITE, "last_week__all", {}, expires_at=LATER)
    targets = [TARGET, "this_month__vip", "last_month__all", "this_week__all", "last_week__all"]
    found = cache.valid_targets(connection, SITE, targets, now=NOW)
    assert {target: answer.id for target, answer in found.items()} == {TARGET: newest, "this_month__vip": area}


def test_the_targets_with_a_valid_answer_are_known_by_type_and_site(connection: Connection) -> None:
    write(connection, target_id="valid")
    write(connection, target_id="for ever", expires_at=None)
    write(connection, target_id="expired", expires_at=EARLIER)
    write(connection, target_id="elsewhere", site_id=1002)
    set_status(connection, write(connection, target_id="of an old writer"), None)
    set_status(connection, write(connection, target_id="invalidated"), "invalidated")
    assert cache.valid_target_ids(connection, APP2, SITE, now=NOW) == {"valid", "for ever", "of an old writer"}
    assert cache.valid_target_ids(connection, "app3_clue", SITE, now=NOW) == set()


def test_targets_with_clues_are_those_whose_newest_valid_answer_holds_one(connection: Connection) -> None:
    clues: dict[str, Any] = {"clues": [{"category": "消费习惯", "summary": "周末常来"}]}
    answers: tuple[tuple[str, dict[str, Any]], ...] = (
        ("clued", {"clues": []}),
        ("clued", clues),
        ("no longer", clues),
        ("no longer", {"clues": []}),
        ("of another shape", {"clues": None}),
        ("of another shape too", {"clues": "周末常来"}),
    )
    for target, result in answers:
        cache.write_cache(connection, "app3_clue", SITE, target, result, expires_at=None)
    cache.write_cache(connection, "app3_clue", SITE, "expired", clues, expires_at=NOW)
    cache.write_cache(connection, "app3_clue", SITE + 1, "of another site", clues, expires_at=None)
    cache.write_cache(connection, "app6_note_analysis", SITE, "of another type", clues, expires_at=None)
    set_status(connection, cache.write_cache(connection, "app3_clue", SITE, "invalidated", clues, expires_at=None), "invalidated")
    assert cache.targets_with_clues(connection, "app3_clue", SITE, now=NOW) == {"clued"}


def test_the_answers_that_a_jobs_calls_brought_are_the_newest_valid_ones_of_each_target(connection: Connection) -> None:
    def answered(job_id: int, target_id: str, status: RunStatus = RunStatus.SUCCESS) -> int:
        log_id = run_logs.start(connection, RunSubject(APP2, SITE, target_id, "event", trigger_job_id=job_id), "")
        run_logs.finish(connection, log_id, RunEnd(status, 1, 1, ""))
        return cache.write_cache(connection, APP2, SITE, target_id, {}, expires_at=LATER, run_log_id=log_id)

    answered(5, "a")
    again, retried = answered(5, "a"), answered(6, "b")
    answered(7, "c")
    set_status(connection, answered(5, "d"), "invalidated")
    answered(5, "e", RunStatus.FAILED)
    assert cache.answers_of_jobs(connection, [5, 6]) == {(APP2, "a"): again, (APP2, "b"): retried}
    assert cache.answers_of_jobs(connection, []) == {}
