"""The whole project on one machine: PostgreSQL, emulator, Dagster's code server, webserver and daemon, the admin server, started and stopped
together.

What the settings name is used as it is; what they don't name is embedded: PostgreSQL without ZQYY_DATABASE_URL, the DashScope emulator
without DASHSCOPE_API_KEY. The invariant: one stack a ZQYY_HOME (a lock), and when the stack's process is gone, for whatever reason, so is
everything that it started.

What does not belong here: what is done with a running stack (`demo.py`, `cli.py`).
"""

import fcntl
import io
import json
import os
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from zqyy_ai.devkit.embedded_postgres import (
    APPLICATION_DATABASE,
    DAGSTER_DATABASE,
    EmbeddedPostgres,
    PostgresStartFailed,
    refuse_taken_port,
)
from zqyy_ai.devkit.processes import Children, ChildSpec, Revivals, StopSignals, listens_on, log_tail
from zqyy_ai.devkit.watchdog import Watchdog, end_groups_and_marked, pid_is_alive
from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.errors import PermanentError, SettingError
from zqyy_ai.settings import Settings

MARKER_NAME = "ZQYY_STACK_ID"
# Names of what `zqyy-ai env` exported from a stack's embedded parts: a stack started from such a shell is not told to use them.
JOINED_NAME = "ZQYY_JOINED_STACK"
LOCATION_NAME = "zqyy_ai"
EMULATOR_KEY = "emulator"
READY_TIMEOUT_SECONDS = 120.0
# A run in progress gets time to write down that it was interrupted. Without one only sensors are waited for, which lose nothing.
BUSY_GRACE_SECONDS = 10.0
IDLE_GRACE_SECONDS = 1.5
# Sensors that wait inside their tick hold a thread of the code server each.
GRPC_WORKERS = 32


class StackNotRunning(PermanentError):
    """No stack runs over this ZQYY_HOME."""


class Narrator(Protocol):
    """Who tells the operator what is being done."""

    def say(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """What a client needs to join. `environment` goes to `zqyy-ai env`; `embedded_names` are those of its names that end with the stack."""

    dagster_url: str
    admin_url: str
    emulator_url: str | None
    environment: Mapping[str, str] = field(repr=False)
    embedded_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunningStack:
    addresses: StackAddresses
    children: Children
    signals: StopSignals
    database_url: str = field(repr=False)
    postgres: EmbeddedPostgres | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which parts are embedded, and on which ports."""

    settings: Settings
    is_database_embedded: bool
    is_dashscope_emulated: bool


def uses_embedded_database(settings: Settings) -> bool:
    return settings.database_url is None


@contextmanager
def running_stack(
    settings: Settings,
    environment: Mapping[str, str],
    narrator: Narrator,
    signals: StopSignals,
    *,
    prepare: Callable[[str], None] | None = None,
) -> Iterator[RunningStack]:
    """The stack, ready, for the length of the block. `environment` is what the children inherit; `prepare` gets the migrated application
    database's URL before Dagster looks at it.

    Raises SettingError before anything is started when settings contradict each other, a port is taken or another stack has the folder.
    """
    plan = _plan(settings)
    with ExitStack() as parts:
        stack_lock = parts.enter_context(_the_only_stack(settings.home, signals))
        _refuse_taken_ports(plan)
        marker = f"{MARKER_NAME}={secrets.token_hex(8)}"
        state_file = settings.home / "stack.json"
        _write_state(state_file, {"marker": marker, "owner_pid": os.getpid()})
        parts.callback(state_file.unlink, missing_ok=True)
        # The watchdog holds the lock too: after a kill -9 the next stack waits until the last one is really gone.
        watchdog = Watchdog(marker=marker, inherited_files=(stack_lock.fileno(),))
        parts.callback(watchdog.dismiss)
        database_url, dagster_url, postgres = _databases(plan, narrator, watchdog, parts)
        children = parts.enter_context(Children(settings.home / "logs", watchdog, marker, signals))
        if postgres is not None:
            children.also_check(_postgres_watch(postgres))
        addresses = _addresses(plan, database_url, dagster_url)
        specs = _specs(plan, {**environment, **addresses.environment})
        # The code server reads no database while it loads, and takes the longest: it starts while the migrations run.
        for name in ("emulator", "code-server"):
            if name in specs:
                narrator.say(f"启动 {name}")
                children.start(specs[name])
        narrator.say("迁移数据库")
        with signals.interruptible():
            from zqyy_ai.store.migrations import migrate

            migrate(database_url)
            if prepare is not None:
                prepare(database_url)
        children.await_ready("code-server", lambda: listens_on(settings.code_server_port), READY_TIMEOUT_SECONDS)
        for name in ("webserver", "daemon", "admin"):
            narrator.say(f"启动 {name}")
            children.start(specs[name])
        if plan.is_dashscope_emulated:
            children.await_ready("emulator", lambda: listens_on(settings.emulator_port), READY_TIMEOUT_SECONDS)
        narrator.say("等待 Dagster 就绪")
        dagster = _Graphql(addresses.dagster_url)
        children.decide_grace(lambda: IDLE_GRACE_SECONDS if dagster.is_idle() else BUSY_GRACE_SECONDS)
        children.await_ready("webserver", dagster.missing_location, READY_TIMEOUT_SECONDS)
        children.await_ready("daemon", dagster.missing_daemon, READY_TIMEOUT_SECONDS)
        children.await_ready("admin", lambda: listens_on(settings.port), READY_TIMEOUT_SECONDS)
        _write_state(
            state_file,
            {
                "marker": marker,
                "owner_pid": os.getpid(),
                "dagster_url": addresses.dagster_url,
                "admin_url": addresses.admin_url,
                "emulator_url": addresses.emulator_url,
                "environment": dict(addresses.environment),
                "embedded_names": list(addresses.embedded_names),
            },
        )
        try:
            yield RunningStack(addresses, children, signals, database_url, postgres)
        finally:
            narrator.say("正在停止")


def read_running_stack(home: Path) -> StackAddresses:
    """Addresses of the stack that runs over `home`. Raises StackNotRunning when none runs or it is not ready yet."""
    try:
        with (home / "stack.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except FileNotFoundError:
        raise StackNotRunning(_not_running(home)) from None
    else:
        raise StackNotRunning(_not_running(home))
    try:
        state = json.loads((home / "stack.json").read_text())
        return StackAddresses(
            state["dagster_url"], state["admin_url"], state["emulator_url"], state["environment"], tuple(state["embedded_names"])
        )
    except (OSError, ValueError, KeyError):
        raise StackNotRunning(f"{home} 的服务正在启动或停止，请稍后再试") from None


def _not_running(home: Path) -> str:
    return f"{home} 没有正在运行的服务：请先运行 make dev 或 make demo，或把 ZQYY_HOME 设为正在运行的那一个"


def without_joined(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what `zqyy-ai env` put there from another stack's embedded parts: those end with that stack."""
    joined = environment.get(JOINED_NAME, "").split(",")
    return {name: value for name, value in environment.items() if name not in joined and name != JOINED_NAME}


def _plan(settings: Settings) -> _Plan:
    """Raises SettingError, naming the variable, when the settings name half of an external service."""
    if settings.database_url is None and settings.dagster_database_url is not None:
        raise SettingError(
            "ZQYY_DATABASE_URL 未设置，但设置了 ZQYY_DAGSTER_DATABASE_URL：两者必须同时设置，或都不设置（使用内置 PostgreSQL）"
        )
    if settings.database_url is not None and settings.dagster_database_url is None:
        raise SettingError(
            "ZQYY_DAGSTER_DATABASE_URL 未设置：使用外部数据库（ZQYY_DATABASE_URL）时，Dagster 也需要自己的 postgresql:// 数据库地址"
        )
    if settings.database_url is not None and settings.dashscope_api_key is None:
        raise SettingError("DASHSCOPE_API_KEY 未设置：使用外部数据库时不启动模拟器，需要百炼的 API Key")
    if settings.dashscope_api_key is not None:
        missing = [app.app_id_setting for app_type, app in APPS.items() if app_type not in settings.app_ids]
        if missing:
            raise SettingError(f"{'、'.join(missing)} 未设置：设置了 DASHSCOPE_API_KEY 时，需要各应用在百炼中的应用 ID")
    return _Plan(settings, settings.database_url is None, settings.dashscope_api_key is None)


@contextmanager
def _the_only_stack(home: Path, signals: StopSignals) -> Iterator[io.BufferedRandom]:
    """The lock of the folder, held by this process (and later by its watchdog)."""
    home.mkdir(parents=True, exist_ok=True)
    lock_file = home / "stack.lock"
    lock_file.touch(mode=0o600)
    with lock_file.open("r+b") as lock:
        deadline = time.monotonic() + 30.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = _owner_pid(home)
                if owner is None or pid_is_alive(owner) or time.monotonic() > deadline:
                    who = f"（进程 {owner}）" if owner is not None else ""
                    raise SettingError(f"ZQYY_HOME: {home} 已有一套服务在运行{who}；请先停止它，或把 ZQYY_HOME 设为另一个目录") from None
                # Its owner was killed and its watchdog is still cleaning up.
                signals.wait(0.2)
        # We hold the lock, so what an older stack left (its owner and its watchdog both killed) is nobody's.
        if (marker := _read_state(home / "stack.json").get("marker")) is not None:
            end_groups_and_marked(set(), str(marker), 5.0)
        yield lock


def _owner_pid(home: Path) -> int | None:
    pid = _read_state(home / "stack.json").get("owner_pid")
    return pid if isinstance(pid, int) else None


def _read_state(state_file: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(state_file.read_text())
    except (OSError, ValueError):
        return {}
    return state


def _write_state(state_file: Path, state: Mapping[str, Any]) -> None:
    """Private, because the addresses hold passwords; renamed into place, so that no reader sees half of it."""
    unfinished = state_file.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        json.dump(state, target, ensure_ascii=False, indent=2)
    unfinished.replace(state_file)


def _refuse_taken_ports(plan: _Plan) -> None:
    """Names every taken port at once, before anything is started."""
    settings = plan.settings
    wanted = {
        "ZQYY_POSTGRES_PORT": settings.postgres_port if plan.is_database_embedded else None,
        "ZQYY_EMULATOR_PORT": settings.emulator_port if plan.is_dashscope_emulated else None,
        "ZQYY_CODE_SERVER_PORT": settings.code_server_port,
        "ZQYY_DAGSTER_PORT": settings.dagster_port,
        "ZQYY_PORT": settings.port,
    }
    users: dict[int, list[str]] = {}
    for setting, port in wanted.items():
        if port is not None:
            users.setdefault(port, []).append(setting)
    complaints = [f"{'、'.join(names)}: 不能使用同一个端口 {port}" for port, names in users.items() if len(names) > 1]
    for port, names in users.items():
        try:
            refuse_taken_port(port, names[0])
        except SettingError as taken:
            complaints.append(str(taken))
    if complaints:
        raise SettingError("；".join(complaints))


def _databases(plan: _Plan, narrator: Narrator, watchdog: Watchdog, parts: ExitStack) -> tuple[str, str, EmbeddedPostgres | None]:
    """URLs of the application's and Dagster's databases, and the server where it is ours."""
    settings = plan.settings
    if settings.database_url is not None and settings.dagster_database_url is not None:
        narrator.say("使用外部 PostgreSQL（ZQYY_DATABASE_URL）")
        return settings.database_url.get_secret_value(), settings.dagster_database_url.get_secret_value(), None
    narrator.say(f"启动内置 PostgreSQL（端口 {settings.postgres_port}）")
    postgres = parts.enter_context(
        EmbeddedPostgres(settings.home / "postgres", port=settings.postgres_port, os_user=settings.postgres_os_user, watchdog=watchdog)
    )
    return postgres.ensure_database(APPLICATION_DATABASE), postgres.ensure_database(DAGSTER_DATABASE), postgres


def _postgres_watch(postgres: EmbeddedPostgres) -> Callable[[], None]:
    revivals = Revivals()
    revivals.note_start()

    def watch() -> None:
        if postgres.has_exited and revivals.may_start_again():
            revivals.note_start()
            postgres.resume()
        elif postgres.has_exited:
            raise PostgresStartFailed(f"内置 PostgreSQL 意外退出，日志 {postgres.log_file} 的末尾：\n{log_tail(postgres.log_file)}")

    return watch


def _addresses(plan: _Plan, database_url: str, dagster_database_url: str) -> StackAddresses:
    settings = plan.settings
    shown_host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
    dagster_url = f"http://{shown_host}:{settings.dagster_port}"
    environment = {
        "ZQYY_HOME": str(settings.home),
        "ZQYY_DATABASE_URL": database_url,
        "ZQYY_DAGSTER_DATABASE_URL": dagster_database_url,
        "ZQYY_DAGSTER_STORAGE_URL": dagster_storage_url(dagster_database_url),
        "ZQYY_CODE_SERVER_PORT": str(settings.code_server_port),
        "ZQYY_DAGSTER_PORT": str(settings.dagster_port),
        "ZQYY_PORT": str(settings.port),
        "ZQYY_HOST": settings.host,
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "DAGSTER_URL": dagster_url,
        # Spares `dagster asset materialize --select app2_finance …` its `-m`: that command looks into no workspace file.
        "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME": "zqyy_ai.definitions",
        "DAGSTER_CLI_ASSET_LIST_MODULE_NAME": "zqyy_ai.definitions",
    }
    embedded = ["ZQYY_DATABASE_URL", "ZQYY_DAGSTER_DATABASE_URL", "ZQYY_DAGSTER_STORAGE_URL"] if plan.is_database_embedded else []
    emulator_url = None
    if plan.is_dashscope_emulated:
        emulator_url = f"http://127.0.0.1:{settings.emulator_port}"
        emulated = {
            "DASHSCOPE_API_KEY": EMULATOR_KEY,
            "DASHSCOPE_HTTP_BASE_URL": f"{emulator_url}/api/v1",
            **{app.app_id_setting: f"emulator-{app.app_type.value.replace('_', '-')}" for app in APPS.values()},
        }
        environment |= emulated
        embedded += list(emulated)
    return StackAddresses(
        dagster_url, f"http://{shown_host}:{settings.port}", emulator_url, environment, (*embedded, "DAGSTER_HOME", "DAGSTER_URL")
    )


def dagster_storage_url(dagster_database_url: str) -> str:
    """The address in the form that `dagster.yaml` needs: a bare postgresql:// selects psycopg 3 in SQLAlchemy 2.1, which Dagster's storage
    can't work with."""
    return f"postgresql+psycopg2://{dagster_database_url.partition('://')[2]}"


def _specs(plan: _Plan, environment: Mapping[str, str]) -> dict[str, ChildSpec]:
    settings = plan.settings
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copyfile(_packaged_file(name), folder / name)
    full = {
        **environment,
        "PYTHONUNBUFFERED": "1",
        "MALLOC_ARENA_MAX": "2",  # glibc's arenas for each thread double the memory of a process with many
        "DAGSTER_GRPC_MAX_WORKERS": str(GRPC_WORKERS),
    }

    def spec(name: str, *arguments: str, ends_last: bool = False, is_revived: bool = True) -> ChildSpec:
        # The working folder is not the operator's: Dagster loads a `.env` that it finds there, behind our settings' back.
        return ChildSpec(name, (sys.executable, "-m", *arguments), full, folder, ends_last, is_revived)

    code_server_port = str(settings.code_server_port)
    specs = [
        spec("code-server", "dagster", "code-server", "start", "-h", "127.0.0.1", "-p", code_server_port, "-m", "zqyy_ai.definitions"),
        spec("webserver", "dagster_webserver", "-h", settings.host, "-p", str(settings.dagster_port), "-w", str(folder / "workspace.yaml")),
        # At the level "info" each sensor writes a line every five seconds, for ever.
        spec("daemon", "dagster._daemon", "run", "--log-level", "warning", "-w", str(folder / "workspace.yaml")),
    ]
    specs.append(spec("admin", "zqyy_ai.cli", "serve"))
    if plan.is_dashscope_emulated:
        # It outlives the runs: one that is stopped in the middle of its calls would see a dead network, and open the breakers.
        specs.append(spec("emulator", "zqyy_ai.cli", "emulator", "--port", str(settings.emulator_port), ends_last=True, is_revived=False))
    return {spec.name: spec for spec in specs}


def _packaged_file(name: str) -> Path:
    """Beside this module in an installed package, at the top of the repository in a checkout."""
    beside = Path(__file__).with_name(name)
    return beside if beside.exists() else Path(__file__).resolve().parents[2] / name


class _Graphql:
    """What the webserver says about the code location and the daemon."""

    LOCATION = """{ workspaceOrError { __typename ... on Workspace { locationEntries {
        name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } ... on PythonError { message } } }"""
    RUNS = "{ runsOrError(filter: {statuses: [STARTING, STARTED, CANCELING]}, limit: 1) { ... on Runs { results { runId } } } }"
    DAEMON = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"

    def __init__(self, dagster_url: str) -> None:
        self._url = f"{dagster_url}/graphql"

    def missing_location(self) -> str | None:
        """A probe: None when the code location is loaded."""
        answer = self._ask(self.LOCATION)
        if answer is None:
            return "网页服务尚未应答"
        entries = answer["workspaceOrError"].get("locationEntries", [])
        for entry in entries:
            if entry["name"] == LOCATION_NAME and entry["loadStatus"] == "LOADED":
                loaded = entry["locationOrLoadError"] or {}
                return None if loaded.get("__typename") == "RepositoryLocation" else f"代码加载失败：{loaded.get('message', '')[:800]}"
        return "代码尚未加载"

    def missing_daemon(self) -> str | None:
        """A probe: None when every required daemon has reported itself healthy."""
        answer = self._ask(self.DAEMON)
        if answer is None:
            return "网页服务尚未应答"
        statuses = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        missing = [status["daemonType"] for status in statuses if status["required"] and not status["healthy"]]
        return f"尚未就绪：{'、'.join(missing)}" if missing else None

    def is_idle(self) -> bool:
        """True when no run is in progress; False also when the webserver can't say."""
        answer = self._ask(self.RUNS)
        return answer is not None and answer["runsOrError"].get("results") == []

    def _ask(self, query: str) -> dict[str, Any] | None:
        request = urllib.request.Request(  # noqa: S310 - our own webserver
            self._url, data=json.dumps({"query": query}).encode(), headers={"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy: it is this machine
        try:
            with opener.open(request, timeout=5.0) as response:
                data: dict[str, Any] | None = json.load(response).get("data")
                return data
        except (OSError, urllib.error.URLError, ValueError):
            return None
