"""Probes: what is well, what is not, and what they keep to themselves."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from zqyy_ai.domain.access import Role
from zqyy_ai.store.database import Connection, Database, database_now
from zqyy_ai.store.migrations import newest_version
from zqyy_ai_tests.admin.callers import Api, open_api
from zqyy_ai_tests.admin.rows import add, add_job


@contextmanager
def dagster(*, healthy: bool = True) -> Iterator[dict[str, str]]:
    """What Dagster's webserver answers about its daemons; the settings that lead there."""
    statuses = [
        {"daemonType": "SENSOR", "required": True, "healthy": healthy},
        {"daemonType": "BACKFILL", "required": False, "healthy": False},
    ]
    body = json.dumps({"data": {"instance": {"daemonHealth": {"allDaemonStatuses": statuses}}}}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield {"ZQYY_DAGSTER_PORT": str(server.server_port)}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def readiness(api: Api) -> tuple[int, dict[str, bool], dict[str, Any]]:
    answer = api.anonymous.get("/readyz")
    return answer.status_code, {check["name"]: check["ok"] for check in answer.json()["checks"]}, answer.json()


def test_a_process_is_alive_whatever_is_broken(api: Api) -> None:
    api.services.database.close()
    answer = api.anonymous.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_when_database_migrations_queue_and_daemons_are_well(database: Database) -> None:
    with dagster() as settings, open_api(database.url, **settings) as api:
        status, checks, body = readiness(api)
    assert (status, body["status"]) == (200, "ok")
    assert checks == {"database": True, "migrations": True, "queue": True, "dagster": True}


def test_not_ready_without_dagster_or_with_a_daemon_that_does_not_beat(database: Database) -> None:
    with dagster(healthy=False) as settings, open_api(database.url, **settings) as api:
        assert readiness(api)[:2] == (503, {"database": True, "migrations": True, "queue": True, "dagster": False})
    # Its port is free again: nobody answers.
    with open_api(database.url, **settings) as api:
        assert readiness(api)[1]["dagster"] is False


def test_not_ready_without_the_database_and_no_secret_is_told(database: Database) -> None:
    with dagster() as settings, open_api(database.url, **settings) as api:
        api.services.database.close()
        status, checks, body = readiness(api)
    assert status == 503
    assert checks == {"database": False, "migrations": False, "queue": False, "dagster": True}
    assert not [secret for secret in ("postgresql", "127.0.0.1", "port", "password") if secret in json.dumps(body)]


def test_not_ready_before_the_migrations_are_current(database: Database, connection: Connection) -> None:
    connection.execute("UPDATE biz.zqyy_ai_version SET version_num = '0008'")
    try:
        with dagster() as settings, open_api(database.url, **settings) as api:
            status, checks, _ = readiness(api)
    finally:
        connection.execute("UPDATE biz.zqyy_ai_version SET version_num = %s", [newest_version()])
    assert (status, checks["database"], checks["migrations"]) == (503, True, False)


@pytest.mark.parametrize(
    ("age", "progress_age", "is_paused", "is_well"),
    [
        (timedelta(seconds=5), None, False, True),
        (timedelta(hours=1), None, False, False),
        (timedelta(hours=1), timedelta(seconds=5), False, True),
        (timedelta(hours=1), timedelta(hours=1), False, False),
        (timedelta(hours=1), None, True, True),
    ],
)
def test_what_is_due_and_touched_by_nobody_is_ill(
    database: Database, connection: Connection, age: timedelta, progress_age: timedelta | None, is_paused: bool, is_well: bool
) -> None:
    now = database_now(connection)
    add_job(connection, status="pending", created_at=now - age)
    add_job(connection, status="pending", created_at=now - timedelta(days=2), not_before=now + timedelta(hours=1))
    if progress_age is not None:
        add_job(connection, status="running", progress_at=now - progress_age)
    if is_paused:
        add(connection, "ai_call_pauses", reason="演练", paused_by="小李")
    with dagster() as settings, open_api(database.url, **settings) as api:
        assert readiness(api)[1]["queue"] is is_well


def test_probes_need_no_token_and_metrics_do(api: Api) -> None:
    assert api.anonymous.get("/healthz").status_code == 200
    assert api.anonymous.get("/metrics").status_code == 401
    assert api.caller(Role.READER).get("/metrics").status_code == 403
