"""The API behind pgbouncer in transaction mode: two connections for everybody, each transaction on any of them."""

import os
import pwd
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from zqyy_ai.domain.access import Role
from zqyy_ai.store import live_events
from zqyy_ai.store.cache import write_cache
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api, open_api
from zqyy_ai_tests.admin.live_clients import open_stream, running_server
from zqyy_ai_tests.admin.rows import add_job, add_log
from zqyy_ai_tests.system_programs import program

_START_SECONDS = 20.0


@pytest.fixture(scope="module")
def pooled_url(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The module's database through pgbouncer."""
    server = urlsplit(module_database_url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("pgbouncer")
    settings = folder / "pgbouncer.ini"
    settings.write_text(f"""[databases]
* = host=127.0.0.1 port={server.port} user={server.username} password='{server.password}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_round_robin = 1
""")
    # It refuses to run as root.
    account = pwd.getpwnam("nobody")
    is_root, temporary = os.geteuid() == 0, Path(tempfile.gettempdir())
    command = [program("pgbouncer"), "-q", str(settings)]
    for place in (folder, *folder.parents):
        if is_root and place.is_relative_to(temporary) and place != temporary:
            place.chmod(place.stat().st_mode | 0o011)
    settings.chmod(0o644)
    process = subprocess.Popen(command, **({"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if is_root else {}))  # type: ignore[call-overload]
    try:
        yield _reachable(f"postgresql://{server.username}:x@127.0.0.1:{port}{server.path}", process)
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def _reachable(url: str, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(url, prepare_threshold=None).close()
            return url
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture
def api(database: Database, pooled_url: str) -> Iterator[Api]:
    """All of it through the pooler, but what listens."""
    urls = {"ZQYY_API_DATABASE_URL": pooled_url, "ZQYY_API_LISTEN_DATABASE_URL": database.url}
    with open_api(database.url, **urls) as opened:
        yield opened


def test_callers_at_the_same_time_see_their_own_sites_alone(api: Api, connection: Connection, pooled_url: str) -> None:
    for site_id in (SITE, OTHER_SITE):
        for _ in range(5):
            add_log(connection, site_id=site_id)
        write_cache(connection, "app3_clue", site_id, "7", {"site": site_id}, expires_at=None)
    callers = {site_id: api.caller(Role.OPERATOR, [site_id]) for site_id in (SITE, OTHER_SITE)}

    def ask(number: int) -> tuple[int, set[int], int]:
        site_id = (SITE, OTHER_SITE)[number % 2]
        logs = callers[site_id].get("/api/admin/ai/run-logs")
        answer = callers[site_id].get("/api/ai/cache/app3_clue", params={"site_id": site_id, "target_id": "7"})
        assert (logs.status_code, answer.status_code) == (200, 200)
        return site_id, {item["site_id"] for item in logs.json()["items"]}, answer.json()["result"]["site"]

    with ThreadPoolExecutor(20) as threads:
        seen = list(threads.map(ask, range(200)))

    assert all(of_logs == {site_id} and of_cache == site_id for site_id, of_logs, of_cache in seen)
    # Nothing of a caller is left at a connection that the next one gets.
    for _ in range(4):
        with psycopg.connect(pooled_url, prepare_threshold=None) as pooled:
            left = pooled.execute("SELECT current_setting('role'), coalesce(current_setting('zqyy.sites', true), '')").fetchone()
            assert left == ("none", "")


def test_what_is_changed_is_changed_once_and_audited(api: Api, connection: Connection) -> None:
    job_id = add_job(connection, status="failed", business_date="2026-04-20", dedup_key="consumption|1001|7|-|2026-04-20|live")
    operator = api.caller(Role.OPERATOR, [SITE])

    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(lambda _: operator.post(f"/api/admin/ai/trigger-jobs/{job_id}/retry").status_code, range(10)))

    assert sorted(statuses) == [200] + [409] * 9
    assert connection.execute("SELECT count(*) AS n FROM biz.ai_trigger_jobs WHERE retry_of = %s", [job_id]).fetchone() == {"n": 1}
    assert connection.execute("SELECT action FROM biz.ai_audit").fetchall() == [{"action": "trigger_job.retry"}]


def test_the_stream_listens_past_the_pooler(api: Api, connection: Connection) -> None:
    with running_server(api.services) as server, open_stream(server, api.token(Role.VIEWER, [SITE])) as stream:
        live_events.publish(connection, "job_updated", OTHER_SITE, {"number": 1})
        live_events.publish(connection, "job_updated", SITE, {"number": 2})
        assert stream.next()["payload"] == {"number": 2}
