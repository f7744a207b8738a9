"""Bytes of the emulator: DashScope's envelopes, whole or deformed, and the ways in which a connection misbehaves."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import repeat
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from zqyy_ai.devkit.emulator.fault_plan import Fault, FaultKind

MODEL_ID = "emulator"
_STREAMED_PIECES = 8
_PROSE = "抱歉，我暂时无法按照要求的格式回答这个问题，请稍后再试。"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A successful answer."""

    text: str
    session_id: str
    request_id: str
    input_tokens: int
    output_tokens: int

    def as_json(self, fault: Fault | None) -> dict[str, Any]:
        kind = None if fault is None else fault.kind
        text, finish_reason = _deformed(self.text, fault)
        body: dict[str, Any] = {
            "output": {"finish_reason": finish_reason, "session_id": self.session_id, "text": text},
            "usage": self._usage(kind),
            "request_id": self.request_id,
        }
        if kind is FaultKind.USAGE_MISSING or (fault is not None and fault.with_usage is False):
            del body["usage"]
        return body

    def as_bytes(self, fault: Fault | None) -> bytes:
        return json_bytes(self.as_json(fault))

    def _usage(self, kind: FaultKind | None) -> dict[str, Any] | None:
        counts: tuple[int | None, int | None] = self.input_tokens, self.output_tokens
        match kind:
            case FaultKind.USAGE_NULL:
                return None
            case FaultKind.USAGE_FLAT:
                return {"total_tokens": self.input_tokens + self.output_tokens}
            case FaultKind.USAGE_NULL_COUNTS:
                counts = None, None
            case FaultKind.USAGE_ZERO:
                counts = 0, 0
            case _:
                pass
        return {"models": [{"model_id": MODEL_ID, "input_tokens": counts[0], "output_tokens": counts[1]}]}


def _deformed(text: str, fault: Fault | None) -> tuple[Any, str]:
    """What stands in `output.text`, and the finish reason."""
    match None if fault is None else fault.kind:
        case FaultKind.TRUNCATED if fault is not None:
            return text[: len(text) * 2 // 3], fault.finish_reason
        case FaultKind.UNFINISHED if fault is not None:
            return text, fault.finish_reason
        case FaultKind.NULL_TEXT:
            return None, "stop"
        case FaultKind.PROSE:
            return _PROSE, "stop"
        case FaultKind.WRONG_SCHEMA:
            return json.dumps({"summary": _PROSE, "insights": []}, ensure_ascii=False), "stop"
        case FaultKind.OBJECT_TEXT:
            return json.loads(text) if text.startswith("{") else text, "stop"
        case FaultKind.FENCED:
            return f"以下是分析结果：\n```json\n{text}\n```", "stop"
        case FaultKind.IN_PROSE:
            return f"好的，结果如下：{text} 希望对您有帮助。", "stop"
        case FaultKind.TRAILING_COMMA:
            return text[:-1] + ",}" if text.endswith("}") else text, "stop"
        case FaultKind.SINGLE_QUOTES:
            return text.replace('"', "'"), "stop"
        case FaultKind.RAW_NEWLINES:
            return text.replace("。", "。\n"), "stop"
        case _:
            return text, "stop"


def json_bytes(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def json_response(body: dict[str, Any], request_id: str) -> Response:
    return Response(json_bytes(body), media_type="application/json", headers={"X-Request-Id": request_id})


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str = "emulated",
    retry_after_seconds: float | None = None,
    usage: dict[str, Any] | None = None,
) -> Response:
    headers = {"X-Request-Id": request_id}
    if retry_after_seconds is not None:
        headers["Retry-After"] = f"{retry_after_seconds:g}"
    body: dict[str, Any] = {"code": code, "message": message, "request_id": request_id}
    return JSONResponse(body | ({"usage": usage} if usage else {}), status_code=status, headers=headers)


def redirect(request: Request, status: int) -> Response:
    """To the same address: who follows it posts again, and is counted again."""
    return Response(status_code=status, headers={"Location": request.url.path})


def padded(body: bytes, size_bytes: int) -> bytes:
    """The body behind so much white space that both have this size."""
    return b" " * (size_bytes - len(body)) + body


def html_error(status: int) -> Response:
    return Response(f"<html><body><h1>{status} Bad Gateway</h1></body></html>", status_code=status, media_type="text/html")


def broken_json(status: int, body: bytes) -> Response:
    return Response(body[: len(body) // 2], status_code=status, media_type="application/json")


def event_stream(envelope: Envelope, *, is_incremental: bool) -> bytes:
    """The streamed form: server-sent events whose text grows, or comes in pieces; usage so far in each, `stop` in the last."""
    size = max(1, -(-len(envelope.text) // _STREAMED_PIECES))
    ends = [*range(size, len(envelope.text), size), len(envelope.text)]
    events = []
    for number, end in enumerate(ends, start=1):
        body = envelope.as_json(None)
        body["output"]["text"] = envelope.text[ends[number - 2] if is_incremental and number > 1 else 0 : end]
        body["output"]["finish_reason"] = "stop" if number == len(ends) else "null"
        body["usage"]["models"][0]["output_tokens"] = max(1, envelope.output_tokens * end // len(envelope.text))
        events.append(f"id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{json.dumps(body, ensure_ascii=False)}\n\n")
    return "".join(events).encode()


def drip(body: bytes, media_type: str, interval_seconds: float) -> Response:
    """One byte at a time."""

    async def bytes_of() -> AsyncIterator[bytes]:
        for index in range(len(body)):
            yield body[index : index + 1]
            await asyncio.sleep(interval_seconds)

    return StreamingResponse(bytes_of(), media_type=media_type, headers={"Content-Length": str(len(body))})


def endless(interval_seconds: float) -> Response:
    """White space, a kilobyte at a time, until the caller goes."""

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1024
            await asyncio.sleep(interval_seconds)

    return StreamingResponse(pieces(), media_type="application/json")


def stall_after_headers(request: Request, body: bytes, media_type: str) -> Response:
    """Headers and half of the body, then nothing until the caller goes."""

    async def half_of() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        await until_disconnected(request)

    return StreamingResponse(half_of(), media_type=media_type, headers={"Content-Length": str(len(body))})


async def until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# Past the server's HTTP protocol, on the connection itself. The transport is put into the scope's state by `server.py`'s protocol class.


def abort_connection(request: Request) -> None:
    """Close the connection without an answer."""
    request.state.transport.abort()


async def close_connection(request: Request) -> None:
    """The same, and wait until the server has noticed; otherwise it would complain of an unanswered request."""
    abort_connection(request)
    await until_disconnected(request)


async def reset_connection(request: Request) -> None:
    """Closed with RST instead of FIN, as by a load balancer that restarts."""
    request.state.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await close_connection(request)


async def close_in_headers(request: Request) -> None:
    """A good status line and half of a header, then closed."""
    request.state.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Len")
    await close_connection(request)


async def close_in_body(request: Request, body: bytes, media_type: str) -> None:
    """Half of the announced length, then closed."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    request.state.transport.write(head.encode() + body[: len(body) // 2])
    await close_connection(request)


async def close_in_chunks(request: Request, body: bytes, media_type: str) -> None:
    """One whole chunk, which is half of the body, then closed instead of the chunk that says it is the last."""
    half = body[: len(body) // 2]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n{len(half):x}\r\n"
    request.state.transport.write(head.encode() + half + b"\r\n")
    await close_connection(request)


async def drip_headers(request: Request, interval_seconds: float) -> None:
    """The status line and a header that goes on and on, a byte at a time, until the caller goes."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Drip: "
    await _write_slowly(request, (head[index : index + 1] for index in range(len(head))), interval_seconds)
    await _write_slowly(request, repeat(b"."), interval_seconds)
    await until_disconnected(request)


async def informational(request: Request, status: int, body: bytes, interval_seconds: float) -> None:
    """100: "continue" again and again until the caller goes. Another 1xx: once, and after the interval the real answer."""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n\r\n".encode()
    if status == HTTPStatus.CONTINUE:
        await _write_slowly(request, repeat(head), interval_seconds)
    else:
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        await _write_slowly(request, (head, answer), interval_seconds)
    await until_disconnected(request)


async def _write_slowly(request: Request, pieces: Iterable[bytes], interval_seconds: float) -> None:
    transport = request.state.transport
    for piece in pieces:
        if transport.is_closing():
            return
        transport.write(piece)
        await asyncio.sleep(interval_seconds)
