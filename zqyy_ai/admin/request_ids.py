"""An id for each request: in the answer's `X-Request-Id`, in errors, in the audit and in the log. A caller's own is kept when it is tame."""

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
_TAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(connection: HTTPConnection) -> str:
    found = connection.scope.get("zqyy.request_id")
    return found if isinstance(found, str) else ""


class RequestIds:
    """The middleware that gives them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        theirs = Headers(scope=scope).get(HEADER, "")
        request_id = theirs if _TAME.fullmatch(theirs) else secrets.token_hex(8)
        scope["zqyy.request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
