"""Each action of the console, clicked in Chromium and done to its end: on demo members, by runs that call the emulator."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.engine.prewarm import PrewarmRun
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai_tests.admin.callers import Api, open_api
from zqyy_ai_tests.admin.console.browsers import Visit, visit
from zqyy_ai_tests.admin.live_clients import Server, running_server
from zqyy_ai_tests.engine.member_bench import FINAL, SITE, MemberBench

pytestmark = pytest.mark.journey

DRAWER = "#drawer[open]"


@pytest.fixture
def api(bench: MemberBench) -> Iterator[Api]:
    with open_api(bench.database.url) as opened:
        yield opened


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    with running_server(api.services) as running:
        yield running


@pytest.fixture
def operator(api: Api, server: Server, browser: Browser) -> Iterator[Visit]:
    with visit(browser, server.url, api.token(Role.OPERATOR, [SITE], "值班")) as visiting:
        yield visiting


@pytest.fixture
def admin(api: Api, server: Server, browser: Browser) -> Iterator[Visit]:
    with visit(browser, server.url, api.token(Role.ADMIN, None, "店长")) as visiting:
        yield visiting


def audited(bench: MemberBench) -> list[str]:
    return [row["action"] for row in bench.connection.execute("SELECT action FROM biz.ai_audit ORDER BY id")]


def cells(page: Page, state: str) -> int:
    return page.locator(f".cell.{state}").count()


@contextmanager
def prewarm_run(bench: MemberBench) -> Iterator[PrewarmRun]:
    """The run that Dagster's sensor would ask for."""
    with PrewarmRun(bench.engine(), SITE, list(WINDOW_KEYS), run_id="run-prewarm", asked_by_sensor=True) as prewarm:
        yield prewarm


def test_one_window_is_made_and_shows_by_itself_what_it_says(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    operator.open_live("/prewarm")
    assert cells(page, "missing") == 72
    with bench.open_run():
        page.get_by_label("上月 · 贵宾包厢：缺失，没有回答").click()
        expect(page.locator(DRAWER)).to_contain_text("还没有回答")
        page.locator(DRAWER).get_by_role("button", name="运行", exact=True).click()
        expect(page.locator("#confirm-text")).to_contain_text("最多 1 次调用")
        operator.agree()
        operator.says("已登记 1 个窗口")
        expect(page.locator(f"{DRAWER} .tag.green").first).to_have_text("有效")
        expect(page.locator(f"{DRAWER} .insights li").first).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".cell.fresh")).to_have_count(1)
        assert bench.emulator.posts == 1
        # Once more: the data have not changed, and nothing is paid.
        page.locator(".cell.fresh").click()
        page.locator(DRAWER).get_by_role("button", name="运行", exact=True).click()
        operator.agree()
        bench.wait_for_jobs(lambda statuses: statuses == ["completed"] * 2)
        assert bench.emulator.posts == 1
        page.locator(DRAWER).get_by_role("button", name="重新生成").click()
        operator.agree()
        bench.wait_for_jobs(lambda statuses: statuses == ["completed"] * 3)
        assert bench.emulator.posts == 2
    assert [row["target_id"] for row in bench.cached()] == ["last_month__vip"] * 2
    assert audited(bench) == ["windows.run"] * 3


def test_a_row_and_a_column_are_made_with_their_progress(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    operator.open_live("/prewarm")
    with bench.open_run():
        page.get_by_label("运行上月的 9 个窗口").click()
        expect(page.locator("#confirm-text")).to_contain_text("最多 9 次调用")
        operator.agree()
        operator.says("已登记 9 个窗口")
        progress = page.get_by_label("手动运行 9 个窗口")
        expect(progress).to_contain_text("完成 9 / 9")
        expect(progress).to_contain_text("已完成")
        expect(page.locator(".cell.fresh")).to_have_count(9)
        page.get_by_label("运行KTV的 8 个窗口").click()
        operator.agree()
        expect(page.get_by_label("手动运行 8 个窗口")).to_contain_text("完成 8 / 8（复用 1）")
        expect(page.locator(".cell.fresh")).to_have_count(16)
    assert bench.emulator.posts == 16
    page.get_by_label("运行上周的 9 个窗口").click()
    page.locator("#confirm button[value=no]").click()
    assert len(bench.jobs()) == 17


def test_all_that_is_missing_is_made_with_live_progress(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    with bench.open_run():
        operator.open_live("/prewarm")
        page.get_by_label("运行全店的 8 个窗口").click()
        operator.agree()
        expect(page.locator(".cell.fresh")).to_have_count(8)
    posts = bench.emulator.posts
    page.get_by_role("button", name="补齐缺失（64）").click()
    operator.agree()
    operator.says("已登记预热任务")
    progress = page.get_by_label("预热任务")
    expect(progress).to_contain_text("排队中")
    with prewarm_run(bench) as prewarm:
        for number, _ in enumerate(prewarm.outcomes()):
            if number == 40:
                # It tells of itself once a second; what it told shows while it goes on.
                expect(progress).to_contain_text("执行中")
    expect(progress).to_contain_text("完成 72 / 72")
    # The answers that were valid, and windows without data, which are answered without a call.
    calls = bench.emulator.posts - posts
    assert 0 < calls <= 64
    expect(progress).to_contain_text(f"（复用 {72 - calls}）；失败 0；调用 {calls} 次")
    expect(progress).to_contain_text("约 ¥")
    expect(page.locator(".cell.fresh")).to_have_count(72)
    expect(page.get_by_role("button", name="补齐缺失（0）")).to_be_disabled()
    expect(page.get_by_text("72 / 72 有效")).to_be_visible()


def test_a_window_that_fails_says_why_in_its_cell(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    bench.emulator.plan(FINAL)
    operator.open_live("/prewarm")
    with bench.open_run():
        page.get_by_label("上月 · 贵宾包厢：缺失，没有回答").click()
        page.locator(DRAWER).get_by_role("button", name="运行", exact=True).click()
        operator.agree()
        expect(page.locator(DRAWER)).to_contain_text("最近一次失败")
        page.keyboard.press("Escape")
        expect(page.locator(".cell.failed")).to_have_count(1)
        bench.emulator.reset()
        page.get_by_role("button", name="重试失败（1）").click()
        operator.agree()
        operator.says("已登记 1 个窗口")
        expect(page.locator(".cell.fresh")).to_have_count(1)
        expect(page.get_by_role("button", name="重试失败")).to_have_count(0)


EVENTS = {
    "consumption": ("消费结账", ["app3", "app8", "app7"]),
    "note_created": ("新增备注", ["app6", "app8"]),
    "task_assigned": ("分配任务", ["app4", "app5"]),
}


@pytest.mark.parametrize("event_type", EVENTS)
def test_an_event_fired_by_hand_shows_its_chain_as_a_timeline(bench: MemberBench, operator: Visit, event_type: str) -> None:
    page, member, assistant = operator.page, bench.visitors()[0], bench.assistants()[0]
    title, apps = EVENTS[event_type]
    operator.open_live("/jobs")
    page.get_by_role("button", name="手动触发").click()
    drawer = page.locator(DRAWER)
    drawer.get_by_label(title, exact=True).check()
    drawer.get_by_label("会员编号").fill(str(member))
    if event_type == "note_created":
        drawer.get_by_label("备注内容").fill("周末要带同事来打球")
        drawer.get_by_label("填写人").fill("小王")
    if event_type == "task_assigned":
        bench.add_task(member, assistant)
        drawer.get_by_label("助教编号").fill(str(assistant))
    drawer.get_by_role("button", name="触发", exact=True).click()
    operator.agree()
    operator.says("已登记任务")
    page.keyboard.press("Escape")
    [job] = bench.jobs()
    expect(page.locator("#live tbody tr")).to_have_count(1)
    with bench.open_run():
        expect(page.locator("#live tbody tr .tag").first).to_have_text("已完成")
    page.get_by_label(f"任务 {job['id']} 的详情").click()
    expect(drawer.locator(".timeline li.green")).to_have_count(len(apps))
    assert job["event_type"] == event_type
    assert job["app_chain"] == "→".join(apps)
    assert audited(bench) == ["event.fire"]


def test_a_finished_load_fired_by_hand_waits_for_its_run(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    operator.open_live("/jobs")
    page.get_by_role("button", name="手动触发").click()
    drawer = page.locator(DRAWER)
    drawer.get_by_label("数据就绪（预热）").check()
    expect(drawer.get_by_label("会员编号")).to_be_hidden()
    drawer.get_by_role("button", name="触发", exact=True).click()
    operator.agree()
    operator.says("已登记任务")
    assert [job["event_type"] for job in bench.jobs()] == ["dws_completed"]


def test_a_failed_job_says_why_and_is_tried_again(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    bench.emulator.plan(FINAL, FINAL, FINAL)
    bench.consumption(bench.visitors()[0])
    bench.take_in()
    bench.drain()
    [failed] = bench.jobs()
    assert failed["status"] == "failed"
    operator.open_live(f"/jobs?job_id={failed['id']}")
    drawer = page.locator(DRAWER)
    expect(drawer.locator(".timeline li.red").first).to_contain_text("客户线索")
    drawer.get_by_role("button", name="重试").click()
    operator.agree()
    operator.says("只做任务")
    bench.emulator.reset()
    bench.drain(run_id="run-2")
    expect(drawer).to_contain_text("重试它的")
    assert [job["status"] for job in bench.jobs()] == ["failed", "completed"]
    assert bench.jobs()[-1]["retry_of"] == failed["id"]


def test_alerts_are_dealt_with_one_by_one_and_many_at_once(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    for number in range(4):
        with bench.connection.transaction():
            alerts.raise_alert(bench.connection, Alert(AlertType.FAILED, f"问题 {number}", site_id=SITE, detail=str(number)))
    operator.open_live("/alerts")
    page.get_by_label("原因").fill("已联系百炼")
    page.locator("tr", has_text="问题 0").get_by_role("button", name="确认").click()
    operator.says("已确认 1 条告警")
    expect(page.locator("#live tbody tr")).to_have_count(3)
    page.locator("tr", has_text="问题 1").get_by_role("button", name="忽略").click()
    operator.agree()
    operator.says("已忽略 1 条告警")
    expect(page.locator("#live tbody tr")).to_have_count(2)
    page.get_by_label("全选").check()
    page.get_by_role("button", name="确认（2）").click()
    operator.says("已确认 2 条告警")
    expect(page.get_by_text("没有待处理的告警")).to_be_visible()
    found = bench.connection.execute("SELECT message, alert_status, status_reason FROM biz.ai_alerts ORDER BY id").fetchall()
    assert [(row["message"], row["alert_status"], row["status_reason"]) for row in found] == [
        ("问题 0", "acked", "已联系百炼"),
        ("问题 1", "ignored", None),
        ("问题 2", "acked", None),
        ("问题 3", "acked", None),
    ]


def test_a_members_answer_is_made_anew_and_shows_by_itself(bench: MemberBench, operator: Visit) -> None:
    page, member = operator.page, bench.visitors()[0]
    operator.open_live(f"/members?site_id={SITE}&member_id={member}")
    card = page.get_by_label("客户线索", exact=True)
    expect(card).to_contain_text("没有回答")
    with bench.open_run():
        card.get_by_role("button", name="生成").click()
        operator.agree()
        operator.says("客户线索 正在重新生成")
        expect(card.locator(".tag.green").first).to_have_text("有效")
        expect(card.locator(".clues li").first).to_be_visible()
        card.get_by_role("button", name="重新生成").click()
        operator.agree()
        bench.wait_for_jobs(lambda statuses: statuses == ["completed"] * 2)
        card.get_by_label("客户线索的历史").click()
        expect(page.locator(f"{DRAWER} .card")).to_have_count(2)
    assert len(bench.cached(AppType.CLUE)) == 2


def test_a_batch_is_estimated_confirmed_watched_and_cancelled(bench: MemberBench, operator: Visit) -> None:
    page, members = operator.page, bench.visitors()[:3]
    operator.open_live("/batches")
    page.get_by_label("客户线索").check()
    page.get_by_label("粘贴会员编号").check()
    page.get_by_label("会员编号，以逗号").fill("\n".join(map(str, members)))
    page.get_by_role("button", name="估算").click()
    estimate = page.get_by_label("估算结果")
    expect(estimate).to_contain_text("最多 3 次调用")
    expect(estimate).to_contain_text("¥")
    assert bench.jobs() == []
    estimate.get_by_role("button", name="确认并开始").click()
    operator.says("批次已开始：3 个任务")
    expect(estimate).to_have_count(0)
    batch = page.locator("article.batch")
    expect(batch).to_contain_text("排队中")
    with bench.open_run():
        expect(batch).to_contain_text("已完成")
        expect(batch).to_contain_text("任务 3 / 3")
    assert bench.emulator.posts == 3
    # The members who lack an answer: all but these, and they are cancelled before anybody begins.
    page.get_by_label("按条件筛选").check()
    page.get_by_label("最近多少天到店").fill("")
    page.get_by_label("只要缺少有效回答的").check()
    page.get_by_role("button", name="估算").click()
    estimate.get_by_role("button", name="确认并开始").click()
    operator.says("批次已开始")
    batch.first.get_by_role("button", name="取消").click()
    operator.agree()
    operator.says("已取消")
    expect(batch.first).to_contain_text("已取消")
    cancelled = [job for job in bench.jobs() if job["error_message"] == "已取消"]
    assert len(cancelled) > 3
    assert not {job["member_id"] for job in cancelled} & set(members)
    assert bench.emulator.posts == 3


def test_answers_are_taken_back_after_a_look_at_how_many(bench: MemberBench, operator: Visit) -> None:
    page, member = operator.page, bench.visitors()[0]
    bench.consumption(member)
    bench.take_in()
    bench.drain()
    operator.open_live("/cache")
    page.get_by_label("会员编号（可选）").fill(str(member))
    page.get_by_role("button", name="预览").click()
    preview = page.get_by_label("预览", exact=True)
    expect(preview).to_contain_text("3 行将失效")
    assert {row["status"] for row in bench.cached()} == {"valid"}
    preview.get_by_role("button", name="确认失效").click()
    operator.agree()
    operator.says("已使 3 行缓存失效")
    assert {row["status"] for row in bench.cached()} == {"invalidated"}


def test_the_pause_switch_stops_and_resumes_and_is_seen_everywhere(bench: MemberBench, admin: Visit) -> None:
    page = admin.page
    admin.open_live("/cache")
    page.get_by_label("原因（必填").fill("核对账单")
    page.get_by_role("button", name="暂停全部调用").click()
    admin.agree()
    admin.says("已暂停全部模型调用")
    # The card and the banner turn by themselves.
    expect(page.get_by_role("button", name="恢复")).to_be_visible()
    expect(page.get_by_role("note")).to_contain_text("核对账单")
    admin.open_live("/prewarm")
    expect(page.get_by_role("note")).to_contain_text("核对账单")
    page.get_by_role("button", name="补齐缺失").click()
    admin.agree()
    admin.says("恢复之后再试")
    assert bench.jobs() == []
    admin.open_live("/cache")
    page.get_by_role("button", name="恢复").click()
    admin.agree()
    admin.says("已恢复")
    expect(page.get_by_role("note")).to_have_count(0)
    expect(page.get_by_role("button", name="暂停全部调用")).to_be_visible()
    admin.expect_refusals()
    assert audited(bench) == ["calls.pause", "calls.resume"]


def test_a_trigger_is_switched_and_its_cron_changed(bench: MemberBench, admin: Visit) -> None:
    page = admin.page
    admin.open_live("/triggers")
    cron = page.get_by_label("ai_dws_prewarm_0830", exact=True)
    expect(cron.locator("ol li")).to_have_count(5)
    cron.get_by_text("修改").click()
    cron.get_by_label("cron 表达式").fill("15 9 * * 1")
    cron.get_by_role("button", name="保存").click()
    admin.says("已保存 ai_dws_prewarm_0830")
    expect(cron.locator("ol li").first).to_contain_text("09:15:00")
    cron.get_by_role("button", name="停用").click()
    admin.agree()
    admin.says("已停用")
    expect(cron).to_contain_text("已停用")
    cron.get_by_role("button", name="启用").click()
    admin.says("已启用")
    expect(cron.locator("ol li")).to_have_count(5)
    cron.get_by_label("cron 表达式").fill("every day")
    cron.get_by_role("button", name="保存").click()
    admin.says("应为五段")
    admin.expect_refusals()
    assert audited(bench) == ["trigger.update"] * 3


def test_a_second_click_asks_for_nothing_more(bench: MemberBench, operator: Visit) -> None:
    page = operator.page
    operator.open_live("/prewarm?site_id=1001")
    page.get_by_label("上月 · 贵宾包厢：缺失，没有回答").click()
    page.locator(DRAWER).get_by_role("button", name="运行", exact=True).click()
    page.locator("#confirm button[value=yes]").dblclick()
    operator.says("已登记 1 个窗口")
    assert len(bench.jobs()) == 1
    page.keyboard.press("Escape")
    with bench.connection.transaction():
        alert_id = alerts.raise_alert(bench.connection, Alert(AlertType.FAILED, "问题", site_id=SITE))
    operator.open_live("/alerts")
    page.locator(f"#alert-{alert_id}").get_by_role("button", name="确认").dblclick()
    operator.says("已确认 1 条告警")
    assert audited(bench) == ["windows.run", "alert.ack"]
