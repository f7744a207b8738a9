"""The HTTP session that the DashScope SDK is handed: one POST a call, one deadline over all of it.

The SDK posts again on any `requests.ConnectionError`, and its timeouts start anew with every byte. So this session raises the
project's own errors, which the SDK lets through, and a watchdog shuts the socket of a call whose time is over, whether it is waiting
for headers or for the rest of a dripping body. Nothing here knows an application, a prompt or an answer's meaning, and nothing is
read from the environment: no proxy, no netrc, no CA bundle variable.

Invariant: a failure before the first byte was handed to the socket is `NotConnected`, every later one an `OutcomeUnknown`.

Importing this module imports requests (0.3 s of CPU): `client.py` does it when the first client is made.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from zqyy_ai.llm.errors import CallTimedOut, EnvelopeUnreadable, ModelCallError, NotConnected, OutcomeUnknown

LONGEST_CONNECT_SECONDS = 10.0
# Gateways drop idle connections after about a minute; a request on a dropped one would count as "outcome unknown".
LONGEST_IDLE_SECONDS = 30.0
# An answer has some kilobytes. Hundreds of calls share a process's memory, and a body that never ends would take all of it.
LARGEST_ANSWER_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


@dataclass(slots=True, eq=False)
class Attempt:
    """One call on its way: how far it got, and the answer as it came, which the SDK does not give away."""

    deadline_monotonic: float
    is_posted: bool = False
    is_sent: bool = False
    is_overdue: bool = False
    connection: "WatchedConnection | None" = None
    response: requests.Response | None = None

    def remaining_seconds(self) -> float:
        return self.deadline_monotonic - time.monotonic()


class _CurrentAttempt(threading.local):
    """The attempt of this thread: urllib3's connections are made deep inside the SDK's call and can be handed nothing."""

    attempt: Attempt | None = None


_current = _CurrentAttempt()


class WatchedConnection(HTTPConnection):
    """A pooled connection that knows which call it works for.

    `ownership` makes "is it still this call's?" and "shut it" one step, so that a late watchdog never cuts the next call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ownership = threading.Lock()
        self.owner: Attempt | None = None
        self.idle_since_monotonic: float | None = None

    @property
    def is_connected(self) -> bool:
        idle_since = self.idle_since_monotonic
        if idle_since is not None and time.monotonic() - idle_since > LONGEST_IDLE_SECONDS:
            return False
        return super().is_connected

    def _new_conn(self) -> socket.socket:
        self.idle_since_monotonic = None
        attempt = _current.attempt
        if attempt is None:
            return super()._new_conn()
        return self._connect_before(attempt)

    def _connect_before(self, attempt: Attempt) -> socket.socket:
        """Try the host's addresses in turn, all of them within one limit; urllib3 would allow each its own."""
        give_up_at = min(attempt.deadline_monotonic, time.monotonic() + LONGEST_CONNECT_SECONDS)
        failure: OSError | None = None
        for family, kind, protocol, _, address in self._resolve_before(give_up_at):
            remaining_seconds = give_up_at - time.monotonic()
            if remaining_seconds <= 0:
                break
            candidate = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    candidate.setsockopt(*option)
                candidate.settimeout(remaining_seconds)
                candidate.connect(address)
            except OSError as refused:
                candidate.close()
                failure = refused
            else:
                return candidate
        if failure is None or isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, "connect timed out")
        raise NewConnectionError(self, "connect failed") from failure

    def _resolve_before(self, give_up_at: float) -> list[Any]:
        """`getaddrinfo` cannot be interrupted, so it runs beside us, and a resolver that hangs is left to itself."""
        answer: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

        def resolve() -> None:
            try:
                answer.put(list(socket.getaddrinfo(self._dns_host, self.port, 0, socket.SOCK_STREAM)))
            except (OSError, UnicodeError) as unknown:
                answer.put(unknown if isinstance(unknown, OSError) else socket.gaierror(str(unknown)))

        threading.Thread(target=resolve, name="dashscope-resolver", daemon=True).start()
        try:
            outcome = answer.get(timeout=max(give_up_at - time.monotonic(), 0.001))
        except queue.Empty:
            raise ConnectTimeoutError(self, "name resolution timed out") from None
        if isinstance(outcome, OSError):
            raise NameResolutionError(self.host, self, socket.gaierror(*outcome.args))
        return outcome

    def request(self, *args: Any, **kwargs: Any) -> None:
        attempt = _current.attempt
        if attempt is not None:
            attempt.connection = self
            with self.ownership:
                self.owner = attempt
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if _current.attempt is not None:
            _current.attempt.is_sent = True
        super().send(data)

    def cut(self, attempt: Attempt) -> None:
        """Wake whoever reads or writes for this attempt; the socket stays with its owner, who closes it."""
        with self.ownership:
            sock = self.sock
            if self.owner is not attempt or sock is None:
                return
            try:
                # Not SSLSocket.shutdown: that drops the TLS state which the reading thread is using.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # closed, or not connected yet: the connect limit holds there

    def let_go(self, attempt: Attempt) -> None:
        with self.ownership:
            if self.owner is attempt:
                self.owner = None
                self.idle_since_monotonic = time.monotonic()


class WatchedTlsConnection(WatchedConnection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = cast(Any, WatchedConnection)


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = cast(Any, WatchedTlsConnection)


class _Adapter(HTTPAdapter):
    """Pools of watched connections that share one TLS context: loading the CA bundle costs 20 ms a connection otherwise."""

    def __init__(self, max_connections: int, ca_file: str | None) -> None:
        self._ca_file = ca_file
        super().__init__(pool_connections=2, pool_maxsize=max_connections, max_retries=0, pool_block=False)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(
            connections, maxsize, block, socket_options=_SOCKET_OPTIONS, ssl_context=_tls_context(self._ca_file), **pool_kwargs
        )
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing to set: the shared context holds the CA bundle and requires a valid certificate."""


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.check_hostname = True
    context.load_verify_locations(ca_file or DEFAULT_CA_BUNDLE_PATH)
    return context


class _Watchdog:
    """One thread that cuts the connections of overdue attempts. It sleeps until the earliest deadline it knows."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: set[Attempt] = set()
        self._wakes_at = float("inf")
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(self, attempt: Attempt) -> None:
        with self._changed:
            if self._is_closed:
                raise RuntimeError("this DashScope client is closed")
            self._watched.add(attempt)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dashscope-deadlines", daemon=True)
                self._thread.start()
            elif attempt.deadline_monotonic < self._wakes_at:
                self._changed.notify()

    def release(self, attempt: Attempt) -> None:
        with self._changed:
            self._watched.discard(attempt)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                for attempt in [attempt for attempt in self._watched if attempt.deadline_monotonic <= now]:
                    self._watched.discard(attempt)
                    attempt.is_overdue = True
                    if attempt.connection is not None:
                        attempt.connection.cut(attempt)
                self._wakes_at = min((attempt.deadline_monotonic for attempt in self._watched), default=float("inf"))
                self._changed.wait(None if self._wakes_at == float("inf") else max(self._wakes_at - now, 0.0))


class DeadlineSession(requests.Session):
    """A `requests.Session` whose requests belong to an `attempt` and end with it, at the latest."""

    def __init__(self, max_connections: int, ca_file: str | None = None) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._watchdog = _Watchdog()
        adapter = _Adapter(max_connections, ca_file)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    @contextmanager
    def attempt(self, timeout_seconds: float) -> Generator[Attempt]:
        """What this thread requests inside belongs to one attempt: at most one POST, all of it before the deadline."""
        attempt = Attempt(time.monotonic() + timeout_seconds)
        self._watchdog.watch(attempt)
        _current.attempt = attempt
        try:
            yield attempt
        finally:
            _current.attempt = None
            self._watchdog.release(attempt)
            if attempt.connection is not None:
                attempt.connection.let_go(attempt)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        attempt = _current.attempt
        if attempt is None or attempt.is_posted:
            raise RuntimeError("one attempt is one request: the SDK asked for another")
        attempt.is_posted = True
        remaining_seconds = max(attempt.remaining_seconds(), 0.001)
        # The watchdog keeps the deadline; the timeouts are for what it cannot reach, a socket in its TLS handshake. A redirect would
        # be a second request.
        kwargs |= {
            "timeout": (min(remaining_seconds, LONGEST_CONNECT_SECONDS), remaining_seconds),
            "allow_redirects": False,
            "stream": True,
        }
        try:
            attempt.response = _read_whole(super().request(method, url, *args, **kwargs))
        except (requests.ConnectionError, requests.Timeout, HTTPError, HTTPException, OSError) as failure:
            error = _transport_error(attempt, failure)
        else:
            return attempt.response
        raise error

    def close(self) -> None:
        self._watchdog.close()
        super().close()


def _read_whole(response: requests.Response) -> requests.Response:
    """With its body read. Raises EnvelopeUnreadable, and gives the connection up, where what came cannot be the answer."""
    if response.status_code < 200:
        # Only "100 Continue" is read over. After any other the answer may still come, and the connection's next call would take it for
        # its own.
        response.close()
        raise _unreadable("it announced an answer and gave none", f"http_{response.status_code}")
    pieces, size_bytes = [], 0
    for piece in response.iter_content(_PIECE_BYTES):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > LARGEST_ANSWER_BYTES:
            response.close()
            raise _unreadable(f"its answer is larger than {LARGEST_ANSWER_BYTES >> 20} MiB", "answer_too_large")
    response._content = b"".join(pieces)  # noqa: SLF001  # what reading `content` would set; requests knows no limit of its own
    return response


def _unreadable(what: str, error_code: str) -> EnvelopeUnreadable:
    return EnvelopeUnreadable(f"Calling DashScope: {what}; {EnvelopeUnreadable.advice}", error_code=error_code)


def _transport_error(attempt: Attempt, failure: Exception) -> ModelCallError:
    cause = type(_innermost(failure)).__name__
    if not attempt.is_sent:
        return NotConnected(f"Calling DashScope: no connection ({cause}); {NotConnected.advice}", error_code="connect_failed")
    if attempt.is_overdue or isinstance(failure, requests.Timeout) or attempt.remaining_seconds() <= 0:
        return CallTimedOut(
            f"Calling DashScope: the deadline passed before the whole answer came; {CallTimedOut.advice}", error_code="timeout"
        )
    return OutcomeUnknown(
        f"Calling DashScope: the connection broke after the request was sent ({cause}); {OutcomeUnknown.advice}",
        error_code="connection_lost",
    )


def _innermost(failure: BaseException) -> BaseException:
    """The cause that names the trouble, out of requests' and urllib3's wrappers."""
    for inner in (getattr(failure, "reason", None), failure.__cause__, *failure.args):
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return failure
