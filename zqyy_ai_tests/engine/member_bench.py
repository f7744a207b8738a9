"""What the tests of members' events are built from: a demo warehouse, events, runs that take them, and looks at what came of them.

Each engine stands for a process of its own. The clocks are the real ones: what has to become due is made due in the table.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.types.json import Jsonb

from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.engine.assembly import Engine, build_engine
from zqyy_ai.engine.chain_pool import Outcome
from zqyy_ai.engine.event_run import EventRun
from zqyy_ai.engine.intake import IntakeCount, take_in
from zqyy_ai.engine.member_chain import StepOutcome
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store import event_runs, events, trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import EmulatorControl, settings_for, wait_until

DEMO_TEMPLATE = "zqyy_demo_members"
UNTIL = date(2026, 4, 20)
"""The demo's last day, fixed: the same members have the same visits on every day on which the tests run."""
SITE, OTHER_SITE, CLOSED_SITE = 1001, 1002, 1004

Payload = dict[str, Any]
Row = dict[str, Any]

# A refusal by the server that time cures and that a step does not wait out.
PASSING = {"kind": "http_error", "status": 503, "retry_after_seconds": 60.0}
# One that nothing cures, at no price.
FINAL = {"kind": "http_error", "status": 400}
# An answer that is paid and cannot be used, twice.
INVALID = {"kind": "wrong_schema"}


def fill(url: str) -> None:
    """Two sites with twenty members each, and one that is closed."""
    demo_data.fill(url, sites=2, days=60, members=20, until=UNTIL)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO biz.sites (site_id, site_name, is_active) VALUES (%s, '武侯店', false)", [CLOSED_SITE])


@dataclass(frozen=True, slots=True)
class Prompt:
    """One that reached the emulator. `facts` is the JSON that it holds."""

    app_id: str
    text: str
    received_at: str

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.text.partition("\n<facts>\n")[2].partition("\n</facts>")[0])
        return facts


class OpenRun:
    """An event run in a thread, open from the block's start on. At its end it is given up, as Dagster would, and waited for."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self.run_id = run_id
        self.engine = engine
        self.outcomes: list[StepOutcome] = []
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._take, name=f"open run {run_id}")

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.is_over or self.is_open)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.engine.database.autocommit() as connection:
            event_runs.close_run(connection, self.run_id)
            trigger_jobs.wake_workers(connection)
        self._thread.join()
        if self.failure is not None and error is None:
            raise self.failure

    @property
    def is_open(self) -> bool:
        with self.engine.database.autocommit() as connection:
            return event_runs.is_open(connection, self.run_id)

    @property
    def is_over(self) -> bool:
        """The thread has ended; before it began, it has not."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def _take(self) -> None:
        try:
            for outcome in EventRun(self.engine, self.run_id).outcomes():
                if isinstance(outcome, StepOutcome):
                    self.outcomes.append(outcome)
        except BaseException as failure:
            self.failure = failure


@dataclass
class MemberBench:
    """A database with demo members of a test's own, and an emulator."""

    database: Database
    emulator: EmulatorControl
    connection: Connection
    _engines: ExitStack = field(default_factory=ExitStack)

    # Processes

    def engine(self, **environment: str) -> Engine:
        return self._engines.enter_context(self.abandoned_engine(**environment))

    def abandoned_engine(self, **environment: str) -> Engine:
        """One whose heartbeat never beats: a process that dies after what the test lets it do."""
        app_ids = {app.app_id_setting: app_id(app.app_type) for app in APPS.values()}
        quick = {"ZQYY_EVENT_RUN_IDLE_SECONDS": "0.05", "ZQYY_BREAKER_FAILURES": "1000"}
        return build_engine(settings_for(self.database, self.emulator, **app_ids, **(quick | environment)))

    def drain(self, engine: Engine | None = None, run_id: str = "run-1", **environment: str) -> list[StepOutcome]:
        """A run that takes all that waits, and closes as soon as nothing does; the steps of members' chains."""
        return [outcome for outcome in self.drain_all(engine, run_id, **environment) if isinstance(outcome, StepOutcome)]

    def drain_all(self, engine: Engine | None = None, run_id: str = "run-1", **environment: str) -> list[Outcome]:
        """The same with the windows that jobs asked for."""
        with self.woken_often():
            return list(EventRun(engine or self.engine(**environment), run_id).outcomes())

    def open_run(self, run_id: str = "run-1", **environment: str) -> OpenRun:
        """A run that stays open for the test."""
        return OpenRun(self.engine(**({"ZQYY_EVENT_RUN_IDLE_SECONDS": "60"} | environment)), run_id)

    @contextmanager
    def woken_often(self) -> Iterator[None]:
        """Whoever listens for work looks every moment instead of every second."""
        over = threading.Event()

        def wake() -> None:
            with psycopg.connect(self.database.url, autocommit=True) as connection:
                while not over.wait(0.05):
                    connection.execute("SELECT pg_notify(%s, '')", [events.WORK_CHANNEL])

        thread = threading.Thread(target=wake)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        self._engines.close()

    # Events

    def fire(self, name: str, payload: Payload) -> int:
        event_id = events.fire(self.connection, name, payload)
        assert event_id is not None
        return event_id

    def consumption(self, member_id: int, assistant_id: int | None = None, **more: Any) -> int:
        served = {} if assistant_id is None else {"has_assistant": True, "assistant_id": assistant_id}
        return self.fire(EventName.CONSUMPTION_SETTLED, {"site_id": SITE, "member_id": member_id} | served | more)

    def note(self, member_id: int, content: str = "客人说周末要带同事来打球,喜欢安静的台", **more: Any) -> int:
        written = {"noted_by_name": "小王", "noted_by_created_at": "2026-04-20T10:00:00+08:00"}
        return self.fire(EventName.NOTE_CREATED, {"site_id": SITE, "member_id": member_id, "note_content": content} | written | more)

    def assignment(self, member_id: int, assistant_id: int, **more: Any) -> int:
        return self.fire(EventName.TASK_ASSIGNED, {"site_id": SITE, "member_id": member_id, "assistant_id": assistant_id} | more)

    def take_in(self, context: RuntimeContext = LIVE) -> IntakeCount:
        return take_in(self.database, SystemClock(), context)

    def set_trigger(self, name: EventName, **columns: object) -> None:
        for column, value in columns.items():
            self.connection.execute(f"UPDATE biz.trigger_jobs SET {column} = %s WHERE job_name = %s".encode(), [value, name])

    def set_policy(self, name: EventName, policy: str) -> None:
        self.connection.execute(
            "UPDATE biz.trigger_jobs SET trigger_config = trigger_config || jsonb_build_object('dedup_policy', %s::text) WHERE job_name = %s",
            [policy, name],
        )

    # The warehouse

    def _ids(self, query: str, *parameters: object) -> list[int]:
        return [row["id"] for row in self.connection.execute(query.encode(), parameters)]

    def visitors(self, site_id: int = SITE) -> list[int]:
        """Members with visits, without notes and open tasks."""
        return self._ids(
            "SELECT member_id AS id FROM ai_source.members m WHERE site_id = %s"
            " AND EXISTS (SELECT FROM ai_source.visits v WHERE (v.site_id, v.member_id) = (m.site_id, m.member_id))"
            " AND NOT EXISTS (SELECT FROM ai_source.notes n WHERE (n.site_id, n.member_id) = (m.site_id, m.member_id))"
            " AND NOT EXISTS (SELECT FROM ai_source.tasks t WHERE (t.site_id, t.member_id, t.status) = (m.site_id, m.member_id, 'open'))"
            " ORDER BY 1",
            site_id,
        )

    def strangers(self, site_id: int = SITE) -> list[int]:
        """Members who never came, and of whom nobody wrote anything."""
        return self._ids(
            "SELECT member_id AS id FROM ai_source.members m WHERE site_id = %s"
            " AND NOT EXISTS (SELECT FROM ai_source.visits v WHERE (v.site_id, v.member_id) = (m.site_id, m.member_id))"
            " AND NOT EXISTS (SELECT FROM ai_source.notes n WHERE (n.site_id, n.member_id) = (m.site_id, m.member_id))"
            " ORDER BY 1",
            site_id,
        )

    def assistants(self, site_id: int = SITE) -> list[int]:
        return self._ids("SELECT assistant_id AS id FROM ai_source.assistants WHERE site_id = %s AND is_active ORDER BY 1", site_id)

    def bring_finance_up_to_date(self) -> None:
        """The demo's sixty days of finance once more, up to today: the present windows have something to ask about."""
        self.connection.execute(
            "WITH shift AS (SELECT (now() AT TIME ZONE 'Asia/Shanghai')::date - %(until)s::date AS days), moved AS ("
            " INSERT INTO demo_dws.area_daily SELECT (jsonb_populate_record(daily, jsonb_build_object('business_date', business_date + days))).*"
            " FROM demo_dws.area_daily AS daily, shift ON CONFLICT DO NOTHING)"
            " UPDATE demo_dws.etl_runs SET loaded_through = loaded_through + days FROM shift",
            {"until": UNTIL},
        )

    def add_visit(self, member_id: int, paid_cny: int = 4321) -> None:
        """The member came once more, after all visits of the demo: every prompt about visits changes."""
        self.connection.execute(
            "INSERT INTO demo_dws.visits (site_id, visit_id, member_id, business_date, started_at, ended_at, guest_count, gross_cny,"
            " discount_cny, paid_cny) SELECT site_id, max(visit_id) + 1, %(member_id)s, '2026-04-21', '2026-04-21 19:00+08', '2026-04-21 21:00+08',"
            " 2, %(paid_cny)s, 0, %(paid_cny)s FROM demo_dws.visits WHERE site_id = %(site_id)s GROUP BY site_id",
            {"member_id": member_id, "paid_cny": paid_cny, "site_id": SITE},
        )

    def serve(self, member_id: int, assistant_id: int) -> None:
        """The assistant served the member on the member's visits."""
        served = [{"assistant_id": assistant_id, "assistant_name": "小陈", "hours": 1.5, "fee_cny": 150}]
        self.connection.execute("UPDATE demo_dws.visits SET assistants = %s WHERE member_id = %s", [Jsonb(served), member_id])

    def add_note(self, member_id: int, content: str, noted_by_name: str) -> None:
        """Written after all notes of the demo; no event tells of it."""
        self.connection.execute(
            "INSERT INTO demo_dws.notes (site_id, note_id, member_id, content, noted_by_name, created_at)"
            " SELECT %s, coalesce(max(note_id), 0) + 1, %s, %s, %s, '2026-04-21 12:00+08' FROM demo_dws.notes",
            [SITE, member_id, content, noted_by_name],
        )

    def add_task(self, member_id: int, assistant_id: int, title: str = "生日前关怀") -> None:
        self.connection.execute(
            "INSERT INTO demo_dws.tasks (site_id, task_id, member_id, assistant_id, task_type, title, created_at)"
            " SELECT %(site_id)s, coalesce(max(task_id), 0) + 1, %(member_id)s, %(assistant_id)s, 'birthday', %(title)s, '2026-04-20 12:00+08'"
            " FROM demo_dws.tasks",
            {"site_id": SITE, "member_id": member_id, "assistant_id": assistant_id, "title": title},
        )

    # What came of it

    def jobs(self) -> list[Row]:
        return self.connection.execute("SELECT * FROM biz.ai_trigger_jobs ORDER BY id").fetchall()

    def job(self) -> Row:
        [job] = self.jobs()
        return job

    def statuses(self) -> list[str]:
        return [job["status"] for job in self.jobs()]

    def inbox(self) -> list[Row]:
        return self.connection.execute("SELECT * FROM biz.ai_events ORDER BY id").fetchall()

    def make_due(self) -> None:
        """What was sent back may go on at once."""
        self.connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = NULL WHERE status = 'pending'")
        trigger_jobs.wake_workers(self.connection)

    def cached(self, app: AppType | None = None) -> list[Row]:
        rows = self.connection.execute("SELECT * FROM biz.ai_cache ORDER BY id").fetchall()
        return [row for row in rows if app is None or row["cache_type"] == APPS[app].cache_type]

    def clues(self) -> list[Row]:
        return self.connection.execute("SELECT * FROM public.member_retention_clue ORDER BY id").fetchall()

    def trigger(self, name: EventName) -> Row:
        row = self.connection.execute("SELECT * FROM biz.trigger_jobs WHERE job_name = %s", [name]).fetchone()
        assert row is not None
        return row

    def prompts(self, app: AppType | None = None) -> list[Prompt]:
        """Of the last calls, oldest first."""
        entries = self.emulator.session.get(f"{self.emulator.running.origin}/control/prompts").json()
        prompts = [Prompt(entry["app_id"], entry["prompt"], entry["received_at"]) for entry in reversed(entries)]
        return [prompt for prompt in prompts if app is None or prompt.app_id == app_id(app)]

    def posts(self) -> dict[str, int]:
        """Calls by application, as `app3`; those without any are not there."""
        return {name.removeprefix("id-").partition("_")[0]: posts for name, posts in self.emulator.posts_by_app_id.items() if posts}

    def wait_for_jobs(self, is_so: Callable[[list[str]], bool]) -> None:
        wait_until(lambda: is_so(self.statuses()))


def app_id(app: AppType) -> str:
    return f"id-{app.value}"


def told(outcomes: Sequence[Outcome]) -> list[tuple[str, StepStatus]]:
    """Each step's short name (`app3`) and how it ended."""
    return [(outcome.step.app_type.value.partition("_")[0], outcome.result.status) for outcome in outcomes]


def names(outcomes: Sequence[Outcome]) -> list[str]:
    return [name for name, _ in told(outcomes)]


def results(outcomes: list[StepOutcome]) -> set[StepStatus]:
    return {status for _, status in told(outcomes)}


def codes(outcomes: list[StepOutcome]) -> dict[str, str | None]:
    """The error code of each step that has not succeeded."""
    return {
        name: outcome.result.error_code for name, outcome in zip(names(outcomes), outcomes, strict=True) if outcome.result.status.is_bad
    }
