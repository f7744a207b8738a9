"""The guarded step: one target's prompt becomes its cached answer, at the price of at most the calls that it accounts for.

    claim → unchanged input? reuse → pause and breaker → rate → budget → slot → run log → one POST → parse → settle → cache → live event

Invariants: one worker at a time works for a target; each POST has its own reservation and its own run log; what was paid is settled
before anything else is tried; an answer is written only while the claim is still held; no database connection is held during a call.
Expected failures are results, not exceptions: a chain or a batch goes on with its next step.
"""

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import psycopg

from zqyy_ai.domain.answers import Answer
from zqyy_ai.domain.apps import App
from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.call_failures import BudgetEffect, FailureRule, RetryRule
from zqyy_ai.domain.errors import ClaimLost, GuardRefusal
from zqyy_ai.domain.number_check import NUMBER_CHECK, check_insights
from zqyy_ai.domain.personal_numbers import mask_personal_numbers_in_json
from zqyy_ai.domain.runtime_context import RuntimeContext
from zqyy_ai.engine import call_alerts
from zqyy_ai.engine.worker import Worker
from zqyy_ai.guards.breaker import BreakerGuard, Permit
from zqyy_ai.guards.budget import BudgetGuard, Reservation
from zqyy_ai.guards.call_slots import Slot, SlotGuard
from zqyy_ai.guards.rate_limit import RateGuard
from zqyy_ai.llm.errors import CallTimedOut, ModelCallError, Throttled
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.llm.parsing import parse_reply
from zqyy_ai.llm.replies import Reply, Usage
from zqyy_ai.settings import Settings
from zqyy_ai.store import cache, live_events, run_logs, step_claims, trigger_jobs
from zqyy_ai.store.alerts import Alert
from zqyy_ai.store.cache import CachedAnswer
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.run_logs import RunEnd, RunStatus, RunSubject
from zqyy_ai.store.sites import Site
from zqyy_ai.store.step_claims import StepClaim

logger = logging.getLogger(__name__)

_CLAIM_LOOK_INTERVAL_SECONDS = 0.5
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 30.0
_LONGEST_WAIT_BESIDE = "3s"
_LATE_LOG_PAUSES_SECONDS = (0.0, 1.0, 2.0, 4.0)
# Of the step's time. A model takes 30-120 s of the 180 s.
_LEAST_TIME_OF_A_PAID_RETRY = 1 / 3

# What a call was admitted with is gone before it was sent, because the process was stopped or the database crashed: it asks anew.
_LOST_BEFORE_SENDING = ("reservation_lost", "slot_lost")
_MOST_ADMISSIONS_LOST = 3


class StepStatus(StrEnum):
    """`fixed`: a window without data got its fixed answer; `refused`: a guard said no before any call; `skipped`: nothing to ask about."""

    ANSWERED = "answered"
    REUSED = "reused"
    FIXED = "fixed"
    FAILED = "failed"
    REFUSED = "refused"
    SKIPPED = "skipped"

    @property
    def is_good(self) -> bool:
        return self in (StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.FIXED)

    @property
    def is_bad(self) -> bool:
        return self in (StepStatus.FAILED, StepStatus.REFUSED)


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What to ask for one target. Exactly one of `prompt` and `fixed_answer` is given.

    `context`: the job's. In a sandbox, claim, answer and budget are the sandbox's own, and nobody is told but by the job and its run logs.
    `facts`: what the prompt holds, for the check of the answer's numbers; without them an answer is not checked.
    `hashed_prompt`: the prompt without what may change and still ask the same (former answers); the prompt itself unless given.
    `reuse_not_before` bars the reuse of answers older than that moment (`regenerate`). `own_cache_id`: an answer that this very job has
    paid for before; it is taken whatever its input was, or a newer one of another job in its place. `beside` writes what belongs to the
    answer, in its transaction and behind a savepoint: where it can't be written, the answer stays and the step has failed. `within`: the claim on what the
    step is a part of (its member's chain); who has lost that sends nothing any more.
    """

    app: App
    site: Site
    target_id: str
    answer_model: type[Answer]
    business_date: date
    context: RuntimeContext
    references: dict[str, Any]
    triggered_by: str
    trigger_type: str
    prompt: str | None = None
    facts: dict[str, Any] | None = None
    fixed_answer: dict[str, Any] | None = None
    hashed_prompt: str | None = None
    reuse_not_before: datetime | None = None
    own_cache_id: int | None = None
    beside: Callable[[Connection, dict[str, Any]], object] | None = None
    within: StepClaim | None = None
    trigger_job_id: int | None = None
    member_id: int | None = None
    assistant_id: int | None = None
    dagster_run_id: str | None = None

    @property
    def claim_type(self) -> str:
        """What the target is claimed by: a sandbox's call and a live one don't wait for each other."""
        return f"sandbox:{self.app.cache_type}" if self.context.is_sandbox else self.app.cache_type


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended. `calls` and `tokens` count every POST of the step and what it was charged; the rest is of the successful one.

    `retry_at` is set when time cures what went wrong. `is_held`: refused by a hold (breaker, account, throttling), which a probe ends.
    """

    status: StepStatus
    result: dict[str, Any] | None = None
    cache_id: int | None = None
    run_log_id: int | None = None
    expires_at: datetime | None = None
    calls: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    latency_ms: int = 0
    model_ids: tuple[str, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    retry_at: datetime | None = None
    is_held: bool = False


class ModelClient(Protocol):
    """What a step needs of `llm.client.DashScopeClient`."""

    def prepare(self) -> None: ...

    def call(self, app_id: str, prompt: str, *, timeout_seconds: float) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Guards:
    breaker: BreakerGuard
    rate: RateGuard
    budget: BudgetGuard
    slots: SlotGuard


@dataclass(frozen=True, slots=True)
class _Call:
    """One POST that came back with a valid answer, settled and logged."""

    reply: Reply
    answer: Answer
    log_id: int
    charged_tokens: int


class _CallEnded(Exception):
    """One POST that did not bring an answer, settled and logged."""

    def __init__(self, error: ModelCallError, log_id: int, seconds: float, charged_tokens: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.log_id = log_id
        self.seconds = seconds
        self.charged_tokens = charged_tokens


class GuardedStep:
    """Carries out step requests; one instance a process, used by many threads."""

    def __init__(
        self, *, database: Database, client: ModelClient, guards: Guards, settings: Settings, clock: Clock, worker: Worker
    ) -> None:
        self._database = database
        self._client = client
        self._guards = guards
        self._settings = settings
        self._clock = clock
        self._worker = worker
        self._late_log_ends: dict[int, RunEnd] = {}

    def run(self, request: StepRequest) -> StepResult:
        """Never raises for what can be expected of guards and models; a database that is gone, or a bug, does raise."""
        input_hash = self._input_hash(request)
        give_up_waiting_at = time.monotonic() + self._settings.guard_wait_seconds
        try:
            claim = self._claim(request, give_up_waiting_at)
        except GuardRefusal as refusal:
            return self._refused(request, refusal, input_hash)
        try:
            result = self._reuse(request, claim, input_hash)
            if result is None and request.fixed_answer is not None:
                result = self._write_fixed_answer(request, claim, input_hash)
            if result is None:
                result = self._ask(request, claim, input_hash, give_up_waiting_at)
        except ClaimLost as lost:
            # Lost to another worker; or written by this one, and only the confirmation got lost with the connection.
            return self._written_after_all(request, input_hash) or StepResult(
                StepStatus.FAILED, error_code="claim_lost", error_message=str(lost), retry_at=self._in(seconds=1)
            )
        except BaseException:
            self._give_back(claim)
            raise
        if not result.status.is_good:
            # A good result ended the claim in the transaction that wrote it.
            self._give_back(claim)
        return result

    # Before the call

    def _input_hash(self, request: StepRequest) -> str:
        """Covers the prompt, the application and the revision of its own system prompt, which we cannot see."""
        if request.prompt is None:
            parts: tuple[str, ...] = ("fixed", json.dumps(request.fixed_answer, ensure_ascii=False, sort_keys=True))
        else:
            app = request.app.app_type
            parts = (self._settings.app_id(app), self._settings.app_revision(app), request.hashed_prompt or request.prompt)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _claim(self, request: StepRequest, deadline: float) -> StepClaim:
        """Waits for its turn at the target. Raises GuardRefusal (`target_busy`) when the turn does not come in time."""
        token = uuid4()
        while True:
            claim = self._database.patiently(
                lambda connection: step_claims.take(
                    connection,
                    request.claim_type,
                    request.site.site_id,
                    request.target_id,
                    worker_id=self._worker.id,
                    lease=self._worker.lease,
                    token=token,
                ),
                in_one_transaction=False,
            )
            if claim is not None:
                return claim
            if time.monotonic() >= deadline:
                raise GuardRefusal("target_busy", "该目标正由另一个进程生成", retry_at=self._in(seconds=60))
            self._pause(_CLAIM_LOOK_INTERVAL_SECONDS * random.uniform(0.5, 1.0))

    def _give_back(self, claim: StepClaim) -> None:
        # Surely: a claim that stays would be renewed as long as this process lives.
        self._database.write_surely(lambda connection: step_claims.end(connection, claim), in_one_transaction=False)

    def _written_after_all(self, request: StepRequest, input_hash: str) -> StepResult | None:
        found = self._database.patiently(
            lambda connection: cache.get_reusable(
                connection, request.app.cache_type, request.site.site_id, request.target_id, context=request.context
            ),
            in_one_transaction=False,
        )
        if found is None or not self._may_reuse(found, request, input_hash):
            return None
        return StepResult(StepStatus.REUSED, found.result_json, found.id, found.run_log_id, found.expires_at)

    def _reuse(self, request: StepRequest, claim: StepClaim, input_hash: str) -> StepResult | None:
        """The newest valid answer, its expiry moved on, when it was made from the same input."""
        found = self._database.patiently(
            lambda connection: cache.get_reusable(
                connection, request.app.cache_type, request.site.site_id, request.target_id, context=request.context
            ),
            in_one_transaction=False,
        )
        if found is None or not self._may_reuse(found, request, input_hash):
            return None
        expires_at, reused = self._expires_at(request), found
        # An answer of a time before the numbers check is checked for who looks now; its row stays as it is.
        result = found.result_json if NUMBER_CHECK in found.result_json else _with_number_check(request, found.result_json)

        def reuse(connection: Connection) -> StepResult | None:
            if not cache.extend(connection, reused.id, expires_at, context=request.context):
                return None  # invalidated or pruned since it was read
            log_id = run_logs.record(connection, self._subject(request, input_hash), RunStatus.REUSED)
            self._publish(connection, request, reused.id)
            is_whole = self._write_beside(connection, request, result)
            self._end_claim(connection, request, claim)
            ended = StepResult(StepStatus.REUSED, result, reused.id, log_id, expires_at)
            return ended if is_whole else self._without_what_is_beside(ended)

        reused_result = self._database.patiently(reuse)
        return None if reused_result is None else self._told(request, reused_result)

    def _may_reuse(self, found: CachedAnswer, request: StepRequest, input_hash: str) -> bool:
        oldest = self._clock.now() - timedelta(days=self._settings.reuse_max_age_days)
        if request.reuse_not_before is not None:
            oldest = max(oldest, request.reuse_not_before)
        # The job's own answer, or a newer one that another job has written since: the target is answered, and not paid again.
        is_own = request.own_cache_id is not None and found.id >= request.own_cache_id
        is_equal = found.input_hash == input_hash or is_own
        return is_equal and found.created_at >= oldest and isinstance(found.result_json, dict)

    def _write_fixed_answer(self, request: StepRequest, claim: StepClaim, input_hash: str) -> StepResult:
        assert request.fixed_answer is not None
        answer = _with_number_check(request, request.fixed_answer)

        def write(connection: Connection) -> StepResult:
            log_id = run_logs.record(connection, self._subject(request, input_hash), RunStatus.REUSED, error_code="no_data")
            cache_id, result, expires_at, _ = self._write(connection, request, claim, answer, input_hash, log_id)
            return StepResult(StepStatus.FIXED, result, cache_id, log_id, expires_at)

        return self._database.patiently(write)

    # Calls

    def _ask(self, request: StepRequest, claim: StepClaim, input_hash: str, give_up_waiting_at: float) -> StepResult:
        """Calls until there is an answer, no retry is allowed, or the step's time is used up. Waiting at guards costs none of it.

        All waits of a step are bounded together: one that waits for as long at each guard would look stuck.
        """
        # What the first call costs beforehand is not spent between the mark that the call leaves and its leaving.
        self._client.prepare()
        time_left = self._settings.step_timeout_seconds
        calls = tokens = single_retries = admissions_lost = 0
        throttled_seconds = 0.0
        was_throttled = False
        backoff_seconds = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                call = self._call_once(request, claim, input_hash, time_left, give_up_waiting_at, was_throttled=was_throttled)
            except GuardRefusal as refusal:
                if refusal.reason in _LOST_BEFORE_SENDING and admissions_lost < _MOST_ADMISSIONS_LOST:
                    admissions_lost += 1
                    continue
                return self._refused(request, refusal, input_hash, calls=calls, tokens=tokens)
            except _CallEnded as ended:
                calls += 1
                tokens += ended.charged_tokens
                error, rule = ended.error, ended.error.rule
                pause = max(error.retry_after_seconds or 0.0, backoff_seconds * random.uniform(0.5, 1.0))
                time_left -= ended.seconds + pause
                single_retries += rule.retry is RetryRule.ONCE
                was_throttled = was_throttled or rule.is_throttling
                allowed = rule.retry is RetryRule.WITHIN_STEP or (rule.retry is RetryRule.ONCE and single_retries == 1)
                if isinstance(error, Throttled) and error.longest_wait_seconds is not None:
                    throttled_seconds += pause
                    allowed = allowed and throttled_seconds <= error.longest_wait_seconds
                # A call that may be paid is repeated only with time enough for an answer.
                shortest = self._settings.step_timeout_seconds * _LEAST_TIME_OF_A_PAID_RETRY if ended.charged_tokens else 0.0
                if not allowed or time_left <= shortest or self._worker.stopping.wait(pause):
                    return self._failed(request, ended, calls, tokens)
                backoff_seconds = min(backoff_seconds * 2, _LONGEST_BACKOFF_SECONDS)
                continue
            return self._write_answer(request, claim, input_hash, call, calls + 1, tokens + call.charged_tokens)

    def _call_once(
        self,
        request: StepRequest,
        claim: StepClaim,
        input_hash: str,
        timeout_seconds: float,
        give_up_waiting_at: float,
        *,
        was_throttled: bool,
    ) -> _Call:
        """At most one POST, settled and logged whatever comes of it. Raises GuardRefusal before it, _CallEnded after it."""
        assert request.prompt is not None
        app = request.app
        longest_wait = timedelta(seconds=max(0.0, give_up_waiting_at - time.monotonic()))
        estimate = estimate_tokens(request.prompt, overhead_tokens=app.overhead_tokens, largest_output_tokens=app.largest_output_tokens)
        token = uuid4()
        may_be_reserved = False

        def admit(connection: Connection) -> tuple[Permit, timedelta, Reservation]:
            # One transaction: what a later guard refuses takes back what the earlier ones gave. The budget comes last, because all calls
            # of the chain meet at its rows.
            nonlocal may_be_reserved
            permit = self._guards.breaker.admit(connection, app.app_type)
            turn = self._guards.rate.take(connection, request.site.site_id, app.app_type, longest_wait=longest_wait)
            if may_be_reserved:
                self._guards.budget.settle(connection, Reservation(token, estimate), 0)
            may_be_reserved = True
            reservation = self._guards.budget.reserve(
                connection,
                site_id=request.site.site_id,
                site_cutoff=request.site.business_day_cutoff,
                app_type=app.app_type,
                tokens=estimate,
                worker_id=self._worker.id,
                lease=self._worker.lease,
                token=token,
                is_sandbox=request.context.is_sandbox,
            )
            return permit, turn, reservation

        permit, turn, reservation = self._database.patiently(admit)
        try:
            self._pause(turn.total_seconds())
        except GuardRefusal:
            self._release(permit, reservation)
            raise
        longest_wait = timedelta(seconds=max(0.0, give_up_waiting_at - time.monotonic()))
        return self._post(request, claim, input_hash, permit, reservation, timeout_seconds, longest_wait, was_throttled=was_throttled)

    def _post(
        self,
        request: StepRequest,
        claim: StepClaim,
        input_hash: str,
        permit: Permit,
        reservation: Reservation,
        timeout_seconds: float,
        longest_wait: timedelta,
        *,
        was_throttled: bool,
    ) -> _Call:
        assert request.prompt is not None
        app_id = self._settings.app_id(request.app.app_type)
        prompt, subject = request.prompt, self._subject(request, input_hash)
        log_id: int | None = None
        may_be_logged = False

        def send(slot: Slot, connection: Connection) -> tuple[Permit, int]:
            nonlocal may_be_logged
            readmitted = self._guards.breaker.readmit(connection, permit)
            if may_be_logged:
                run_logs.discard_unsent(connection, subject)
            may_be_logged = True
            try:
                begun_log_id = run_logs.start(connection, subject, prompt)
            except psycopg.errors.DiskFull as full:
                raise GuardRefusal("log_unwritable", "运行日志无法写入(磁盘已满),未发起调用", retry_at=self._in(seconds=5)) from full
            if not self._guards.budget.mark_sent(connection, reservation, run_log_id=begun_log_id, lease=self._worker.lease):
                raise GuardRefusal("reservation_lost", "预算预留已过期,未发起调用", retry_at=self._in(seconds=5))
            # Who was stopped for longer than a lease while it waited finds others in its place, and pays for nothing.
            if not step_claims.renew(connection, claim, self._worker.lease):
                raise ClaimLost(f"等待 {request.app.cache_type}/{request.target_id} 的名额时租约已被其他进程取得,未发起调用")
            if request.within is not None and not step_claims.is_held(connection, request.within):
                raise ClaimLost("该会员的调用链已被其他进程取得,未发起调用")
            if not self._guards.slots.renew(connection, slot):
                raise GuardRefusal("slot_lost", "调用名额的租约已过期,未发起调用", retry_at=self._in(seconds=5))
            return readmitted, begun_log_id

        try:
            with self._guards.slots.hold(longest_wait=longest_wait) as slot:
                if self._worker.stopping.is_set():
                    raise GuardRefusal("stopped", "进程正在停止,未发起调用", retry_at=self._in(seconds=5))
                permit, log_id = self._database.patiently(partial(send, slot))
                started = time.monotonic()
                try:
                    reply = self._client.call(app_id, request.prompt, timeout_seconds=timeout_seconds)
                except ModelCallError as error:
                    charged = self._settle_failure(request, permit, reservation, log_id, error, started, was_throttled=was_throttled)
                    raise _CallEnded(error, log_id, time.monotonic() - started, charged) from error
        except _CallEnded:
            raise
        except Exception as before_the_call:
            # Refused, or the database was lost before anything was sent. After that only recovery may say what was paid.
            if log_id is None or isinstance(before_the_call, GuardRefusal):
                self._release(permit, reservation)
            raise
        try:
            answer = parse_reply(reply, request.answer_model)
        except ModelCallError as error:
            charged = self._settle_failure(request, permit, reservation, log_id, error, started, reply)
            raise _CallEnded(error, log_id, time.monotonic() - started, charged) from error
        charged = reply.usage.total_tokens if reply.usage else reservation.tokens
        answered_log_id = log_id

        def settle(connection: Connection) -> set[str]:
            # The breaker before the budget, as everywhere: rows that are locked in one order are never waited for in a circle.
            closed = self._guards.breaker.record_success(connection, permit)
            settlement = self._guards.budget.settle(connection, reservation, charged)
            self._end_log(connection, answered_log_id, _run_end(RunStatus.SUCCESS, reply, charged, _text_for_the_log(request, reply)))
            self._guards.budget.report_overshoot(connection, settlement)
            return closed

        closed = self._database.write_surely(settle)
        if closed:
            self._database.patiently(partial(_go_on_after, closed=closed))
        return _Call(reply, answer, log_id, charged)

    def _release(self, permit: Permit, reservation: Reservation) -> None:
        def release(connection: Connection) -> None:
            self._guards.breaker.end_probe(connection, permit)
            settlement = self._guards.budget.settle(connection, reservation, 0)
            if settlement is not None and settlement.run_log_id is not None:
                # It was marked as sent, but the connection was lost before we knew: the call never left.
                end = RunEnd(RunStatus.FAILED, 0, 0, error_code="not_sent", error_message="数据库连接中断,未发起调用")
                run_logs.finish(connection, settlement.run_log_id, end)

        self._database.write_surely(release)

    # After the call

    def _end_log(self, connection: Connection, log_id: int, end: RunEnd) -> None:
        """Where the log's table has no room, money and answer are written all the same; the log's end is kept for later."""
        if not run_logs.finish(connection, log_id, end):
            self._late_log_ends[log_id] = end

    def write_late_log_ends(self) -> None:
        """Ends the run logs that found no room before. For some seconds, then whoever recovers closes them by what the cache says."""
        for pause_seconds in _LATE_LOG_PAUSES_SECONDS:
            if not self._late_log_ends or self._worker.stopping.wait(pause_seconds):
                return
            for log_id, end in list(self._late_log_ends.items()):
                if not self._database.write_surely(partial(run_logs.finish, log_id=log_id, end=end)):
                    break
                del self._late_log_ends[log_id]

    def _settle_failure(
        self,
        request: StepRequest,
        permit: Permit,
        reservation: Reservation,
        log_id: int,
        error: ModelCallError,
        started: float,
        reply: Reply | None = None,
        *,
        was_throttled: bool = False,
    ) -> int:
        """Money first, then the log, then what the failure means for everybody else. Returns the tokens charged."""
        rule = error.rule
        usage = error.usage or (reply.usage if reply else None)
        charged = _charged_tokens(rule, usage, reservation)
        end = RunEnd(
            status=RunStatus.TIMEOUT if isinstance(error, CallTimedOut) else RunStatus.FAILED,
            latency_ms=reply.latency_ms if reply else round((time.monotonic() - started) * 1000),
            charged_tokens=charged,
            response_text=_text_for_the_log(request, reply) if reply else None,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            usage_reported=usage is not None,
            model_ids=usage.model_ids if usage else (),
            error_code=error.error_code,
            error_message=str(error)[:1000],
            session_id=reply.session_id if reply else None,
            request_id=error.request_id or (reply.request_id if reply else None),
        )

        def settle(connection: Connection) -> None:
            settlement = self._guards.budget.settle(connection, reservation, charged)
            self._end_log(connection, log_id, end)
            self._guards.budget.report_overshoot(connection, settlement)

        self._database.write_surely(settle)

        def tell(connection: Connection) -> None:
            self._tell_the_others(connection, request.app, permit, error, log_id, has_reply=reply is not None, was_throttled=was_throttled)

        self._database.patiently(tell)
        logger.warning(
            "step.call_failed app=%s site=%s target=%s code=%s log_id=%s",
            request.app.app_type,
            request.site.site_id,
            request.target_id,
            error.error_code,
            log_id,
        )
        return charged

    def _tell_the_others(
        self, connection: Connection, app: App, permit: Permit, error: ModelCallError, log_id: int, *, has_reply: bool, was_throttled: bool
    ) -> None:
        """What the failure means for other calls: their breaker, their rate, and the alert where they are held."""
        breaker, rule = self._guards.breaker, error.rule
        if rule.counts_for_breaker:
            if breaker.record_failure(connection, permit, error.error_code):
                call_alerts.raise_circuit_opened(connection, app, log_id)
        elif rule.holds_every_app:
            breaker.hold_every_app(connection, permit, error.error_code)
            call_alerts.raise_last(connection, call_alerts.account_held(error, log_id))
        elif rule.is_throttling:
            pause = timedelta(seconds=error.retry_after_seconds or 1.0)
            # The first 429 of a burst is waited out by the step itself; who waited and is throttled again is in a storm.
            is_storm = was_throttled or permit.probe_token is not None
            # The breaker before the rate, as when a call is admitted.
            is_held = is_storm and breaker.record_throttled(connection, permit, error.error_code, pause)
            self._guards.rate.push_forward(connection, app.app_type, pause)
            if is_held:
                call_alerts.raise_last(connection, call_alerts.throttled(app, error, log_id))
        elif has_reply:
            # An answer that does not parse still came from an application that is up.
            closed = breaker.record_success(connection, permit)
            if closed:
                _go_on_after(connection, closed)
        else:
            breaker.end_probe(connection, permit)

    def _write_answer(self, request: StepRequest, claim: StepClaim, input_hash: str, call: _Call, calls: int, tokens: int) -> StepResult:
        answer = _with_number_check(request, call.answer.as_result())
        cache_id, result, expires_at, is_whole = self._database.write_surely(
            lambda connection: self._write(connection, request, claim, answer, input_hash, call.log_id)
        )
        usage = call.reply.usage
        answered = StepResult(
            StepStatus.ANSWERED,
            result,
            cache_id,
            call.log_id,
            expires_at,
            calls=calls,
            tokens=tokens,
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
            latency_ms=call.reply.latency_ms,
            model_ids=usage.model_ids if usage else (),
        )
        if is_whole:
            return answered
        return self._told(request, self._without_what_is_beside(answered))

    def _write(
        self, connection: Connection, request: StepRequest, claim: StepClaim, answer: dict[str, Any], input_hash: str, log_id: int | None
    ) -> tuple[int, dict[str, Any], datetime, bool]:
        """Cache row, what belongs to it, end of the claim and live event, or ClaimLost and nothing. At last whether all was written."""
        expires_at = self._expires_at(request)
        result = {**answer, "_references": request.references}
        score = answer.get("score")
        cache_id = cache.write_cache(
            connection,
            request.app.cache_type,
            request.site.site_id,
            request.target_id,
            result,
            expires_at=expires_at,
            triggered_by=request.triggered_by,
            score=score if isinstance(score, int) else None,
            input_hash=input_hash,
            run_log_id=log_id,
            context=request.context,
        )
        self._publish(connection, request, cache_id)
        is_whole = self._write_beside(connection, request, result)
        self._end_claim(connection, request, claim)
        return cache_id, result, expires_at, is_whole

    def _write_beside(self, connection: Connection, request: StepRequest, result: dict[str, Any]) -> bool:
        """False when its table refuses: the answer is paid and stays. A lost connection is raised: everything is then written again."""
        if request.beside is None:
            return True
        try:
            with connection.transaction():
                # Somebody who holds the table for long must not hold up all that would write: the connections are few.
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LONGEST_WAIT_BESIDE])
                request.beside(connection, result)
                connection.execute("SELECT set_config('lock_timeout', '0', true)")
        except psycopg.Error as refused:
            is_lost = isinstance(refused, psycopg.OperationalError | psycopg.InterfaceError)
            if is_lost and not isinstance(refused, psycopg.errors.LockNotAvailable):
                raise
            logger.exception("step.beside_not_written app=%s target=%s", request.app.app_type, request.target_id)
            return False
        return True

    def _without_what_is_beside(self, ended: StepResult) -> StepResult:
        """The answer is there; time, or somebody who puts the table right, cures the rest without a call."""
        return replace(
            ended,
            status=StepStatus.FAILED,
            error_code="clues_unwritable",
            error_message="回答已写入缓存,但线索表拒绝写入",
            retry_at=self._in(seconds=60),
        )

    def _told(self, request: StepRequest, result: StepResult) -> StepResult:
        """Alerts when what belongs to the answer could not be written."""
        if result.status is StepStatus.FAILED:
            self._tell(call_alerts.clues_unwritable(request.app, request.site.site_id, result.run_log_id))
        return result

    def _end_claim(self, connection: Connection, request: StepRequest, claim: StepClaim) -> None:
        """The last statements of the transaction that writes: raising takes back what it wrote."""
        if request.within is not None and not step_claims.is_held(connection, request.within):
            raise ClaimLost(f"写入 {request.app.cache_type}/{request.target_id} 时该会员的调用链已被其他进程取得,未写入")
        if not step_claims.end(connection, claim):
            raise ClaimLost(f"写入 {request.app.cache_type}/{request.target_id} 时租约已被其他进程取得,未写入")

    def _publish(self, connection: Connection, request: StepRequest, cache_id: int) -> None:
        if request.context.is_sandbox:
            return  # the cache has not changed
        live_events.publish(
            connection,
            "cache_updated",
            request.site.site_id,
            {
                "cache_type": request.app.cache_type,
                "target_id": request.target_id,
                "triggered_by": request.triggered_by,
                "cache_id": cache_id,
            },
        )

    # Results

    def _refused(self, request: StepRequest, refusal: GuardRefusal, input_hash: str, *, calls: int = 0, tokens: int = 0) -> StepResult:
        alert = None if request.context.is_sandbox else call_alerts.step_refused(request.app, request.site.site_id, refusal)

        def note(connection: Connection) -> int | None:
            log_id = run_logs.record(
                connection,
                self._subject(request, input_hash),
                RunStatus.FAILED,
                error_code=refusal.reason.partition(":")[0],
                error_message=refusal.reason,
            )
            if alert is not None:
                call_alerts.raise_last(connection, replace(alert, log_id=log_id))
            return log_id

        log_id = self._database.patiently(note)
        return StepResult(
            StepStatus.REFUSED,
            run_log_id=log_id,
            calls=calls,
            tokens=tokens,
            error_code=refusal.reason,
            error_message=str(refusal),
            # A call that is larger than a whole budget is for no time to cure.
            retry_at=refusal.retry_at or (None if refusal.reason.startswith("budget_exceeded") else self._in(seconds=60)),
            is_held=refusal.has_own_alert,
        )

    def _failed(self, request: StepRequest, ended: _CallEnded, calls: int, tokens: int) -> StepResult:
        """The step is over without an answer: only now is a failure worth an operator's time."""
        error = ended.error
        alert = call_alerts.step_failed(
            request.app, request.site.site_id, request.target_id, error, log_id=ended.log_id, seconds=ended.seconds
        )
        if alert is not None and not request.context.is_sandbox:
            self._tell(alert)
        # Whoever is sent back spends no attempt: a step that pays on its way to such a failure would pay without end.
        may_go_back = error.rule.is_transient and not tokens
        retry_at = self._in(seconds=error.retry_after_seconds or 60.0) if may_go_back else None
        return StepResult(
            StepStatus.FAILED,
            run_log_id=ended.log_id,
            calls=calls,
            tokens=tokens,
            error_code=error.error_code,
            error_message=str(error),
            retry_at=retry_at,
        )

    def _tell(self, alert: Alert) -> None:
        """In a transaction of its own; what the step brought is not lost when the alert can't be written."""
        try:
            with self._database.transaction() as connection:
                call_alerts.raise_last(connection, alert)
        except psycopg.Error:
            logger.exception("step.alert_not_raised fingerprint=%s", alert.fingerprint)

    def _subject(self, request: StepRequest, input_hash: str) -> RunSubject:
        return RunSubject(
            app_type=request.app.app_type.value,
            site_id=request.site.site_id,
            target_id=request.target_id,
            trigger_type=request.trigger_type,
            trigger_job_id=request.trigger_job_id,
            member_id=request.member_id,
            assistant_id=request.assistant_id,
            dagster_run_id=request.dagster_run_id,
            input_hash=input_hash,
            runtime_mode=request.context.mode.value,
            sandbox_date=request.context.sandbox_date,
        )

    def _expires_at(self, request: StepRequest) -> datetime:
        cutoff = request.site.business_day_cutoff
        return request.app.expires_at(request.context.moment(self._clock.now(), cutoff), request.business_date, cutoff)

    def _in(self, *, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)

    def _pause(self, seconds: float) -> None:
        """Waits, but no longer than until the process is asked to stop."""
        if seconds > 0 and self._worker.stopping.wait(seconds):
            raise GuardRefusal("stopped", "进程正在停止,未发起调用", retry_at=self._in(seconds=5))


def _go_on_after(connection: Connection, closed: set[str]) -> None:
    """A call has closed these breakers: those who wait for them need not wait longer."""
    trigger_jobs.hasten(connection)
    call_alerts.resolve_closed(connection, closed)


def _with_number_check(request: StepRequest, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with what is said of its numbers. It is never refused for it, nor lost when the check has a bug."""
    if request.fixed_answer is not None:
        return {**answer, NUMBER_CHECK: {"checked": 0, "unexplained": []}}
    if request.facts is None or "insights" not in answer:
        return answer
    try:
        return {**answer, NUMBER_CHECK: check_insights(request.facts, answer["insights"])}
    except Exception:
        logger.exception("step.numbers_not_checked app=%s target=%s", request.app.app_type, request.target_id)
        return answer


def _charged_tokens(rule: FailureRule, usage: Usage | None, reservation: Reservation) -> int:
    match rule.budget:
        case BudgetEffect.RELEASE:
            return 0
        case BudgetEffect.SETTLE_USAGE:
            return usage.total_tokens if usage else reservation.tokens
        case BudgetEffect.CHARGE_ESTIMATE:
            return reservation.tokens


def _text_for_the_log(request: StepRequest, reply: Reply) -> str:
    """A member's prompt holds no personal number; should the model make one up, the log doesn't keep it, nor does whoever reads its JSON."""
    return reply.text if request.member_id is None else mask_personal_numbers_in_json(reply.text)


def _run_end(status: RunStatus, reply: Reply, charged_tokens: int, text: str) -> RunEnd:
    usage = reply.usage
    return RunEnd(
        status=status,
        latency_ms=reply.latency_ms,
        charged_tokens=charged_tokens,
        response_text=text,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        usage_reported=usage is not None,
        model_ids=usage.model_ids if usage else (),
        session_id=reply.session_id,
        request_id=reply.request_id,
    )
