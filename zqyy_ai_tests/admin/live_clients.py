"""A server process in a thread, over TCP, and clients that read its streams."""

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from zqyy_ai.admin.app import create_app
from zqyy_ai.admin.live import LiveHub
from zqyy_ai.admin.services import Services

LONG_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    hub: LiveHub

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@contextmanager
def running_server(services: Services) -> Iterator[Server]:
    app = create_app(services)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Little room, so that a client that does not read is noticed before megabytes are under way.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="admin server")
        thread.start()
        try:
            yield Server(listening.getsockname()[1], app.state.live)
        finally:
            server.should_exit = True
            thread.join(LONG_SECONDS)
            assert not thread.is_alive()


@dataclass(frozen=True, slots=True)
class Frame:
    """A server-sent event; `data` is None for one that only brings an id."""

    event: str | None
    data: dict[str, Any] | None
    id: str | None


@dataclass(slots=True)
class Stream:
    """What a browser's EventSource sees: frames as they come, and the last id, which it would send when it reconnects."""

    frames: "queue.Queue[Frame | None]" = field(default_factory=queue.Queue)
    last_event_id: str | None = None

    def next(self, seconds: float = LONG_SECONDS) -> dict[str, Any]:
        """The next event's data, with its position noted."""
        while True:
            frame = self.frames.get(timeout=seconds)
            assert frame is not None, "the stream has ended"
            self.last_event_id = frame.id or self.last_event_id
            if frame.data is not None:
                assert frame.event == frame.data["type"]
                return frame.data

    def numbers(self, count: int) -> list[int]:
        return [self.next()["payload"]["number"] for _ in range(count)]

    def wait_for_end(self) -> None:
        while self.frames.get(timeout=LONG_SECONDS) is not None:
            pass


@contextmanager
def open_stream(
    server: Server, token: str | None = None, *, last_event_id: str | None = None, path: str = "/api/admin/ai/stream", **params: Any
) -> Iterator[Stream]:
    """Open when it is given: its first frame has come."""
    given = {"Authorization": f"Bearer {token}" if token else None, "Last-Event-ID": last_event_id}
    headers = {name.encode(): value.encode("latin-1") for name, value in given.items() if value}
    stream = Stream()
    with (
        httpx.Client(timeout=LONG_SECONDS) as client,
        client.stream("GET", server.url + path, headers=headers, params=params) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        reader = threading.Thread(target=_read, args=(answer, stream), daemon=True)
        reader.start()
        first = stream.frames.get(timeout=LONG_SECONDS)
        assert first is not None and first.data is None
        stream.last_event_id = first.id
        try:
            yield stream
        finally:
            with contextlib.suppress(OSError):
                answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            reader.join(LONG_SECONDS)


def _read(answer: httpx.Response, stream: Stream) -> None:
    lines: dict[str, str] = {}
    with contextlib.suppress(httpx.HTTPError):
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                lines[name] = value
            elif lines:
                data = json.loads(lines["data"]) if "data" in lines else None
                stream.frames.put(Frame(lines.get("event"), data, lines.get("id")))
                lines = {}
    stream.frames.put(None)
