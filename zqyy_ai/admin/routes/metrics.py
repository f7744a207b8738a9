"""Figures for Prometheus, read from the database at each scrape: the same whichever server answers, and none is lost by a restart. But for
the reads of the cache: each server counts its own.

Counters never go back: they are sums of what was ever logged (`store/run_log_sums.py`), whatever retention deletes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.domain.access import ALL_SITES
from zqyy_ai.engine.prices import cost_cny
from zqyy_ai.settings import Settings
from zqyy_ai.store import alerts, job_pages, run_log_sums
from zqyy_ai.store.alerts import OpenAlerts
from zqyy_ai.store.database import Database, database_now
from zqyy_ai.store.job_pages import QueueState
from zqyy_ai.store.run_log_sums import CALL_OUTCOMES, LATENCY_BOUNDS_MS, REFUSED, REUSED, RunSum

router = APIRouter(tags=["探针"])


@router.get("/metrics", summary="Prometheus 指标", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(access: ViewerAccess) -> Response:
    """需要可访问全部门店的令牌（Prometheus 的 `authorization` 设置）。"""
    access.require_all_sites()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(access.database, access.services.settings))
    registry.register(access.services.cache_reads.counter)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Figures(Collector):
    """All figures of one moment."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._settings = settings
        with database.transaction() as connection:
            self._sums = run_log_sums.since_ever(connection, ALL_SITES)
            self._queue = job_pages.queue_states(connection, ALL_SITES)
            self._open_alerts = alerts.count_open(connection, ALL_SITES)
            self._now = database_now(connection)

    def collect(self) -> Iterable[Metric]:
        yield from _call_figures(self._sums, self._settings)
        yield from _queue_figures(self._queue, self._now.timestamp())
        yield _alert_figures(self._open_alerts)


class _Call:
    """What is added up of an application and site."""

    def __init__(self) -> None:
        self.by_outcome: dict[str, int] = defaultdict(int)
        self.tokens = self.input_tokens = self.output_tokens = self.latency_ms = 0
        self.counts = [0] * len(LATENCY_BOUNDS_MS)

    def add(self, row: RunSum) -> None:
        self.by_outcome[row.outcome] += row.logs
        self.tokens += row.tokens
        self.input_tokens += row.input_tokens
        self.output_tokens += row.output_tokens
        self.latency_ms += row.latency_ms
        self.counts = [count + more for count, more in zip(self.counts, row.latency_counts, strict=True)]


def _call_figures(rows: list[RunSum], settings: Settings) -> Iterator[Metric]:
    of_app = ("app", "site")
    calls = CounterMetricFamily("zqyy_ai_calls", "Calls that reached the model, by how they ended", labels=(*of_app, "outcome"))
    tokens = CounterMetricFamily("zqyy_ai_tokens", "Tokens charged; unreported ones are estimates", labels=(*of_app, "kind"))
    cost = CounterMetricFamily("zqyy_ai_cost_cny", "Cost by the prices in the settings, yuan", labels=of_app)
    latency = HistogramMetricFamily("zqyy_ai_call_latency_seconds", "How long calls took", labels=of_app)
    refusals = CounterMetricFamily("zqyy_ai_refusals", "Calls that a guard refused before they left", labels=(*of_app, "reason"))
    reused = CounterMetricFamily("zqyy_ai_reuses", "Steps that reused the cached answer without a call", labels=of_app)

    by_app: dict[tuple[str, str], _Call] = defaultdict(_Call)
    by_reason: dict[tuple[str, str, str], int] = defaultdict(int)
    by_hit: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        key = (row.app_type, _site(row.site_id))
        if row.outcome in CALL_OUTCOMES:
            by_app[key].add(row)
        elif row.outcome == REFUSED:
            by_reason[*key, row.refusal] += row.logs
        elif row.outcome == REUSED:
            by_hit[key] += row.logs
    for key, call in sorted(by_app.items()):
        for outcome in CALL_OUTCOMES:
            calls.add_metric((*key, outcome), call.by_outcome[outcome])
        spent = {"tokens": call.tokens, "input_tokens": call.input_tokens, "output_tokens": call.output_tokens}
        tokens.add_metric((*key, "input"), call.input_tokens)
        tokens.add_metric((*key, "output"), call.output_tokens)
        tokens.add_metric((*key, "unreported"), max(0, call.tokens - call.input_tokens - call.output_tokens))
        cost.add_metric(key, cost_cny(settings, **spent))
        buckets: list[tuple[str, float]] = [(str(ms / 1000), count) for ms, count in zip(LATENCY_BOUNDS_MS, call.counts, strict=True)]
        buckets.append(("+Inf", sum(call.by_outcome.values())))
        latency.add_metric(key, buckets, call.latency_ms / 1000)
    for (app, site, reason), number in sorted(by_reason.items()):
        refusals.add_metric((app, site, reason), number)
    for key, number in sorted(by_hit.items()):
        reused.add_metric(key, number)
    yield from (calls, tokens, cost, latency, refusals, reused)


def _queue_figures(states: list[QueueState], now: float) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("zqyy_ai_jobs", "Unfinished trigger jobs", labels=("site", "status"))
    age = GaugeMetricFamily("zqyy_ai_oldest_due_job_age_seconds", "Since when the longest waiting job may start", labels=("site",))
    for state in states:
        jobs.add_metric((_site(state.site_id), "pending"), state.pending)
        jobs.add_metric((_site(state.site_id), "running"), state.running)
        age.add_metric((_site(state.site_id),), max(0.0, now - state.oldest_due_at.timestamp()) if state.oldest_due_at else 0.0)
    yield from (jobs, age)


def _alert_figures(found: list[OpenAlerts]) -> Metric:
    gauge = GaugeMetricFamily("zqyy_ai_open_alerts", "Alerts that wait for somebody", labels=("type", "severity", "site"))
    for row in found:
        gauge.add_metric((row.alert_type, row.severity, _site(row.site_id)), row.alerts)
    return gauge


def _site(site_id: int | None) -> str:
    """`-`: of the whole chain."""
    return "-" if site_id is None else str(site_id)
