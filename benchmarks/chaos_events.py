"""Members' events under faults: 500 of them, poison among them, while one fault after another plays; judged when all work is at its end.

What is judged is in `Outcome.broken_promises`: each line of it is a promise that docs/reliability.md makes.
"""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from benchmarks import faults
from benchmarks.faults import MOST_RECOVERY_SECONDS, Faults, LeftOver, Motion, Scenario
from benchmarks.stage import Stage
from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.events import ASSISTANT_APPS, Event, EventName, parse_event

EVENTS = 500
POISON_SHARE = 0.04
# So that a scenario's events come within half a minute, and are worked off in less than two.
EVENTS_A_SECOND = 20.0
LATENCY = {"kind": "uniform", "low_seconds": 0.3, "high_seconds": 0.9}
MEMBERS_OF_SITE = 100
BROKEN_OF_SITE = 2
MOST_ALERTS = 3
_TICK_SECONDS = 0.005
# No more than a run's pool has connections: who is held up keeps one.
_CALLS_SEEN = 4
# Leases last longer.
_LONGEST_HOLD_UP_SECONDS = 3.0


# The events


@dataclass(frozen=True, slots=True)
class Firing:
    """An event as a caller gives it: the payload is JSON text, or None for NULL."""

    name: str | None
    payload: str | None


@dataclass(frozen=True, slots=True)
class PlantedJob:
    """A job row that somebody else's hand wrote: nothing can be made of it."""

    event_type: str
    site_id: int
    member_id: int | None
    payload: str


@dataclass(slots=True)
class Day:
    """What happens, in this order, and what must come of it. Only events that are meant have the mark `good` in their payload.

    `targets`: (application, site, target) of every answer that must be there at the end; `jobs`: how many jobs complete; `failing`: how many
    fail, and nothing else does.
    """

    happenings: list[Firing | PlantedJob] = field(default_factory=list)
    targets: set[tuple[AppType, int, str]] = field(default_factory=set)
    jobs: int = 0
    failing: int = 0


def plan_day(played: Stage, chance: random.Random, events: int) -> Day:
    """Members are few enough that some have several events, of one kind and of several."""
    day, sites = Day(), played.sites()
    members = _by_site(played, _MEMBERS)
    assistants = _by_site(played, _ASSISTANTS)
    poison = list(_poison(chance, members))[: max(1, round(events * POISON_SHARE))]
    seen: set[tuple[Any, ...]] = set()
    for number in range(events - len(poison)):
        site = chance.choice(sites)
        name, payload = _good_event(chance, site, chance.choice(members[site][:-BROKEN_OF_SITE]), chance.choice(assistants[site]), number)
        event = parse_event(name, payload)
        day.happenings.append(Firing(name.value, json.dumps(payload, ensure_ascii=False)))
        key = (event.event_type, event.site_id, event.member_id, event.subject)
        if key not in seen:
            seen.add(key)
            day.jobs += 1
            day.targets |= _targets_of(event)
    for happening, fails in poison:
        day.happenings.insert(chance.randrange(len(day.happenings)), happening)
        day.failing += fails
    return day


# Those with visits; the last of each site are the ones that `broken_members` breaks.
_MEMBERS = "SELECT site_id, member_id AS id FROM ai_source.members WHERE last_visit_on IS NOT NULL ORDER BY 1, 2"
_ASSISTANTS = "SELECT site_id, assistant_id AS id FROM ai_source.assistants ORDER BY 1, 2"


def _by_site(played: Stage, query: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in played.rows(query):
        found.setdefault(row["site_id"], []).append(row["id"])
    return {site: ids[:MEMBERS_OF_SITE] for site, ids in found.items()}


def _good_event(chance: random.Random, site: int, member: int, assistant: int, number: int) -> tuple[EventName, dict[str, Any]]:
    payload: dict[str, Any] = {"site_id": site, "member_id": member, "good": True}
    kind = chance.choices(("consumption", "with_assistant", "note", "assignment"), weights=(45, 15, 25, 15))[0]
    match kind:
        case "consumption":
            return EventName.CONSUMPTION_SETTLED, payload
        case "with_assistant":
            return EventName.CONSUMPTION_SETTLED, payload | {"has_assistant": True, "assistant_id": assistant}
        case "note":
            text = f"客人说第{number}次来想约周末晚场，喜欢靠窗的球台，下次带朋友一起来练球"
            return EventName.NOTE_CREATED, payload | {"note_id": number + 1, "note_content": text, "noted_by_name": "前台小周"}
        case _:
            return EventName.TASK_ASSIGNED, payload | {"assistant_id": assistant}


def _targets_of(event: Event) -> set[tuple[AppType, int, str]]:
    member = str(event.member_id)
    return {(app, event.site_id, f"{event.assistant_id}_{member}" if app in ASSISTANT_APPS else member) for app in event.apps}


def _poison(chance: random.Random, members: dict[int, list[int]]) -> Iterator[tuple[Firing | PlantedJob, bool]]:
    """Twenty of them, each with whether a job comes of it that fails; of fewer, the first ones have some of each kind."""
    settled, noted, assigned = (EventName.CONSUMPTION_SETTLED.value, EventName.NOTE_CREATED.value, EventName.TASK_ASSIGNED.value)
    site = chance.choice(sorted(members))
    member, broken = members[site][0], {site: ids[-BROKEN_OF_SITE:] for site, ids in members.items()}
    yield Firing(settled, json.dumps({"site_id": str(site), "member_id": member})), False
    yield Firing(settled, json.dumps({"site_id": site, "member_id": broken[site][0]})), True
    yield PlantedJob("run_app", site, member, "{}"), True
    yield PlantedJob("chat", site, member, "{}"), True
    yield Firing(settled, json.dumps({"site_id": 999_001, "member_id": member})), False
    yield Firing("ai_unheard_of", json.dumps({"site_id": site, "member_id": member})), False
    yield Firing(noted, json.dumps({"site_id": site, "member_id": member, "note_content": "字" * 100_000})), False
    yield Firing(assigned, None), False
    yield Firing(settled, "[1, 2, 3]"), False
    yield Firing(settled, f'{{"site_id": {site}, "member_id": {member}, "amount": 1e5000}}'), False
    yield Firing(noted, json.dumps({"site_id": site, "member_id": member})), False
    yield Firing(assigned, json.dumps({"site_id": site, "member_id": member})), False
    yield Firing(None, json.dumps({"site_id": site})), False
    yield Firing(settled, json.dumps({"site_id": site, "member_id": -member})), False
    yield PlantedJob("run_app", site, None, json.dumps({"app_type": "app7_customer"})), True
    yield PlantedJob("note_created", site, member, "{}"), True
    yield PlantedJob("backfill", site, member, "[4, 5]"), True
    other = chance.choice(sorted(members))
    yield Firing(noted, json.dumps({"site_id": other, "member_id": broken[other][1], "note_content": "球杆要换皮头"})), True
    yield Firing(settled, json.dumps({"site_id": 999_002, "member_id": member})), False
    yield Firing(settled, '"consumption"'), False


@contextlib.contextmanager
def broken_members(played: Stage) -> Iterator[None]:
    """Two members of each site have visits that are not as the warehouse's contract says."""
    broken = [member for ids in _by_site(played, _MEMBERS).values() for member in ids[-BROKEN_OF_SITE:]]
    played.execute("UPDATE demo_dws.visits SET tables = tables || '\"?\"' WHERE member_id = ANY(%s)", broken)
    try:
        yield
    finally:
        played.execute("UPDATE demo_dws.visits SET tables = tables - '?' WHERE member_id = ANY(%s)", broken)


def _happen(played: Stage, happening: Firing | PlantedJob) -> None:
    """As a patient caller does it, who repeats what was not confirmed."""

    def fire(connection: psycopg.Connection[Any]) -> None:
        if isinstance(happening, Firing):
            connection.execute("SELECT biz.fire_ai_event(%s, %s::jsonb)", [happening.name, happening.payload])
        else:
            connection.execute(
                "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, payload, status, dedup_key)"
                " VALUES (%(event_type)s, %(site_id)s, %(member_id)s, %(payload)s::jsonb, 'pending', 'planted')",
                asdict(happening),
            )

    played.database.write_surely(fire)


# The faults that only a run for events has: one process, killed at four moments of its calls


_NEWEST_RUN = "SELECT run_id FROM biz.ai_event_runs ORDER BY opened_at DESC LIMIT 1"
# What has come of the newest run's calls, which is the one at work.
_ADMITTED = (
    "WITH newest AS (SELECT * FROM biz.ai_event_runs ORDER BY opened_at DESC LIMIT 1)"
    " SELECT count(*) FROM biz.ai_budget_reservations JOIN newest USING (worker_id) WHERE sent_at IS NULL"
)
_SENT = (
    "WITH newest AS (SELECT * FROM biz.ai_event_runs ORDER BY opened_at DESC LIMIT 1)"
    " SELECT count(*) FROM biz.ai_budget_reservations JOIN newest USING (worker_id) WHERE sent_at IS NOT NULL"
)
_REPLIED = (
    "WITH newest AS (SELECT * FROM biz.ai_event_runs ORDER BY opened_at DESC LIMIT 1)"
    " SELECT count(*) FROM biz.ai_run_logs log JOIN newest ON newest.run_id = log.dagster_run_id"
    " WHERE log.status = 'success' AND NOT EXISTS (SELECT FROM biz.ai_cache cached WHERE cached.run_log_id = log.id)"
)
# `now()` is when the writes were held up.
_WRITTEN = (
    "WITH newest AS (SELECT * FROM biz.ai_event_runs ORDER BY opened_at DESC LIMIT 1)"
    " SELECT count(*) FROM biz.ai_cache cached JOIN biz.ai_run_logs log ON log.id = cached.run_log_id"
    " JOIN newest ON newest.run_id = log.dagster_run_id WHERE cached.created_at > now()"
)


def killed_before_calls(motion: Motion) -> None:
    """Chains wait, admitted by all guards; no log can be begun, so no call is sent."""
    _kill_twice(motion, _ADMITTED, held_up="biz.ai_run_logs")


def killed_during_calls(motion: Motion) -> None:
    _kill_twice(motion, _SENT)


def killed_after_replies(motion: Motion) -> None:
    """Replies have come and are paid; none of them can be written."""
    _kill_twice(motion, _REPLIED, held_up="biz.ai_cache")


def killed_after_writes(motion: Motion) -> None:
    """Answers are written; that their chains have come so far can't be."""
    _kill_twice(motion, _WRITTEN, held_up="biz.ai_trigger_jobs")


def _kill_twice(motion: Motion, query: str, *, held_up: str | None = None) -> None:
    """The run's process, when the query counts enough while all writes to the table `held_up` wait; then that of its successor."""
    last_killed = ""

    def newest_run() -> str:
        return next((row["run_id"] for row in motion.stage.rows(_NEWEST_RUN)), last_killed)

    def kill_when_it_has_come() -> bool:
        nonlocal last_killed
        if newest_run() == last_killed:
            return False
        with psycopg.connect(motion.stage.stack.database_url, autocommit=True) as connection, connection.transaction():
            if held_up is not None:
                connection.execute(f"LOCK TABLE {held_up} IN SHARE MODE".encode())
            deadline = time.monotonic() + _LONGEST_HOLD_UP_SECONDS
            while time.monotonic() < deadline:
                [(come,)] = connection.execute(query.encode()).fetchall()
                if come >= _CALLS_SEEN:
                    last_killed = newest_run()
                    kill_runs(motion.stage)
                    return True
                time.sleep(_TICK_SECONDS)
        return False

    for _ in range(2):
        if motion.first_moment() and motion.wait_until(kill_when_it_has_come):
            motion.fault_is_over()


def kill_runs(played: Stage) -> None:
    faults.kill(*played.run_pids())


def daemon_killed_around_ticks(motion: Motion) -> None:
    """While a tick has taken events in and asks for their run; and when the run that it asked for is queued or starting."""
    played = motion.stage
    if motion.wait_until(lambda: played.number("SELECT count(*) FROM biz.ai_events WHERE handled_at IS NOT NULL") > 0, _TICK_SECONDS):
        faults.kill(faults.daemon_pid(played))
        motion.fault_is_over()
    on_their_way = {"QUEUED", "NOT_STARTED", "STARTING"}
    # What was killed less than two seconds after its start is not started again.
    if motion.wait(2.5) and motion.wait_until(lambda: bool(on_their_way & set(played.runs_under_way().values())), _TICK_SECONDS):
        faults.kill(faults.daemon_pid(played))
        motion.fault_is_over()


SCENARIOS: dict[str, Scenario] = {
    "events_undisturbed": Scenario("none", faults.undisturbed),
    "events_killed_before_calls": Scenario("the run killed with -9 before its calls, twice", killed_before_calls),
    "events_killed_during_calls": Scenario("the run killed with -9 during its calls, twice", killed_during_calls),
    "events_killed_after_replies": Scenario(
        "the run killed with -9 after replies came, before they are written, twice", killed_after_replies
    ),
    "events_killed_after_writes": Scenario("the run killed with -9 after answers are written, twice", killed_after_writes),
    "events_daemon_killed": Scenario("the daemon killed with -9 around two ticks", daemon_killed_around_ticks),
    "events_daemon_and_run_killed": Scenario("the daemon and the run killed with -9 together", faults.daemon_killed),
    "events_code_server_killed": Scenario("the code server killed with -9", faults.code_server_killed),
    "events_postgres_stopped": Scenario(
        "PostgreSQL stopped for 0–5 s every 10 s, half of the times as after a crash", faults.postgres_stopped
    ),
    "events_connections_killed": Scenario("all connections to PostgreSQL killed every 2 s", faults.connections_killed),
    "events_everything_killed": Scenario("run, code server, daemon and PostgreSQL killed at once", faults.everything_killed),
}


# Playing one


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario's figures. `lost` answers were paid, but their process died before it could write them.

    `good_refused` and `poison_taken` are events at the wrong end; `failed_jobs` are compared with the poison's `failing`. `untold` answers
    are missing among Dagster's materialisations.
    """

    name: str
    faults: int
    seconds: float
    recovery_seconds: float
    events: int
    unhandled: int
    good_refused: int
    poison_taken: int
    jobs: int
    failing: int
    jobs_by_status: dict[str, int]
    targets: int
    answered_targets: int
    untold: int
    calls: int
    lost: int
    asked_again_though_written: int
    doubled_clues: int
    members_without_their_clues: int
    left: LeftOver
    used_tokens: int
    paid_tokens: int
    alerts: int
    alerts_of_poison: int

    @property
    def not_at_their_end(self) -> int:
        return self.unhandled + self.jobs_by_status.get("pending", 0) + self.jobs_by_status.get("running", 0)

    def broken_promises(self) -> list[str]:
        ends = {"completed": self.jobs, "failed": self.failing}
        promises = {
            f"{self.unhandled} events unhandled": self.unhandled == 0,
            f"{self.good_refused} good events refused": self.good_refused == 0,
            f"{self.poison_taken} poisonous events taken": self.poison_taken == 0,
            f"jobs ended {self.jobs_by_status}, not {ends}": self.jobs_by_status == {end: jobs for end, jobs in ends.items() if jobs},
            f"{self.targets - self.answered_targets} of {self.targets} answers missing": self.answered_targets == self.targets,
            f"{self.untold} answers that Dagster does not show": self.untold == 0,
            f"left over: {self.left}": self.left.is_nothing,
            f"{self.asked_again_though_written} calls for what was written": self.asked_again_though_written == 0,
            f"{self.doubled_clues} clues twice": self.doubled_clues == 0,
            f"{self.members_without_their_clues} members without their newest clues": self.members_without_their_clues == 0,
            f"charged {self.used_tokens} tokens, paid {self.paid_tokens}": self.used_tokens >= self.paid_tokens,
            f"recovery took {self.recovery_seconds:.0f} s": self.recovery_seconds < MOST_RECOVERY_SECONDS,
            f"{self.alerts} alerts": self.alerts <= MOST_ALERTS,
        }
        return [broken for broken, is_kept in promises.items() if not is_kept]


def play(played: Stage, name: str, seed: int, fault: Faults | None = None, *, events: int = EVENTS) -> Outcome:
    """Fires a day's events while the scenario (or `fault`) plays, and measures when all work is at its end."""
    faults.start_afresh(played, LATENCY)
    chance = random.Random(f"{seed}/{name}")
    day = plan_day(played, chance, events)
    with _dagsters_database(played) as connection:
        [(last_event,)] = connection.execute("SELECT coalesce(max(id), 0) FROM event_logs").fetchall()

    def share_done() -> float:
        return played.number("SELECT count(*) FROM biz.ai_trigger_jobs WHERE finished_at IS NOT NULL") / (day.jobs + day.failing)

    motion = Motion(played, chance, share_done)
    has_fired = threading.Event()

    def fire() -> None:
        for happening in day.happenings:
            _happen(played, happening)
            motion.wait(1 / EVENTS_A_SECOND)
        has_fired.set()

    def is_done() -> bool:
        return has_fired.is_set() and not played.number(_AT_NO_END)

    with broken_members(played):
        firing = threading.Thread(target=fire, name="callers", daemon=True)
        firing.start()
        seconds, finished = faults.set_in_motion(motion, name, fault or SCENARIOS[name].play, is_done)
        firing.join(60.0)
    counts = played.emulator.counts()
    apps = {app.cache_type: app_type for app_type, app in APPS.items()}
    valid = played.rows("SELECT DISTINCT cache_type, site_id, target_id FROM biz.ai_cache WHERE status = 'valid'")
    answered = {(apps[row["cache_type"]], row["site_id"], row["target_id"]) for row in valid}
    alerts = {row["is_poisons"]: row["alerts"] for row in played.rows(_ALERTS)}
    return Outcome(
        name=name,
        faults=motion.faults,
        seconds=seconds,
        recovery_seconds=faults.longest_recovery(played, motion, Counter(site for _, site, _ in day.targets), finished),
        events=len(day.happenings),
        unhandled=played.number("SELECT count(*) FROM biz.ai_events WHERE handled_at IS NULL"),
        good_refused=played.number(
            "SELECT count(*) FROM biz.ai_events WHERE rejected_reason IS NOT NULL AND payload @> '{\"good\": true}'"
        ),
        poison_taken=played.number(_POISON_TAKEN),
        jobs=day.jobs,
        failing=day.failing,
        jobs_by_status={row["status"]: row["jobs"] for row in played.rows(_JOBS_BY_STATUS)},
        targets=len(day.targets),
        answered_targets=len(day.targets & answered),
        untold=_untold(played, answered, last_event),
        calls=counts["posts"],
        lost=faults.lost_answers(played, counts["answered"]),
        asked_again_though_written=faults.paid_again_though_written(played),
        doubled_clues=played.number(_DOUBLED_CLUES),
        members_without_their_clues=played.number(_WITHOUT_THEIR_CLUES),
        left=faults.left_over(played),
        used_tokens=faults.charged_tokens(played),
        paid_tokens=counts["tokens"],
        alerts=alerts.get(False, 0),
        alerts_of_poison=alerts.get(True, 0),
    )


_AT_NO_END = (
    "SELECT (SELECT count(*) FROM biz.ai_events WHERE handled_at IS NULL)"
    " + (SELECT count(*) FROM biz.ai_trigger_jobs WHERE status IN ('pending', 'running'))"
)
# A caller who repeats what was not confirmed may fire twice; of events whose job failed, each makes one.
_JOBS_BY_STATUS = (
    "SELECT status, count(DISTINCT (event_type, site_id, member_id, payload, dedup_key)) AS jobs FROM biz.ai_trigger_jobs GROUP BY 1"
)
# Poison raises one for each (event, kind of refusal) and each (site, event type) of failed jobs.
_ALERTS = "SELECT alert_type IN ('event_rejected', 'failed') AS is_poisons, count(*) AS alerts FROM biz.ai_alerts GROUP BY 1"
_POISON_TAKEN = (
    "SELECT count(*) FROM biz.ai_events event LEFT JOIN biz.ai_trigger_jobs job ON job.id = event.trigger_job_id"
    " WHERE event.handled_at IS NOT NULL AND event.rejected_reason IS NULL AND NOT coalesce(event.payload @> '{\"good\": true}', false)"
    " AND job.status IS DISTINCT FROM 'failed'"
)
_DOUBLED_CLUES = (
    "SELECT count(*) FROM (SELECT FROM public.member_retention_clue GROUP BY member_id, site_id, source, category, summary"
    " HAVING count(*) > 1) AS doubled"
)
_WITHOUT_THEIR_CLUES = """
SELECT count(*) FROM (
    SELECT DISTINCT ON (cached.site_id, cached.target_id, of_job.source)
           cached.site_id, cached.target_id, of_job.source, jsonb_array_length(cached.result_json -> 'clues') AS clues
    FROM biz.ai_cache cached
    JOIN biz.ai_run_logs log ON log.id = cached.run_log_id
    JOIN biz.ai_trigger_jobs job ON job.id = log.trigger_job_id
    CROSS JOIN LATERAL (SELECT CASE job.event_type WHEN 'note_created' THEN 'ai_note' ELSE 'ai_consumption' END AS source) AS of_job
    WHERE cached.cache_type = 'app8_clue_consolidated'
    ORDER BY cached.site_id, cached.target_id, of_job.source, cached.id DESC
) AS newest
WHERE newest.clues <> (
    SELECT count(*) FROM public.member_retention_clue clue
    WHERE clue.site_id = newest.site_id AND clue.member_id = newest.target_id::bigint AND clue.source = newest.source
)
"""


def _dagsters_database(played: Stage) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(played.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True)


def _untold(played: Stage, answered: set[tuple[AppType, int, str]], last_event: int) -> int:
    """How many (application, member) with an answer have no materialisation after that event of Dagster's log."""
    with _dagsters_database(played) as connection:
        told = connection.execute(
            "SELECT DISTINCT asset_key, partition FROM event_logs WHERE id > %s AND dagster_event_type = 'ASSET_MATERIALIZATION'",
            [last_event],
        ).fetchall()
    wanted = {(app.value, f"{site}|{target.rpartition('_')[2]}") for app, site, target in answered}
    return len(wanted - {(json.loads(asset_key)[-1], partition) for asset_key, partition in told})


# The table


def table(outcomes: Sequence[Outcome], conditions: str) -> str:
    lines = [
        f"{conditions}; answers after 0.3–0.9 s. {EVENTS} events in 25 s, {round(EVENTS * POISON_SHARE)} of them poison.",
        "",
        "| fault | times | jobs right¹ | answers | left over² | calls | paid, lost³ | paid again⁴ | clues twice | recovery | done after | alerts⁵ | kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        right = outcome.jobs_by_status.get("completed", 0) + outcome.jobs_by_status.get("failed", 0)
        broken = outcome.broken_promises()
        lines.append(
            f"| {SCENARIOS[outcome.name].title} | {outcome.faults or ''} | {right} / {outcome.jobs + outcome.failing} | "
            f"{outcome.answered_targets} / {outcome.targets} | {outcome.left.total + outcome.not_at_their_end} | {outcome.calls} | {outcome.lost} | "
            f"{outcome.asked_again_though_written} | {outcome.doubled_clues} | {f'{outcome.recovery_seconds:.0f} s' if outcome.faults else ''} | "
            f"{outcome.seconds:.0f} s | {outcome.alerts} + {outcome.alerts_of_poison} | {'no: ' + '; '.join(broken) if broken else 'yes'} |"
        )
    lines += [
        "",
        "¹ Completed; of poison that became a job, failed. Events of one member, day and kind share a job. ² Events unhandled, jobs at no end,",
        "reservations, claims, slots and run logs still running, together. ³ Answers that were paid for and not kept: their process died before it",
        "could write them; charged. ⁴ Calls for what had been written, by the same job or for the same input. ⁵ And those that poison raises.",
    ]
    return "\n".join(lines)
