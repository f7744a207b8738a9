"""The demo's events: fired as a back end fires them when a bill is settled, a note is written and a task is given to an assistant.

Members, assistants and the note are those of `ai_source`, but that something happened to them is made up: only a demo warehouse may be told
so. Where it knows no members, no event is fired. What becomes of the events is not decided here: they go through inbox, job and run like any
other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.member_answers import AnalysisAnswer, ClueAnswer, CustomerAnswer, NoteAnswer, TacticsAnswer, answer_model_of
from zqyy_ai.store import cache, events, run_logs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.terminal import POLL_SECONDS, STATUS_TITLES

_CLUES_SHOWN = 4

# Members for whom an assistant has something to do: first those whom that assistant has served, then who came last.
MEMBERS_WITH_TASKS: LiteralString = """
SELECT member_id, assistant_id
  FROM (
      SELECT DISTINCT ON (task.member_id) task.member_id::bigint, task.assistant_id::bigint, member.last_visit_on, EXISTS (
                 SELECT FROM ai_source.visits AS visit
                  WHERE visit.site_id = task.site_id AND visit.member_id = task.member_id
                    AND visit.assistants @> jsonb_build_array(jsonb_build_object('assistant_id', task.assistant_id))
             ) AS is_served
        FROM ai_source.tasks AS task
        JOIN ai_source.members AS member ON member.site_id = task.site_id AND member.member_id = task.member_id
       WHERE task.site_id = %(site_id)s AND task.status = 'open' AND member.last_visit_on IS NOT NULL
       ORDER BY task.member_id, is_served DESC, task.created_at DESC, task.task_id DESC
  ) AS wanted
 ORDER BY is_served DESC, last_visit_on DESC, member_id
 LIMIT 2
"""
# Of the newest notes the one that says most.
TELLING_NOTE: LiteralString = """
SELECT *
  FROM (
      SELECT member_id::bigint, note_id::bigint, content, noted_by_name, created_at
        FROM ai_source.notes
       WHERE site_id = %(site_id)s AND member_id <> ALL(%(but)s::bigint[]) AND btrim(content) <> ''
       ORDER BY created_at DESC, note_id DESC
       LIMIT 20
  ) AS newest
 ORDER BY length(content) DESC, note_id DESC
 LIMIT 1
"""
ENDS: LiteralString = """
SELECT event.id AS event_id, event.rejected_reason, job.id AS job_id, job.status, job.app_chain, job.progress, job.error_message,
       extract(epoch FROM job.finished_at - event.created_at)::float8 AS seconds
  FROM biz.ai_events AS event
  LEFT JOIN biz.ai_trigger_jobs AS job ON job.id = event.trigger_job_id
 WHERE event.id = ANY(%(event_ids)s)
"""
CLUES: LiteralString = """
SELECT member_id, category::text, summary, recorded_by_name
  FROM (
      SELECT *, row_number() OVER (PARTITION BY member_id ORDER BY id) AS place
        FROM public.member_retention_clue
       WHERE site_id = %(site_id)s AND member_id = ANY(%(member_ids)s) AND source::text LIKE 'ai%%'
  ) AS clue
 WHERE place <= %(most)s
 ORDER BY member_id, place
"""


@dataclass(frozen=True, slots=True)
class FiredEvent:
    """`event_id` is the inbox row's."""

    event_id: int
    title: str
    member_id: int


@dataclass(frozen=True, slots=True)
class EventEnd:
    """How far an event has come. `seconds`: from the event to the end of its job; negative when an earlier event's job stands for it."""

    event: FiredEvent
    job_id: int | None = None
    status: JobStatus | None = None
    app_chain: str = ""
    done: int = 0
    total: int = 0
    seconds: float | None = None
    why: str = ""

    @property
    def is_over(self) -> bool:
        return self.status.is_final if self.status is not None else bool(self.why)

    @property
    def is_good(self) -> bool:
        return self.status is JobStatus.COMPLETED


def fire_events(database: Database, site_id: int) -> list[FiredEvent]:
    """A settled consumption with an assistant, a note, an assignment; fewer where the site's data have less to tell of."""
    try:
        with database.autocommit() as connection:
            found = _what_happened(connection, site_id)
    except psycopg.ProgrammingError:
        return []  # no such views, or not for us to read
    fired = []
    for name, title, payload in found:
        with database.autocommit() as connection:
            event_id = events.fire(connection, name, {"site_id": site_id, **payload})
        if event_id is not None:
            fired.append(FiredEvent(event_id, title, payload["member_id"]))
    return fired


def _what_happened(connection: Connection, site_id: int) -> list[tuple[EventName, str, dict[str, Any]]]:
    served = connection.execute(MEMBERS_WITH_TASKS, {"site_id": site_id}).fetchall()
    note = connection.execute(TELLING_NOTE, {"site_id": site_id, "but": [row["member_id"] for row in served]}).fetchone()
    happened: list[tuple[EventName, str, dict[str, Any]]] = []
    if served:
        happened.append((EventName.CONSUMPTION_SETTLED, "消费结账（有助教）", {**served[0], "has_assistant": True}))
    if note is not None:
        told = {
            "member_id": note["member_id"],
            "note_id": note["note_id"],
            "note_content": note["content"],
            "noted_by_name": note["noted_by_name"],
            "noted_by_created_at": note["created_at"].isoformat(),
        }
        happened.append((EventName.NOTE_CREATED, "员工备注", told))
    if len(served) > 1:
        happened.append((EventName.TASK_ASSIGNED, "任务分配", dict(served[1])))
    return happened


def await_ends(database: Database, fired: list[FiredEvent], wait: Callable[[float], None], *, patience_seconds: float) -> list[EventEnd]:
    """How the events ended; where none of them has come a step further for `patience_seconds`, how far they are.

    That is longer than a step may take: an emulator's chains are done in seconds, a model's in many minutes. `wait` sleeps, and may raise to leave.
    """
    ends = _ends(database, fired)
    seconds_without_progress = 0.0
    while not all(end.is_over for end in ends) and seconds_without_progress < patience_seconds:
        wait(POLL_SECONDS)
        before, ends = ends, _ends(database, fired)
        seconds_without_progress = seconds_without_progress + POLL_SECONDS if ends == before else 0.0
    return ends


def _ends(database: Database, fired: list[FiredEvent]) -> list[EventEnd]:
    with database.autocommit() as connection:
        rows = {row["event_id"]: row for row in connection.execute(ENDS, {"event_ids": [event.event_id for event in fired]})}
    return [_end(event, rows.get(event.event_id)) for event in fired]


def _end(event: FiredEvent, row: dict[str, Any] | None) -> EventEnd:
    if row is None or row["job_id"] is None:
        return EventEnd(event, why=(row or {}).get("rejected_reason") or "")
    progress = row["progress"] or {}
    return EventEnd(
        event,
        row["job_id"],
        JobStatus(row["status"]),
        row["app_chain"] or "",
        progress.get("done", 0),
        progress.get("total", 0),
        row["seconds"],
        row["error_message"] or "",
    )


def show_ends(console: Console, ends: list[EventEnd]) -> None:
    table = Table(title="会员事件（biz.fire_ai_event）", title_justify="left")
    for heading in ("事件", "会员", "调用链"):
        table.add_column(heading, overflow="fold")
    for heading in ("步骤", "用时（秒）"):
        table.add_column(heading, justify="right")
    table.add_column("状态", overflow="fold")
    for end in ends:
        status = STATUS_TITLES.get(end.status, end.status) if end.status is not None else "被拒绝" if end.why else "未接收"
        is_earlier = end.seconds is not None and end.seconds < 0
        table.add_row(
            end.event.title,
            str(end.event.member_id),
            end.app_chain,
            f"{end.done} / {end.total}" if end.status is not None else "",
            "" if end.seconds is None else "当天已处理" if is_earlier else f"{end.seconds:.1f}",
            f"{status} {end.why}".strip(),
        )
    console.print(table)


def show_answers(console: Console, database: Database, site_id: int, ends: list[EventEnd]) -> None:
    """What the events' steps have answered, in short, and the clues that came of them."""
    with database.autocommit() as connection:
        asked = {
            (AppType(step.app_type), step.target_id): None
            for end in ends
            if end.job_id is not None
            for step in run_logs.steps_of_job(connection, end.job_id)
        }
        # From the cache, as others read them: a step may have reused what was there.
        now = SystemClock().now()
        found = [(app, target, cache.get_latest(connection, APPS[app].cache_type, site_id, target, now=now)) for app, target in asked]
        member_ids = [end.event.member_id for end in ends]
        clues = connection.execute(CLUES, {"site_id": site_id, "member_ids": member_ids, "most": _CLUES_SHOWN}).fetchall()
    answers = Table(title="会员回答示例（biz.ai_cache）", title_justify="left", show_lines=True)
    for heading in ("应用", "目标", "内容"):
        answers.add_column(heading, overflow="fold")
    for app, target_id, answer in found:
        text = in_short(app, answer.result_json) if answer is not None else ""
        if text:
            answers.add_row(APPS[app].title, target_id, text)
    console.print(answers)
    table = Table(title="维客线索示例（member_retention_clue）", title_justify="left")
    for heading in ("会员", "类别", "线索", "提供者"):
        table.add_column(heading, overflow="fold")
    for clue in clues:
        table.add_row(str(clue["member_id"]), clue["category"], clue["summary"], clue["recorded_by_name"] or "")
    console.print(table)


def in_short(app: AppType, result: dict[str, Any]) -> str:
    """The line of a member application's answer that says most; empty for App8, whose clues have a table of their own."""
    try:
        answer = answer_model_of(app).model_validate(result)
    except ValidationError:
        return "（其他程序写入的回答，格式不同）"  # the cache has other writers
    match answer:
        case ClueAnswer():
            return "；".join(f"{clue.emoji} {clue.summary}".strip() for clue in answer.clues[:_CLUES_SHOWN])
        case NoteAnswer():
            return f"评分 {answer.score}：{answer.summary}"
        case CustomerAnswer():
            return answer.summary
        case AnalysisAnswer():
            return answer.one_line_summary
        case TacticsAnswer():
            return f"{answer.tactics[0].scenario}：{answer.tactics[0].script}"
        case _:
            return ""
