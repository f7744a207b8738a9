"""The emulator as a web application: DashScope's completion endpoint, and `/control/` to steer and watch it.

No thread per request: a call that waits ten seconds is a timer, so hundreds of them cost next to nothing. The protocol is described in
docs/dashscope.md. Invariant: every POST is counted before anything is decided about it, and leaves `in_flight` when it ends, however
it ends.
"""

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from zqyy_ai.devkit.emulator.answers import compose
from zqyy_ai.devkit.emulator.fault_plan import REFUSALS, Fault, FaultDraw, FaultKind, FaultPlan, Latency, SeenCall, describe
from zqyy_ai.devkit.emulator.ledger import Counts, Entry, Ledger, elapsed_seconds
from zqyy_ai.devkit.emulator.page import control_page
from zqyy_ai.devkit.emulator.wire import (
    Envelope,
    abort_connection,
    broken_json,
    close_connection,
    close_in_body,
    close_in_chunks,
    close_in_headers,
    drip,
    drip_headers,
    endless,
    error_response,
    event_stream,
    html_error,
    informational,
    json_response,
    padded,
    redirect,
    reset_connection,
    stall_after_headers,
    until_disconnected,
)

REFUSED_KEY = "invalid"
_TOKENS_PER_CHARACTER = 0.6
_SYSTEM_PROMPT_TOKENS = 320


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """How the emulator starts, and what a reset takes it back to."""

    latency: Latency = field(default_factory=Latency)
    seed: int = 0
    plan: FaultPlan = field(default_factory=FaultPlan)
    kept_prompts: int = 50


class Emulator:
    """State and behaviour; one per application. All of it runs on one event loop, so nothing is locked."""

    def __init__(self, config: EmulatorConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """As it was at the start: counts, prompts, attempts and plan. Calls under way end in the ledger they began in."""
        self.ledger = Ledger(self.config.kept_prompts)
        self.faults = FaultDraw(self.config.plan)

    async def show_calls(self, _request: Request) -> Response:
        return JSONResponse(self.ledger.as_json())

    async def show_prompts(self, request: Request) -> Response:
        """The last prompts, newest first; `?last=` limits them."""
        last = request.query_params.get("last", "")
        entries = [_entry_json(entry) for entry in reversed(self.ledger.entries)]
        return JSONResponse(entries[: int(last)] if last.isdecimal() else entries)

    async def show_plan(self, _request: Request) -> Response:
        return JSONResponse(self.faults.plan.model_dump(mode="json", exclude_unset=True))

    async def put_plan(self, request: Request) -> Response:
        try:
            plan = FaultPlan.model_validate(json.loads(await request.body() or b"{}"))
        except ValidationError as misfit:
            return JSONResponse({"error": describe(misfit)}, status_code=400)
        except ValueError as broken:
            return JSONResponse({"error": f"not JSON: {broken}"}, status_code=400)
        self.faults = FaultDraw(plan)
        return JSONResponse(plan.model_dump(mode="json", exclude_unset=True))

    async def post_reset(self, _request: Request) -> Response:
        self.reset()
        return JSONResponse({"reset": True})

    async def show_page(self, _request: Request) -> Response:
        return HTMLResponse(control_page(self.ledger, self.faults.plan, self.config.seed))


@dataclass(frozen=True, slots=True)
class CompletionEndpoint:
    """`POST /api/v1/apps/{app_id}/completion`, as a plain ASGI endpoint: it ends when the answer has gone out, not when it is made."""

    emulator: Emulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if request.method != "POST":
            await error_response(405, "MethodNotAllowed", "only POST")(scope, receive, send)
            return
        app_id, ledger, started = request.path_params["app_id"], self.emulator.ledger, time.monotonic()
        if request.client is not None:
            ledger.connections.add((request.client.host, request.client.port))
        counts = ledger.counts(app_id)
        for counted in counts:
            counted.begin()
        call = _Call(self.emulator, ledger, counts, app_id)
        try:
            response = await call.respond(request)
            if response is not None:
                await response(scope, receive, send)
        except asyncio.CancelledError:
            # The emulator stops: the caller sees a broken connection, as from a server that goes, and the log no stack trace.
            abort_connection(request)
        finally:
            for counted in counts:
                counted.in_flight -= 1
            if call.entry is not None:
                call.entry.seconds = elapsed_seconds(started)


@dataclass(slots=True)
class _Call:
    """One POST on its way through the emulator."""

    emulator: Emulator
    ledger: Ledger
    counts: tuple[Counts, Counts]
    app_id: str
    entry: Entry | None = None

    async def respond(self, request: Request) -> Response | None:
        """The answer, or None when the connection was broken instead."""
        key = request.headers.get("authorization", "").partition("Bearer ")[2].strip()
        if not key or key == REFUSED_KEY:
            return self._refuse("unauthorized", error_response(401, "InvalidApiKey", "Invalid API-key provided."))
        asked = _asked(await request.body())
        if asked is None:
            return self._refuse(
                "invalid", error_response(400, "InvalidParameter", "Required parameter(s) missing or invalid: input.prompt.")
            )
        prompt, session_id, is_incremental = asked
        composed = compose(prompt)
        digest = hashlib.blake2b(f"{self.app_id}\0{prompt}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        self.ledger.attempts[digest] += 1
        seen = SeenCall(self.app_id, composed.app, prompt, digest, self.ledger.attempts[digest], self.emulator.config.seed)
        self.entry = self.ledger.note(self.app_id, composed.app, seen.attempt, session_id, prompt)
        fault = self.emulator.faults.pick(seen)
        if fault is not None:
            self.ledger.faults[fault.kind] += 1
        envelope = Envelope(
            text=composed.text,
            session_id=session_id or f"{seen.draw('session').getrandbits(128):032x}",
            request_id=f"{seen.draw('request').getrandbits(128):032x}",
            input_tokens=ceil(len(prompt) * _TOKENS_PER_CHARACTER) + _SYSTEM_PROMPT_TOKENS,
            output_tokens=ceil(len(composed.text) * _TOKENS_PER_CHARACTER),
        )
        if fault is not None and fault.kind in REFUSALS:
            return self._refuse(fault.kind, _refusal(fault, request, envelope))
        await self._wait(seen)
        is_stream = "text/event-stream" in request.headers.get("accept", "") and request.headers.get("x-dashscope-sse") == "enable"
        body = event_stream(envelope, is_incremental=is_incremental) if is_stream else envelope.as_bytes(fault)
        media_type = "text/event-stream" if is_stream else "application/json"
        if fault is not None and fault.kind in _BREAKS:
            self._end("broken", fault.kind)
            return await _break(fault, request, envelope.request_id, body, media_type)
        if await request.is_disconnected():
            self._end("abandoned", "abandoned")
            return Response(status_code=499)
        self.entry.outcome = fault.kind if fault is not None else "answered"
        self.ledger.settle(self.app_id, digest, envelope.input_tokens + envelope.output_tokens)
        if fault is not None and fault.kind is FaultKind.OVERSIZED:
            body = padded(body, fault.size_bytes)
        return Response(body, media_type=media_type, headers={"X-Request-Id": envelope.request_id})

    async def _wait(self, seen: SeenCall) -> None:
        latency = self.emulator.faults.plan.latency or self.emulator.config.latency
        seconds = latency.draw(seen.draw("latency"))
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _refuse(self, outcome: str, response: Response) -> Response:
        self._end("refused", outcome)
        return response

    def _end(self, count: str, outcome: str) -> None:
        for counted in self.counts:
            setattr(counted, count, getattr(counted, count) + 1)
        if self.entry is not None:
            self.entry.outcome = outcome


_BREAKS = frozenset(
    {
        FaultKind.CLOSE,
        FaultKind.RESET,
        FaultKind.CLOSE_IN_HEADERS,
        FaultKind.CLOSE_IN_BODY,
        FaultKind.CLOSE_IN_CHUNKS,
        FaultKind.STALL,
        FaultKind.STALL_AFTER_HEADERS,
        FaultKind.DRIP,
        FaultKind.DRIP_HEADERS,
        FaultKind.INFORMATIONAL,
        FaultKind.ENDLESS,
        FaultKind.BAD_JSON,
        FaultKind.EMPTY_BODY,
        FaultKind.NO_OUTPUT,
        FaultKind.NULL_OUTPUT,
    }
)


async def _break(fault: Fault, request: Request, request_id: str, body: bytes, media_type: str) -> Response | None:
    """What goes out instead of the body; None when it went past the server, which has noticed the end of the connection."""
    match fault.kind:
        case FaultKind.RESET:
            await reset_connection(request)
        case FaultKind.CLOSE_IN_HEADERS:
            await close_in_headers(request)
        case FaultKind.CLOSE_IN_BODY:
            await close_in_body(request, body, media_type)
        case FaultKind.CLOSE_IN_CHUNKS:
            await close_in_chunks(request, body, media_type)
        case FaultKind.STALL:
            await until_disconnected(request)
        case FaultKind.STALL_AFTER_HEADERS:
            return stall_after_headers(request, body, media_type)
        case FaultKind.DRIP:
            return drip(body, media_type, fault.interval_seconds)
        case FaultKind.DRIP_HEADERS:
            await drip_headers(request, fault.interval_seconds)
        case FaultKind.INFORMATIONAL:
            await informational(request, fault.error_status, body, fault.interval_seconds)
        case FaultKind.ENDLESS:
            return endless(fault.interval_seconds)
        case FaultKind.BAD_JSON:
            return broken_json(fault.error_status, body)
        case FaultKind.EMPTY_BODY:
            return Response(status_code=fault.error_status, media_type="application/json")
        case FaultKind.NO_OUTPUT:
            return json_response({"request_id": request_id}, request_id)
        case FaultKind.NULL_OUTPUT:
            return json_response({"output": None, "usage": None, "request_id": request_id}, request_id)
        case _:
            await close_connection(request)
    return None


def _refusal(fault: Fault, request: Request, envelope: Envelope) -> Response:
    match fault.kind:
        case FaultKind.HTML_ERROR:
            return html_error(fault.error_status)
        case FaultKind.REDIRECT:
            return redirect(request, fault.error_status)
        case _:
            return error_response(
                fault.error_status,
                fault.error_code,
                fault.message,
                request_id=envelope.request_id,
                retry_after_seconds=fault.retry_after_seconds,
                usage=envelope.as_json(None)["usage"] if fault.with_usage else None,
            )


def _asked(content: bytes) -> tuple[str, str | None, bool] | None:
    """Prompt, session id and whether a stream is to be incremental; None when the body is none that DashScope takes."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    asked = body.get("input") if isinstance(body, dict) else None
    if not isinstance(asked, dict):
        return None
    prompt = asked.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return None
    session_id, parameters = asked.get("session_id"), body.get("parameters")
    is_incremental = isinstance(parameters, dict) and parameters.get("incremental_output") is True
    return prompt, session_id if isinstance(session_id, str) and session_id else None, is_incremental


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Entry.__dataclass_fields__}


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"emulator": "dashscope"})


async def _to_page(_request: Request) -> Response:
    return RedirectResponse("/control/")


def create_app(config: EmulatorConfig) -> Starlette:
    """The ASGI application. Run it by `serve` or `running_emulator`: the fault `close` needs their HTTP protocol class."""
    emulator = Emulator(config)
    control = [
        Route("/", emulator.show_page),
        Route("/calls", emulator.show_calls),
        Route("/prompts", emulator.show_prompts),
        Route("/plan", emulator.show_plan),
        Route("/plan", emulator.put_plan, methods=["PUT"]),
        Route("/reset", emulator.post_reset, methods=["POST"]),
    ]
    return Starlette(
        routes=[
            Route("/api/v1/apps/{app_id}/completion", CompletionEndpoint(emulator)),
            Mount("/control", routes=control),
            Route("/healthz", _healthy),
            Route("/", _to_page),
        ]
    )
