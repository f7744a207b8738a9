"""A member's chain: applications asked in order, each a guarded step, each with what the ones before it have brought.

A failed step never stops the later ones: they use the last valid answer of the cache in its place, or nothing. The member's data are read
once, before the first step. One chain of a member is under way at a time, whoever started it: it holds the claim `member_chain`.

Who decides what becomes of the job: `event_run.py` for jobs, `member_run.py` for a person's own run.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from datetime import time as dt_time
from typing import Any
from uuid import uuid4

import psycopg

from zqyy_ai.domain.apps import APPS, App, AppType
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.events import ASSISTANT_APPS, CHAINS, MEMBER_APPS, EventType
from zqyy_ai.domain.member_answers import ConsolidationAnswer, answer_model_of
from zqyy_ai.domain.members import MemberData, Note
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.step import StepRequest, StepResult, StepStatus
from zqyy_ai.prompts.analysis import analysis_prompt
from zqyy_ai.prompts.clue import clue_prompt
from zqyy_ai.prompts.consolidation import consolidation_prompt
from zqyy_ai.prompts.customer import customer_prompt
from zqyy_ai.prompts.member_prompt import FormerAnswer, MemberPrompt
from zqyy_ai.prompts.note import note_prompt
from zqyy_ai.prompts.tactics import tactics_prompt
from zqyy_ai.store import cache, clues, step_claims, trigger_jobs
from zqyy_ai.store.clues import ClueSource, StoredClue
from zqyy_ai.store.database import Connection
from zqyy_ai.store.sites import Site
from zqyy_ai.store.step_claims import StepClaim
from zqyy_ai.store.trigger_jobs import TriggerJob
from zqyy_ai.warehouse.members import load_member

logger = logging.getLogger(__name__)

CHAIN_CLAIM = "member_chain"
GIVEN_UP = "本任务的上一轮已失败,不再重复调用;需要时请重试该任务"
_AFTER_DATABASE_TROUBLE = timedelta(seconds=5)
_NO_ROOM_PAUSES_SECONDS = (1.0, 2.0, *(4.0,) * 7)


@dataclass(frozen=True, slots=True)
class MemberStep:
    """One application of a chain. `assistant_id` is set exactly for App4 and App5."""

    app_type: AppType
    assistant_id: int | None = None

    @property
    def name(self) -> str:
        """What tells the steps of a chain apart: `app3_clue`, `app4_analysis|12`."""
        return self.app_type.value if self.assistant_id is None else f"{self.app_type.value}|{self.assistant_id}"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How a step of a member's chain ended."""

    site_id: int
    member_id: int
    step: MemberStep
    result: StepResult
    job_id: int
    is_sandbox: bool = False


@dataclass(frozen=True, slots=True)
class ChainWork:
    """What a chain is to do. `assistant_ids` None: those with an open task for the member. `note` None: the member's latest.

    `reuse_not_before` bars the reuse of older answers; `ancestor_ids` are the jobs whose answers are this chain's own; `given_up` names steps
    that failed for good before, with their error codes.
    """

    job: TriggerJob
    site: Site
    member_id: int
    apps: tuple[AppType, ...]
    assistant_ids: tuple[int, ...] | None
    note: Note | None
    clue_source: ClueSource
    trigger_type: str
    run_id: str
    only_missing: bool = False
    reuse_not_before: datetime | None = None
    ancestor_ids: tuple[int, ...] = ()
    given_up: dict[str, str] = field(default_factory=dict)


def work_of_job(connection: Connection, job: TriggerJob, site: Site, run_id: str) -> ChainWork:
    """What a claimed job asks for. Raises ValueError for a payload that no chain can be made of."""
    assert job.member_id is not None
    event_type = EventType(job.event_type)
    payload = job.payload
    is_event = event_type in CHAINS
    apps = _apps_of_event(event_type, payload) if is_event else _apps_named(payload)
    ancestry = trigger_jobs.ancestry(connection, job.id) if job.retry_of is not None or job.regenerate else None
    has_been_begun = job.attempt > 1 or job.sent_back_count > 0 or job.retry_of is not None
    wants_note = event_type is EventType.NOTE_CREATED or isinstance(payload.get("note_content"), str)
    return ChainWork(
        job=job,
        site=site,
        member_id=job.member_id,
        apps=apps,
        assistant_ids=_assistants(payload, is_event=is_event),
        note=_note(payload) if wants_note else None,
        clue_source=_clue_source(event_type, payload),
        trigger_type="event" if is_event and not job.is_forced else "manual",
        run_id=run_id,
        only_missing=job.only_missing,
        reuse_not_before=ancestry.first_created_at if ancestry is not None and job.regenerate else None,
        ancestor_ids=((ancestry.job_ids if ancestry is not None else (job.id,)) if has_been_begun else ()),
        given_up=job.given_up,
    )


def _apps_of_event(event_type: EventType, payload: dict[str, Any]) -> tuple[AppType, ...]:
    apps = CHAINS[event_type]
    has_more = event_type is EventType.CONSUMPTION and payload.get("has_assistant") is True and payload.get("assistant_id") is not None
    return apps + ASSISTANT_APPS if has_more else apps


def _apps_named(payload: dict[str, Any]) -> tuple[AppType, ...]:
    named = payload.get("apps") or [payload.get("app_type")]
    apps = tuple(app for app in MEMBER_APPS if app.value in named)
    if not apps:
        raise ValueError(f"任务没有指明会员应用:{named!r}"[:200])
    return apps


def _assistants(payload: dict[str, Any], *, is_event: bool) -> tuple[int, ...] | None:
    if isinstance(merged := payload.get("assistant_ids"), list):
        return tuple(map(int, merged))
    assistant_id = payload.get("assistant_id")
    if assistant_id is None:
        return () if is_event else None
    return (int(assistant_id),)


def _clue_source(event_type: EventType, payload: dict[str, Any]) -> ClueSource:
    """Outside the events' chains the job may say so."""
    says_note = event_type not in CHAINS and payload.get("clue_source") == ClueSource.NOTE
    is_note = event_type is EventType.NOTE_CREATED or says_note
    return ClueSource.NOTE if is_note else ClueSource.CONSUMPTION


def _note(payload: dict[str, Any]) -> Note:
    """The note that an event brought. A time that can't be read is left out: the note's words count."""
    name = payload.get("noted_by_name")
    note_id = payload.get("note_id")
    return Note(
        note_id=note_id if isinstance(note_id, int) else None,
        content=str(payload["note_content"]),
        noted_by_name=str(name) if name else None,
        created_at=_moment(payload.get("noted_by_created_at")),
    )


def _moment(text: object) -> datetime | None:
    """In Shanghai's time, which one without an offset is of. Of the first and last hours of the calendar there is none."""
    try:
        moment = datetime.fromisoformat(str(text or ""))
        return moment.replace(tzinfo=SHANGHAI) if moment.tzinfo is None else moment.astimezone(SHANGHAI)
    except (ValueError, OverflowError):
        return None


class MemberChain:
    """One chain under way. `advance` does its next step; nobody else calls it at the same time."""

    def __init__(self, engine: Engine, work: ChainWork) -> None:
        self._engine = engine
        self.work = work
        self.outcomes: list[StepOutcome] = []
        self.failure: BaseException | None = None
        self.is_lost = False
        self._steps: list[MemberStep] | None = None
        self._data: MemberData | None = None
        self._own_answers: dict[tuple[str, str], int] = {}
        self._claim = StepClaim(CHAIN_CLAIM, work.site.site_id, str(work.member_id), uuid4())
        self._has_claim = False
        self._has_new_answer = False
        self._seconds_left = engine.settings.chain_timeout_seconds
        self._context = work.job.context

    @property
    def site_id(self) -> int:
        return self.work.site.site_id

    @property
    def priority(self) -> int:
        return self.work.job.priority

    @property
    def _cutoff(self) -> dt_time:
        return self.work.site.business_day_cutoff

    @property
    def is_over(self) -> bool:
        return self.failure is not None or self.is_lost or (self._steps is not None and len(self.outcomes) >= len(self._steps))

    def may_begin(self) -> bool:
        """Whether it is this chain's turn at its member. False while another chain of the member is under way.

        A chain whose job has become somebody else's while it waited is lost, and does nothing more.
        """
        if not self._has_claim and not self.is_lost:
            job, worker = self.work.job, self._engine.worker
            taken = self._engine.database.patiently(
                lambda connection: step_claims.take_for_job(
                    connection, self._claim, worker_id=worker.id, lease=worker.lease, job_id=job.id, fencing_token=job.fencing_token
                ),
                in_one_transaction=False,
            )
            self._has_claim = bool(taken)
            self.is_lost = taken is None
        return self._has_claim or self.is_lost

    def advance(self) -> StepOutcome | None:
        """Does the next step and returns its outcome; None when the chain is over, or there was nothing to do in it.

        What is raised here ends the chain; the steps that it has done stay done.
        """
        try:
            if self.is_lost:
                return None
            if self._steps is None:
                self._read()
            assert self._steps is not None
            if self.is_over:
                return None
            step = self._steps[len(self.outcomes)]
            started = time.monotonic()
            result = self._result_of(step)
            self._seconds_left -= time.monotonic() - started
            self._has_new_answer = self._has_new_answer or self._is_new(step, result)
            outcome = StepOutcome(self.site_id, self.work.member_id, step, result, self.work.job.id, self._context.is_sandbox)
            self.outcomes.append(outcome)
            return outcome
        except BaseException as failure:
            self.failure = failure
            raise

    def _is_new(self, step: MemberStep, result: StepResult) -> bool:
        """Whether the step brought what the job's own later answers, of an earlier round, can't have known."""
        own = self._own_answers.get((APPS[step.app_type].cache_type, _target_id(step, self.work.member_id)))
        return result.status is StepStatus.ANSWERED or (own is not None and result.status.is_good and result.cache_id != own)

    def progress(self) -> dict[str, int]:
        """The job's counters: `total`, `done`, `reused`, `failed` and `skipped` steps of this round, `calls` and `tokens` of all rounds."""
        before = self.work.job.progress
        counts = step_counts([outcome.result for outcome in self.outcomes])
        total = len(self._steps) if self._steps is not None else before.get("total", 0)
        return {
            **counts,
            "total": total,
            "calls": before.get("calls", 0) + counts["calls"],
            "tokens": before.get("tokens", 0) + counts["tokens"],
        }

    def end(self) -> None:
        """Lets the member go. Safe to repeat."""
        # By its token, also where it is not known to be ours: the confirmation may have been lost.
        self._engine.database.write_surely(lambda connection: step_claims.end(connection, self._claim), in_one_transaction=False)

    def _read(self) -> None:
        work = self.work

        def read(connection: Connection) -> tuple[MemberData, dict[tuple[str, str], int]]:
            own = cache.answers_of_jobs(connection, work.ancestor_ids, context=self._context) if work.ancestor_ids else {}
            site = work.site
            data = load_member(connection, site.site_id, site.site_name, work.member_id, context=self._context, cutoff=self._cutoff)
            return data, own

        self._data, self._own_answers = self._engine.database.patiently(read)
        assistants = work.assistant_ids if work.assistant_ids is not None else self._data.open_task_assistants()
        steps = [MemberStep(app) for app in work.apps if app not in ASSISTANT_APPS]
        steps += [MemberStep(app, assistant) for assistant in assistants for app in ASSISTANT_APPS if app in work.apps]
        self._steps = steps

    def _result_of(self, step: MemberStep) -> StepResult:
        """A step that raises fails alone; where a connection was lost, time cures it."""
        code = self.work.given_up.get(step.name)
        if code is not None:
            return StepResult(StepStatus.FAILED, error_code=code, error_message=GIVEN_UP)
        has_called = any(outcome.result.calls for outcome in self.outcomes)
        if has_called and self._seconds_left < self._engine.settings.step_timeout_seconds:
            # A call that is cut off is paid all the same: what is left is for the next round, which begins at once.
            return StepResult(
                StepStatus.REFUSED,
                error_code="chain_timeout",
                error_message="调用链超时,余下的步骤稍后继续",
                retry_at=self._engine.clock.now(),
            )
        try:
            request = self._request(step)
            return request if isinstance(request, StepResult) else self._run(request)
        except Exception as failure:
            logger.exception("member_chain.step_raised site=%s step=%s", self.site_id, step.name)
            is_passing = isinstance(failure, psycopg.OperationalError | psycopg.InterfaceError)
            error_code = "database_lost" if is_passing else type(failure).__name__
            retry_at = self._engine.clock.now() + _AFTER_DATABASE_TROUBLE if is_passing else None
            return StepResult(StepStatus.FAILED, error_code=error_code, error_message=str(failure)[:300], retry_at=retry_at)

    def _run(self, request: StepRequest) -> StepResult:
        """Where the run logs have no room, the step is tried again for half a minute, holding nothing."""
        result = self._engine.step.run(request)
        for pause_seconds in _NO_ROOM_PAUSES_SECONDS:
            if result.error_code != "log_unwritable" or self._engine.worker.stopping.wait(pause_seconds):
                break
            result = self._engine.step.run(request)
        return result

    def _request(self, step: MemberStep) -> StepRequest | StepResult:
        """What to ask, or the result when there is nothing to ask."""
        work, app = self.work, APPS[step.app_type]
        target_id = _target_id(step, work.member_id)
        own_cache_id = self._own_answers.get((app.cache_type, target_id))
        valid = self._latest(app, target_id) if work.only_missing else None
        # What the job itself has brought is taken over by its step: that also writes clues which could not be written before.
        if valid is not None and valid.id != own_cache_id:
            return StepResult(
                StepStatus.REUSED, valid.result_json, cache_id=valid.id, run_log_id=valid.run_log_id, expires_at=valid.expires_at
            )
        prompt = self._prompt(step, app, target_id)
        if prompt.text is None:
            return StepResult(StepStatus.SKIPPED, error_code="nothing_to_ask", error_message=prompt.nothing_to_ask)
        # What an earlier round paid for is this chain's own, unless a new answer came before it in the chain.
        if self._has_new_answer and not work.only_missing:
            own_cache_id = None
        return StepRequest(
            app=app,
            site=work.site,
            target_id=target_id,
            answer_model=answer_model_of(step.app_type),
            business_date=self._context.business_date(self._engine.clock.now(), self._cutoff),
            context=self._context,
            references=prompt.references,
            triggered_by=work.job.event_type,
            trigger_type=work.trigger_type,
            prompt=prompt.text,
            hashed_prompt=prompt.hashed_text,
            reuse_not_before=work.reuse_not_before,
            own_cache_id=own_cache_id,
            within=self._claim,
            # What serves the members is not an experiment's to change.
            beside=self._write_clues if step.app_type is AppType.CONSOLIDATION and not self._context.is_sandbox else None,
            trigger_job_id=work.job.id,
            member_id=work.member_id,
            assistant_id=step.assistant_id,
            dagster_run_id=work.run_id,
        )

    def _prompt(self, step: MemberStep, app: App, target_id: str) -> MemberPrompt:
        data, member = self._data, str(self.work.member_id)
        assert data is not None
        match step.app_type:
            case AppType.CLUE:
                return clue_prompt(data, history=self._history(app, target_id))
            case AppType.NOTE:
                note = self.work.note or data.newest_note
                if note is None:
                    return MemberPrompt(None, None, {}, "没有备注")
                return note_prompt(data, self._as_known(note), history=self._history(app, target_id))
            case AppType.CONSOLIDATION:
                return consolidation_prompt(
                    data, from_visits=self._former(AppType.CLUE, member), from_notes=self._former(AppType.NOTE, member)
                )
            case AppType.CUSTOMER:
                consolidation = self._former(AppType.CONSOLIDATION, member)
                return customer_prompt(data, consolidation=consolidation, history=self._history(app, target_id))
            case AppType.ANALYSIS:
                assert step.assistant_id is not None
                return analysis_prompt(data, step.assistant_id, history=self._history(app, target_id))
            case AppType.TACTICS:
                assert step.assistant_id is not None
                analysis = self._former(AppType.ANALYSIS, target_id)
                return tactics_prompt(data, step.assistant_id, analysis=analysis, history=self._history(app, target_id))
            case AppType.FINANCE | AppType.FINANCE_AREA:
                raise AssertionError("a finance application has no members")

    def _latest(self, app: App, target_id: str) -> cache.CachedAnswer | None:
        now = self._context.moment(self._engine.clock.now(), self._cutoff)
        found = self._engine.database.patiently(
            lambda connection: cache.get_latest(connection, app.cache_type, self.site_id, target_id, now=now, context=self._context),
            in_one_transaction=False,
        )
        # Another writer's row of another shape is no answer.
        return found if found is not None and isinstance(found.result_json, dict) else None

    def _former(self, app_type: AppType, target_id: str) -> FormerAnswer | None:
        """The newest valid answer: this chain's own where it has just brought one. What another job has written since is never gone behind."""
        found = self._latest(APPS[app_type], target_id)
        return self._former_answer(found) if found else None

    def _history(self, app: App, target_id: str) -> list[FormerAnswer]:
        rows = self._engine.database.patiently(
            lambda connection: cache.get_history(connection, app.cache_type, self.site_id, target_id, context=self._context),
            in_one_transaction=False,
        )
        # A placeholder of another writer says nothing.
        return [self._former_answer(row) for row in rows if row.status != "generating" and isinstance(row.result_json, dict)]

    def _former_answer(self, row: cache.CachedAnswer) -> FormerAnswer:
        return FormerAnswer(row.result_json, self._context.moment(row.created_at, self._cutoff))

    def _as_known(self, note: Note) -> Note:
        """A note that an event brings into a sandbox is told there without its moment, which is yet to come."""
        until = self._context.until(self._cutoff)
        is_later = until is not None and note.created_at is not None and note.created_at >= until
        return replace(note, created_at=None) if is_later else note

    def _write_clues(self, connection: Connection, result: dict[str, Any]) -> None:
        stored = [
            StoredClue(
                category=clue.category.value,
                summary=f"{clue.emoji} {clue.summary}" if clue.emoji else clue.summary,
                detail=clue.detail,
                recorded_by_name=clue.providers,
            )
            for clue in ConsolidationAnswer.model_validate(result).clues
        ]
        clues.replace_clues(connection, self.site_id, self.work.member_id, self.work.clue_source, stored)


def step_counts(results: Sequence[StepResult]) -> dict[str, int]:
    """What a job's progress says of its steps."""
    return {
        "done": sum(result.status.is_good for result in results),
        "reused": sum(result.status in (StepStatus.REUSED, StepStatus.FIXED) for result in results),
        "failed": sum(result.status.is_bad for result in results),
        "skipped": sum(result.status is StepStatus.SKIPPED for result in results),
        "calls": sum(result.calls for result in results),
        "tokens": sum(result.tokens for result in results),
    }


def _target_id(step: MemberStep, member_id: int) -> str:
    return str(member_id) if step.assistant_id is None else f"{step.assistant_id}_{member_id}"
