"""The client under test is the real SDK over real HTTP; what answers it is the emulator, or a socket that misbehaves."""

import contextlib
import datetime as dt
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from zqyy_ai.devkit.emulator import running_emulator
from zqyy_ai.llm import DashScopeClient

KEY = "sk-test-0123456789abcdef"
FACTS = {
    "门店": "旗舰店",
    "区域": "全店",
    "数据期间": {"起": "2026-03-01", "止": "2026-03-20", "天数": 20},
    "本期": {"净收入_元": 123456.78, "台时利用率_%": 45.2},
    "变化_%": {"净收入": -3.2},
}
PROMPT = f'请写财务洞察,格式 {{"required":["insights"]}}\n\n<facts>\n{json.dumps(FACTS, ensure_ascii=False)}\n</facts>'


@dataclass
class Emulator:
    origin: str
    base_url: str
    control: requests.Session = field(default_factory=requests.Session)

    def plan(self, *faults: dict[str, Any], **rest: Any) -> None:
        answer = self.control.put(f"{self.origin}/control/plan", json={"faults": list(faults)} | rest)
        assert answer.status_code == 200, answer.text

    def reset(self) -> None:
        self.control.post(f"{self.origin}/control/reset").raise_for_status()

    def calls(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.control.get(f"{self.origin}/control/calls").json()
        return answer

    @property
    def posts(self) -> int:
        return int(self.calls()["total"]["posts"])


@pytest.fixture(scope="session")
def shared_emulator() -> Iterator[Emulator]:
    with running_emulator() as running:
        yield Emulator(running.origin, running.base_url)


@pytest.fixture
def emulator(shared_emulator: Emulator) -> Emulator:
    """The session's emulator, as it was at its start."""
    shared_emulator.reset()
    return shared_emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[DashScopeClient]:
    made = DashScopeClient(KEY, emulator.base_url, max_connections=8)
    with contextlib.closing(made):
        yield made


@dataclass
class RawServer:
    """A socket that does to each connection what a test says; `requests_seen` counts request heads."""

    port: int
    requests_seen: int = 0


@pytest.fixture
def raw_server() -> Iterator[Callable[[Callable[[socket.socket], None]], RawServer]]:
    """`raw_server(behave)` listens; `behave` gets each connection once the head and body of a request have been read."""
    with contextlib.ExitStack() as stack:

        def start(behave: Callable[[socket.socket], None]) -> RawServer:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = RawServer(listener.getsockname()[1])

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        with connection, contextlib.suppress(OSError):
                            if read_request(connection):
                                server.requests_seen += 1
                                behave(connection)

            threading.Thread(target=serve, daemon=True).start()
            # Closing alone does not wake a thread that waits in accept.
            stack.callback(lambda: listener.shutdown(socket.SHUT_RDWR))
            return server

        yield start


def read_request(connection: socket.socket) -> bytes:
    """Head and body of one request; empty when the caller has gone."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b""
        received += piece
    head = received.partition(b"\r\n\r\n")[0]
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(received) < len(head) + 4 + length:
        received += connection.recv(65536)
    return received


def self_signed_certificate(folder: Path) -> Path:
    """Key and certificate of 127.0.0.1 in one PEM file; who loads the file as its CA bundle trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "self_signed.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
