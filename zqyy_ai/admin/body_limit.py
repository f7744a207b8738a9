"""No body larger than it could be meant, whether its length is told or not."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zqyy_ai.admin.problems import Problem, problem_response

# An event's payload may have 256 KiB; everything else is far smaller.
LARGEST_BODY_BYTES = 512 * 1024


class BodyLimit:
    """The middleware: answers 413 before the body is read in full."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        told = request.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:20]) > LARGEST_BODY_BYTES:
            await self._refuse(request, receive, send)
            return
        read_bytes, has_begun = 0, False

        async def receive_bounded() -> Message:
            nonlocal read_bytes
            message = await receive()
            if message["type"] == "http.request":
                read_bytes += len(message.get("body", b""))
                if read_bytes > LARGEST_BODY_BYTES:
                    raise _TooLarge
            return message

        async def send_noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive_bounded, send_noting)
        except _TooLarge:
            if not has_begun:
                await self._refuse(request, receive, send)

    @staticmethod
    async def _refuse(request: Request, receive: Receive, send: Send) -> None:
        refusal = Problem(413, f"请求体超过 {LARGEST_BODY_BYTES // 1024} KiB", headers={"Connection": "close"})
        await problem_response(request, refusal)(request.scope, receive, send)


class _TooLarge(BaseException):
    """Not an Exception: no handler between here and there may take it for its own."""
