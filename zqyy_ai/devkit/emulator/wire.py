"""Bytes of the emulator: DashScope's envelopes, whole or deformed, and the ways in which a connection misbehaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
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
        text, finish_reason = _deformed(self.text, kind)
        body: dict[str, Any] = {
            "output": {"finish_reason": finish_reason, "session_id": self.session_id, "text": text},
            "usage": self._usage(kind),
            "request_id": self.request_id,
        }
        if kind is FaultKind.USAGE_MISSING:
            del body["usage"]
        return body

    def _usage(self, kind: FaultKind | None) -> dict[str, Any] | None:
        if kind is FaultKind.USAGE_NULL:
            return None
        if kind is FaultKind.USAGE_FLAT:
            return {"total_tokens": self.input_tokens + self.output_tokens}
        is_null = kind is FaultKind.USAGE_NULL_COUNTS
        return {
            "models": [
                {
                    "model_id": MODEL_ID,
                    "input_tokens": None if is_null else self.input_tokens,
                    "output_tokens": None if is_null else self.output_tokens,
                }
            ]
        }


def _deformed(text: str, kind: FaultKind | None) -> tuple[str | None, str]:
    match kind:
        case FaultKind.TRUNCATED:
            return text[: len(text) * 2 // 3], "length"
        case FaultKind.NULL_TEXT:
            return None, "stop"
        case FaultKind.PROSE:
            return _PROSE, "stop"
        case FaultKind.WRONG_SCHEMA:
            return json.dumps({"summary": _PROSE, "insights": []}, ensure_ascii=False), "stop"
        case FaultKind.FENCED:
            return f"以下是分析结果：\n```json\n{text}\n```", "stop"
        case FaultKind.TRAILING_COMMA:
            return text[:-1] + ",}" if text.endswith("}") else text, "stop"
        case _:
            return text, "stop"


def json_response(body: dict[str, Any], request_id: str) -> Response:
    return Response(
        json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
        media_type="application/json",
        headers={"X-Request-Id": request_id},
    )


def error_response(
    status: int, code: str, message: str, *, request_id: str = "emulated", retry_after_seconds: float | None = None
) -> Response:
    headers = {"X-Request-Id": request_id}
    if retry_after_seconds is not None:
        headers["Retry-After"] = f"{retry_after_seconds:g}"
    return JSONResponse({"code": code, "message": message, "request_id": request_id}, status_code=status, headers=headers)


def html_error(status: int) -> Response:
    return Response(f"<html><body><h1>{status} Bad Gateway</h1></body></html>", status_code=status, media_type="text/html")


def broken_json(status: int, body: bytes) -> Response:
    return Response(body[: len(body) // 2], status_code=status, media_type="application/json")


def event_stream(envelope: Envelope, *, is_incremental: bool) -> Response:
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
    return Response("".join(events).encode(), media_type="text/event-stream", headers={"X-Request-Id": envelope.request_id})


def drip(body: bytes, interval_seconds: float) -> Response:
    """One byte at a time."""

    async def bytes_of() -> AsyncIterator[bytes]:
        for index in range(len(body)):
            yield body[index : index + 1]
            await asyncio.sleep(interval_seconds)

    return StreamingResponse(bytes_of(), media_type="application/json", headers={"Content-Length": str(len(body))})


def stall_after_headers(request: Request, body: bytes) -> Response:
    """Headers and half of the body, then nothing until the caller goes."""

    async def half_of() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        await until_disconnected(request)

    return StreamingResponse(half_of(), media_type="application/json", headers={"Content-Length": str(len(body))})


async def until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def abort_connection(request: Request) -> None:
    """Close the connection without an answer. The transport is put into the scope's state by `server.py`'s protocol class."""
    request.state.transport.abort()
