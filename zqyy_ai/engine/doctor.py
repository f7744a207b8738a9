"""The doctor: looks at every part that a prewarm needs and says what to do about each that is not well.

Nothing is changed and nothing is paid. A check that cannot be made because an earlier one failed is left out, and said so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import dict_row

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.errors import SettingError, ZqyyError
from zqyy_ai.engine.assembly import budget_policy
from zqyy_ai.guards.budget import current_windows
from zqyy_ai.llm.client import DashScopeClient
from zqyy_ai.llm.probe import ProbeVerdict, probe_application
from zqyy_ai.settings import DASHSCOPE_BASE_URL, Settings
from zqyy_ai.store import alert_deliveries, alerts
from zqyy_ai.store.alerts import AlertStatus, Severity
from zqyy_ai.store.migrations import TRIGGER_ROWS, schema_version
from zqyy_ai.warehouse.contract import MEMBER_VIEWS, ContractProblem, ProblemKind, check_contract

_FINANCE_APPS = (AppType.FINANCE, AppType.FINANCE_AREA)
_MOST_PROBLEMS_TOLD = 8
_CONNECT_TIMEOUT_SECONDS = 5
_MOST_ALERTS_COUNTED = 1000


class Verdict(StrEnum):
    """`unknown`: could not be checked."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One check. `remedy` says what to do, empty when all is well."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def run_checks(settings: Settings) -> Iterator[CheckOutcome]:
    """All checks, each as soon as it is done."""
    yield from _check_database(settings)
    yield from _check_app_ids(settings)
    yield from _check_dashscope(settings)
    yield from _check_dagster(settings)
    yield _check_alert_targets(settings)
    yield _limits(settings)


def _check_database(settings: Settings) -> Iterator[CheckOutcome]:
    name = "数据库"
    try:
        url = settings.required_database_url()
        connection = psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_SECONDS, autocommit=True)
    except SettingError as missing:
        yield CheckOutcome(name, Verdict.FAILED, "没有数据库地址", str(missing))
        return
    except psycopg.Error as failure:  # also a URL that cannot be meant
        yield CheckOutcome(
            name, Verdict.FAILED, _first_line(failure), "请检查 ZQYY_DATABASE_URL 的主机、端口、账号与密码,以及数据库是否在运行"
        )
        return
    with connection:
        yield CheckOutcome(name, Verdict.OK, f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}")
        migrated = _check_migrations(url)
        yield migrated
        if migrated.verdict is Verdict.OK:
            try:
                yield _check_triggers(connection)
                yield _check_sites(connection)
                yield _check_pause(connection)
                yield _check_budget(url, settings)
                yield from _check_alerts(url)
            except psycopg.Error as failure:
                yield CheckOutcome("数据库权限", Verdict.FAILED, _first_line(failure), "请授予 ZQYY_DATABASE_URL 的账号读写 biz 各表的权限")
        yield from _check_source(connection, settings)


def _check_migrations(url: str) -> CheckOutcome:
    try:
        version = schema_version(url)
    except Exception as failure:  # SQLAlchemy's tree and the driver's: whatever it is, the operator reads it
        return CheckOutcome("迁移", Verdict.FAILED, _first_line(failure), "账号需要能读取 biz.zqyy_ai_version;或运行 zqyy-ai migrate")
    if version.is_current:
        return CheckOutcome("迁移", Verdict.OK, f"版本 {version.current}")
    return CheckOutcome("迁移", Verdict.FAILED, f"版本 {version.current or '无'},应为 {version.head}", "运行 zqyy-ai migrate")


def _check_triggers(connection: psycopg.Connection[Any]) -> CheckOutcome:
    rows = connection.execute("SELECT job_name, status FROM biz.trigger_jobs WHERE job_name = ANY(%s)", [list(TRIGGER_ROWS)]).fetchall()
    missing = sorted(set(TRIGGER_ROWS) - {job_name for job_name, _ in rows})
    if missing:
        return CheckOutcome("触发器", Verdict.FAILED, f"缺少 {', '.join(missing)}", "按 docs/operations.md“恢复触发器”补回这些行")
    disabled = sorted(job_name for job_name, status in rows if status != "enabled")
    return CheckOutcome("触发器", Verdict.OK, f"5 个触发器,停用:{', '.join(disabled) or '无'}")


def _check_sites(connection: psycopg.Connection[Any]) -> CheckOutcome:
    row = connection.execute("SELECT count(*) FROM biz.sites WHERE coalesce(is_active, true)").fetchone()
    if row is None or not row[0]:
        return CheckOutcome("门店", Verdict.FAILED, "biz.sites 中没有营业门店", "在 biz.sites 中登记门店;演示环境运行 zqyy-ai demo-data")
    return CheckOutcome("门店", Verdict.OK, f"{row[0]} 个营业门店")


def _check_pause(connection: psycopg.Connection[Any]) -> CheckOutcome:
    row = connection.execute("SELECT reason, paused_by FROM biz.ai_call_pauses WHERE resumed_at IS NULL").fetchone()
    if row:
        return CheckOutcome("暂停开关", Verdict.FAILED, f"{row[1]} 暂停了全部模型调用,原因:{row[0]}", "原因消除后运行 zqyy-ai resume")
    return CheckOutcome("暂停开关", Verdict.OK, "未暂停")


_BUDGET_SCOPES = {"chain": "全店群", "sandbox": "沙箱"}


def _check_budget(url: str, settings: Settings) -> CheckOutcome:
    """The chain's windows, and those of sites in which nothing is left or a call used more than it had reserved."""
    name, policy = "Token 预算", budget_policy(settings)
    with psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_SECONDS, row_factory=dict_row) as connection:
        windows = current_windows(connection)
    told, spent = [], []
    for window in windows:
        _, limit_tokens = policy.limit_of(window.scope, window.kind)
        is_spent = window.used_tokens >= limit_tokens
        whose = _BUDGET_SCOPES.get(window.scope) or f"门店 {window.scope.removeprefix('site:')} "
        title = f"{whose}{'今日' if window.kind == 'day' else '本月'}"
        if window.scope == "chain" or is_spent or window.overshoot_tokens:
            overshoot = f",超出预估 {window.overshoot_tokens:,}" if window.overshoot_tokens else ""
            told.append(f"{title}已用 {window.used_tokens:,} / {limit_tokens:,},预留 {window.reserved_tokens:,}{overshoot}")
        if is_spent:
            spent.append(title.strip())
    detail = ";".join(told[:_MOST_PROBLEMS_TOLD]) or "今日与本月尚无用量"
    if spent:
        return CheckOutcome(
            name, Verdict.FAILED, detail, f"{'、'.join(spent[:_MOST_PROBLEMS_TOLD])}预算已用完:等下一个预算日或月,或提高 ZQYY_*_TOKEN_LIMIT"
        )
    return CheckOutcome(name, Verdict.OK, detail)


def _check_source(connection: psycopg.Connection[Any], settings: Settings) -> Iterator[CheckOutcome]:
    name = "业务数据"
    try:
        problems = check_contract(connection)
    except (psycopg.Error, ZqyyError) as failure:
        yield CheckOutcome(name, Verdict.FAILED, _first_line(failure), "请按 docs/warehouse.md 建立 ai_source 视图并授予读取权限")
        return
    missing = [problem for problem in problems if problem.kind is ProblemKind.MISSING_VIEW and problem.view in MEMBER_VIEWS]
    rest = [problem for problem in problems if problem not in missing]
    if not rest:
        yield CheckOutcome(name, Verdict.OK, "ai_source 视图、字段与合计(hall、all、消费单)符合约定")
    for problem in rest[:_MOST_PROBLEMS_TOLD]:
        yield CheckOutcome(name, Verdict.FAILED, problem.message, problem.remedy)
    if len(rest) > _MOST_PROBLEMS_TOLD:
        yield CheckOutcome(name, Verdict.FAILED, f"另有 {len(rest) - _MOST_PROBLEMS_TOLD} 个问题", "请按 docs/warehouse.md 修正视图")
    if missing:
        yield _missing_member_views(missing, settings)


def _missing_member_views(missing: list[ContractProblem], settings: Settings) -> CheckOutcome:
    """No illness of a deployment that wants finance alone: one that has none of these views and set no application that reads them."""
    wants_members = any(app_type in settings.app_ids for app_type in APPS if app_type not in _FINANCE_APPS)
    is_ill = wants_members or len(missing) < len(MEMBER_VIEWS)
    views = "、".join(f"ai_source.{problem.view}" for problem in missing)
    detail = f"缺少视图 {views}:会员应用(App3–App8)无法运行,财务预热不需要"
    return CheckOutcome("会员数据", Verdict.FAILED if is_ill else Verdict.UNKNOWN, detail, missing[0].remedy.replace("该视图", "这些视图"))


def _check_alerts(url: str) -> Iterator[CheckOutcome]:
    """Open alerts are no illness of the project; alerts that do not reach people are."""
    with psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_SECONDS, row_factory=dict_row) as connection:
        found = alerts.list_alerts(connection, [AlertStatus.OPEN], limit=_MOST_ALERTS_COUNTED)
        lost = alert_deliveries.undelivered(connection, since=timedelta(days=1))
    critical = sum(alert.severity == Severity.CRITICAL for alert in found)
    more = " 以上" if len(found) == _MOST_ALERTS_COUNTED else ""
    yield CheckOutcome("告警", Verdict.OK, f"{len(found)}{more} 条待处理,其中严重 {critical} 条", "zqyy-ai alerts list" if found else "")
    if lost:
        detail = ";".join(f"{target.target} 有 {target.deliveries} 条未送达({target.last_error})" for target in lost)
        yield CheckOutcome("告警投递", Verdict.FAILED, f"最近一天 {detail}", "运行 zqyy-ai alerts test,并检查机器人与 ZQYY_ALERT_WEBHOOKS")


def _check_alert_targets(settings: Settings) -> CheckOutcome:
    """Nothing is sent: `zqyy-ai alerts test` does."""
    name = "告警通道"
    if not settings.alert_webhooks:
        return CheckOutcome(name, Verdict.OK, "未设置 ZQYY_ALERT_WEBHOOKS:告警只记录在数据库")
    from zqyy_ai.engine.alert_targets import alert_targets  # its library costs half a second

    try:
        targets = alert_targets(settings.alert_webhooks)
    except SettingError as unusable:
        return CheckOutcome(name, Verdict.FAILED, "有地址无法使用", str(unusable))
    return CheckOutcome(name, Verdict.OK, "、".join(target.name for target in targets))


def _check_app_ids(settings: Settings) -> Iterator[CheckOutcome]:
    for app in APPS.values():
        if app.app_type in settings.app_ids:
            yield CheckOutcome(f"应用 {app.title}", Verdict.OK, f"{app.app_id_setting} 已设置")
        elif app.app_type in _FINANCE_APPS:
            yield CheckOutcome(f"应用 {app.title}", Verdict.FAILED, "没有应用 ID", f"请设置 {app.app_id_setting} 为百炼控制台中的应用 ID")
        else:
            yield CheckOutcome(f"应用 {app.title}", Verdict.UNKNOWN, f"{app.app_id_setting} 未设置(财务预热不需要)")


def _check_dashscope(settings: Settings) -> Iterator[CheckOutcome]:
    name = "百炼"
    base_url = settings.dashscope_base_url or DASHSCOPE_BASE_URL
    try:
        api_key = settings.required_api_key()
        DashScopeClient(api_key, base_url, max_connections=1).close()
    except SettingError as unusable:
        yield CheckOutcome(name, Verdict.FAILED, "没有可用的 API key", str(unusable))
        return
    for app in (APPS[app_type] for app_type in _FINANCE_APPS if app_type in settings.app_ids):
        found = probe_application(api_key, base_url, settings.app_id(app.app_type), workspace=settings.dashscope_workspace)
        subject = f"{name} {app.title}"
        match found.verdict:
            case ProbeVerdict.OK:
                detail = f"{base_url} 可达,key 被接受(应用的模型与系统提示词无法免费检查)"
                yield CheckOutcome(subject, Verdict.OK, detail)
            case ProbeVerdict.KEY_REFUSED:
                yield CheckOutcome(subject, Verdict.FAILED, found.detail, "请检查 DASHSCOPE_API_KEY 及账户是否欠费")
            case ProbeVerdict.APP_REFUSED:
                yield CheckOutcome(
                    subject, Verdict.FAILED, found.detail, f"请检查 {app.app_id_setting},以及应用是否已发布、key 是否属于同一业务空间"
                )
            case ProbeVerdict.UNREACHABLE:
                yield CheckOutcome(subject, Verdict.FAILED, found.detail, f"连不上 {base_url}:请检查网络与 DASHSCOPE_HTTP_BASE_URL")
            case ProbeVerdict.UNCLEAR:
                yield CheckOutcome(subject, Verdict.UNKNOWN, f"{found.detail}:不能判断", "稍后再试,或从控制台运行一次应用")


def _check_dagster(settings: Settings) -> Iterator[CheckOutcome]:
    yield _check_dagster_storage(settings)
    yield check_dagster_daemons(settings)


def _check_dagster_storage(settings: Settings) -> CheckOutcome:
    name = "Dagster 存储"
    if settings.dagster_database_url is None:
        return CheckOutcome(name, Verdict.FAILED, "没有数据库地址", "请设置 ZQYY_DAGSTER_DATABASE_URL 为 postgresql:// 地址")
    try:
        url = settings.dagster_database_url.get_secret_value()
        with psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_SECONDS) as connection:
            row = connection.execute("SELECT to_regclass('event_logs') IS NOT NULL").fetchone()
    except psycopg.Error as failure:
        return CheckOutcome(name, Verdict.FAILED, _first_line(failure), "请检查 ZQYY_DAGSTER_DATABASE_URL")
    if row is None or not row[0]:
        return CheckOutcome(name, Verdict.FAILED, "还没有 Dagster 的表", "启动一次 Dagster(make dev),或检查地址是否指向正确的库")
    return CheckOutcome(name, Verdict.OK, "可达")


_DAEMON_QUERY = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


def check_dagster_daemons(settings: Settings, *, timeout_seconds: float = _CONNECT_TIMEOUT_SECONDS) -> CheckOutcome:
    """Whether Dagster answers and the daemons that it needs beat."""
    import requests

    name, base = "Dagster 进程", f"http://{settings.host}:{settings.dagster_port}"
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(f"{base}/graphql", json={"query": _DAEMON_QUERY}, timeout=timeout_seconds)
            statuses = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (requests.RequestException, ValueError, KeyError, TypeError) as failure:
        return CheckOutcome(
            name, Verdict.FAILED, f"{base} 没有回应({type(failure).__name__})", "用 make dev 启动,或检查 ZQYY_HOST 与 ZQYY_DAGSTER_PORT"
        )
    ill = sorted(status["daemonType"] for status in statuses if status["required"] and not status["healthy"])
    if ill:
        return CheckOutcome(name, Verdict.FAILED, f"不健康:{', '.join(ill)}", "请检查 dagster-daemon 是否在运行,日志在 $ZQYY_HOME/logs")
    return CheckOutcome(name, Verdict.OK, f"{base},守护进程健康")


def _limits(settings: Settings) -> CheckOutcome:
    told = (
        f"每店每分钟 {settings.site_calls_per_minute} 次(突发 {settings.site_calls_burst}),每应用每秒 {settings.app_calls_per_second} 次,"
        f"同时 {settings.llm_concurrency} 个调用;熔断 {settings.breaker_failures} 次失败 / {settings.breaker_cooldown_seconds:g} 秒;"
        f"Token 每日 {settings.daily_token_limit:,}、每月 {settings.monthly_token_limit:,},"
        f"每店每日 {settings.site_daily_token_limit:,}、每月 {settings.site_monthly_token_limit:,}"
    )
    return CheckOutcome("限额", Verdict.OK, told)


def _first_line(failure: BaseException) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:300]
