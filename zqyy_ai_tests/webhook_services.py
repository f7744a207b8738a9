"""DingTalk, WeCom and Slack as their clients see them: fixed hosts over HTTPS, reached through a proxy with a certificate authority of ours.

The client's own way is untouched: it finds the proxy in `HTTPS_PROXY` and the authority in `REQUESTS_CA_BUNDLE`, as behind a company's
proxy. What a service answers is scripted by host; without a script it accepts.
"""

import base64
import hashlib
import hmac
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

DINGTALK, WECOM, SLACK = "oapi.dingtalk.com", "qyapi.weixin.qq.com", "hooks.slack.com"
ACCEPTED = {DINGTALK: (200, b'{"errcode":0,"errmsg":"ok"}'), WECOM: (200, b'{"errcode":0,"errmsg":"ok"}'), SLACK: (200, b"ok")}
SIGN_NOT_MATCH = (200, b'{"errcode":310000,"errmsg":"sign not match"}')
DRIP = (200, b"drip")

DINGTALK_TOKEN = "7d0ab3c1e5f94a6c8b2d"
DINGTALK_SECRET = "SEC5a1f8c9d2b3e4f60718293"
WECOM_KEY = "693axxx6-7aoc-4bc4-97a0-0ec2sifa5aaa"
SLACK_TOKENS = ("T1JJ3T3L2", "A1BRTD4JD", "TIiajkdnlazkcOXrIdevi7FQ")
DINGTALK_URL = f"https://{DINGTALK}/robot/send?access_token={DINGTALK_TOKEN}"
SIGNED_DINGTALK_URL = f"{DINGTALK_URL}&secret={DINGTALK_SECRET}"
WECOM_URL = f"https://{WECOM}/cgi-bin/webhook/send?key={WECOM_KEY}"
SLACK_URL = f"https://{SLACK}/services/{'/'.join(SLACK_TOKENS)}"
SECRETS = (DINGTALK_TOKEN, DINGTALK_SECRET, WECOM_KEY, *SLACK_TOKENS)


@dataclass(frozen=True, slots=True)
class Post:
    """What a service was sent."""

    host: str
    path: str
    query: dict[str, str]
    payload: dict[str, Any]
    bytes: int

    @property
    def text(self) -> str:
        """All that people would read of it."""
        if self.host == SLACK:
            parts = self.payload["attachments"][0]
            return f"{parts.get('title', '')}\n{parts.get('text', '')}"
        return str(self.payload["text"]["content"])


class WebhookServices:
    """The three services. `scripts[host]` is a list of answers, used up one by one; `dripping` ends when `release` is set."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.posts: list[Post] = []
        self.scripts: dict[str, list[tuple[int, bytes]]] = {}
        self.secret: str | None = None
        self.dripping = threading.Event()
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}

    def answer(self, post: Post) -> tuple[int, bytes]:
        with self._lock:
            self.posts.append(post)
            scripted = self.scripts.get(post.host)
            if scripted:
                return scripted.pop(0)
        if post.host == DINGTALK and self.secret is not None and not _is_signed(post.query, self.secret):
            return SIGN_NOT_MATCH
        return ACCEPTED[post.host]

    def to(self, host: str) -> list[Post]:
        return [post for post in self.posts if post.host == host]

    def context_of(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if host not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self.authority.issue_cert(host).configure_cert(context)
                self._contexts[host] = context
            return self._contexts[host]


def _is_signed(query: dict[str, str], secret: str) -> bool:
    """As DingTalk documents it: the parameter, decoded once, is the base64 of the HMAC."""
    digest = hmac.new(secret.encode(), f"{query.get('timestamp')}\n{secret}".encode(), hashlib.sha256).digest()
    return hmac.compare_digest(query.get("sign", ""), base64.b64encode(digest).decode())


@contextmanager
def running_webhook_services(folder: Path) -> Iterator[tuple[WebhookServices, dict[str, str]]]:
    """The services, and the environment with which clients find them."""
    services = WebhookServices()

    class Service(BaseHTTPRequestHandler):
        host = ""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            status, answer = services.answer(Post(self.host, url.path, query, json.loads(body), len(body)))
            self.send_response(status)
            if (status, answer) == DRIP:
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                services.dripping.set()
                while not services.release.wait(0.2):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                self.close_connection = True
                return
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = self.rfile.readline().decode()
            while self.rfile.readline().strip():
                pass
            host = request.split()[1].partition(":")[0]
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                with services.context_of(host).wrap_socket(self.connection, server_side=True) as secured:
                    type("Service", (Service,), {"host": host})(secured, self.client_address, self.server)
            except OSError:
                pass  # the client left

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        bundle = folder / "authority.pem"
        services.authority.cert_pem.write_to_path(str(bundle))
        address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield (
                services,
                {"HTTPS_PROXY": address, "https_proxy": address, "REQUESTS_CA_BUNDLE": str(bundle), "NO_PROXY": "", "no_proxy": ""},
            )
        finally:
            services.release.set()
            server.shutdown()
            thread.join()
