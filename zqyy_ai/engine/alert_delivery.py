"""Delivery: people are told of alerts, through the targets of `ZQYY_ALERT_WEBHOOKS`.

At least once: a message is sent again where its deliverer died between sending and noting it down, or where a target took it and did
not say so in time. Nothing else waits for a delivery: who raises an alert only adds a row, and no database connection is held while a
target is asked.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from zqyy_ai.domain.errors import TransientError
from zqyy_ai.engine.alert_messages import Message, Tone, compose
from zqyy_ai.store import alert_deliveries
from zqyy_ai.store.alert_deliveries import AlertNews
from zqyy_ai.store.database import Database

logger = logging.getLogger(__name__)

FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
MOST_ATTEMPTS = 20
GIVE_UP_AFTER = timedelta(hours=24)
# All targets together, side by side; a sensor's tick has 60 s.
TICK_LIMIT = timedelta(seconds=25)
# How much longer than a tick a claim holds: what a dead deliverer had claimed is free then.
_LEASE_MARGIN = timedelta(seconds=30)


class Target(Protocol):
    """Where a message goes; see `AlertTarget`. `send` raises TransientError when it was not delivered."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> None: ...


@dataclass(frozen=True, slots=True)
class TargetOutcome:
    """What became of one message. `error` is None when it was delivered."""

    target: str
    error: str | None
    alert_changes: int = 0


def pause_after(attempts: int) -> timedelta:
    """How long a target is left alone after its `attempts`th failure in a row: 30 s, doubled each time, an hour at most."""
    doubled: timedelta = FIRST_PAUSE * int(2 ** min(attempts - 1, 20))
    return min(doubled, LONGEST_PAUSE)


def deliver_alerts(database: Database, targets: Sequence[Target], *, limit: timedelta = TICK_LIMIT) -> list[TargetOutcome]:
    """Tells each target what waits for it, in one message; returns after `limit` at the latest. Safe to call from anywhere at any time."""
    with database.transaction() as connection:
        alert_deliveries.give_up_old(connection, after=GIVE_UP_AFTER, reason="24 小时内没有可用的告警目标(ZQYY_ALERT_WEBHOOKS)")
        if targets:
            alert_deliveries.address(connection, [target.name for target in targets])
    claimed: dict[str, list[AlertNews]] = {}
    free = [target for target in targets if not _is_still_sending(target)]
    for target in free:
        with database.transaction() as connection:
            news = alert_deliveries.claim(connection, target.name, lease=limit + _LEASE_MARGIN)
        if news:
            claimed[target.name] = news
    messages = [(target, compose(claimed[target.name])) for target in free if target.name in claimed]
    outcomes = []
    for name, error in _sent_side_by_side(messages, limit):
        news = claimed[name]
        _note_down(database, news, error)
        outcomes.append(TargetOutcome(name, error, len(news)))
        logger.info("alert_delivery.done target=%s changes=%s error=%s", name, len(news), error)
    return outcomes


def send_test_message(targets: Sequence[Target], *, limit: timedelta = TICK_LIMIT) -> Iterator[TargetOutcome]:
    """A message to each target at once, each outcome as soon as it is known."""
    message = Message("【测试】zqyy_ai 告警通道", "这是一条测试消息,由 zqyy-ai alerts test 发出。收到即表示告警可以送达这里。", Tone.GOOD)
    for name, error in _sent_side_by_side([(target, message) for target in targets], limit):
        yield TargetOutcome(name, error)


def _note_down(database: Database, news: list[AlertNews], error: str | None) -> None:
    ids = [item.delivery_id for item in news]

    with database.transaction() as connection:
        if error is None:
            alert_deliveries.mark_sent(connection, ids)
        else:
            # All rows of a target wait together, so that they go out as one message again.
            pause = pause_after(max(item.attempts for item in news))
            alert_deliveries.mark_failed(connection, ids, error, pause, most_attempts=MOST_ATTEMPTS)


def _sent_side_by_side(messages: Sequence[tuple[Target, Message]], limit: timedelta) -> Iterator[tuple[str, str | None]]:
    """Each target's name and error, as soon as it is known.

    A thread each, because a target that lets its answer drip holds its thread as long as it likes: past the limit it is left behind.
    """
    deadline = time.monotonic() + limit.total_seconds()
    answers: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def send(target: Target, message: Message) -> None:
        error: str | None = None
        try:
            target.send(message)
        except TransientError as refused:
            error = str(refused)
        except Exception as failure:  # whatever it is: the tick waits for an answer of this thread
            error = f"发送失败({type(failure).__name__})"
        answers.put((target.name, error))

    for target, message in messages:
        threading.Thread(target=send, args=(target, message), name=_thread_name(target), daemon=True).start()
    unanswered = [target.name for target, _ in messages]
    while unanswered:
        try:
            name, error = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield from ((name, f"{limit.total_seconds():g} 秒内没有回应") for name in unanswered)
            return
        unanswered.remove(name)
        yield name, error


def _is_still_sending(target: Target) -> bool:
    """Whether a thread of this process that was left behind still waits for the target: there is never a second one."""
    return any(thread.name == _thread_name(target) for thread in threading.enumerate())


def _thread_name(target: Target) -> str:
    return f"zqyy-ai alert {target.name}"
