"""Pages that stay open: what happens elsewhere shows on them, and a lost server is told and survived."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, expect

from zqyy_ai.domain.access import Role
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.console.browsers import visit
from zqyy_ai_tests.admin.console.furniture import Furniture
from zqyy_ai_tests.admin.live_clients import LONG_SECONDS, Server, running_server
from zqyy_ai_tests.admin.rows import add_alert
from zqyy_ai_tests.engine.workbench import wait_until

pytestmark = pytest.mark.journey

SOON_MS = 2_000


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    with running_server(api.services) as running:
        yield running


def raise_one(connection: Connection, message: str, site_id: int = SITE) -> None:
    with connection.transaction():
        alerts.raise_alert(connection, Alert(AlertType.FAILED, message, site_id=site_id, detail=message))


def test_an_alert_appears_within_two_seconds_without_a_reload(api: Api, server: Server, browser: Browser, connection: Connection) -> None:
    with visit(browser, server.url, api.token(Role.OPERATOR)) as visiting:
        visiting.open_live("/alerts")
        visiting.page.evaluate("window.isTheSamePage = true")
        for number in range(3):
            begun = time.monotonic()
            raise_one(connection, f"刚刚发生的第 {number} 个问题")
            expect(visiting.page.get_by_text(f"刚刚发生的第 {number} 个问题")).to_be_visible(timeout=SOON_MS)
            assert time.monotonic() - begun < SOON_MS / 1000
        assert visiting.page.evaluate("window.isTheSamePage") is True


def test_of_another_site_nothing_appears(api: Api, server: Server, browser: Browser, connection: Connection) -> None:
    with visit(browser, server.url, api.token(Role.OPERATOR, [SITE])) as visiting:
        visiting.open_live("/alerts")
        raise_one(connection, "别人的问题", OTHER_SITE)
        raise_one(connection, "自己的问题")
        expect(visiting.page.get_by_text("自己的问题")).to_be_visible()
        expect(visiting.page.get_by_text("别人的问题")).to_have_count(0)


def test_what_somebody_is_doing_is_not_taken_away_by_an_update(api: Api, server: Server, browser: Browser, connection: Connection) -> None:
    first, second = (add_alert(connection, message=f"问题 {name}") for name in "甲乙")
    with visit(browser, server.url, api.token(Role.OPERATOR)) as visiting:
        page = visiting.page
        visiting.open_live("/alerts")
        page.check(f"input[value='{first}']")
        raise_one(connection, "新的问题")
        expect(page.get_by_text("新的问题")).to_be_visible()
        expect(page.locator(f"input[value='{first}']")).to_be_checked()
        expect(page.locator(f"input[value='{second}']")).not_to_be_checked()
        expect(page.get_by_role("button", name="确认（1）")).to_be_enabled()
        page.fill("#reason", "正在写")
        raise_one(connection, "又一个问题")
        # The stream has brought it when the server has nothing more to send; the page waits until the hands are off.
        page.wait_for_timeout(600)
        expect(page.locator("#reason")).to_have_value("正在写")
        expect(page.get_by_text("又一个问题")).to_have_count(0)
        page.locator("#reason").blur()
        expect(page.get_by_text("又一个问题")).to_be_visible()
        expect(page.locator("#reason")).to_have_value("正在写")


def test_the_overview_counts_a_new_alert(api: Api, server: Server, browser: Browser, connection: Connection, furniture: Furniture) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER)) as visiting:
        visiting.open_live("/")
        visiting.page.locator("details[data-keep=trend] summary").click()
        raise_one(connection, "总览上的问题")
        expect(visiting.page.get_by_text("总览上的问题")).to_be_visible()
        expect(visiting.page.locator("details[data-keep=trend]")).to_have_attribute("open", "")
        for chart in visiting.page.locator(".chart").all():
            expect(chart.locator("canvas")).to_be_visible()


@contextmanager
def served(database_url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"ZQYY_DATABASE_URL": database_url, "ZQYY_PORT": str(port), "ZQYY_HOST": "127.0.0.1"}
    with subprocess.Popen([sys.executable, "-m", "zqyy_ai.cli", "serve"], env=environment) as process:
        try:
            wait_until(lambda: _answers(port))
            yield process
        finally:
            process.kill()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_killed_server_is_told_and_what_was_missed_comes_with_the_next_one(api: Api, browser: Browser, connection: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = api.services.settings.required_database_url()
    state = "#live-state"
    with served(url, port) as process, visit(browser, f"http://127.0.0.1:{port}", api.token(Role.OPERATOR)) as visiting:
        page = visiting.page
        raise_one(connection, "断线之前的问题")
        visiting.open_live("/alerts")
        process.send_signal(signal.SIGKILL)
        expect(page.locator(state)).to_have_text("重连中")
        page.get_by_label("处理手册").first.click()
        visiting.says("连接不上服务")
        raise_one(connection, "断线期间的问题")
        with served(url, port):
            expect(page.locator(state)).to_have_text("实时", timeout=LONG_SECONDS * 1000)
            expect(page.get_by_text("断线期间的问题")).to_be_visible()
            raise_one(connection, "恢复之后的问题")
            expect(page.get_by_text("恢复之后的问题")).to_be_visible(timeout=SOON_MS)
        # The browser notes each connection that it could not make, and htmx too.
        visiting.complaints[:] = [told for told in visiting.complaints if "ERR_" not in told and not told.startswith("htmx:")]
