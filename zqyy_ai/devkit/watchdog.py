"""The process that cleans up after its owner: it ends what the owner registered when the owner dies, even by kill -9.

Two halves: `Watchdog` is the owner's side; `main` is the child, run by this file's path with nothing but the standard library, so that it
starts in milliseconds and needs no installed package. They are joined by a pipe: the owner writes one JSON line for each thing it
registers, and the pipe's end without a farewell means that the owner is gone.

Order on the owner's death: process groups and every process that carries the marker in its environment, then the groups that end last
(what the others call), then PostgreSQL (its clients are gone by then), then folders that were only temporary. What does not belong here: an orderly stop, which is the owner's own work.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

GROUP_GRACE_SECONDS = 5.0
POSTGRES_GRACE_SECONDS = 10.0
POLL_SECONDS = 0.1


class Watchdog:
    """The owner's side. One instance a process; `dismiss` when everything that was registered has been stopped."""

    def __init__(self, *, marker: str | None = None, inherited_files: tuple[int, ...] = ()) -> None:
        """`inherited_files`: descriptors that the child holds open, so that a lock on them lasts until it has cleaned up."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=inherited_files,
        )
        if marker is not None:
            self._tell(marker=marker)

    @property
    def pid(self) -> int:
        return self._process.pid

    def guard_group(self, group_id: int, *, ends_last: bool = False) -> None:
        """`ends_last`: only when the other groups and everything marked have gone."""
        self._tell(group=group_id, ends_last=ends_last)

    def forget_group(self, group_id: int) -> None:
        """The group has ended; its number may soon belong to somebody else."""
        self._tell(forget_group=group_id)

    def guard_postgres(self, data_folder: Path) -> None:
        """Call before the server is started: the child then looks for `postmaster.pid` in the folder."""
        self._tell(postgres=str(data_folder))

    def forget_postgres(self) -> None:
        self._tell(postgres=None)

    def guard_temporary_folder(self, folder: Path) -> None:
        """The folder is deleted when the owner dies."""
        self._tell(folder=str(folder))

    def dismiss(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._tell(farewell=True)
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        self._process.wait()

    def _tell(self, **message: Any) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # Somebody killed the watchdog. The owner's orderly stop still works; only the protection against its own death is lost.
            pass


def processes_with_marker(marker: str) -> set[int]:
    """Ids of the processes whose environment at their start held `marker` (NAME=value)."""
    found: set[int] = set()
    proc = Path("/proc")
    if (proc / "self" / "environ").exists():
        for entry in proc.iterdir():
            if entry.name.isdigit():
                try:
                    variables = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if marker.encode() in variables:
                    found.add(int(entry.name))
    else:
        # macOS: `ps -E` shows the environment of the account's own processes behind the command.
        listing = subprocess.run(["ps", "-axww", "-E", "-o", "pid=,command="], capture_output=True, text=True, check=False).stdout
        found = {int(line.split(None, 1)[0]) for line in listing.splitlines() if marker in line.split()}
    return found - {os.getpid()}


def living_groups(groups: set[int]) -> set[int]:
    """Those of the process groups that hold a process which is more than a zombie: zombies wait for their parent, not for a signal."""
    if not groups:
        return set()
    found: set[int] = set()
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        for entry in proc.iterdir():
            if entry.name.isdigit():
                try:
                    state, _, group, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(group) in groups and state not in "ZX":
                    found.add(int(group))
        return found
    for group_id in groups:
        try:
            os.killpg(group_id, 0)
        except (ProcessLookupError, PermissionError):
            continue  # macOS refuses signals to zombies with "not permitted"
        found.add(group_id)
    return found


def signal_groups_and_marked(groups: set[int], marker: str | None, number: signal.Signals, *, spared: Collection[int] = ()) -> None:
    for group_id in groups:
        try:
            os.killpg(group_id, number)
        except (ProcessLookupError, PermissionError):
            pass
    for pid in _marked_outside(marker, spared):
        try:
            # A marked process that a signalled group holds already gets the signal twice, which no handler of the stack minds.
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _marked_outside(marker: str | None, spared: Collection[int]) -> set[int]:
    """Processes with the marker in groups other than the spared ones."""
    if marker is None:
        return set()
    found = set()
    for pid in processes_with_marker(marker):
        try:
            if os.getpgid(pid) not in spared:
                found.add(pid)
        except ProcessLookupError:
            continue
    return found


def end_groups_and_marked(
    groups: set[int],
    marker: str | None,
    grace_seconds: float,
    collect: Callable[[], None] = lambda: None,
    *,
    spared: Collection[int] = (),
) -> None:
    """SIGTERM, wait, SIGKILL, until nothing is left but the `spared` groups. Returns at once when nothing is alive.

    `collect` is called in each round: a parent collects its ended children there, which count as alive on some systems until then."""

    def anything_left() -> bool:
        collect()
        return bool(living_groups(groups) or _marked_outside(marker, spared))

    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        if not anything_left():
            return
        signal_groups_and_marked(groups, marker, number, spared=spared)
        deadline = time.monotonic() + seconds
        while anything_left() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if number is signal.SIGKILL:
                # A marked process may have forked between the listing and the signal.
                signal_groups_and_marked(set(), marker, number, spared=spared)


def postmaster_pid(data_folder: Path) -> int | None:
    """The server's process id by its own pid file, None when there is none or it is still being written."""
    try:
        lines = (data_folder / "postmaster.pid").read_text().splitlines()
        return int(lines[0])
    except (OSError, ValueError, IndexError):
        return None


def pid_is_alive(pid: int) -> bool:
    """False for a zombie: it holds no port, no file and no memory."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return True


def stop_postgres(data_folder: Path, *, grace_seconds: float = POSTGRES_GRACE_SECONDS) -> None:
    """Fast shutdown of the server that owns the folder, immediate after the grace; its pid file is what identifies it.

    The server removes its pid file last, so a file that stays although the process is gone belongs to a killed server and is removed."""
    for number, seconds in ((signal.SIGINT, grace_seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        pid = postmaster_pid(data_folder)
        if pid is None:
            return
        if not pid_is_alive(pid) or not _is_postgres(pid, data_folder):
            break
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and postmaster_pid(data_folder) == pid and pid_is_alive(pid):
            time.sleep(POLL_SECONDS)
    (data_folder / "postmaster.pid").unlink(missing_ok=True)


def _is_postgres(pid: int, data_folder: Path) -> bool:
    """Whether `pid` is the server of this folder and not a later process that got a dead server's number."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        command = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return str(data_folder) in command


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    last_groups: set[int] = set()
    folders: list[Path] = []
    marker: str | None = None
    postgres: Path | None = None
    for line in sys.stdin.buffer:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            break  # the owner died in the middle of a line
        match message:
            case {"farewell": _}:
                return
            case {"group": int(group_id), "ends_last": bool(ends_last)}:
                (last_groups if ends_last else groups).add(group_id)
            case {"forget_group": int(group_id)}:
                groups.discard(group_id)
                last_groups.discard(group_id)
            case {"marker": str(text)}:
                marker = text
            case {"postgres": folder}:
                postgres = Path(folder) if folder else None
            case {"folder": str(folder)}:
                folders.append(Path(folder))
            case _:
                pass  # a newer owner's word
    end_groups_and_marked(groups, marker, GROUP_GRACE_SECONDS, spared=last_groups)
    end_groups_and_marked(last_groups, marker, GROUP_GRACE_SECONDS)
    if postgres is not None:
        # The owner may have died after starting the server and before the server wrote its pid file.
        deadline = time.monotonic() + 2.0
        while postmaster_pid(postgres) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        stop_postgres(postgres)
    for temporary in folders:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()
