import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from zqyy_ai.cli import main
from zqyy_ai.store.alerts import Alert, AlertType, raise_alert
from zqyy_ai.store.database import Database
from zqyy_ai.store.retention import try_lock
from zqyy_ai_tests.webhook_services import SECRETS, SLACK, SLACK_URL, WECOM_URL, running_webhook_services


def run(*arguments: str, home: Path, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments), env={"ZQYY_HOME": str(home), **environment})
    return result.exit_code, result.stdout, result.stderr


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = """
import sys
from click.testing import CliRunner
from zqyy_ai.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
heavy = {"dagster", "dashscope", "pandas", "numpy", "psycopg", "sqlalchemy", "pydantic", "rich", "starlette", "requests"}
print(sorted(heavy & set(sys.modules)))
"""

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_malformed_setting_is_one_line_that_names_it(tmp_path: Path) -> None:
    exit_code, out, err = run("dev", home=tmp_path, ZQYY_DAGSTER_PORT="no-port")

    assert (exit_code, out) == (2, "")
    assert err.startswith("错误: ZQYY_DAGSTER_PORT")
    assert len(err.splitlines()) == 1


def test_a_missing_setting_is_one_line_that_names_it(tmp_path: Path) -> None:
    exit_code, _, err = run("migrate", home=tmp_path)

    assert exit_code == 2
    assert err.startswith("错误: ZQYY_DATABASE_URL")
    assert len(err.splitlines()) == 1


def test_env_without_a_running_stack_exports_nothing(tmp_path: Path) -> None:
    exit_code, out, err = run("env", home=tmp_path)

    assert (exit_code, out) == (2, "")
    assert "make dev" in err


def test_migrate_says_the_version_and_takes_the_trigger_rows_back(tmp_path: Path, empty_database_url: str) -> None:
    migrated = run("migrate", home=tmp_path, ZQYY_DATABASE_URL=empty_database_url)
    removed = run("migrate", "--remove-triggers", home=tmp_path, ZQYY_DATABASE_URL=empty_database_url)
    again = run("migrate", "--remove-triggers", home=tmp_path, ZQYY_DATABASE_URL=empty_database_url)

    assert migrated[0] == 0
    assert removed[1] == "已删除 5 行触发器\n"
    assert again[1] == "已删除 0 行触发器\n"


def test_a_prewarm_is_registered_as_a_job(tmp_path: Path, database_url: str) -> None:
    assert run("demo-data", "--sites", "1", "--days", "2", home=tmp_path, ZQYY_DATABASE_URL=database_url)[0] == 0

    exit_code, out, _ = run("prewarm", "--site", "1001", "--no-wait", home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert exit_code == 0
    assert "门店 1001" in out


def test_a_prewarm_of_an_unknown_site_is_refused_in_one_line(tmp_path: Path, database_url: str) -> None:
    exit_code, _, err = run("prewarm", "--site", "4711", home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert exit_code == 2
    assert "4711" in err
    assert len(err.splitlines()) == 1


def test_a_pause_says_why_to_everybody_and_ends_by_resume(tmp_path: Path, database_url: str) -> None:
    without_a_reason = run("pause", home=tmp_path, ZQYY_DATABASE_URL=database_url)
    paused = run("pause", "--reason", "核对账单", "--by", "王店长", home=tmp_path, ZQYY_DATABASE_URL=database_url)
    again = run("pause", "--reason", "别的", home=tmp_path, ZQYY_DATABASE_URL=database_url)
    resumed = run("resume", home=tmp_path, ZQYY_DATABASE_URL=database_url)
    without_a_pause = run("resume", home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert (without_a_reason[0], paused[0], again[0], resumed[0], without_a_pause[0]) == (2, 0, 2, 0, 2)
    assert "zqyy-ai resume" in paused[1]
    assert "王店长" in again[2] and "核对账单" in again[2]
    assert "核对账单" in resumed[1]
    assert len(without_a_pause[2].splitlines()) == 1


def test_retention_counts_in_a_dry_run_and_deletes_without(tmp_path: Path, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO biz.ai_live_events (event_type, created_at) SELECT 'x', now() - interval '8 days' FROM generate_series(1, 1234)"
        )

        announced = run("retention", "--dry-run", home=tmp_path, ZQYY_DATABASE_URL=database_url)
        assert connection.execute("SELECT count(*) FROM biz.ai_live_events").fetchone() == (1234,)
        done = run("retention", home=tmp_path, ZQYY_DATABASE_URL=database_url)
        assert connection.execute("SELECT count(*) FROM biz.ai_live_events").fetchone() == (0,)

    for exit_code, out, _ in (announced, done):
        (line,) = [line for line in out.splitlines() if "实时事件" in line]
        assert exit_code == 0
        assert line.count("1,234") == 2
        assert "Dagster" in out


def test_retention_says_which_foreign_key_holds_rows_and_what_failed(tmp_path: Path, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO biz.ai_run_logs (id, created_at) VALUES (7, now() - interval '500 days')")
        connection.execute("CREATE TABLE biz.audit (log_id bigint CONSTRAINT audit_of_log REFERENCES biz.ai_run_logs (id))")
        connection.execute("INSERT INTO biz.audit VALUES (7)")
        held = run("retention", home=tmp_path, ZQYY_DATABASE_URL=database_url)
        connection.execute("DROP TABLE biz.ai_live_events")
        failed = run("retention", home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert held[0] == 0
    assert "1 行被外键 audit_of_log 引用" in held[1]
    assert failed[0] == 1
    assert "ai_live_events" in failed[1]


def test_retention_while_another_one_is_at_it_is_refused_in_one_line(tmp_path: Path, database_url: str) -> None:
    with Database(database_url) as database, database.autocommit() as connection:
        assert try_lock(connection)
        exit_code, _, err = run("retention", home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert exit_code == 2
    assert "正在清理" in err
    assert len(err.splitlines()) == 1


def test_alerts_are_listed_and_dealt_with(tmp_path: Path, database_url: str) -> None:
    def alerts(*arguments: str) -> tuple[int, str, str]:
        return run("alerts", *arguments, home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert alerts("list") == (0, "没有这样的告警\n", "")
    with Database(database_url) as database, database.transaction() as connection:
        number = str(raise_alert(connection, Alert(AlertType.FAILED, "回答无效 [0]", 1001, "app2_finance", detail="reply_invalid")))

    listed = alerts("list")[1]
    assert all(part in listed for part in (number, "待处理", "警告", "调用失败", "1001", "财务洞察", "回答无效 [0]"))
    assert alerts("ack", number, "--by", "wang")[:2] == (0, f"告警 {number} 已确认\n")
    again = alerts("ack", number)
    assert again[0] == 2
    assert "ignored、resolved" in again[2]
    assert len(again[2].splitlines()) == 1
    assert "已确认" in alerts("list")[1]
    assert alerts("ignore", number)[0] == 2  # without a reason
    assert alerts("ignore", number, "--reason", " ")[0] == 2
    assert alerts("ignore", number, "--reason", "测试门店")[0] == 0
    assert alerts("list")[1] == "没有这样的告警\n"
    assert "测试门店" in alerts("list", "--status", "ignored")[1]
    assert alerts("resolve", number)[0] == 0
    assert "已恢复" in alerts("list", "--all")[1]
    assert alerts("resolve", "4711")[2] == "错误: 告警 4711 不存在\n"
    assert alerts("list", "--all", "--status", "open")[0] == 2


def test_the_alert_test_says_for_each_webhook_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = run("alerts", "test", home=tmp_path)
    assert unset[0] == 2
    assert "ZQYY_ALERT_WEBHOOKS" in unset[2]
    unusable = run("alerts", "test", home=tmp_path, ZQYY_ALERT_WEBHOOKS="slack://topsecret12")
    assert (unusable[0], "topsecret12" in unusable[2], len(unusable[2].splitlines())) == (2, False, 1)
    with running_webhook_services(tmp_path) as (services, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        good = run("alerts", "test", home=tmp_path, ZQYY_ALERT_WEBHOOKS=WECOM_URL)
        assert good[0] == 0
        assert "已送达" in good[1]
        services.scripts[SLACK] = [(403, b"invalid_token")]
        mixed = run("alerts", "test", home=tmp_path, ZQYY_ALERT_WEBHOOKS=f"{WECOM_URL},{SLACK_URL}")
        assert mixed[0] == 1
        assert sorted(line[0] for line in mixed[1].splitlines()) == ["✓", "✗"]
        assert [secret for secret in SECRETS if secret in mixed[1] + mixed[2]] == []


def test_a_database_that_is_gone_is_told_in_one_line_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()

    command = [sys.executable, "-m", "zqyy_ai.cli", "pause", "--reason", "核对账单"]
    environment = {**os.environ, "ZQYY_HOME": str(tmp_path), "ZQYY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/gone"}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == 1, told.stderr
    assert "数据库" in told.stderr
    assert time.monotonic() - started < 30
