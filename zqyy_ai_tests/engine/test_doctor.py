"""The doctor on a whole stack that is well, and then with one part of it ill at a time."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, ClassVar

import psycopg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.engine.doctor import CheckOutcome, Verdict, run_checks
from zqyy_ai.settings import load_settings
from zqyy_ai.store.alerts import Alert, AlertType, Severity, raise_alert
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.conftest import fresh_database
from zqyy_ai_tests.engine.workbench import EmulatorControl
from zqyy_ai_tests.restored_database import remember
from zqyy_ai_tests.webhook_services import SECRETS, SIGNED_DINGTALK_URL, SLACK_URL, WECOM_URL

APP_ID_SETTINGS = (
    "ZQYY_APP_ID_2_FINANCE",
    "ZQYY_APP_ID_2A_FINANCE_AREA",
    "ZQYY_APP_ID_3_CLUE",
    "ZQYY_APP_ID_4_ANALYSIS",
    "ZQYY_APP_ID_5_TACTICS",
    "ZQYY_APP_ID_6_NOTE",
    "ZQYY_APP_ID_7_CUSTOMER",
    "ZQYY_APP_ID_8_CONSOLIDATION",
)
NOBODY_LISTENS = "127.0.0.1:1"

RunDoctor = Callable[..., list[CheckOutcome]]


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    demo_data.fill(module_database_url, sites=1, days=70, members=10, until=date(2025, 6, 17))
    with Database(module_database_url) as opened:
        remember(opened)
        yield opened


@pytest.fixture(scope="module")
def dagster_database_url(server_url: str) -> Iterator[str]:
    """As Dagster leaves it, as far as the doctor looks."""
    with fresh_database(server_url, "template0") as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE event_logs (id bigint)")
        yield url


class DagsterAnswers(http.server.BaseHTTPRequestHandler):
    """The one question that the doctor asks Dagster's webserver."""

    daemons: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.dumps({"data": {"instance": {"daemonHealth": {"allDaemonStatuses": self.daemons}}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        pass


def daemon(daemon_type: str, *, healthy: bool = True, required: bool = True) -> dict[str, Any]:
    return {"daemonType": daemon_type, "required": required, "healthy": healthy}


@pytest.fixture(scope="module")
def dagster_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), DagsterAnswers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def doctor(database: Database, emulator: EmulatorControl, dagster_database_url: str, dagster_port: int) -> RunDoctor:
    """`doctor(NAME="value")` examines a stack that is well but for the settings given."""
    DagsterAnswers.daemons = [daemon("SENSOR"), daemon("SCHEDULER"), daemon("ASSET", healthy=False, required=False)]

    def examine(**environment: str) -> list[CheckOutcome]:
        healthy = {
            "ZQYY_DATABASE_URL": database.url,
            "ZQYY_DAGSTER_DATABASE_URL": dagster_database_url,
            "ZQYY_DAGSTER_PORT": str(dagster_port),
            "DASHSCOPE_API_KEY": "sk-test",
            "DASHSCOPE_HTTP_BASE_URL": emulator.running.base_url,
        } | dict.fromkeys(APP_ID_SETTINGS, "some-id")
        return list(run_checks(load_settings(healthy | environment)))

    return examine


def ill(found: list[CheckOutcome]) -> list[tuple[str, str]]:
    """Name and remedy of each failed check; every failure has a remedy and a finding."""
    failed = [outcome for outcome in found if outcome.verdict is Verdict.FAILED]
    assert all(outcome.remedy and outcome.detail for outcome in failed)
    return [(outcome.name, outcome.remedy) for outcome in failed]


def the_ill(found: list[CheckOutcome]) -> tuple[str, str]:
    [one] = ill(found)
    return one


def test_a_stack_that_is_well_is_found_well_and_nothing_is_paid(
    doctor: RunDoctor, emulator: EmulatorControl, connection: Connection
) -> None:
    found = doctor()
    assert ill(found) == []
    assert {outcome.verdict for outcome in found} == {Verdict.OK}
    names = [outcome.name for outcome in found]
    for part in (
        "数据库",
        "迁移",
        "触发器",
        "门店",
        "业务数据",
        "应用 财务洞察",
        "百炼 财务洞察",
        "Dagster 存储",
        "Dagster 进程",
        "告警",
        "告警通道",
        "限额",
    ):
        assert part in names
    calls = emulator.session.get(f"{emulator.running.origin}/control/calls").json()["total"]
    assert (calls["answered"], calls["tokens"]) == (0, 0)
    assert connection.execute("SELECT count(*) FROM biz.ai_run_logs").fetchone() == {"count": 0}


def test_the_limits_are_shown(doctor: RunDoctor) -> None:
    [limits] = [outcome.detail for outcome in doctor(ZQYY_DAILY_TOKEN_LIMIT="1234567", ZQYY_LLM_CONCURRENCY="17") if outcome.name == "限额"]
    assert "1,234,567" in limits
    assert "同时 17 个调用" in limits


# Alerts


def test_open_alerts_are_counted_and_make_nobody_ill(doctor: RunDoctor, database: Database) -> None:
    with database.transaction() as connection:
        raise_alert(connection, Alert(AlertType.FAILED, "调用失败", 1001))
        raise_alert(connection, Alert(AlertType.JOB_DEAD, "任务已放弃", 1001, severity=Severity.CRITICAL))
    found = doctor()
    assert ill(found) == []
    [counted] = [outcome for outcome in found if outcome.name == "告警"]
    assert (counted.detail, counted.remedy) == ("2 条待处理,其中严重 1 条", "zqyy-ai alerts list")


def test_webhooks_are_shown_without_their_secrets(doctor: RunDoctor) -> None:
    found = doctor(ZQYY_ALERT_WEBHOOKS=f"{SIGNED_DINGTALK_URL} {WECOM_URL} {SLACK_URL}")
    assert ill(found) == []
    [shown] = [outcome.detail for outcome in found if outcome.name == "告警通道"]
    assert [name.partition("-")[0] for name in shown.split("、")] == ["dingtalk", "wecombot", "slack"]
    assert [secret for secret in SECRETS if secret in repr(found)] == []


def test_a_webhook_that_cannot_be_used_and_alerts_that_reached_nobody_are_ill(doctor: RunDoctor, database: Database) -> None:
    with database.transaction() as connection:
        raise_alert(connection, Alert(AlertType.FAILED, "调用失败", 1001))
        connection.execute("UPDATE biz.ai_alert_deliveries SET target = 'slack-1', attempts = 1, last_error = 'HTTP 404'")
    failed = {outcome.name: outcome for outcome in doctor(ZQYY_ALERT_WEBHOOKS="https://example.com/topsecret12") if outcome.remedy}
    assert "URL 1" in failed["告警通道"].remedy
    assert "topsecret12" not in repr(failed)
    assert failed["告警投递"].detail == "最近一天 slack-1 有 1 条未送达(HTTP 404)"


# The database


@pytest.mark.parametrize(
    "url",
    [f"postgresql://{NOBODY_LISTENS}/x", "postgresql://127.0.0.1/x?no_such_option=1", "postgresql://127.0.0.1:notaport/x"],
)
def test_a_database_that_cannot_be_reached_is_one_failure_and_what_hangs_on_it_is_left_out(doctor: RunDoctor, url: str) -> None:
    found = doctor(ZQYY_DATABASE_URL=url)
    name, remedy = the_ill(found)
    assert name == "数据库"
    assert "ZQYY_DATABASE_URL" in remedy
    assert "迁移" not in [outcome.name for outcome in found]


def test_a_missing_database_setting_is_named(doctor: RunDoctor) -> None:
    name, remedy = the_ill(doctor(ZQYY_DATABASE_URL=""))
    assert (name, "ZQYY_DATABASE_URL" in remedy) == ("数据库", True)


def test_a_database_without_migrations_is_to_be_migrated(doctor: RunDoctor, empty_database_url: str) -> None:
    failed = dict(ill(doctor(ZQYY_DATABASE_URL=empty_database_url)))
    assert failed["迁移"] == "运行 zqyy-ai migrate"
    assert "docs/warehouse.md" in failed["业务数据"]


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        ("DELETE FROM biz.trigger_jobs WHERE job_name = 'ai_dws_completed'", "触发器", "恢复触发器"),
        ("UPDATE biz.sites SET is_active = false", "门店", "biz.sites"),
    ],
)
def test_what_is_missing_in_our_tables_is_told(doctor: RunDoctor, connection: Connection, change: str, name: str, remedy: str) -> None:
    connection.execute(change.encode())
    found = the_ill(doctor())
    assert found[0] == name
    assert remedy in found[1]


def test_disabled_triggers_are_named_but_no_illness(doctor: RunDoctor, connection: Connection) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_name = 'ai_dws_prewarm_0830'")
    found = doctor()
    assert ill(found) == []
    assert "停用:ai_dws_prewarm_0830" in next(outcome.detail for outcome in found if outcome.name == "触发器")


@pytest.mark.parametrize(
    ("damage", "repair", "told"),
    [
        ("ALTER VIEW ai_source.etl_runs RENAME TO lost", "ALTER VIEW ai_source.lost RENAME TO etl_runs", "缺少视图 ai_source.etl_runs"),
        (
            "ALTER VIEW ai_source.finance_daily RENAME refund_cny TO lost",
            "ALTER VIEW ai_source.finance_daily RENAME lost TO refund_cny",
            "ai_source.finance_daily 缺少列 refund_cny",
        ),
        (
            "ALTER SCHEMA ai_source RENAME TO lost",
            "ALTER SCHEMA lost RENAME TO ai_source",
            "缺少视图 ai_source.finance_daily",
        ),
        (
            "ALTER VIEW ai_source.visits RENAME paid_cny TO lost",
            "ALTER VIEW ai_source.visits RENAME lost TO paid_cny",
            "ai_source.visits 缺少列 paid_cny",
        ),
    ],
    ids=["view", "column", "schema", "member column"],
)
def test_business_data_that_break_the_contract_are_told(
    doctor: RunDoctor, connection: Connection, damage: str, repair: str, told: str
) -> None:
    connection.execute(damage.encode())
    try:
        found = doctor()
    finally:
        connection.execute(repair.encode())
    assert {name for name, _ in ill(found)} - {"会员数据"} == {"业务数据"}
    assert any(told in outcome.detail for outcome in found)


FINANCE_ONLY = dict.fromkeys(APP_ID_SETTINGS[2:], "")
MEMBER_VIEWS = ("members", "visits", "assistants", "tasks", "notes")


@pytest.mark.parametrize(
    ("lost", "environment", "verdict"),
    [
        (MEMBER_VIEWS, FINANCE_ONLY, Verdict.UNKNOWN),
        (MEMBER_VIEWS, FINANCE_ONLY | {"ZQYY_APP_ID_6_NOTE": "id"}, Verdict.FAILED),
        (("notes",), FINANCE_ONLY, Verdict.FAILED),
    ],
    ids=["finance alone", "an application that reads them", "a view forgotten"],
)
def test_missing_member_views_are_an_illness_only_of_who_wants_members(
    doctor: RunDoctor, connection: Connection, lost: tuple[str, ...], environment: dict[str, str], verdict: Verdict
) -> None:
    for view in lost:
        connection.execute(f"ALTER VIEW ai_source.{view} RENAME TO lost_{view}".encode())
    try:
        found = doctor(**environment)
    finally:
        for view in lost:
            connection.execute(f"ALTER VIEW ai_source.lost_{view} RENAME TO {view}".encode())
    outcomes = {outcome.name: outcome for outcome in found}
    assert outcomes["会员数据"].verdict is verdict
    assert all(f"ai_source.{view}" in outcomes["会员数据"].detail for view in lost)
    assert "docs/warehouse.md" in outcomes["会员数据"].remedy
    assert outcomes["业务数据"].verdict is Verdict.OK


def test_an_account_without_rights_is_told_what_to_grant(doctor: RunDoctor, connection: Connection) -> None:
    role = f"reader_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'".encode())
    try:
        connection.execute(f"GRANT USAGE ON SCHEMA biz TO {role}; GRANT SELECT ON biz.zqyy_ai_version TO {role}".encode())
        info = connection.info
        found = doctor(ZQYY_DATABASE_URL=f"postgresql://{role}:reader@{info.host}:{info.port}/{info.dbname}")
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    failed = dict(ill(found))
    assert "授予" in failed["数据库权限"]
    assert "GRANT" in failed["业务数据"]


# DashScope


@pytest.mark.parametrize(
    ("variable", "value", "name", "remedy"),
    [
        ("DASHSCOPE_API_KEY", "", "百炼", "DASHSCOPE_API_KEY is not set"),
        ("DASHSCOPE_API_KEY", "sk-密钥", "百炼", "DASHSCOPE_API_KEY"),
        ("DASHSCOPE_API_KEY", "invalid", "百炼 财务洞察", "DASHSCOPE_API_KEY"),
        ("DASHSCOPE_HTTP_BASE_URL", f"http://{NOBODY_LISTENS}/api/v1", "百炼 财务洞察", "DASHSCOPE_HTTP_BASE_URL"),
        ("ZQYY_APP_ID_2_FINANCE", "", "应用 财务洞察", "ZQYY_APP_ID_2_FINANCE"),
        ("ZQYY_APP_ID_2A_FINANCE_AREA", "", "应用 区域财务洞察", "ZQYY_APP_ID_2A_FINANCE_AREA"),
    ],
)
def test_what_is_wrong_with_dashscope_is_told_by_the_setting_to_change(
    doctor: RunDoctor, variable: str, value: str, name: str, remedy: str
) -> None:
    failed = dict(ill(doctor(**{variable: value})))
    assert remedy in failed[name]
    assert all(found.startswith(("百炼", "应用")) for found in failed)


def test_an_address_that_is_not_dashscopes_points_at_the_application_and_the_address(doctor: RunDoctor, emulator: EmulatorControl) -> None:
    failed = dict(ill(doctor(DASHSCOPE_HTTP_BASE_URL=f"{emulator.running.origin}/wrong/path")))
    assert "ZQYY_APP_ID_2_FINANCE" in failed["百炼 财务洞察"]


def test_applications_that_the_prewarm_does_not_need_may_be_unset(doctor: RunDoctor) -> None:
    found = doctor(ZQYY_APP_ID_6_NOTE="")
    assert ill(found) == []
    assert [outcome.name for outcome in found if outcome.verdict is Verdict.UNKNOWN] == ["应用 备注分析"]


# Dagster


@pytest.mark.parametrize(
    ("environment", "name", "remedy"),
    [
        ({"ZQYY_DAGSTER_DATABASE_URL": ""}, "Dagster 存储", "ZQYY_DAGSTER_DATABASE_URL"),
        ({"ZQYY_DAGSTER_DATABASE_URL": f"postgresql://{NOBODY_LISTENS}/x"}, "Dagster 存储", "ZQYY_DAGSTER_DATABASE_URL"),
        ({"ZQYY_DAGSTER_PORT": "1"}, "Dagster 进程", "ZQYY_DAGSTER_PORT"),
    ],
)
def test_what_is_wrong_with_dagster_is_told(doctor: RunDoctor, environment: dict[str, str], name: str, remedy: str) -> None:
    found = the_ill(doctor(**environment))
    assert found[0] == name
    assert remedy in found[1]


def test_a_database_that_is_not_dagsters_is_told(doctor: RunDoctor, database: Database) -> None:
    assert the_ill(doctor(ZQYY_DAGSTER_DATABASE_URL=database.url))[0] == "Dagster 存储"


def test_a_daemon_that_is_required_and_ill_is_named(doctor: RunDoctor) -> None:
    DagsterAnswers.daemons = [daemon("SENSOR", healthy=False), daemon("SCHEDULER")]
    found = doctor()
    assert the_ill(found)[0] == "Dagster 进程"
    assert "不健康:SENSOR" in next(outcome.detail for outcome in found if outcome.name == "Dagster 进程")


def test_a_spent_budget_and_overshoot_are_shown(doctor: RunDoctor, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO biz.ai_budget_windows SELECT scope, 'day', (now() AT TIME ZONE 'Asia/Shanghai')::date, used, 0, overshoot"
        " FROM (VALUES ('chain', 900, 20), ('site:1001', 900, 20), ('site:1002', 10, 0)) w (scope, used, overshoot)"
    )
    [budget] = [outcome for outcome in doctor(ZQYY_DAILY_TOKEN_LIMIT="1000") if outcome.name == "Token 预算"]
    assert (budget.verdict, "全店群今日已用 900 / 1,000,预留 0,超出预估 20" in budget.detail) == (Verdict.OK, True)
    assert "门店 1001 今日已用 900" in budget.detail
    assert "1002" not in budget.detail
    name, remedy = the_ill(doctor(ZQYY_DAILY_TOKEN_LIMIT="1000", ZQYY_SITE_DAILY_TOKEN_LIMIT="900"))
    assert (name, "门店 1001 今日" in remedy) == ("Token 预算", True)
