import threading

from zqyy_ai.store.database import Connection, Database


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
