import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import pytest

from zqyy_ai.domain.access import ALL_SITES, SiteScope
from zqyy_ai.store.database import Connection, Database

WHO = b"SELECT current_user::text AS role, current_setting('zqyy.sites', true) AS sites, %(n)s::int AS n"


def test_every_pooled_session_ends_when_it_idles_in_a_transaction(database: Database) -> None:
    with database.autocommit() as connection:
        row = connection.execute("SHOW idle_in_transaction_session_timeout").fetchone()
    assert row == {"idle_in_transaction_session_timeout": "30s"}


def test_a_transaction_that_was_stopped_for_too_long_frees_its_locks_and_is_done_again(database: Database) -> None:
    """As when a process is stopped (a debugger, a suspended machine) while it holds the rows at which all calls of the chain meet."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO biz.ai_breakers (app_type) VALUES ('app2_finance')")
    tries = []

    def work(connection: Connection) -> None:
        tries.append(connection.info.backend_pid)
        connection.execute("UPDATE biz.ai_breakers SET failures = failures + 1")
        if len(tries) == 1:
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            threading.Event().wait(0.5)
            with database.transaction() as other:
                other.execute("SET LOCAL lock_timeout = '5s'")
                other.execute("UPDATE biz.ai_breakers SET failures = 10")
        connection.execute("SELECT 1")

    database.write_surely(work)

    assert len(tries) == len(set(tries)) == 2
    with database.autocommit() as connection:
        assert connection.execute("SELECT failures FROM biz.ai_breakers").fetchone() == {"failures": 11}


def _in_a_transaction(database: Database) -> Mapping[str, Any]:
    with database.transaction() as connection:
        return connection.execute(WHO, {"n": 1}).fetchall()[0]


def _at_once(database: Database) -> Mapping[str, Any]:
    return database.read_at_once(WHO, {"n": 1})[0]


@pytest.mark.parametrize("ask", [_in_a_transaction, _at_once])
def test_a_scope_holds_for_a_transaction_and_leaves_nothing_behind(
    database: Database, ask: Callable[[Database], Mapping[str, Any]]
) -> None:
    with Database(database.url, max_connections=1) as one_connection:
        nobody = ask(one_connection)
        assert nobody["role"] != "zqyy_api"
        assert ask(one_connection.within(SiteScope(frozenset({1002, 1001})))) == {"role": "zqyy_api", "sites": "{1001,1002}", "n": 1}
        assert ask(one_connection.within(ALL_SITES)) == {"role": "zqyy_api", "sites": "all", "n": 1}
        after = ask(one_connection)
        assert (after["role"], after["sites"] or None) == (nobody["role"], None)


def test_what_fails_within_a_scope_leaves_the_connection_as_it_was(database: Database) -> None:
    with Database(database.url, max_connections=1) as one_connection:
        narrowed = one_connection.within(ALL_SITES)
        with pytest.raises(psycopg.errors.InsufficientPrivilege), narrowed.transaction() as connection:
            connection.execute("UPDATE biz.ai_audit SET actor = 'x'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            narrowed.read_at_once(b"UPDATE biz.ai_audit SET actor = %(by)s RETURNING id", {"by": "x"})
        with pytest.raises(psycopg.errors.DivisionByZero):
            narrowed.read_at_once(b"SELECT 1 / %(n)s", {"n": 0})
        with pytest.raises(ZeroDivisionError), narrowed.transaction() as connection:
            connection.execute("INSERT INTO biz.ai_live_events (event_type) VALUES ('x')")
            raise ZeroDivisionError
        with one_connection.autocommit() as connection:
            assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
            assert connection.execute("SELECT FROM biz.ai_live_events").fetchall() == []
            assert connection.execute("SELECT current_user AS role").fetchall() != [{"role": "zqyy_api"}]


def test_what_a_caller_says_stays_a_value(database: Database) -> None:
    for said in ("'; DROP TABLE biz.ai_audit; --", "\\'", "%s %(n)s", "%", "$1", "中文😀"):
        assert database.within(ALL_SITES).read_at_once(b"SELECT %(said)s::text AS said", {"said": said}) == [{"said": said}]
