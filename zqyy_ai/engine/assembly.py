"""Puts the engine's parts together from the settings: one engine a process."""

from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from zqyy_ai.domain.business_clock import Clock, SystemClock
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.engine.step import GuardedStep, Guards
from zqyy_ai.engine.worker import Worker
from zqyy_ai.guards.breaker import BreakerGuard, BreakerPolicy
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy
from zqyy_ai.guards.call_slots import SlotGuard
from zqyy_ai.guards.rate_limit import Rate, RateGuard, RatePolicy
from zqyy_ai.llm.client import DashScopeClient
from zqyy_ai.settings import DASHSCOPE_BASE_URL, Settings
from zqyy_ai.store.database import Database

# How much longer than a step a breaker's probe is waited for before another one is let through.
_PROBE_MARGIN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Engine:
    """What a process needs to carry out steps. Use as a context manager: the worker's heartbeat beats inside the block."""

    settings: Settings
    database: Database
    heartbeat_database: Database
    client: DashScopeClient
    worker: Worker
    guards: Guards
    step: GuardedStep
    clock: Clock
    runtime_context: RuntimeContext

    def __enter__(self) -> Self:
        self.worker.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.worker.__exit__(kind, error, trace)
        self.client.close()
        self.heartbeat_database.close()
        self.database.close()


def build_engine(settings: Settings, *, clock: Clock | None = None, runtime_context: RuntimeContext = LIVE) -> Engine:
    """Raises SettingError when the database or DashScope is not set up; nothing is connected or called yet."""
    url, api_key = settings.required_database_url(), settings.required_api_key()
    clock = clock or SystemClock()
    client = DashScopeClient(
        api_key,
        settings.dashscope_base_url or DASHSCOPE_BASE_URL,
        max_connections=settings.llm_concurrency,
        workspace=settings.dashscope_workspace,
    )
    database = Database(url, max_connections=settings.db_pool_connections)
    # A connection of its own: the heartbeat waits neither behind hundreds of steps for one, nor for a slow disk.
    heartbeat_database = Database(url, max_connections=1, application_name="zqyy_ai heartbeat", is_synced=False)
    worker = Worker(heartbeat_database, lease=timedelta(seconds=settings.lease_seconds))
    guards = build_guards(settings, database, worker)
    step = GuardedStep(database=database, client=client, guards=guards, settings=settings, clock=clock, worker=worker)
    return Engine(settings, database, heartbeat_database, client, worker, guards, step, clock, runtime_context)


def build_guards(settings: Settings, database: Database, worker: Worker) -> Guards:
    probe_lease = timedelta(seconds=settings.step_timeout_seconds) + _PROBE_MARGIN
    return Guards(
        breaker=BreakerGuard(
            BreakerPolicy(
                failures=settings.breaker_failures,
                cooldown=timedelta(seconds=settings.breaker_cooldown_seconds),
                probe_lease=probe_lease,
            ),
            BreakerPolicy(
                failures=settings.breaker_failures,
                cooldown=timedelta(seconds=settings.throttle_cooldown_seconds),
                probe_lease=probe_lease,
            ),
        ),
        rate=RateGuard(
            RatePolicy(
                site=Rate(calls=settings.site_calls_per_minute, seconds=60, burst=settings.site_calls_burst),
                app=Rate(calls=settings.app_calls_per_second, seconds=1, burst=settings.app_calls_per_second),
            )
        ),
        budget=build_budget_guard(settings),
        slots=SlotGuard(database, slots=settings.llm_concurrency, worker_id=worker.id, lease=worker.lease, stopping=worker.stopping),
    )


def build_budget_guard(settings: Settings) -> BudgetGuard:
    return BudgetGuard(budget_policy(settings))


def budget_policy(settings: Settings) -> BudgetPolicy:
    return BudgetPolicy(
        daily_tokens=settings.daily_token_limit,
        monthly_tokens=settings.monthly_token_limit,
        site_daily_tokens=settings.site_daily_token_limit,
        site_monthly_tokens=settings.site_monthly_token_limit,
        sandbox_daily_tokens=settings.sandbox_daily_token_limit,
    )
