import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from zqyy_ai.cli import main
from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.emulator import EmulatorConfig, running_emulator
from zqyy_ai.domain.apps import APPS
from zqyy_ai.engine.assembly import build_engine
from zqyy_ai.engine.event_run import EventRun
from zqyy_ai.settings import load_settings
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


@pytest.mark.parametrize("command", [["run-app"], ["backfill"], ["jobs"], ["jobs", "list"], ["jobs", "show"], ["jobs", "retry"]])
def test_every_command_about_members_explains_itself(tmp_path: Path, command: list[str]) -> None:
    exit_code, out, _ = run(*command, "--help", home=tmp_path)

    assert exit_code == 0
    assert out.startswith(f"Usage: main {' '.join(command)}")
    assert len(out.splitlines()) > 4


@pytest.fixture(scope="module")
def demo_url(module_database_url: str) -> str:
    """A database with the demo's members of one site, for tests that tell jobs of their own from others'."""
    demo_data.fill(module_database_url, sites=1, days=60, members=20)
    return module_database_url


def members_of(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        query = "SELECT member_id FROM ai_source.members WHERE is_active AND last_visit_on IS NOT NULL ORDER BY 1"
        return [member_id for (member_id,) in connection.execute(query)]


def jobs_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT FROM biz.ai_trigger_jobs").rowcount


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run-app app9 --site 1001 --member 1", "app9"),
        ("run-app app2_finance --site 1001 --member 1", "app2_finance"),
        ("run-app app3 --site 4711 --member 1", "4711"),
        ("run-app app3 --site 1001 --member 1", "没有会员 1"),
        ("run-app app3 --site 1001 --member 1 --assistant 2", "--assistant"),
        ("backfill --site 4711 --members all", "4711"),
        ("backfill --site 1001 --members all --apps app3,app10", "app10"),
        ("backfill --site 1001 --members all --apps ,", "没有指定应用"),
        ("backfill --site 1001 --members 12,x", "'x'"),
        ("backfill --site 1001 --members ,", "没有指定会员"),
        ("backfill --site 1001 --members 1,2,3", "没有会员 1、2、3"),
        ("jobs show 99999", "99999"),
        ("jobs retry 99999", "99999"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line_and_makes_no_job(tmp_path: Path, demo_url: str, command: str, said: str) -> None:
    before = jobs_of(demo_url)

    exit_code, out, err = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)

    assert (exit_code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1, err
    assert jobs_of(demo_url) == before


@pytest.mark.parametrize(
    "command",
    [
        "run-app app3 --site 1001",
        "run-app --site 1001 --member 1",
        "run-app app3 --site x --member 1",
        "run-app app3,app7 --site 1001 --member 1",
        "backfill --site 1001",
        "backfill --members all",
        "jobs list --status lost",
        "jobs show x",
        "jobs retry 0",
    ],
)
def test_a_command_that_is_not_whole_says_how_it_is_used(tmp_path: Path, command: str) -> None:
    exit_code, out, err = run(*command.split(), home=tmp_path)

    assert (exit_code, out) == (2, "")
    assert err.startswith("Usage: ")


def test_run_app_registers_a_job_and_prints_what_the_application_answered(tmp_path: Path, demo_url: str) -> None:
    member = members_of(demo_url)[0]
    waiting = run(*f"run-app app7 --site 1001 --member {member} --no-wait".split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)
    assert waiting[0] == 0 and "已登记" in waiting[1]

    with running_emulator(EmulatorConfig()) as emulator:
        settings = load_settings(
            {
                "ZQYY_DATABASE_URL": demo_url,
                "DASHSCOPE_API_KEY": "emulator",
                "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
                "ZQYY_EVENT_RUN_IDLE_SECONDS": "5",
                **{app.app_id_setting: app.app_type.value for app in APPS.values()},
            }
        )
        with build_engine(settings) as engine, ThreadPoolExecutor(1) as thread:
            taking = thread.submit(lambda: list(EventRun(engine, "run-1").outcomes()))
            command = f"run-app app7_customer --site 1001 --member {member}"
            exit_code, out, _ = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)
            engine.worker.stopping.set()
            assert len(taking.result()) == 2

    assert exit_code == 0
    assert f"app7_customer {member}：" in out
    answer = json.loads(out[out.index("{") :])
    assert answer and not [name for name in answer if name.startswith("_")]


@contextmanager
def jobs_that_end_at_once(url: str, status: str, error_message: str | None = None) -> Iterator[None]:
    """Each job written meanwhile is at its end already, as if a run had taken it."""
    end = sql.SQL(
        "CREATE FUNCTION end_at_once() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.status := {}; NEW.error_message := {}; RETURN NEW; END $$;"
        " CREATE TRIGGER ends_at_once BEFORE INSERT ON biz.ai_trigger_jobs FOR EACH ROW EXECUTE FUNCTION end_at_once()"
    ).format(status, error_message)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(end)
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION end_at_once CASCADE")


@pytest.mark.parametrize(
    ("status", "error_message", "exit_code", "told"),
    [
        ("completed", None, 0, "没有可询问的内容"),
        ("failed", "1 个步骤未完成:[red]x[/]", 1, "失败：1 个步骤未完成:[red]x[/]；重试：zqyy-ai jobs retry"),
        ("partial", "[/] :cat:", 1, "部分完成：[/] :cat:；重试：zqyy-ai jobs retry"),
        ("dead", "执行进程多次中断,已放弃", 1, "已放弃：执行进程多次中断,已放弃；重试：zqyy-ai jobs retry"),
    ],
)
def test_run_app_tells_how_its_job_ended_and_exits_by_it(
    tmp_path: Path, demo_url: str, status: str, error_message: str | None, exit_code: int, told: str
) -> None:
    command = f"run-app app7 --site 1001 --member {members_of(demo_url)[0]}"

    with jobs_that_end_at_once(demo_url, status, error_message):
        exited, out, err = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)

    assert (exited, err) == (exit_code, "")
    assert told in out
    assert ("没有可询问的内容" in out) == (status == "completed")


@pytest.mark.parametrize(
    ("status", "error_message", "exit_code", "told"),
    [
        ("completed", None, 0, "失败 0"),
        ("failed", "[red]x[/] [/]", 1, "[red]x[/] [/]\n未完成的任务：zqyy-ai jobs list"),
        ("dead", "执行进程多次中断,已放弃", 1, "已放弃\n未完成的任务：zqyy-ai jobs list"),
    ],
)
def test_a_backfill_exits_by_how_its_jobs_ended(
    tmp_path: Path, demo_url: str, status: str, error_message: str | None, exit_code: int, told: str
) -> None:
    one, other = members_of(demo_url)[:2]
    command = f"backfill --site 1001 --members {one},{other} --apps app3,"

    with jobs_that_end_at_once(demo_url, status, error_message):
        exited, out, err = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)

    assert (exited, err) == (exit_code, "")
    assert "补跑 2/2" in out
    assert told in out


def test_a_backfill_with_nothing_to_ask_makes_no_job_and_is_no_failure(tmp_path: Path, demo_url: str) -> None:
    with psycopg.connect(demo_url, autocommit=True) as connection:
        connection.execute("INSERT INTO demo_dws.members (site_id, member_id, member_name) VALUES (1001, 77, '新客')")
    before = jobs_of(demo_url)

    exit_code, out, _ = run(*["backfill", "--site", "1001", "--members", "77"], home=tmp_path, ZQYY_DATABASE_URL=demo_url)

    assert exit_code == 0
    assert "没有需要生成的内容" in out
    assert jobs_of(demo_url) == before


INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
from zqyy_ai.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "remains"),
    [
        ("run-app app7 --site 1001 --member {member}", r"任务 (\d+) 仍在，会被执行并产生费用；查看：zqyy-ai jobs show \1"),
        (
            "backfill --site 1001 --members {member} --apps app7",
            "批次 .* 的任务仍在，会被执行并产生费用；查看：zqyy-ai jobs list --site 1001",
        ),
    ],
    ids=["run-app", "backfill"],
)
def test_ctrl_c_says_that_the_job_remains_and_is_paid(tmp_path: Path, demo_url: str, command: str, remains: str) -> None:
    before = jobs_of(demo_url)
    arguments = command.format(member=members_of(demo_url)[0]).split()
    environment = {**os.environ, "ZQYY_HOME": str(tmp_path), "ZQYY_DATABASE_URL": demo_url, "PYTHONUTF8": "1"}

    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert any("已登记" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert re.fullmatch(remains, err.strip()), err
    assert jobs_of(demo_url) == before + 1


def test_an_assistant_without_relation_is_refused_in_one_line_and_makes_no_job(tmp_path: Path, demo_url: str) -> None:
    before = jobs_of(demo_url)
    for app in ("app4", "app5"):
        command = f"run-app {app} --site 1001 --member {members_of(demo_url)[0]} --assistant 7"

        exit_code, out, err = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)

        assert (exit_code, out) == (2, "")
        assert "门店 1001 没有助教 7（ai_source.assistants）；" in err
        assert len(err.splitlines()) == 1
    assert jobs_of(demo_url) == before


def test_the_help_of_a_backfill_names_the_setting_that_says_who_is_active(tmp_path: Path) -> None:
    assert "ZQYY_ACTIVE_MEMBER_DAYS" in run("backfill", "--help", home=tmp_path)[1]


def test_a_backfills_dry_run_tells_calls_tokens_and_minutes_and_makes_no_job(tmp_path: Path, demo_url: str) -> None:
    before = jobs_of(demo_url)
    command = "backfill --site 1001 --members active --apps app3,app7 --dry-run"

    exit_code, out, _ = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)

    assert exit_code == 0
    members = len(members_of(demo_url))
    assert f"{members} 位会员" in out
    assert re.search(rf"最多 {2 * members} 次调用，约 [\d,]+ Token，约 [\d.]+ 分钟", out), out
    assert "app3_clue" in out and "app8" not in out
    assert jobs_of(demo_url) == before


def test_a_backfill_is_one_job_for_each_member_below_what_people_and_events_ask_for(tmp_path: Path, demo_url: str) -> None:
    one, other = members_of(demo_url)[1:3]
    command = f"backfill --site 1001 --members {one},{other},{one} --apps app3 --no-wait"

    exit_code, out, _ = run(*command.split(), home=tmp_path, ZQYY_DATABASE_URL=demo_url)

    assert exit_code == 0
    batch = re.search(r"批次 (\S+)：2 个任务", out)
    assert batch is not None
    with psycopg.connect(demo_url) as connection:
        made = connection.execute(
            "SELECT member_id, event_type, app_chain, priority FROM biz.ai_trigger_jobs WHERE batch_id = %s ORDER BY id", [batch[1]]
        ).fetchall()
    assert made == [(one, "backfill", "app3", -10), (other, "backfill", "app3", -10)]


def test_jobs_are_listed_shown_and_retried(tmp_path: Path, database_url: str) -> None:
    def jobs(*arguments: str) -> tuple[int, str, str]:
        return run("jobs", *arguments, home=tmp_path, ZQYY_DATABASE_URL=database_url)

    assert jobs("list") == (0, "没有这样的任务\n", "")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO biz.sites (site_id, site_name) VALUES (1001, '朝阳店')")
        add = (
            "INSERT INTO biz.ai_trigger_jobs (id, event_type, site_id, member_id, payload, status, app_chain, dedup_key, business_date,"
            " error_message) VALUES (%s, 'consumption', 1001, 7, '{}', %s, 'app3→app8→app7', 'consumption|1001|7|-|2026-04-20|live',"
            " '2026-04-20', %s)"
        )
        connection.execute(add, [5001, "partial", "1 个步骤未完成 [red]x[/]"])
        connection.execute(add, [5002, "completed", None])

    listed = jobs("list")[1]
    assert all(part in listed for part in ("5001", "5002", "app3→app8→app7", "1 个步骤未完成 [red]x[/]"))
    assert "5002" not in jobs("list", "--status", "partial", "--status", "failed")[1]
    assert jobs("list", "--member", "8")[1] == "没有这样的任务\n"
    shown = jobs("show", "5001")
    assert shown[0] == 0
    assert "5001" in shown[1] and "1 个步骤未完成 [red]x[/]" in shown[1]

    of_a_good_one = jobs("retry", "5002")
    retried = jobs("retry", "5001")
    again = jobs("retry", "5001")

    assert (of_a_good_one[0], retried[0], again[0]) == (2, 0, 2)
    assert jobs("list", "--limit", "0")[0] == 2
    assert "completed" in of_a_good_one[2] and len(of_a_good_one[2].splitlines()) == 1
    assert "重试任务 5001" in retried[1]
    assert "已有重试" in again[2] and len(again[2].splitlines()) == 1
    assert "重试 5001" in jobs("list", "--status", "pending")[1]


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
