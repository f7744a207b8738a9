"""A call ends within a second of its deadline and is one POST, whatever the server drips, holds back or never stops saying."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zqyy_ai.llm import DashScopeClient, ModelCallError
from zqyy_ai.llm.errors import ApplicationUnavailable, CallTimedOut, EnvelopeUnreadable, NotConnected
from zqyy_ai.llm.transport import LARGEST_ANSWER_BYTES, DeadlineSession
from zqyy_ai_tests.llm.conftest import KEY, PROMPT, Emulator, RawServer, read_request, self_signed_certificate

DEADLINE_SECONDS = 0.5
BEHIND_TIME_SECONDS = 1.0
# Faster and slower than the deadline, and than any timeout that starts anew with each byte.
INTERVALS_SECONDS = (0.001, 0.05, 0.45, 5.0)
StartRawServer = Callable[[Callable[[socket.socket], None]], RawServer]


@contextlib.contextmanager
def ending_in_time(raised: type[ModelCallError], *, earliest_seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(raised) as caught:
        yield
    took_seconds = time.monotonic() - started
    assert type(caught.value) is raised
    assert earliest_seconds <= took_seconds < DEADLINE_SECONDS + BEHIND_TIME_SECONDS
    if raised is CallTimedOut:
        assert caught.value.error_code == "timeout"


def slow(kind: str, interval_seconds: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "interval_seconds": interval_seconds} | more


@pytest.mark.parametrize(
    "fault",
    [
        slow("stall"),
        slow("stall_after_headers"),
        *(slow("drip", interval) for interval in INTERVALS_SECONDS),
        *(slow("drip_headers", interval) for interval in INTERVALS_SECONDS),
        *(slow("informational", interval) for interval in (0.0, *INTERVALS_SECONDS)),
        *(slow("endless", interval) for interval in INTERVALS_SECONDS),
    ],
    ids=lambda fault: f"{fault['kind']} {fault['interval_seconds']}",
)
def test_the_emulators_slowness_ends_with_the_deadline(emulator: Emulator, client: DashScopeClient, fault: dict[str, Any]) -> None:
    client.call("app", PROMPT, timeout_seconds=10)  # the SDK is imported, the connection is open
    emulator.plan(fault)
    with ending_in_time(CallTimedOut):
        client.call("app", PROMPT, timeout_seconds=DEADLINE_SECONDS)
    assert emulator.posts == 2
    emulator.plan()
    assert client.call("app", PROMPT, timeout_seconds=10).finish_reason == "stop", "the client goes on"


def test_a_latency_just_above_the_deadline_is_a_timeout_and_just_below_an_answer(emulator: Emulator, client: DashScopeClient) -> None:
    client.call("app", PROMPT, timeout_seconds=10)
    emulator.plan(latency={"seconds": 0.6})
    with ending_in_time(CallTimedOut):
        client.call("app", PROMPT, timeout_seconds=DEADLINE_SECONDS)
    assert client.call("app", PROMPT, timeout_seconds=5).finish_reason == "stop"


@pytest.mark.parametrize("fault", [slow("endless", 0.0), slow("oversized")], ids=["endless", "32 MiB"])
def test_a_body_without_end_is_given_up_before_it_takes_the_memory(
    emulator: Emulator, client: DashScopeClient, fault: dict[str, Any]
) -> None:
    client.call("app", PROMPT, timeout_seconds=10)
    emulator.plan(fault)
    started = time.monotonic()
    with pytest.raises(EnvelopeUnreadable) as caught:
        client.call("app", PROMPT, timeout_seconds=20)
    assert time.monotonic() - started < 20 + BEHIND_TIME_SECONDS
    assert caught.value.error_code == "answer_too_large"
    assert emulator.posts == 2


def test_a_large_answer_is_still_an_answer(emulator: Emulator, client: DashScopeClient) -> None:
    emulator.plan(slow("oversized", size_bytes=LARGEST_ANSWER_BYTES))
    assert client.call("app", PROMPT, timeout_seconds=20).finish_reason == "stop"


def test_after_an_interim_response_the_real_answer_is_never_taken_for_the_next_calls(emulator: Emulator, client: DashScopeClient) -> None:
    """Two calls share a connection, and an answer does not say which prompt it is to."""
    emulator.plan(slow("informational", 0.2, status=103, attempts=[1]))
    for prompt in (PROMPT, PROMPT.replace("123456.78", "99.5")):
        with pytest.raises(EnvelopeUnreadable) as caught:
            client.call("app", prompt, timeout_seconds=5)
        assert caught.value.error_code == "http_103"
    assert "99.5 元" in client.call("app", PROMPT.replace("123456.78", "99.5"), timeout_seconds=5).text
    assert emulator.posts == 3


def test_a_redirect_is_one_post_and_no_wait(emulator: Emulator, client: DashScopeClient) -> None:
    client.call("app", PROMPT, timeout_seconds=10)
    emulator.plan({"kind": "redirect"})
    with ending_in_time(ApplicationUnavailable, earliest_seconds=0.0):
        client.call("app", PROMPT, timeout_seconds=DEADLINE_SECONDS)
    assert emulator.posts == 2


def test_a_server_that_never_reads_the_request_is_a_timeout_after_sending(client: DashScopeClient) -> None:
    with contextlib.suppress(ModelCallError):
        client.call("app", "的", timeout_seconds=10)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        deaf = DashScopeClient(KEY, f"http://127.0.0.1:{listener.getsockname()[1]}", 1)
        with ending_in_time(CallTimedOut):
            deaf.call("app", "长" * 5_000_000, timeout_seconds=DEADLINE_SECONDS)


def test_a_body_that_ends_with_the_connection_and_is_cut_by_the_deadline_is_a_timeout(raw_server: StartRawServer) -> None:
    def answer_without_length(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"output":')
        connection.recv(1)

    client = DashScopeClient(KEY, f"http://127.0.0.1:{raw_server(answer_without_length).port}", 2)
    with pytest.raises(CallTimedOut) as caught:
        client.call("app", PROMPT, timeout_seconds=0.4)
    assert caught.value.error_code == "timeout"


# TLS: the deadline has to reach through records that are not complete.


class DrippingTlsServer:
    """A TLS server behind a wire that passes its bytes, encrypted as they are, one at a time after the first `whole_bytes` of them."""

    def __init__(self, certificate: Path, interval_seconds: float, whole_bytes: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._interval_seconds = interval_seconds
        self._whole_bytes = whole_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_closed = threading.Event()
        self.origin = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests_seen = 0
        self._start(self._accept)

    def close(self) -> None:
        self._is_closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, deed: Callable[..., None], *args: Any) -> None:
        def until_the_other_goes() -> None:
            with contextlib.suppress(OSError):
                deed(*args)

        threading.Thread(target=until_the_other_goes, daemon=True).start()

    def _accept(self) -> None:
        while True:
            outside, _ = self._listener.accept()
            inside, server_end = socket.socketpair()
            self._start(self._answer, server_end)
            self._start(self._pass_on, outside, inside)
            self._start(self._drip, inside, outside)

    def _answer(self, plain: socket.socket) -> None:
        with plain, self._context.wrap_socket(plain, server_side=True) as connection:
            while read_request(connection):
                self.requests_seen += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        sink.shutdown(socket.SHUT_RDWR)

    def _drip(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with source, sink:
            while piece := source.recv(1 if passed >= self._whole_bytes else self._whole_bytes - passed):
                sink.sendall(piece)
                passed += len(piece)
                if passed >= self._whole_bytes and self._is_closed.wait(self._interval_seconds):
                    return


@pytest.fixture
def make_tls_server(tmp_path: Path) -> Iterator[Callable[[float, int], tuple[DrippingTlsServer, DeadlineSession]]]:
    pem = self_signed_certificate(tmp_path)
    with contextlib.ExitStack() as parts:

        def make(interval_seconds: float, whole_bytes: int) -> tuple[DrippingTlsServer, DeadlineSession]:
            server = parts.enter_context(contextlib.closing(DrippingTlsServer(pem, interval_seconds, whole_bytes)))
            return server, parts.enter_context(contextlib.closing(DeadlineSession(2, ca_file=str(pem))))

        yield make


MakeTlsServer = Callable[[float, int], tuple[DrippingTlsServer, DeadlineSession]]
# The handshake has some 1,000 bytes.
AFTER_THE_HANDSHAKE_BYTES = 3000


@pytest.mark.parametrize("interval_seconds", INTERVALS_SECONDS)
def test_tls_records_that_drip_end_with_the_deadline(make_tls_server: MakeTlsServer, interval_seconds: float) -> None:
    server, session = make_tls_server(interval_seconds, AFTER_THE_HANDSHAKE_BYTES)
    with ending_in_time(CallTimedOut), session.attempt(DEADLINE_SECONDS):
        session.post(server.origin, data=b"{}")
    assert server.requests_seen == 1


@pytest.mark.parametrize("interval_seconds", INTERVALS_SECONDS)
def test_a_tls_handshake_that_drips_ends_with_the_deadline_and_nothing_was_sent(
    make_tls_server: MakeTlsServer, interval_seconds: float
) -> None:
    server, session = make_tls_server(interval_seconds, 0)
    with ending_in_time(NotConnected), session.attempt(DEADLINE_SECONDS):
        session.post(server.origin, data=b"{}")
    assert server.requests_seen == 0
