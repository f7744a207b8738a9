import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from zqyy_ai.devkit.processes import ChildDied, ChildNotReady, Children, ChildSpec, StopRequested, StopSignals
from zqyy_ai.devkit.watchdog import Watchdog, pid_is_alive, processes_with_marker
from zqyy_ai_tests.devkit.waiting import eventually

# A supervisor over the folder argv[1] with one child, which starts a grandchild in a session of its own and then sleeps. The child writes
# both process ids and its disposition of SIGINT to `pids`.
SUPERVISOR = """
import os, sys
from pathlib import Path
from zqyy_ai.devkit.processes import Children, ChildSpec, StopRequested, StopSignals
from zqyy_ai.devkit.watchdog import Watchdog
folder = Path(sys.argv[1])
CHILD = '''
import os, signal, subprocess, sys, time
from pathlib import Path
interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
grandchild = subprocess.Popen(["sleep", "600"], start_new_session=True)
Path("unfinished").write_text(f"{os.getpid()} {grandchild.pid} {interrupt}")
Path("unfinished").rename("pids")
time.sleep(600)
'''
marker = f"ZQYY_STACK_ID={folder.name}-{os.getpid()}"
watchdog = Watchdog(marker=marker)
parent = int(sys.argv[2]) if len(sys.argv) > 2 else None
try:
    with StopSignals(parent_pid=parent) as signals, Children(folder / "logs", watchdog, marker, signals) as children:
        children.start(ChildSpec("sleeper", (sys.executable, "-c", CHILD), dict(os.environ), folder))
        children.serve()
except StopRequested as stop:
    watchdog.dismiss()
    sys.exit(stop.exit_code)
"""


# A supervisor with a server that ends last, and its client, which on SIGTERM takes its time and then writes whether the server still lived.
SERVER_AND_CLIENT = """
import os, sys
from pathlib import Path
from zqyy_ai.devkit.processes import Children, ChildSpec, StopRequested, StopSignals
from zqyy_ai.devkit.watchdog import Watchdog
folder = Path(sys.argv[1])
SERVER = "import os, time; from pathlib import Path; Path('server').write_text(str(os.getpid())); time.sleep(600)"
CLIENT = '''
import signal, sys, time
from pathlib import Path
from zqyy_ai.devkit.watchdog import pid_is_alive
def end(*_):
    time.sleep(0.5)
    Path("unfinished").write_text(str(pid_is_alive(int(Path("server").read_text()))))
    Path("unfinished").rename("server_lived")
    sys.exit()
signal.signal(signal.SIGTERM, end)
Path("client").touch()
time.sleep(600)
'''
marker = f"ZQYY_STACK_ID={folder.name}-{os.getpid()}"
watchdog = Watchdog(marker=marker)
try:
    with StopSignals() as signals, Children(folder / "logs", watchdog, marker, signals) as children:
        children.start(ChildSpec("server", (sys.executable, "-c", SERVER), dict(os.environ), folder, ends_last=True))
        children.start(ChildSpec("client", (sys.executable, "-c", CLIENT), dict(os.environ), folder))
        children.serve()
except StopRequested:
    watchdog.dismiss()
"""


def start_supervisor(folder: Path, *arguments: str, ignores_sigint: bool = False) -> "subprocess.Popen[bytes]":
    def ignore_sigint() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(folder), *arguments],
        preexec_fn=ignore_sigint if ignores_sigint else None,  # noqa: PLW1509 - no threads of ours run in the test
    )


def family(folder: Path) -> tuple[int, int, str]:
    """The child's and the grandchild's process ids, and whether the child has the default SIGINT handling, once they run."""
    eventually((folder / "pids").exists)
    child, grandchild, has_default_sigint = (folder / "pids").read_text().split()
    return int(child), int(grandchild), has_default_sigint


def test_a_supervisor_killed_with_9_leaves_no_process_behind(tmp_path: Path) -> None:
    supervisor = start_supervisor(tmp_path)
    child, grandchild, _ = family(tmp_path)

    supervisor.kill()
    supervisor.wait()

    eventually(lambda: not pid_is_alive(child) and not pid_is_alive(grandchild))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_tells_it_by_the_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    supervisor = start_supervisor(tmp_path)
    child, grandchild, _ = family(tmp_path)

    supervisor.send_signal(number)

    assert supervisor.wait(20) == 128 + number
    assert not pid_is_alive(child)
    assert not pid_is_alive(grandchild)


def test_a_supervisor_started_in_the_background_can_be_interrupted_and_so_can_its_children(tmp_path: Path) -> None:
    """Non-interactive shells start background processes with SIGINT ignored, which is inherited for ever."""
    supervisor = start_supervisor(tmp_path, ignores_sigint=True)
    child, _, has_default_sigint = family(tmp_path)

    supervisor.send_signal(signal.SIGINT)

    assert supervisor.wait(20) == 128 + signal.SIGINT
    assert has_default_sigint == "True"
    assert not pid_is_alive(child)


def test_a_supervisor_that_belongs_to_its_parent_stops_when_the_parent_is_killed(tmp_path: Path) -> None:
    parent_code = "import os, subprocess, sys; subprocess.Popen([*sys.argv[1:], str(os.getpid())]).wait()"
    parent = subprocess.Popen([sys.executable, "-c", parent_code, sys.executable, "-c", SUPERVISOR, str(tmp_path)])
    child, grandchild, _ = family(tmp_path)

    parent.kill()
    parent.wait()

    eventually(lambda: not pid_is_alive(child) and not pid_is_alive(grandchild))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_the_others_call_ends_after_them(tmp_path: Path, number: signal.Signals) -> None:
    """A run that is stopped in the middle of its calls would otherwise take the emulator's end for a failing DashScope."""
    supervisor = subprocess.Popen([sys.executable, "-c", SERVER_AND_CLIENT, str(tmp_path)])
    eventually(lambda: (tmp_path / "client").exists() and (tmp_path / "server").exists())

    supervisor.send_signal(number)
    supervisor.wait()

    eventually((tmp_path / "server_lived").exists)
    assert (tmp_path / "server_lived").read_text() == "True"
    eventually(lambda: not pid_is_alive(int((tmp_path / "server").read_text())))


class Supervised:
    """Children under a supervisor that is this test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = f"ZQYY_STACK_ID={folder.name}-{os.getpid()}"
        self.watchdog = Watchdog(marker=self.marker)
        self.signals = StopSignals()
        self.children = Children(folder / "logs", self.watchdog, self.marker, self.signals)

    def start(self, name: str, code: str) -> None:
        self.children.start(ChildSpec(name, (sys.executable, "-c", code), dict(os.environ), self.folder))

    def __enter__(self) -> Self:
        self.signals.__enter__()
        self.children.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.children.stop()
        self.signals.__exit__(None, None, None)
        self.watchdog.dismiss()


def test_an_unexpected_death_is_told_with_the_end_of_the_log_and_stops_the_rest(tmp_path: Path) -> None:
    with Supervised(tmp_path) as supervised:
        supervised.start("steady", "import time; time.sleep(600)")
        supervised.start("frail", "print('第一行'); print('端口不可用'); raise SystemExit(7)")

        with pytest.raises(ChildDied, match=r"(?s)frail 意外退出（退出码 7）.*端口不可用"):
            supervised.children.serve()

    assert processes_with_marker(supervised.marker) == set()


def test_a_child_that_is_revived_comes_back_after_kill_9(tmp_path: Path) -> None:
    with Supervised(tmp_path) as supervised:
        code = "import os, time; open('lives', 'a').write(str(os.getpid()) + '\\n'); time.sleep(600)"
        supervised.children.start(ChildSpec("tough", (sys.executable, "-c", code), dict(os.environ), tmp_path, is_revived=True))
        eventually((tmp_path / "lives").exists)
        # One that ends right after its start would end so again.
        eventually(supervised.children._revivals["tough"].may_start_again, seconds=10)

        os.kill(supervised.children.process_id("tough"), signal.SIGKILL)

        def is_back() -> bool:
            supervised.children.check()
            return len((tmp_path / "lives").read_text().splitlines()) == 2

        eventually(is_back)


def test_a_child_that_is_revived_but_ends_at_once_is_told(tmp_path: Path) -> None:
    with Supervised(tmp_path) as supervised:
        supervised.children.start(
            ChildSpec("hasty", (sys.executable, "-c", "raise SystemExit(3)"), dict(os.environ), tmp_path, is_revived=True)
        )

        with pytest.raises(ChildDied, match="退出码 3"):
            supervised.children.serve()


def test_a_child_that_does_not_become_ready_is_told_with_what_is_missing(tmp_path: Path) -> None:
    with Supervised(tmp_path) as supervised:
        supervised.start("slow", "import time; print('loading', flush=True); time.sleep(600)")

        with pytest.raises(ChildNotReady, match=r"slow .*尚未监听"):
            supervised.children.await_ready("slow", lambda: "端口 1 尚未监听", timeout_seconds=0.3)


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('deaf', 'w').close(); time.sleep(600)"
    with Supervised(tmp_path) as supervised:
        supervised.children.decide_grace(lambda: 0.2)
        supervised.start("stubborn", stubborn)
        eventually((tmp_path / "deaf").exists)

    assert processes_with_marker(supervised.marker) == set()


def test_interruptible_work_is_left_at_once(tmp_path: Path) -> None:
    with Supervised(tmp_path) as supervised, pytest.raises(StopRequested, match="SIGTERM"), supervised.signals.interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on after the signal")


def test_each_start_keeps_the_log_of_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "talker.log"
    for word in ("first", "second"):
        with Supervised(tmp_path) as supervised:
            supervised.start("talker", f"print({word!r}, flush=True); import time; time.sleep(600)")
            eventually(lambda: bool(log.read_text()))

    assert log.read_text() == "second\n"
    assert log.with_suffix(".previous.log").read_text() == "first\n"
