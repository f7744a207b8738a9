"""`biz.ai_run_logs`: one row for each call, and one for each refusal or reuse.

    (insert) ─→ running ─→ success | failed | timeout        a call that reached the model
    (insert) ─→ failed                                       a guard's refusal: error_message says which
    (insert) ─→ reused                                       unchanged input: no call

A row that has ended is never changed again, but for the charge of a call whose process died. A log that cannot be written down (the disk
of its table is full) keeps no call from being accounted for and no answer from being written: only `start` raises then, because a call
without a log is not made.
"""

import logging
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.runtime_context import RuntimeMode
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.storable_text import storable, storable_or_none

logger = logging.getLogger(__name__)

_WORKER_DIED = "the run process died during the call; the outcome is unknown"


class RunStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class RunSubject:
    """Whom and what a run log is about. `trigger_type` is event, cron or manual; `trigger_job_id` the job's row, where there is one."""

    app_type: str
    site_id: int
    target_id: str
    trigger_type: str
    trigger_job_id: int | None = None
    member_id: int | None = None
    assistant_id: int | None = None
    dagster_run_id: str | None = None
    input_hash: str | None = None
    runtime_mode: str = RuntimeMode.LIVE.value
    sandbox_date: date | None = None

    def columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a call ended. Tokens are None where DashScope did not report them; `charged_tokens` is what the budget was charged."""

    status: RunStatus
    latency_ms: int
    charged_tokens: int
    response_text: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_reported: bool = False
    model_ids: tuple[str, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    session_id: str | None = None
    request_id: str | None = None


def start(connection: Connection, subject: RunSubject, request_prompt: str) -> int:
    """Adds a `running` row just before a call is sent; returns its id."""
    row = connection.execute(named_queries("run_logs")["start"], {**subject.columns(), "request_prompt": request_prompt}).fetchone()
    assert row is not None
    return int(row["id"])


def discard_unsent(connection: Connection, subject: RunSubject) -> None:
    """Deletes a `running` row whose commit was not confirmed, before its transaction is repeated. Only for who holds the target's claim."""
    connection.execute(named_queries("run_logs")["discard_unsent"], subject.columns())


def finish(connection: Connection, log_id: int, end: RunEnd) -> bool:
    """Ends a running row; one that has ended already (its worker was given up for dead) stays as it is. False when there is no room."""
    written = _if_there_is_room(
        connection,
        "finish",
        {
            "log_id": log_id,
            "status": end.status.value,
            "response_text": storable_or_none(end.response_text),
            "tokens_used": end.charged_tokens,
            "input_tokens": end.input_tokens,
            "output_tokens": end.output_tokens,
            "usage_reported": end.usage_reported,
            "model_ids": [storable(name) for name in end.model_ids],
            "latency_ms": end.latency_ms,
            "error_code": storable_or_none(end.error_code),
            "error_message": storable_or_none(end.error_message),
            "session_id": storable_or_none(end.session_id),
            "request_id": storable_or_none(end.request_id),
        },
    )
    return written is not None


def _if_there_is_room(connection: Connection, query: str, parameters: dict[str, Any]) -> int | None:
    """Rows changed, None when there is no room. In a savepoint, so that a full disk takes nothing else of the transaction back."""
    try:
        with connection.transaction():
            return connection.execute(named_queries("run_logs")[query], parameters).rowcount
    except psycopg.errors.DiskFull:
        logger.exception("run_logs.no_room query=%s", query)
        return None


def record(
    connection: Connection,
    subject: RunSubject,
    status: RunStatus,
    *,
    request_prompt: str | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
) -> int | None:
    """Adds a row for something that ended without a call: a reuse or a refusal; returns its id, None when there is no room for it."""
    columns = {
        **subject.columns(),
        "request_prompt": request_prompt,
        "status": status.value,
        "error_code": error_code,
        "error_message": error_message,
    }
    try:
        with connection.transaction():
            row = connection.execute(named_queries("run_logs")["record"], columns).fetchone()
    except psycopg.errors.DiskFull:
        logger.exception("run_logs.no_room query=record")
        return None
    assert row is not None
    return int(row["id"])


def close_of_dead_run(connection: Connection, dagster_run_id: str) -> int | None:
    """Ends the rows that a dead run left running; returns how many, None when there is no room."""
    return _if_there_is_room(connection, "close_of_dead_run", {"dagster_run_id": dagster_run_id, "error_message": _WORKER_DIED})


def close_abandoned(connection: Connection) -> int | None:
    """Ends the rows that nobody works on any more, because their job is not running, or in another run; returns how many, or None as above.

    A row whose answer is in the cache is a success whose end could not be written down; what became of the others is unknown.
    """
    return _if_there_is_room(connection, "close_abandoned", {"error_message": _WORKER_DIED})


def close_of_dead_call(connection: Connection, log_id: int, *, charged_tokens: int) -> int | None:
    """Ends the row of a call whose process died, with what the budget was charged; one that ended with an outcome stays as it is."""
    return _if_there_is_room(
        connection, "close_of_dead_call", {"log_id": log_id, "tokens_used": charged_tokens, "error_message": _WORKER_DIED}
    )


@dataclass(frozen=True, slots=True)
class UsualCall:
    """What a successful call of an application takes on average. The parts of `tokens` are None where no call has reported them."""

    tokens: float
    seconds: float
    input_tokens: float | None = None
    output_tokens: float | None = None


def usual_calls(connection: Connection, *, since: datetime) -> dict[str, UsualCall]:
    """By application, over the calls that succeeded since then; none for one that was not called."""
    rows = connection.execute(named_queries("run_logs")["usual_calls"], {"since": since})
    return {
        row["app_type"]: UsualCall(
            float(row["tokens"]),
            float(row["seconds"]),
            None if row["input_tokens"] is None else float(row["input_tokens"]),
            None if row["output_tokens"] is None else float(row["output_tokens"]),
        )
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class JobStep:
    """One row of a job: a call, a refusal or a reuse. `result_json` is the answer that it brought or reused, if it is still in the cache."""

    app_type: str
    target_id: str
    status: str
    error_code: str | None
    error_message: str | None
    tokens_used: int | None
    latency_ms: int | None
    result_json: dict[str, Any] | None


def steps_of_job(connection: Connection, job_id: int) -> list[JobStep]:
    """Oldest first."""
    cache_types = Jsonb({app.value: row.cache_type for app, row in APPS.items()})
    rows = connection.execute(named_queries("run_logs")["of_job"], {"job_id": job_id, "cache_types": cache_types})
    return [JobStep(**row) for row in rows]
