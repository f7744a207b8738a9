"""The overview of the operators: what was called, with what success, for how much, and what waits for somebody.

A call is what reached the model: success, timeout, or failed. What a guard refused and what was reused without a call are counted apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.apps import APPS
from zqyy_ai.engine.budget_status import BudgetStatus, budget_status
from zqyy_ai.engine.prices import cost_cny
from zqyy_ai.settings import Settings
from zqyy_ai.store import alerts, job_pages, run_log_sums
from zqyy_ai.store.alerts import StoredAlert
from zqyy_ai.store.database import Database
from zqyy_ai.store.run_log_sums import CALL_OUTCOMES, REFUSED, REUSED, DaySum

_RECENT_ALERTS = 10


@dataclass(frozen=True, slots=True)
class DayFigures:
    """Of one day, or of several added. Rates are 0–100, of calls; 0 without any."""

    calls: int
    succeeded: int
    reused: int
    refused: int
    tokens: int
    cost_cny: float
    average_latency_ms: int

    @property
    def success_rate(self) -> float:
        return _percentage(self.succeeded, self.calls)


@dataclass(frozen=True, slots=True)
class AppShare:
    app_type: str
    calls: int
    percentage: float


@dataclass(frozen=True, slots=True)
class AppHealth:
    """`last_status`: how the newest call ended; None for an application that was never called."""

    app_type: str
    last_status: str | None
    last_call_at: datetime | None


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`trend` has an entry for each day of the range, in order; `distribution` is of the range, the most called application first."""

    today: DayFigures
    trend: list[tuple[date, DayFigures]]
    distribution: list[AppShare]
    budget: BudgetStatus
    recent_alerts: list[StoredAlert]
    app_health: list[AppHealth]
    waiting_jobs: int
    open_alerts: int


def build_dashboard(database: Database, settings: Settings, scope: SiteScope, *, today: date, days: Sequence[date]) -> Dashboard:
    """`database` as the caller may see it; `scope` the sites asked for; `days` the range, in order."""
    with database.transaction() as connection:
        rows = run_log_sums.by_day(connection, scope, {*days, today})
        last_calls = {call.app_type: call for call in run_log_sums.last_calls(connection, scope)}
        recent, _ = alerts.find_page(connection, scope, None, offset=0, rows=_RECENT_ALERTS)
        open_alerts = sum(found.alerts for found in alerts.count_open(connection, scope))
        waiting = job_pages.waiting_jobs(connection, scope)
        budget = budget_status(connection, settings, scope)
    by_day: dict[date, list[DaySum]] = defaultdict(list)
    for row in rows:
        by_day[row.day].append(row)
    health = []
    for app_type in APPS:
        call = last_calls.get(app_type)
        health.append(AppHealth(app_type, call.outcome if call else None, call.last_at if call else None))
    return Dashboard(
        today=_figures(settings, by_day.get(today, [])),
        trend=[(day, _figures(settings, by_day.get(day, []))) for day in days],
        distribution=_distribution(row for day in days for row in by_day.get(day, [])),
        budget=budget,
        recent_alerts=recent,
        app_health=health,
        waiting_jobs=waiting,
        open_alerts=open_alerts,
    )


def _figures(settings: Settings, rows: Iterable[DaySum]) -> DayFigures:
    logs: dict[str, int] = defaultdict(int)
    tokens = input_tokens = output_tokens = latency_ms = 0
    for row in rows:
        logs[row.outcome] += row.logs
        if row.outcome in CALL_OUTCOMES:
            tokens += row.tokens
            input_tokens += row.input_tokens
            output_tokens += row.output_tokens
            latency_ms += row.latency_ms
    calls = sum(logs[outcome] for outcome in CALL_OUTCOMES)
    return DayFigures(
        calls=calls,
        succeeded=logs["success"],
        reused=logs[REUSED],
        refused=logs[REFUSED],
        tokens=tokens,
        cost_cny=round(cost_cny(settings, tokens=tokens, input_tokens=input_tokens, output_tokens=output_tokens), 4),
        average_latency_ms=round(latency_ms / calls) if calls else 0,
    )


def _distribution(rows: Iterable[DaySum]) -> list[AppShare]:
    calls: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.outcome in CALL_OUTCOMES:
            calls[row.app_type] += row.logs
    total = sum(calls.values())
    return [
        AppShare(app, number, _percentage(number, total)) for app, number in sorted(calls.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _percentage(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
