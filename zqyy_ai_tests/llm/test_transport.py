"""The session over TLS, which is how DashScope itself is reached; plain HTTP is tested through the client."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from zqyy_ai.llm.errors import CallTimedOut, OutcomeUnknown
from zqyy_ai.llm.transport import DeadlineSession
from zqyy_ai_tests.llm.conftest import read_request, self_signed_certificate

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"


@dataclass
class TlsServer:
    origin: str
    session: DeadlineSession
    connections: int = 0


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TlsServer]:
    """Answers `/ok`, stalls in the body of `/stall`, closes after `/close`."""
    pem = self_signed_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0))
    session = DeadlineSession(4, ca_file=str(pem))
    server = TlsServer(f"https://127.0.0.1:{listener.getsockname()[1]}", session)

    def converse(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
            while request := read_request(connection):
                if b"/close" in request:
                    return
                connection.sendall(HALF if b"/stall" in request else OK)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                server.connections += 1
                threading.Thread(target=converse, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server
    session.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def post(server: TlsServer, path: str, timeout_seconds: float = 10) -> bytes:
    with server.session.attempt(timeout_seconds):
        return server.session.post(f"{server.origin}{path}", data=b"{}").content


def test_a_trusted_server_is_called_on_one_kept_connection(tls_server: TlsServer) -> None:
    assert [post(tls_server, "/ok") for _ in range(3)] == [b"{}"] * 3
    assert tls_server.connections == 1


def test_the_deadline_cuts_a_stalled_body_and_the_session_goes_on(tls_server: TlsServer) -> None:
    post(tls_server, "/ok")
    started = time.monotonic()
    with pytest.raises(CallTimedOut):
        post(tls_server, "/stall", timeout_seconds=0.4)
    assert 0.4 <= time.monotonic() - started < 1.4
    assert post(tls_server, "/ok") == b"{}"


def test_a_connection_closed_after_the_request_is_an_unknown_outcome(tls_server: TlsServer) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        post(tls_server, "/close")
    assert type(caught.value) is OutcomeUnknown


def test_one_attempt_makes_one_request(tls_server: TlsServer) -> None:
    with tls_server.session.attempt(10):
        tls_server.session.post(f"{tls_server.origin}/ok", data=b"{}")
        with pytest.raises(RuntimeError, match="one request"):
            tls_server.session.post(f"{tls_server.origin}/ok", data=b"{}")


def test_an_idle_connection_is_renewed_before_a_gateway_drops_it(tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    post(tls_server, "/ok")
    monkeypatch.setattr("zqyy_ai.llm.transport.LONGEST_IDLE_SECONDS", 0.0)
    post(tls_server, "/ok")
    assert tls_server.connections == 2
