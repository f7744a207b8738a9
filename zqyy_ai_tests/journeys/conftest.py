"""The stack that the journeys share. Each journey has a site of its own, which is open only while it lasts."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from zqyy_ai.devkit.watchdog import processes_with_marker
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.store.events import lock_intake
from zqyy_ai_tests.journeys.stack import Home, Stack, await_nobody

SITES = 18
MEMBERS = 60
# Stopping takes its ten seconds of grace when a run is in progress.
GONE_SECONDS = 15.0


@pytest.fixture
def home() -> Iterator[Home]:
    """For a journey that starts its processes itself. Whatever it started has to be gone when it ends."""
    fresh = Home.make()
    try:
        yield fresh
        await_nobody(fresh, seconds=GONE_SECONDS)
    finally:
        shutil.rmtree(fresh.folder)


@dataclass(frozen=True, slots=True)
class AlertReceiver:
    """Somebody's own webhook, on this machine: what was told there, newest last."""

    url: str
    told: list[str]


@pytest.fixture(scope="package")
def alert_receiver() -> Iterator[AlertReceiver]:
    told: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append(f"{message['title']}\n{message['message']}")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield AlertReceiver(f"json://127.0.0.1:{server.server_address[1]}/alerts", told)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="package")
def served_stack(alert_receiver: AlertReceiver) -> Iterator[Stack]:
    home = Home.make(
        # More calls than a site may make in a minute, fewer at once than windows: a prewarm can be caught in its middle.
        ZQYY_SITE_CALLS_BURST="1000",
        ZQYY_LLM_CONCURRENCY="12",
        ZQYY_ALERT_WEBHOOKS=alert_receiver.url,
        # What opens in a journey is over before the next one; a run that takes events is seen to its end.
        ZQYY_BREAKER_COOLDOWN_SECONDS="3",
        ZQYY_EVENT_RUN_IDLE_SECONDS="4",
    )
    try:
        with Stack(home) as stack:
            marker = json.loads((home.folder / "stack.json").read_text())["marker"]
            fill_warehouse(stack)
            yield stack
        await_nobody(home, seconds=GONE_SECONDS)
        assert processes_with_marker(marker) == set()
    finally:
        shutil.rmtree(home.folder)


@pytest.fixture
def stack(served_stack: Stack) -> Iterator[Stack]:
    """The shared stack, with an emulator that answers at once and well."""
    served_stack.plan_faults()
    yield served_stack
    served_stack.plan_faults()


@pytest.fixture(scope="package")
def closed_sites() -> Iterator[int]:
    """Numbers of the sites that no journey has used. Every third site of the demo has no KTV, and so fewer than 72 windows with data."""
    return iter([1001 + index for index in range(SITES) if index % 3 != 2])


@pytest.fixture
def site(stack: Stack, closed_sites: Iterator[int]) -> Iterator[int]:
    """A site of this journey alone, without any answer yet."""
    site_id = next(closed_sites)
    stack.sql("UPDATE biz.sites SET is_active = true WHERE site_id = %s", site_id)
    yield site_id
    stack.sql("UPDATE biz.sites SET is_active = false WHERE site_id = %s", site_id)


def fill_warehouse(stack: Stack) -> None:
    """Data through the business date, so that every window has some; all sites closed, and no prewarm that nobody asked for."""
    stack.sql("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_type IN ('ai_dws_prewarm', 'ai_dws_completed')")
    until = business_date_at(SystemClock().now()).isoformat()
    filled = stack.run("demo-data", "--sites", str(SITES), "--members", str(MEMBERS), "--until", until)
    assert filled.returncode == 0, filled.stderr
    with psycopg.connect(stack.database_url, row_factory=dict_row) as connection:
        # Under the intake's lock no tick is between finding these loads and refusing them.
        lock_intake(connection)
        connection.execute("UPDATE demo_dws.etl_runs SET finished_at = finished_at - interval '30 days'")
        connection.execute("DELETE FROM biz.ai_events")
        connection.execute("UPDATE biz.sites SET is_active = false")
        connection.execute("UPDATE biz.trigger_jobs SET status = 'enabled' WHERE job_type = 'ai_dws_completed'")
