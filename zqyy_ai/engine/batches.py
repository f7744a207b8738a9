"""Asking for many answers at once, in two steps: an estimate, bound to what it found, and a confirmation that starts exactly that.

Between them lie at most 15 minutes. What is confirmed becomes jobs behind all events, as a backfill's; cancelling keeps what is done.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from zqyy_ai.domain.access import ALL_SITES, SiteScope
from zqyy_ai.domain.apps import AppType, finance_app_of
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.errors import InvalidRequest, NotFound, StateConflict
from zqyy_ai.domain.events import FINANCE_CHAIN, MEMBER_APPS, EventType, dedup_key
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import RuntimeContext
from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey
from zqyy_ai.engine.assembly import budget_policy
from zqyy_ai.engine.member_requests import (
    BACKFILL_PRIORITY,
    HISTORY,
    BackfillPlan,
    BatchProgress,
    batch_progress,
    expected_call,
    expected_cost,
    jobs_of_plan,
    plan_backfill,
)
from zqyy_ai.guards.budget import BudgetWindow
from zqyy_ai.settings import Settings
from zqyy_ai.store import batches, run_logs, runtime_contexts, sites, trigger_jobs
from zqyy_ai.store.batches import Batch, NewBatch
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.trigger_jobs import NewJob

LIFETIME = timedelta(minutes=15)
CANCELLED = "已取消"
# They are made in one transaction, so that all are there or none.
MOST_JOBS = 20_000
_ALREADY_DECIDED = "请重新估算"


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch would do: at most so many calls, tokens, yuan and minutes. `digest` stands for exactly its targets, and for the site's
    `context`: what was estimated for a sandbox is not confirmed for live."""

    site_id: int
    context: RuntimeContext
    apps: tuple[AppType, ...]
    member_ids: tuple[int, ...]
    members: BackfillPlan | None
    windows: tuple[WindowKey, ...]
    calls_by_app: dict[str, int]
    tokens: int
    cny: Decimal
    minutes: float

    @property
    def calls(self) -> int:
        return sum(self.calls_by_app.values())

    @property
    def jobs(self) -> int:
        return len(self.windows) + (len(self.members.member_ids) if self.members else 0)

    @property
    def digest(self) -> str:
        told = [str(self.context.sandbox_date or "live"), self.members.digest if self.members else "-", *map(str, self.windows)]
        return sha256("|".join(told).encode()).hexdigest()

    @property
    def selection(self) -> dict[str, Any]:
        return {"app_types": [app.value for app in self.apps], "member_ids": list(self.member_ids)}


def plan_batch(database: Database, settings: Settings, site_id: int, apps: Collection[AppType], member_ids: Sequence[int]) -> BatchPlan:
    """`apps` for the members (none named: the active ones), the finance applications for all of their windows. Writes nothing.

    Raises InvalidRequest for an unknown or closed site, members that the site does not have, and for more jobs than one batch may have.
    """
    member_apps = tuple(app for app in MEMBER_APPS if app in apps)
    windows = tuple(window for window in WINDOW_KEYS if finance_app_of(window).app_type in apps)
    named = ",".join(map(str, member_ids)) or "active"
    members = plan_backfill(database, settings, site_id, member_apps, named, only_missing=False) if member_apps else None
    with database.autocommit() as connection:
        sites.get_site(connection, site_id)
        context = runtime_contexts.context_of(connection, site_id)
        usual = run_logs.usual_calls(connection, since=SystemClock().now() - HISTORY)
    calls = dict(members.calls_by_app) if members else {}
    for window in windows:
        app = finance_app_of(window).app_type
        calls[app] = calls.get(app, 0) + 1
    expected = {app: expected_call(app, usual) for app in calls}
    window_tokens = sum(expected[finance_app_of(window).app_type].tokens for window in windows)
    window_seconds = sum(expected[finance_app_of(window).app_type].seconds for window in windows) / settings.llm_concurrency
    _, cny = expected_cost(settings, calls, usual)
    plan = BatchPlan(
        site_id=site_id,
        context=context,
        apps=tuple(app for app in AppType if app in apps),
        member_ids=tuple(member_ids),
        members=members,
        windows=windows,
        calls_by_app={app.value: calls[app] for app in AppType if app in calls},
        tokens=round((members.tokens if members else 0) + window_tokens),
        cny=Decimal(cny).quantize(Decimal("0.01")),
        minutes=round((members.minutes if members else 0.0) + window_seconds / 60, 1),
    )
    if plan.jobs > MOST_JOBS:
        raise InvalidRequest(f"选中的会员过多（{plan.jobs:,} 个任务），一个批次最多 {MOST_JOBS:,} 个，请分批执行")
    return plan


def keep_estimate(connection: Connection, plan: BatchPlan, *, by: str) -> Batch:
    """The estimate that may be confirmed within `LIFETIME`."""
    new = NewBatch(
        id=uuid4(),
        site_id=plan.site_id,
        selection=plan.selection,
        digest=plan.digest,
        calls_by_app=plan.calls_by_app,
        estimated_tokens=plan.tokens,
        estimated_cny=plan.cny,
        estimated_minutes=plan.minutes,
        created_by=by,
    )
    return batches.add(connection, new, lifetime=LIFETIME)


def find_batch(database: Database, batch_id: UUID, scope: SiteScope = ALL_SITES) -> Batch:
    """Raises NotFound for one that `scope` does not see."""
    with database.autocommit() as connection:
        return _seen(batches.get(connection, batch_id), batch_id, scope)


def plan_again(database: Database, settings: Settings, batch_id: UUID, scope: SiteScope = ALL_SITES) -> BatchPlan:
    """What the selection of an estimate comes to now; `start_batch` compares. Raises NotFound, and StateConflict for one that can't be
    confirmed any more."""
    batch = find_batch(database, batch_id, scope)
    _refuse_decided(batch)
    apps = [AppType(app) for app in batch.selection["app_types"]]
    return plan_batch(database, settings, batch.site_id, apps, batch.selection["member_ids"])


def start_batch(
    connection: Connection,
    batch_id: UUID,
    plan: BatchPlan,
    *,
    settings: Settings,
    budget: Iterable[BudgetWindow],
    shown: SiteScope,
    by: str,
) -> int:
    """Makes the jobs of an estimate, once; returns how many. `budget`: the windows of the present; `shown`: whose numbers may be told.

    Raises StateConflict, with numbers: it was decided about before, is being confirmed at this moment, has expired, finds other targets than
    estimated, has nothing to do, or a budget window can't hold it.
    """
    batch = batches.get_unless_locked(connection, batch_id)
    if batch is None:
        raise StateConflict("该批次正在被另一个请求确认或取消", code="batch_busy")
    _refuse_decided(batch)
    if batch.digest != plan.digest:
        raise StateConflict(
            f"选中的内容在估算之后发生了变化（估算 {batch.calls} 次调用，现在 {plan.calls} 次），{_ALREADY_DECIDED}",
            code="batch_changed",
            estimated_calls=batch.calls,
            present_calls=plan.calls,
            estimated_calls_by_app=batch.calls_by_app,
            present_calls_by_app=plan.calls_by_app,
        )
    if not plan.jobs:
        raise StateConflict("没有可以生成的内容，未登记任务", code="batch_empty")
    _refuse_beyond_budget(plan, budget, settings, shown)
    jobs = _jobs(connection, plan, batch_id)
    trigger_jobs.add_all(connection, jobs)
    batches.mark_confirmed(connection, batch_id, by=by)
    return len(jobs)


def cancel_batch(connection: Connection, batch_id: UUID, *, by: str, scope: SiteScope = ALL_SITES) -> int:
    """Nothing more of it is begun: waiting jobs end as `failed`; returns how many. What is done stays, what runs ends by itself.

    Raises NotFound, and StateConflict for one that is over.
    """
    batch = _seen(batches.get_locked(connection, batch_id), batch_id, scope)
    if batch.cancelled_at is not None:
        raise StateConflict(f"批次 {batch_id} 已经取消")
    if batch.confirmed_at is not None and all(share.status.is_final for share in trigger_jobs.batch_shares(connection, batch_id)):
        raise StateConflict(f"批次 {batch_id} 已经结束")
    batches.mark_cancelled(connection, batch_id, by=by)
    return trigger_jobs.cancel_of_batch(connection, batch_id, CANCELLED)


@dataclass(frozen=True, slots=True)
class BatchReport:
    batch: Batch
    progress: BatchProgress

    @property
    def status(self) -> str:
        """estimated, expired, waiting, running, completed, partial, failed, cancelling or cancelled."""
        jobs = self.progress.jobs_by_status
        is_running = jobs.get(JobStatus.RUNNING, 0) > 0
        if self.batch.cancelled_at is not None:
            return "cancelling" if is_running else "cancelled"
        if self.batch.confirmed_at is None:
            return "expired" if self.batch.is_expired else "estimated"
        if self.progress.ended < self.progress.total:
            return "running" if is_running or self.progress.ended else "waiting"
        if self.progress.is_good:
            return "completed"
        has_done = jobs.get(JobStatus.COMPLETED, 0) + jobs.get(JobStatus.PARTIAL, 0) > 0
        return "partial" if has_done else "failed"


def batch_report(database: Database, batch_id: UUID, scope: SiteScope = ALL_SITES) -> BatchReport:
    """Raises NotFound for one that `scope` does not see."""
    return BatchReport(find_batch(database, batch_id, scope), batch_progress(database, batch_id))


def _seen(batch: Batch | None, batch_id: UUID, scope: SiteScope) -> Batch:
    if batch is None or not scope.sees(batch.site_id):
        raise NotFound(f"批次 {batch_id} 不存在")
    return batch


def _refuse_decided(batch: Batch) -> None:
    if batch.confirmed_at is not None:
        raise StateConflict(f"批次 {batch.id} 已由 {batch.confirmed_by} 确认过", code="batch_confirmed")
    if batch.cancelled_at is not None:
        raise StateConflict(f"批次 {batch.id} 已由 {batch.cancelled_by} 取消", code="batch_cancelled")
    if batch.is_expired:
        raise StateConflict(f"批次 {batch.id} 的估算已过期，{_ALREADY_DECIDED}", code="batch_expired")


def _refuse_beyond_budget(plan: BatchPlan, budget: Iterable[BudgetWindow], settings: Settings, shown: SiteScope) -> None:
    policy = budget_policy(settings)
    site_scope = f"site:{plan.site_id}"
    windows = (
        [("sandbox", "day")] if plan.context.is_sandbox else [(scope, kind) for scope in ("chain", site_scope) for kind in ("day", "month")]
    )
    spoken_for = {(window.scope, window.kind): window.used_tokens + window.reserved_tokens for window in budget}
    for scope, kind in windows:
        limit, limit_tokens = policy.limit_of(scope, kind)
        spent = spoken_for.get((scope, kind), 0)
        if spent + plan.tokens > limit_tokens:
            # What the other sites have spent is told to nobody who may not see them.
            is_shown = scope == site_scope or shown.is_all
            raise StateConflict(
                f"Token 预算不足（{limit}）：该批次约需 {plan.tokens:,}" + (f"，剩余 {max(limit_tokens - spent, 0):,}" if is_shown else ""),
                code="budget_insufficient",
                limit=limit,
                needed_tokens=plan.tokens,
                limit_tokens=limit_tokens if is_shown else None,
                spoken_for_tokens=spent if is_shown else None,
                available_tokens=max(limit_tokens - spent, 0) if is_shown else None,
            )


def _jobs(connection: Connection, plan: BatchPlan, batch_id: UUID) -> list[NewJob]:
    site = sites.get_site(connection, plan.site_id)
    context = plan.context
    business_date = context.business_date(SystemClock().now(), site.business_day_cutoff)
    event_type = EventType.BATCH_RUN
    windows = [
        NewJob(
            event_type=event_type,
            site_id=plan.site_id,
            business_date=business_date,
            dedup_key=dedup_key(event_type, plan.site_id, None, str(window), business_date, context.mode.value),
            app_chain=FINANCE_CHAIN,
            payload={"app_type": finance_app_of(window).app_type.value, "targets": [str(window)], "source": "api"},
            context=context,
            is_forced=True,
            priority=BACKFILL_PRIORITY,
            batch_id=batch_id,
        )
        for window in plan.windows
    ]
    members = jobs_of_plan(plan.members, business_date, batch_id, context, event_type=event_type, source="api") if plan.members else []
    return windows + members
