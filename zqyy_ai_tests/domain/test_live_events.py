import itertools

import pytest

from zqyy_ai.domain.live_events import Position, Snapshot


@pytest.mark.parametrize("text", ["10:10:", "10:20:10,14,19", "1:9223372036854775807:"])
def test_a_snapshot_reads_as_postgresql_writes_it(text: str) -> None:
    assert str(Snapshot.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10:9:",
        "0:1:",
        "10:20:9",
        "10:20:20",
        "10:20:14,12",
        "10:20:14,14",
        "10:20:,",
        "a:b:",
        "10:20",
        "10:20: ",
        "٣:٤:",
        "1:9999999999999999999:",
    ],
)
def test_what_postgresql_would_refuse_is_no_snapshot(text: str) -> None:
    assert Snapshot.parse(text) is None


def test_a_snapshot_sees_what_was_committed_and_not_what_was_running_or_came_later() -> None:
    snapshot = Snapshot(10, 20, (10, 14, 19))
    assert [transaction for transaction in range(8, 23) if snapshot.sees(transaction)] == [8, 9, 11, 12, 13, 15, 16, 17, 18]


def test_the_later_of_two_snapshots_is_the_one_that_sees_more() -> None:
    in_time = [Snapshot(10, 12, (10, 11)), Snapshot(11, 12, (11,)), Snapshot(12, 12), Snapshot(12, 14, (12, 13))]
    assert all(one.age_order < later.age_order for one, later in itertools.pairwise(in_time))


def test_an_older_snapshot_has_not_seen_the_newest_transactions() -> None:
    snapshot = Snapshot(10, 20, (10, 14, 19))
    assert snapshot.older(5) == Snapshot(10, 15, (10, 14))
    assert snapshot.older(12) == Snapshot(8, 8)
    assert snapshot.older(1000) == Snapshot(1, 1)


@pytest.mark.parametrize("text", ["1745140000@10:20:14", "1745140000@10:20:14~14:22:14,20~77"])
def test_a_position_reads_as_it_is_written(text: str) -> None:
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "77",
        "10:20:14",
        "@10:20:",
        "1@10:9:",
        "1@10:20:~",
        "1@10:20:~9~1",
        "1@10:20:~10:20:~99999999999999999999",
        "1@1:1:\n",
        "1@" + "1" * 99_999,
    ],
)
def test_what_is_no_position_is_none(text: str) -> None:
    assert Position.parse(text) is None
