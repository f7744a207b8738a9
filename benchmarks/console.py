"""The console's overview in a browser that has seen nothing yet: how long until it is drawn, and how much it loads."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from playwright.sync_api import Browser, StorageState, sync_playwright

from benchmarks.dashboard import fill_run_logs
from benchmarks.served_api import serving
from zqyy_ai.devkit.embedded_postgres import APPLICATION_DATABASE, EmbeddedPostgres
from zqyy_ai.domain.access import ALL_SITES, Role
from zqyy_ai.engine.run_log_closing import close_hours
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import migrate

CHROMIUM = "/usr/bin/chromium"
# The page has two.
_CHARTS = 2


@dataclass(frozen=True, slots=True)
class FirstLoad:
    """From the request to the last chart. `transferred_bytes`: of all answers, compressed, headers included."""

    logs: int
    seconds: tuple[float, ...]
    page_seconds: tuple[float, ...]
    transferred_bytes: int

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)


def measure(*, logs: int, rounds: int) -> FirstLoad:
    """`logs` run logs; each round in a browser profile of its own."""
    with tempfile.TemporaryDirectory(prefix="zqyy-ai-bench-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "postgres") as server:
            url = server.ensure_database(APPLICATION_DATABASE)
            migrate(url)
            fill_run_logs(url, logs)
            with Database(url, max_connections=2) as database:
                close_hours(database.within(ALL_SITES), most_seconds=3_600)
                with database.transaction() as connection:
                    token = api_tokens.create(connection, name="benchmark", role=Role.VIEWER, site_ids=None)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
            with serving(url, Path(folder)) as (base_url, _), sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                login = _login(browser, base_url, token)
                loads = [_load(browser, base_url, login) for _ in range(rounds)]
                browser.close()
    return FirstLoad(logs, tuple(load[0] for load in loads), tuple(load[1] for load in loads), max(load[2] for load in loads))


def _login(browser: Browser, base_url: str, token: str) -> StorageState:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{base_url}/login")
    page.fill("#token", token)
    page.click("button")
    page.wait_for_selector("#main")
    state = context.storage_state()
    context.close()
    return state


def _load(browser: Browser, base_url: str, login: StorageState) -> tuple[float, float, int]:
    """Seconds until all is drawn, seconds until the page's own HTML was there, bytes."""
    context = browser.new_context(storage_state=login)
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    sizes: list[int] = []
    network.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    started = time.monotonic()
    page.goto(base_url, wait_until="commit")
    came = time.monotonic() - started
    for number in range(_CHARTS):
        page.locator(".chart").nth(number).locator("canvas").wait_for()
    seconds = time.monotonic() - started
    page.wait_for_timeout(300)
    context.close()
    return seconds, came, sum(sizes)
