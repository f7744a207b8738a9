"""Dagster's storage goes on when its connections are cut, also in the middle of its work."""

import threading

import psycopg

from zqyy_ai_tests.orchestration.conftest import Stage


def test_connections_that_are_cut_again_and_again_end_no_statement_of_dagsters(stage: Stage) -> None:
    over, failures = threading.Event(), []

    def work() -> None:
        try:
            while not over.is_set():
                stage.instance.add_dynamic_partitions("cut", ["a"])
                assert stage.instance.get_dynamic_partitions("cut") == ["a"]
                stage.instance.get_runs(limit=1)
        except Exception as failure:
            failures.append(failure)

    working = [threading.Thread(target=work) for _ in range(4)]
    with psycopg.connect(stage.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as connection:
        for thread in working:
            thread.start()
        for _ in range(40):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("SELECT pg_sleep(0.05)")
        over.set()
        for thread in working:
            thread.join(60)
    assert failures == []
