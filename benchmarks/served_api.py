"""The admin server as a process of its own, for measuring it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 60


@contextmanager
def serving(url: str, home: Path) -> Iterator[tuple[str, int]]:
    """`zqyy-ai serve` on a free port, with no setting but the database's: its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ZQYY_", "DASHSCOPE_", "DAGSTER_"))}
    environment |= {"ZQYY_DATABASE_URL": url, "ZQYY_PORT": str(port), "ZQYY_HOME": str(home)}
    process = subprocess.Popen([sys.executable, "-m", "zqyy_ai.cli", "serve"], env=environment, cwd=Path(__file__).parents[1])
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{address}/healthz", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(30)
