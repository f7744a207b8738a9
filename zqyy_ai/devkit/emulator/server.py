"""Serving the emulator: in the foreground for the CLI, or in a thread for tests and benchmarks."""

import asyncio
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from zqyy_ai.devkit.emulator.app import EmulatorConfig, create_app
from zqyy_ai.devkit.emulator.fault_plan import FaultPlan, Latency, load_fault_plan

# Longer than the client keeps an idle connection, so that it is never the emulator that drops one.
_KEEP_ALIVE_SECONDS = 75
_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class RunningEmulator:
    """Where an emulator in a thread is reached: `base_url` is what DASHSCOPE_HTTP_BASE_URL would be."""

    origin: str

    @property
    def base_url(self) -> str:
        return f"{self.origin}/api/v1"


def _protocol_class() -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, with the connection's transport in each request's state, for the fault that closes it."""
    base: Any = AutoHTTPProtocol

    class TransportInState(base):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            protocol: Any = self
            protocol.app_state = {**protocol.app_state, "transport": transport}

    return TransportInState


def _server(config: EmulatorConfig, host: str, port: int) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            create_app(config),
            host=host,
            port=port,
            http=_protocol_class(),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            # Calls that wait out their latency are cut short when the emulator stops.
            timeout_graceful_shutdown=1,
            backlog=4096,
        )
    )


def serve(host: str, port: int, latency_seconds: float = 0.0, seed: int = 0, fault_plan_path: Path | None = None) -> None:
    """Serve until a signal ends it. Raises SettingError for a plan that cannot be meant, OSError or SystemExit for a taken port."""
    plan = load_fault_plan(fault_plan_path) if fault_plan_path is not None else FaultPlan()
    config = EmulatorConfig(latency=Latency(seconds=latency_seconds), seed=seed, plan=plan)
    _server(config, host, port).run()


@contextmanager
def running_emulator(config: EmulatorConfig | None = None) -> Generator[RunningEmulator]:
    """An emulator on a free port of 127.0.0.1, in a thread of this process, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    server = _server(config or EmulatorConfig(), "127.0.0.1", port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="dashscope-emulator", daemon=True)
    thread.start()
    try:
        _await_answer(port)
        yield RunningEmulator(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
        listener.close()


def _await_answer(port: int) -> None:
    """The listener takes connections from the start, so the first answer is the sign that the loop runs."""
    with socket.create_connection(("127.0.0.1", port), timeout=_START_SECONDS) as probe:
        probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: emulator\r\nConnection: close\r\n\r\n")
        if not probe.recv(16).startswith(b"HTTP/1.1 200"):
            raise RuntimeError("the emulator did not start")
