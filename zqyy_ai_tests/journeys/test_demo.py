"""The demo, as a newcomer runs it."""

import pytest

from zqyy_ai.devkit.demo import SAMPLE_TARGETS
from zqyy_ai_tests.journeys.stack import Home

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


def test_the_demo_prewarms_a_site_plays_events_shows_what_came_out_and_leaves_no_process_behind(home: Home) -> None:
    demo = home.run("demo", timeout_seconds=280, ONCE="1")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert home.processes() == []
    assert "72 / 72" in demo.stdout
    for target in SAMPLE_TARGETS:
        assert f"│ {target}" in demo.stdout
    for event in ("消费结账", "员工备注", "任务分配"):
        assert f"│ {event}" in demo.stdout
    for application in ("客户线索", "客户分析", "助教关系", "话术", "备注分析"):
        assert f"│ {application}" in demo.stdout
    assert "member_retention_clue" in demo.stdout
    dagster, emulator = (f"http://127.0.0.1:{home.environment[port]}/" for port in ("ZQYY_DAGSTER_PORT", "ZQYY_EMULATOR_PORT"))
    assert f"{dagster}runs/" in demo.stdout
    assert f"控制台：http://127.0.0.1:{home.environment['ZQYY_PORT']}/" in demo.stdout
    assert "登录令牌：zqyy_" in demo.stdout
    assert emulator in demo.stdout
    assert demo.stderr == ""
