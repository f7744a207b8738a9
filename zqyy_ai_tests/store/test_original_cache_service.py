"""The original service and ours, side by side on one table. psycopg stands for its driver: both bind `%s` and text for jsonb alike."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from zqyy_ai.store import cache
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.store import original_cache_service as original

TARGET = ("app3_clue", 1001, "42")
NOW = datetime.now(UTC)
TOMORROW = NOW + timedelta(days=1)

Theirs = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def theirs(database: Database) -> Iterator[Theirs]:
    with psycopg.connect(database.url) as connection:
        yield connection


def test_it_sees_our_newest_valid_answer(connection: Connection, theirs: Theirs) -> None:
    cache.write_cache(connection, *TARGET, {"n": 1}, expires_at=TOMORROW, triggered_by="consumption")
    newest = cache.write_cache(connection, *TARGET, {"n": 2}, expires_at=TOMORROW, triggered_by="consumption", score=8)
    cache.write_cache(connection, *TARGET, {"n": 3}, expires_at=NOW - timedelta(days=1))
    cache.set_generating(connection, *TARGET)
    row = theirs.execute(original.GET_LATEST, TARGET).fetchone()
    assert row is not None
    assert row[:7] == (newest, *TARGET, {"n": 2}, 8, "consumption")
    assert row[8:] == (TOMORROW, "valid")


def test_its_history_is_ours(connection: Connection, theirs: Theirs) -> None:
    ids = [cache.write_cache(connection, *TARGET, {"n": n}, expires_at=NOW) for n in range(3)]
    assert [row[0] for row in theirs.execute(original.GET_HISTORY, (*TARGET, 2))] == [ids[2], ids[1]]


def test_we_see_what_it_writes(connection: Connection, theirs: Theirs) -> None:
    written = theirs.execute(original.WRITE_CACHE, (*TARGET, json.dumps({"线索": 1}), "admin_manual", None, TOMORROW)).fetchone()
    theirs.commit()
    found = cache.get_latest(connection, *TARGET, now=NOW)
    assert written is not None
    assert found is not None
    assert (found.id, found.result_json, found.triggered_by, found.expires_at) == (written[0], {"线索": 1}, "admin_manual", TOMORROW)
    assert found.input_hash is None


def test_its_placeholder_is_nobodys_answer_until_it_is_finalized(connection: Connection, theirs: Theirs) -> None:
    placed = theirs.execute(original.SET_GENERATING, (*TARGET, "consumption")).fetchone()
    theirs.commit()
    assert placed is not None
    assert cache.get_latest(connection, *TARGET, now=NOW) is None
    assert cache.get_reusable(connection, *TARGET) is None

    assert theirs.execute(original.FINALIZE_CACHE, (json.dumps({"n": 1}), 7, TOMORROW, placed[0])).rowcount == 1
    theirs.commit()
    found = cache.get_latest(connection, *TARGET, now=NOW)
    assert found is not None
    assert (found.id, found.result_json, found.score) == (placed[0], {"n": 1}, 7)


def test_it_finalizes_our_placeholder_and_we_its(connection: Connection, theirs: Theirs) -> None:
    ours = cache.set_generating(connection, *TARGET)
    assert theirs.execute(original.FINALIZE_CACHE, (json.dumps({}), None, None, ours)).rowcount == 1
    placed = theirs.execute(original.SET_GENERATING, (*TARGET, None)).fetchone()
    theirs.commit()
    assert placed is not None
    assert cache.finalize_cache(connection, placed[0], {"n": 2}, expires_at=None)


def test_its_clean_up_keeps_the_newest_of_a_target(connection: Connection, theirs: Theirs) -> None:
    ids = [cache.write_cache(connection, *TARGET, {}, expires_at=None) for _ in range(4)]
    assert theirs.execute(original.CLEANUP_EXCESS, (*TARGET, 2)).rowcount == 2
    theirs.commit()
    assert [answer.id for answer in cache.get_history(connection, *TARGET, limit=9)] == [ids[3], ids[2]]
