"""`make screenshots`: every page of the console, wide and some narrow, into docs/screenshots/.

On the demo's data, answered by the emulator, with ten days of calls, a few troubles, and a site in the sandbox; nothing of it is drawn by hand.
"""

import contextlib
import random
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.embedded_postgres import APPLICATION_DATABASE, EmbeddedPostgres
from zqyy_ai.devkit.emulator import running_emulator
from zqyy_ai.domain.access import Role
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import SHANGHAI, SystemClock, business_date_at
from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.engine.prewarm import PrewarmRun
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType, Severity
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.migrations import migrate
from zqyy_ai_tests.admin.callers import open_api
from zqyy_ai_tests.admin.console.browsers import NARROW, WIDE, Visit, visit
from zqyy_ai_tests.admin.live_clients import running_server
from zqyy_ai_tests.engine.member_bench import FINAL, SITE, MemberBench
from zqyy_ai_tests.engine.workbench import EmulatorControl

FOLDER = Path(__file__).parents[3] / "docs" / "screenshots"
SITES = 3
SANDBOXED = 1003
_CALLS_A_DAY = 260


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with furnished() as (bench, member), open_api(bench.database.url) as api, running_server(api.services) as server, browsing() as browser:
        for width, folder in ((WIDE, FOLDER), (NARROW, FOLDER / "narrow")):
            folder.mkdir(exist_ok=True)
            with visit(browser, server.url, api.token(Role.ADMIN, name="店长"), width) as visiting:
                shoot(visiting, folder, bench, member, is_narrow=width == NARROW)
        shoot_login(browser, server.url)


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--lang=zh-CN"])
        yield browser
        browser.close()


@contextlib.contextmanager
def furnished() -> Iterator[tuple[MemberBench, int]]:
    """A chain of three sites with work that was done, and a member of whom much is known."""
    with (
        tempfile.TemporaryDirectory(prefix="zqyy-ai-screenshots-") as folder,
        running_emulator() as running,
        contextlib.closing(EmulatorControl(running)) as emulator,
    ):
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "postgres", is_durable=False) as server:
            url = server.ensure_database(APPLICATION_DATABASE)
            migrate(url)
            demo_data.fill(url, sites=SITES, days=120, members=40, until=business_date_at(SystemClock().now()) - timedelta(days=1))
            with (
                Database(url, max_connections=16) as database,
                database.autocommit() as connection,
                contextlib.closing(MemberBench(database, emulator, connection)) as bench,
            ):
                add_history(connection)
                prewarm(bench)
                member = serve_members(bench)
                add_troubles(bench)
                yield bench, member


def add_history(connection: Connection) -> None:
    """Calls of the last ten days, of all applications and sites."""
    now, chosen = datetime.now(SHANGHAI), random.Random(7)
    rows = []
    for days_ago in range(1, 11):
        weight = 1.3 if (now - timedelta(days=days_ago)).weekday() >= 5 else 1.0
        for _ in range(round(_CALLS_A_DAY * weight * chosen.uniform(0.85, 1.1))):
            app = chosen.choices(list(AppType), weights=[8, 48, 12, 6, 6, 5, 9, 9])[0]
            kind = chosen.choices(["success", "reused", "timeout", "circuit_open"], weights=[84, 12, 1.4, 1.2])[0]
            is_call = kind in {"success", "timeout"}
            tokens_in, tokens_out = chosen.randint(1_500, 3_200), chosen.randint(300, 900)
            rows.append(
                {
                    "app": app.value,
                    "site": SITE + chosen.randrange(SITES),
                    "status": {"circuit_open": "failed"}.get(kind, kind),
                    "code": kind if kind in {"timeout", "circuit_open"} else None,
                    "tokens": tokens_in + tokens_out if is_call else 0,
                    "tokens_in": tokens_in if is_call else None,
                    "tokens_out": tokens_out if is_call else None,
                    "latency": chosen.randint(3_000, 14_000) if is_call else 0,
                    "at": now.replace(hour=chosen.randint(8, 22), minute=chosen.randrange(60)) - timedelta(days=days_ago),
                }
            )
    connection.cursor().executemany(
        "INSERT INTO biz.ai_run_logs (app_type, trigger_type, site_id, status, error_code, error_message, tokens_used, input_tokens, output_tokens,"
        " latency_ms, created_at, finished_at) VALUES (%(app)s, 'event', %(site)s, %(status)s, %(code)s, %(code)s, %(tokens)s, %(tokens_in)s,"
        " %(tokens_out)s, %(latency)s, %(at)s, %(at)s)",
        rows,
    )


def prewarm(bench: MemberBench) -> None:
    """Two sites whole, with a few windows that failed, are old or were taken back; the third is left for the sandbox."""
    engine = bench.engine(ZQYY_LLM_CONCURRENCY="12")
    for site_id in (SITE, SITE + 1):
        bench.fire("ai_dws_completed", {"site_id": site_id})
        bench.take_in()
        with PrewarmRun(
            engine, site_id, list(WINDOW_KEYS), run_id=f"3f0c1d2e-0000-4000-8000-00000000{site_id}", asked_by_sensor=True
        ) as run:
            for _ in run.outcomes():
                pass
    old = "UPDATE biz.ai_cache SET {} WHERE site_id = 1001 AND target_id = ANY(%s)"
    bench.connection.execute(
        old.format("expires_at = now() - interval '9 hours', created_at = created_at - interval '1 day'").encode(),
        [["last_week__vip", "last_week__ktv", "this_week__mahjong"]],
    )
    bench.connection.execute(old.format("status = 'invalidated'").encode(), [["last_quarter__hallB", "last_6_months__snooker"]])
    bench.connection.execute(
        "INSERT INTO biz.ai_run_logs (app_type, trigger_type, site_id, target_id, status, error_code, error_message, tokens_used, latency_ms, created_at)"
        " VALUES ('app2a_finance_area', 'event', 1001, 'this_month__ktv', 'timeout', 'timeout', '180 秒内没有回答', 0, 180000, now())"
    )


def serve_members(bench: MemberBench) -> int:
    """Events of several members, one of whom has everything."""
    first, *others = bench.visitors()[:6]
    assistant = bench.assistants()[0]
    bench.serve(first, assistant)
    bench.add_task(first, assistant, "高余额会员到店提醒")
    bench.consumption(first, assistant)
    bench.note(first, "客人说下个月生日，想约三五好友来打斯诺克，喜欢安静的包厢")
    for other in others:
        bench.consumption(other)
    bench.consumption(others[0])
    bench.connection.execute(
        "INSERT INTO public.member_retention_clue (member_id, category, summary, detail, site_id, source, recorded_by_name)"
        " VALUES (%s, '社交关系', '🤝 常带客户来谈事', '前台观察', %s, 'manual', '小王')",
        [first, SITE],
    )
    bench.take_in()
    bench.drain()
    # One chain that fails at its last step, and waits for somebody to try it again.
    bench.emulator.plan(FINAL | {"app_id": f"id-{AppType.CUSTOMER.value}"})
    bench.add_visit(others[-1])
    bench.consumption(others[-1], is_forced=True)
    bench.take_in()
    bench.drain(run_id="run-2")
    bench.emulator.reset()
    return first


def add_troubles(bench: MemberBench) -> None:
    troubles = [
        Alert(AlertType.CIRCUIT_OPEN, "客户线索 的熔断器已打开:连续 5 次失败", app_type="app3_clue", severity=Severity.CRITICAL),
        Alert(AlertType.TIMEOUT, "区域财务洞察 this_month__ktv:180 秒内没有回答", site_id=SITE, app_type="app2a_finance_area"),
        Alert(AlertType.BUDGET_EXCEEDED, "单店日预算超出预估:多用 1,240 Token", site_id=SITE + 1, detail="overshoot"),
    ]
    for number, trouble in enumerate(troubles):
        for _ in range(3 - number):
            with bench.connection.transaction():
                alerts.raise_alert(bench.connection, trouble)
    bench.fire("ai_note_created", {"site_id": SITE, "member_id": "王先生", "note_content": "喜欢靠窗的台"})
    bench.fire("ai_consumption_settled", {"site_id": 4711, "member_id": 1})
    bench.take_in()
    # What the check would have found, had the emulator made a number up.
    bench.connection.execute(
        "UPDATE biz.ai_cache SET result_json = jsonb_set(result_json, '{_number_check,unexplained}',"
        " jsonb_build_array(jsonb_build_object('seq', 1, 'field', 'title', 'text', right(result_json #>> '{insights,0,title}', 5), 'start',"
        " length(result_json #>> '{insights,0,title}') - 5, 'end', length(result_json #>> '{insights,0,title}'))))"
        " WHERE site_id = 1001 AND target_id = 'this_month__all' AND status = 'valid'"
    )
    bench.connection.execute(
        "INSERT INTO biz.ai_runtime_contexts (site_id, mode, business_date, updated_by) VALUES (%s, 'sandbox', current_date - 30, '店长')",
        [SANDBOXED],
    )


def shoot(visiting: Visit, folder: Path, bench: MemberBench, member: int, *, is_narrow: bool) -> None:
    page = visiting.page

    def save(name: str, *, whole: bool = True) -> None:
        page.mouse.move(0, 0)
        expect(page.locator("#live-state")).to_have_text("实时")
        for chart in page.locator(".chart").all():
            expect(chart.locator("canvas")).to_be_visible()
        page.screenshot(path=folder / f"{name}.png", full_page=whole and not is_narrow)

    def save_drawer(name: str, address: str) -> None:
        visiting.open(address)
        expect(page.locator("#drawer[open] h2")).to_be_visible()
        page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
        save(name, whole=False)

    failed = next(job["id"] for job in reversed(bench.jobs()) if job["status"] in {"failed", "partial"})
    log = next(row["run_log_id"] for row in bench.cached() if row["target_id"] == "this_month__all" and row["site_id"] == SITE)
    for name, address in {
        "overview": "/?range_days=10",
        "prewarm": f"/prewarm?site_id={SITE}",
        "jobs": "/jobs",
        "rejected-events": "/jobs/rejected",
        "logs": f"/logs?site_id={SITE}",
        "alerts": "/alerts?status=",
        "member": f"/members?site_id={SITE}&member_id={member}",
        "triggers": "/triggers",
        "cache": "/cache",
    }.items():
        visiting.open(address)
        save(name)
    save_drawer("job", f"/jobs?job_id={failed}")
    save_drawer("log", f"/logs?log_id={log}&site_id={SITE}")
    shoot_batch(visiting, bench)
    save("batches")
    if not is_narrow:
        visiting.open(f"/prewarm?site_id={SANDBOXED}")
        save("sandbox", whole=False)


def shoot_batch(visiting: Visit, bench: MemberBench) -> None:
    """One batch that is done, and an estimate of another."""
    page = visiting.page

    def estimate(*apps: str) -> None:
        for app in apps:
            page.get_by_label(app).check()
        page.get_by_role("button", name="估算").click()
        expect(page.get_by_label("估算结果")).to_be_visible()

    visiting.open_live(f"/batches?site_id={SITE}")
    estimate("客户线索")
    page.get_by_role("button", name="确认并开始").first.click()
    visiting.says("批次已开始")
    bench.drain(run_id=f"run-{page.viewport_size}")
    visiting.open_live(f"/batches?site_id={SITE}")
    expect(page.locator("article.batch .tag").first).to_have_text("已完成")
    estimate("备注分析", "客户分析")


def shoot_login(browser: Browser, origin: str) -> None:
    page: Page = browser.new_page(viewport={"width": WIDE, "height": 640}, locale="zh-CN")
    page.goto(f"{origin}/login")
    page.screenshot(path=FOLDER / "login.png")


if __name__ == "__main__":
    main()
