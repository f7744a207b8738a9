"""Supervised child processes: each in its own session, with its own log file, awaited until it is ready, and never left behind.

    with StopSignals() as signals, Children(logs, watchdog, marker, signals) as children:
        children.start(ChildSpec(...))
        children.await_ready("emulator", probe, timeout_seconds=30)

A child that `is_revived` is started again when it was killed or crashed, unless it does so again and again or right after its start. When
any other ends by itself, `check` raises ChildDied with the end of its log, and leaving the block stops the rest.
What does not belong here: which processes a stack has (`stack.py`), and the clean-up after the supervisor's own death (`watchdog.py`).
"""

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from zqyy_ai.devkit.watchdog import Watchdog, end_groups_and_marked
from zqyy_ai.domain.errors import PermanentError

POLL_SECONDS = 0.1
STOP_GRACE_SECONDS = 10.0
LOG_TAIL_LINES = 20
MOST_REVIVALS = 3
REVIVAL_WINDOW_SECONDS = 60.0
SHORTEST_LIFE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class ChildDied(PermanentError):
    """A child ended without being asked to; the message holds the end of its log."""


class ChildNotReady(PermanentError):
    """A child runs but didn't become ready in its time."""


class StopRequested(BaseException):
    """Somebody asked the supervisor to stop. Not an Exception: no handler of errors may swallow it."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP as a wish that is looked at in safe places, never an exception between two statements.

    Having handlers also gives the children the default ones: a disposition of "ignored", which a background process of a non-interactive
    shell starts with, would be inherited, and Dagster copies it to SIGTERM. `parent_pid` given: the parent's death is such a wish too.
    Use in the main thread.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, *, parent_pid: int | None = None) -> None:
        self._parent_pid = parent_pid
        self._received: signal.Signals | None = None
        self._event = threading.Event()
        self._raises_at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in self.NUMBERS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._received = self._received or signal.Signals(number)
        self._event.set()
        if self._raises_at_once:
            self._raises_at_once = False
            self.check()

    def check(self) -> None:
        """Raises StopRequested when the supervisor was asked to stop."""
        if self._received is not None:
            raise StopRequested(self._received.name, 128 + self._received)
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            raise StopRequested("parent died", 128 + signal.SIGHUP)

    def wait(self, seconds: float) -> None:
        """Sleeps, or raises StopRequested as soon as somebody asks to stop."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """For long work that starts no process and may be left at any statement: a signal raises inside it at once."""
        self.check()
        self._raises_at_once = True
        try:
            yield
        finally:
            self._raises_at_once = False


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """`environment` is the child's whole environment, not an addition. `ends_last`: the other children call it until they end.
    `is_revived`: it is started again when it ends by itself."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    working_folder: Path
    ends_last: bool = False
    is_revived: bool = False


class Revivals:
    """Whether something that ended by itself is worth another start: not when it ended right after the last one, or the fourth time a minute."""

    def __init__(self) -> None:
        self._starts: list[float] = []

    def note_start(self) -> None:
        self._starts.append(time.monotonic())

    def may_start_again(self) -> bool:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < REVIVAL_WINDOW_SECONDS] or self._starts[-1:]
        return len(self._starts) <= MOST_REVIVALS and now - self._starts[-1] >= SHORTEST_LIFE_SECONDS


class Children:
    """The running children of one supervisor. Leaving the block stops them all, and whatever descended from them."""

    def __init__(self, logs: Path, watchdog: Watchdog, marker: str, signals: StopSignals) -> None:
        self._logs = logs
        self._watchdog = watchdog
        self._marker = marker
        self._signals = signals
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._specs: dict[str, ChildSpec] = {}
        self._revivals: dict[str, Revivals] = {}
        self._last_groups: set[int] = set()
        self._watched: list[Callable[[], None]] = []
        self._grace_seconds: Callable[[], float] = lambda: STOP_GRACE_SECONDS

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def log_file(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def also_check(self, watch: Callable[[], None]) -> None:
        """`watch` raises when something beside the children (the database server) has ended."""
        self._watched.append(watch)

    def decide_grace(self, grace_seconds: Callable[[], float]) -> None:
        """`grace_seconds` is asked when the stop begins: how long the children may take over their ends."""
        self._grace_seconds = grace_seconds

    def start(self, spec: ChildSpec) -> None:
        self._signals.check()
        log_file = self.log_file(spec.name)
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".previous.log"))
        name, _, value = self._marker.partition("=")
        with log_file.open("ab") as log:
            child = subprocess.Popen(
                spec.command,
                env={**spec.environment, name: value},
                cwd=spec.working_folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[spec.name] = child
        self._specs[spec.name] = spec
        self._revivals.setdefault(spec.name, Revivals()).note_start()
        if spec.ends_last:
            self._last_groups.add(child.pid)
        self._watchdog.guard_group(child.pid, ends_last=spec.ends_last)

    def check(self) -> None:
        """Starts again what is to be revived. Raises StopRequested or ChildDied."""
        self._signals.check()
        for name, child in list(self._running.items()):
            if (exit_code := child.poll()) is not None:
                how = f"信号 {signal.Signals(-exit_code).name}" if exit_code < 0 else f"退出码 {exit_code}"
                log_file = self.log_file(name)
                if self._specs[name].is_revived and self._revivals[name].may_start_again():
                    logger.warning("children.revived name=%s ended=%s log=%s", name, how, log_file.with_suffix(".previous.log"))
                    self._watchdog.forget_group(child.pid)
                    self.start(self._specs[name])
                    continue
                raise ChildDied(f"{name} 意外退出（{how}），日志 {log_file} 的末尾：\n{log_tail(log_file)}")
        for watch in self._watched:
            watch()

    def process_id(self, name: str) -> int:
        return self._running[name].pid

    def await_ready(self, name: str, probe: Callable[[], str | None], timeout_seconds: float) -> None:
        """Waits until `probe` returns None; what it returns until then says what is still missing.

        Raises ChildNotReady after the time-out, ChildDied when a child ends meanwhile."""
        deadline = time.monotonic() + timeout_seconds
        while (missing := probe()) is not None:
            self.check()
            if time.monotonic() > deadline:
                log_file = self.log_file(name)
                raise ChildNotReady(
                    f"{name} 在 {timeout_seconds:.0f} 秒内未就绪（{missing}），日志 {log_file} 的末尾：\n{log_tail(log_file)}"
                )
            self._signals.wait(POLL_SECONDS)

    def serve(self) -> None:
        """Blocks until somebody asks to stop (StopRequested) or a child dies (ChildDied)."""
        while True:
            self.check()
            self._signals.wait(0.5)

    def stop(self) -> None:
        """SIGTERM to every group and everything marked, SIGKILL to what is left after the grace. Nothing raises in here."""

        def collect() -> None:
            for child in self._running.values():
                child.poll()

        groups = {child.pid for child in self._running.values()}
        if groups:
            first, last = groups - self._last_groups, groups & self._last_groups
            end_groups_and_marked(first, self._marker, self._grace_seconds(), collect, spared=last)
            end_groups_and_marked(last, self._marker, STOP_GRACE_SECONDS, collect)
        for child in self._running.values():
            child.wait()
            self._watchdog.forget_group(child.pid)
        self._running.clear()
        self._last_groups.clear()


def listens_on(port: int) -> str | None:
    """A probe: None when somebody accepts connections on 127.0.0.1:`port`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return None
    except OSError:
        return f"端口 {port} 尚未监听"


def log_tail(log_file: Path) -> str:
    """The last lines of a log, indented; a placeholder when there are none."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "    （空）"
