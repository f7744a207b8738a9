"""Each page in Chromium, wide and narrow: it draws without a complaint, asks nobody else, and can be used by keyboard and screen reader."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from zqyy_ai.domain.access import Role
from zqyy_ai.store import alerts, live_events
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import SITE, Api
from zqyy_ai_tests.admin.console.browsers import NARROW, WIDE, visit
from zqyy_ai_tests.admin.console.furniture import MEMBER, Furniture, pages_of
from zqyy_ai_tests.admin.live_clients import Server, running_server
from zqyy_ai_tests.admin.rows import add_alert, add_log

pytestmark = pytest.mark.journey

DRAWER = "#drawer[open]"


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    with running_server(api.services) as running:
        yield running


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_each_page_draws_without_a_complaint_fits_its_window_and_can_be_used_by_those_who_do_not_see_it(
    api: Api, server: Server, browser: Browser, furniture: Furniture, width: int
) -> None:
    with visit(browser, server.url, api.token(Role.ADMIN), width) as visiting:
        page = visiting.page
        for path in pages_of(furniture):
            visiting.open_live(path)
            if "job_id=" in path or "log_id=" in path:
                expect(page.locator(DRAWER)).to_be_visible()
            for chart in page.locator(".chart").all():
                expect(chart.locator("canvas")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert_everybody_can_use(page, path)
        page.context.clear_cookies()
        visiting.open("/login")
        assert_everybody_can_use(page, "/login")


def assert_everybody_can_use(page: Page, path: str) -> None:
    """What axe finds against WCAG 2.1 A and AA."""
    # The drawer slides in: half there, its colours are paler than they will be.
    page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert found.violations_count == 0, f"{path}: {found.generate_report()}"


def test_the_keyboard_alone_opens_and_closes_what_a_row_tells(api: Api, server: Server, browser: Browser, furniture: Furniture) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER)) as visiting:
        page = visiting.page
        visiting.open("/jobs")
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        row = page.locator(f"a[aria-label='任务 {furniture.job_id} 的详情']")
        row.focus()
        page.keyboard.press("Enter")
        expect(page.locator(DRAWER)).to_contain_text(f"任务 {furniture.job_id}")
        page.keyboard.press("Escape")
        expect(page.locator(DRAWER)).to_have_count(0)
        expect(row).to_be_focused()


def test_an_update_leaves_the_focus_where_it_was(
    api: Api, server: Server, browser: Browser, connection: Connection, furniture: Furniture
) -> None:
    with visit(browser, server.url, api.token(Role.OPERATOR)) as visiting:
        page = visiting.page
        visiting.open_live(f"/prewarm?site_id={SITE}")
        cell = page.locator("#cell-last_week__ktv")
        cell.focus()
        old = cell.element_handle()
        add_log(connection, app_type="app2a_finance_area", target_id="last_week__vip", status="timeout", error_code="timeout")
        with connection.transaction():
            live_events.publish(connection, "cache_updated", SITE, {})
        expect(page.locator("#cell-last_week__vip.failed")).to_be_visible()
        assert old.evaluate("element => element.isConnected") is False
        expect(cell).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator(DRAWER)).to_contain_text("上周 · KTV")
        with connection.transaction():
            live_events.publish(connection, "cache_updated", SITE, {})
        add_log(connection, app_type="app2a_finance_area", target_id="last_week__all", status="timeout", error_code="timeout")
        page.keyboard.press("Escape")
        expect(page.locator(DRAWER)).to_have_count(0)
        expect(cell).to_be_focused()


def test_a_narrow_window_folds_the_menu(api: Api, server: Server, browser: Browser) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER), NARROW) as visiting:
        menu = visiting.page.locator("#menu")
        expect(menu).to_be_hidden()
        visiting.page.click(".menu-button")
        expect(menu).to_be_visible()
        menu.get_by_text("告警中心").click()
        expect(visiting.page).to_have_title("告警中心 · zqyy_ai 控制台")


def test_the_site_is_kept_from_page_to_page(api: Api, server: Server, browser: Browser, furniture: Furniture) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER)) as visiting:
        page = visiting.page
        visiting.open("/?range_days=3")
        page.select_option("#site", str(SITE))
        page.wait_for_url(f"**/?range_days=3&site_id={SITE}")
        page.locator("#menu").get_by_text("调用日志").click()
        page.wait_for_url(f"**/logs?site_id={SITE}")
        expect(page.locator("#site")).to_have_value(str(SITE))


def test_one_thing_leads_to_the_next_in_the_drawer(api: Api, server: Server, browser: Browser, furniture: Furniture) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER)) as visiting:
        page = visiting.page
        visiting.open(f"/jobs?job_id={furniture.job_id}")
        drawer = page.locator(DRAWER)
        drawer.get_by_label(f"调用记录 {furniture.log_id} 的详情").click()
        expect(drawer).to_contain_text("数字核对")
        expect(drawer.locator("mark").first).to_contain_text("99.9%")
        expect(drawer.get_by_text("run-abc")).to_have_attribute("href", "http://127.0.0.1:3000/runs/run-abc")
        drawer.get_by_text("查看窗口").click()
        expect(drawer).to_contain_text("历史版本")
        drawer.get_by_label("关闭").click()
        expect(drawer).to_have_count(0)
        visiting.open(f"/members?site_id={SITE}&member_id={MEMBER}")
        expect(page.locator("#main")).to_contain_text("AI · 消费")
        expect(page.locator("#main")).to_contain_text("人工")


def test_whoever_was_logged_out_meanwhile_comes_to_the_login(api: Api, server: Server, browser: Browser, furniture: Furniture) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER)) as visiting:
        visiting.open_live("/jobs")
        visiting.page.context.clear_cookies()
        visiting.page.locator(f"a[aria-label='任务 {furniture.job_id} 的详情']").click()
        expect(visiting.page).to_have_title("登录 · zqyy_ai 控制台")
        visiting.page.fill("#token", api.token(Role.VIEWER))
        visiting.page.get_by_role("button", name="登录").click()
        expect(visiting.page).to_have_title("触发任务 · zqyy_ai 控制台")


def test_a_page_that_updates_itself_says_that_the_login_has_ended_and_keeps_what_is_written(
    api: Api, server: Server, browser: Browser, connection: Connection
) -> None:
    add_alert(connection)
    with visit(browser, server.url, api.token(Role.OPERATOR)) as visiting:
        page = visiting.page
        visiting.open_live("/alerts")
        page.fill("#reason", "写到一半")
        page.locator("#reason").blur()
        page.context.clear_cookies()
        with connection.transaction():
            alerts.raise_alert(connection, Alert(AlertType.FAILED, "新的问题", site_id=SITE))
        visiting.says("登录已失效")
        expect(page.locator("#reason")).to_have_value("写到一半")
        expect(page.locator("#live-state")).to_have_text("重连中")
        page.get_by_text("重新登录").click()
        expect(page).to_have_title("登录 · zqyy_ai 控制台")
        visiting.expect_refusals()


def test_a_login_and_a_logout(api: Api, server: Server, browser: Browser) -> None:
    with visit(browser, server.url, api.token(Role.VIEWER)) as visiting:
        page = visiting.page
        page.get_by_role("button", name="退出").click()
        expect(page).to_have_title("登录 · zqyy_ai 控制台")
        page.fill("#token", "zqyy_wrong")
        page.get_by_role("button", name="登录").click()
        expect(page.get_by_role("alert")).to_contain_text("令牌无效")
        visiting.expect_refusals()
