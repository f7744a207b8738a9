"""Whether the whole does its work: asked by a probe every few seconds, so it is quick, changes nothing and tells nobody an address."""

from dataclasses import dataclass
from datetime import timedelta

import psycopg

from zqyy_ai.engine.doctor import Verdict, check_dagster_daemons
from zqyy_ai.guards.call_pauses import pause_in_force
from zqyy_ai.settings import Settings
from zqyy_ai.store import job_pages
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import applied_version, newest_version

_DATABASE, _MIGRATIONS, _DAGSTER, _QUEUE = "database", "migrations", "dagster", "queue"
_DAEMON_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """`detail` is for an operator, in Chinese."""

    name: str
    is_ok: bool
    detail: str


def check_readiness(database: Database, settings: Settings) -> list[ReadinessCheck]:
    """Database, migrations, queue, Dagster's daemons. `database` must see all sites. What can't be looked at is not well."""
    return [*_check_database(database, settings), _check_dagster(settings)]


def _check_database(database: Database, settings: Settings) -> list[ReadinessCheck]:
    try:
        with database.transaction() as connection:
            version = applied_version(connection)
            if version != newest_version():
                migrations = ReadinessCheck(_MIGRATIONS, is_ok=False, detail=f"版本 {version or '无'}，应为 {newest_version()}")
                return [_ok(_DATABASE, "可用"), migrations, _unknown(_QUEUE)]
            is_paused = pause_in_force(connection) is not None
            movement = job_pages.queue_movement(connection, lately=timedelta(seconds=settings.job_stuck_seconds))
    except psycopg.Error as failure:
        return [
            ReadinessCheck(_DATABASE, is_ok=False, detail=f"不可用（{type(failure).__name__}）"),
            _unknown(_MIGRATIONS),
            _unknown(_QUEUE),
        ]
    return [
        _ok(_DATABASE, "可用"),
        _ok(_MIGRATIONS, f"版本 {version}"),
        _check_queue(movement, settings.job_stuck_seconds, is_paused=is_paused),
    ]


def _check_queue(movement: job_pages.QueueMovement, longest_seconds: float, *, is_paused: bool) -> ReadinessCheck:
    """A long queue is no illness while it moves: what is ill is that nobody works on what is due."""
    age = movement.oldest_due_age_seconds
    if age is None:
        return _ok(_QUEUE, "没有到期未开始的任务")
    told = f"最早到期的任务已等待 {age:.0f} 秒"
    if is_paused:
        return _ok(_QUEUE, f"{told}；模型调用已暂停")
    is_ok = movement.has_moved or age <= longest_seconds
    return ReadinessCheck(_QUEUE, is_ok, told if is_ok else f"{told}，且 {longest_seconds:.0f} 秒内没有任务进展")


def _check_dagster(settings: Settings) -> ReadinessCheck:
    found = check_dagster_daemons(settings, timeout_seconds=_DAEMON_SECONDS)
    if found.verdict is Verdict.OK:
        return _ok(_DAGSTER, "守护进程健康")
    return ReadinessCheck(_DAGSTER, is_ok=False, detail="没有回应，或守护进程不健康；运行 zqyy-ai doctor 查看")


def _ok(name: str, detail: str) -> ReadinessCheck:
    return ReadinessCheck(name, is_ok=True, detail=detail)


def _unknown(name: str) -> ReadinessCheck:
    return ReadinessCheck(name, is_ok=False, detail="无法检查")
