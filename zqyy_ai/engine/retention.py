"""Retention: what is old enough goes. `plan` only counts, `carry_out` deletes, in small batches of a transaction each.

One process at a time. Whatever interrupts it, the next run goes on where the rows say: a batch is committed or never was. Nobody waits for
it longer than a batch takes: rows that somebody has locked are passed over, and so are rows that another system's foreign key holds; both
come again with the next run. Dagster's own storage is not ours to clean here: `orchestration/retention.py`.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg

from zqyy_ai.domain.errors import RetentionBusy
from zqyy_ai.settings import Settings
from zqyy_ai.store import alerts, retention
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection, Database, database_now
from zqyy_ai.store.retention import Disposal, Picked

logger = logging.getLogger(__name__)

BATCH_ROWS = 1_000
MOST_SECONDS = 1_800.0
# Keys are picked for many batches at once: finding them may cost more than deleting a batch.
_PICKED_ROWS = 20_000
_GENERATING_AGE = timedelta(hours=1)
_IDLE_RATE_AGE = timedelta(days=1)
# Budgets are what was paid: as long as a run log lives by default, and never the present month.
_ACCOUNTS_AGE = timedelta(days=400)
# A batch waits so long for a lock that a foreign key's trigger needs, and takes so long at most.
_BATCH_LIMITS = "SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '30s', true)"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of rows that go. `older_than` is for an operator, in Chinese."""

    name: str
    title: str
    older_than: str
    disposal: Disposal
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a rule is. `due` is counted by a plan only, `done` is what a run deleted (or, of run logs' texts, redacted).

    `held`: rows that a foreign key kept, by constraint. `passed_over`: rows that somebody had locked or changed meanwhile.
    """

    rule: Rule
    rows_before: int = 0
    due: int | None = None
    done: int = 0
    held: dict[str, int] = field(default_factory=dict)
    passed_over: int = 0
    seconds: float = 0.0
    longest_batch_seconds: float = 0.0
    is_out_of_time: bool = False
    error: str | None = None
    is_finished: bool = False


def rules(settings: Settings, now: datetime) -> tuple[Rule, ...]:
    """All rules in the order in which they run: jobs before the events that became them, rows before the texts of younger ones."""

    def days(number: int) -> str:
        return f"{number} 天"

    def aged(name: str, title: str, number: int, disposal: Disposal) -> Rule:
        return Rule(name, title, days(number), disposal, {"before": now - timedelta(days=number)})

    keep = settings.cache_rows_per_type_and_site
    log_days, text_days, job_days = settings.run_log_retention_days, settings.run_log_text_retention_days, settings.job_retention_days
    seen_days = settings.etl_lookback_days + _ACCOUNTS_AGE.days
    text_parameters = {"before": now - timedelta(days=text_days), "deleted_before": now - timedelta(days=log_days)}
    return (
        Rule("rate_limits", "限流空闲行", "1 天", retention.RATE_LIMITS, {"before": now - _IDLE_RATE_AGE}),
        Rule("cache_generating", "缓存占位行", "1 小时", retention.CACHE_GENERATING, {"before": now - _GENERATING_AGE}),
        aged("live_events", "实时事件", settings.live_event_retention_days, retention.LIVE_EVENTS),
        aged("trigger_jobs", "已结束的任务", job_days, retention.TRIGGER_JOBS),
        aged("batches", "已结束的批次", job_days, retention.BATCHES),
        aged("events", "已处理的事件", job_days, retention.EVENTS),
        aged("event_runs", "已关闭的事件运行", job_days, retention.EVENT_RUNS),
        aged("alert_deliveries", "已结束的告警通知", job_days, retention.ALERT_DELIVERIES),
        aged("alerts", "已解决的告警", job_days, retention.ALERTS),
        aged("seen_etl_runs", "已见的数据加载", seen_days, retention.SEEN_ETL_RUNS),
        aged("budget_windows", "预算窗口", _ACCOUNTS_AGE.days, retention.BUDGET_WINDOWS),
        aged("sandbox_answers", "沙箱的回答", job_days, retention.SANDBOX_ANSWERS),
        Rule("cache", "缓存", f"{keep:,} 行以外", retention.CACHE_SURPLUS, {"keep": keep}),
        aged("run_logs", "运行日志", log_days, retention.RUN_LOGS),
        aged("run_log_days", "运行日志的日汇总", log_days, retention.RUN_LOG_DAYS),
        Rule("run_log_texts", "运行日志的文本", days(text_days), retention.RUN_LOG_TEXTS, text_parameters),
    )


def plan(database: Database, settings: Settings, *, now: datetime | None = None) -> list[Outcome]:
    """What `carry_out` would do now, by counting; changes nothing. `now` is the database's clock unless given."""
    with database.autocommit() as connection:
        outcomes = []
        for rule in rules(settings, now or database_now(connection)):
            started = time.monotonic()
            try:
                rows = retention.rows_now(connection, rule.disposal)
                due = sum(retention.due(connection, rule.disposal, parameters) for parameters in _parts(connection, rule))
                outcome = Outcome(rule, rows, due, is_finished=True)
            except psycopg.Error as failure:
                if connection.closed:
                    raise
                outcome = Outcome(rule, error=_said(failure), is_finished=True)
            outcomes.append(replace(outcome, seconds=time.monotonic() - started))
        return outcomes


def carry_out(
    database: Database,
    settings: Settings,
    *,
    now: datetime | None = None,
    batch_rows: int = BATCH_ROWS,
    most_seconds: float = MOST_SECONDS,
) -> Iterator[Outcome]:
    """Deletes what is old; yields how far a rule is after each batch, and `is_finished` at its end.

    One rule's failure (a right that is missing, for instance) is in its outcome and doesn't stop the others. Each rule may use its share of
    the time that is left, so that none starves. Raises RetentionBusy when another process is at it, psycopg.OperationalError when the
    connection is lost. What is not in the sums of the run logs yet is lost to them: see `run_log_closing.py`, which goes first.
    """
    with database.autocommit() as connection:
        if not retention.try_lock(connection):
            raise RetentionBusy("另一个进程正在清理，本次什么也没有做；稍后再试")
        try:
            deadline = time.monotonic() + most_seconds
            wanted = rules(settings, now or database_now(connection))
            for place, rule in enumerate(wanted):
                share_seconds = max(0.0, deadline - time.monotonic()) / (len(wanted) - place)
                yield from _Sweep(connection, rule, batch_rows, share_seconds).run()
        finally:
            if not connection.closed:
                retention.unlock(connection)


class _Sweep:
    """One rule's rows, batch by batch."""

    def __init__(self, connection: Connection, rule: Rule, batch_rows: int, most_seconds: float) -> None:
        self._connection = connection
        self._rule = rule
        self._batch_rows = batch_rows
        self._started = time.monotonic()
        self._deadline = self._started + most_seconds
        self._held: Counter[str] = Counter()
        self._passed_over = 0
        self._longest_seconds = 0.0

    def run(self) -> Iterator[Outcome]:
        outcome = Outcome(self._rule)
        try:
            outcome = replace(outcome, rows_before=retention.rows_now(self._connection, self._rule.disposal))
            for parameters in _parts(self._connection, self._rule):
                after: Picked | None = None
                while not outcome.is_out_of_time:
                    picked = retention.pick(self._connection, self._rule.disposal, parameters, after=after, rows=_PICKED_ROWS)
                    for start in range(0, len(picked), self._batch_rows):
                        if time.monotonic() >= self._deadline:
                            outcome = replace(outcome, is_out_of_time=True)
                            break
                        keys = [row.key for row in picked[start : start + self._batch_rows]]
                        outcome = replace(outcome, done=outcome.done + self._remove(parameters, keys))
                        yield self._told(outcome)
                    if len(picked) < _PICKED_ROWS:
                        break
                    after = picked[-1]
        except psycopg.Error as failure:
            if self._connection.closed:
                raise
            logger.warning("retention.rule_failed rule=%s cause=%s", self._rule.name, type(failure).__name__)
            outcome = replace(outcome, error=_said(failure))
        logger.info("retention.rule_done rule=%s done=%s", self._rule.name, outcome.done)
        yield replace(self._told(outcome), is_finished=True)

    def _told(self, outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            held=dict(self._held),
            passed_over=self._passed_over,
            seconds=time.monotonic() - self._started,
            longest_batch_seconds=self._longest_seconds,
        )

    def _remove(self, parameters: dict[str, Any], keys: list[int | str]) -> int:
        """How many went. A batch that a foreign key refuses is halved until the rows that it holds stand alone."""
        started = time.monotonic()
        try:
            with self._connection.transaction():
                self._connection.execute(_BATCH_LIMITS)
                done = retention.remove(self._connection, self._rule.disposal, parameters, keys)
            self._passed_over += len(keys) - done
            return done
        except psycopg.errors.QueryCanceled:
            # Too much for the time of one statement: large texts on a slow disk.
            if len(keys) == 1:
                self._passed_over += 1
                return 0
        except (psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation) as refused:
            if len(keys) == 1:
                self._held[refused.diag.constraint_name or "?"] += 1
                return 0
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            self._passed_over += len(keys)
            return 0
        finally:
            self._longest_seconds = max(self._longest_seconds, time.monotonic() - started)
        middle = len(keys) // 2
        return self._remove(parameters, keys[:middle]) + self._remove(parameters, keys[middle:])


def raise_retention_alert(database: Database, where: str) -> None:
    """The daily job failed; `where` says where to look."""
    with database.transaction() as connection:
        alerts.raise_alert(connection, Alert(AlertType.RETENTION_FAILED, f"每日清理失败，旧数据没有全部删除：{where}"))


def resolve_retention_alert(database: Database) -> None:
    with database.transaction() as connection:
        alerts.resolve(connection, alerts.fingerprint_of(AlertType.RETENTION_FAILED), "清理已成功")


def _parts(connection: Connection, rule: Rule) -> Iterator[dict[str, Any]]:
    """The rule's parameters; of the cache's surplus, those of each type and site that is crowded."""
    if rule.disposal is not retention.CACHE_SURPLUS:
        yield rule.parameters
        return
    for cache_type, site_id in retention.crowded_caches(connection, rule.parameters["keep"]):
        yield {**rule.parameters, "cache_type": cache_type, "site_id": site_id}


def _said(failure: psycopg.Error) -> str:
    return (failure.diag.message_primary or str(failure).strip() or type(failure).__name__)[:300]
