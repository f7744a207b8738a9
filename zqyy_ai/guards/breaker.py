"""Circuit breaker, one for each application, shared by all processes.

    closed ──N failures in a row──→ open ──cool-down over──→ half_open ──probe succeeds──→ closed
                                     ↑                          │
                                     └──────probe fails─────────┘

Half-open lets exactly one probe through; its lease outlives a step, so that a probe whose process died is replaced and one that is
merely slow is not joined by a second. A probe may wait long for its turn and its slot before it is sent, so the lease is counted anew
from the moment of sending, and a probe that was replaced meanwhile is not sent.

Two more things are held in the same way, each by a breaker of its own that every call must pass:
- `*`, the whole account: arrears or a bad key open it at once;
- `throttled:<app>`: an application that DashScope goes on throttling after its callers waited and tried again. One call an interval
  finds out whether it is over, where all of them trying would keep the storm alive.

Rows are locked in the order of their names everywhere, `*` first, so that two calls never wait for each other in a circle.

Fails closed: when the state cannot be read, the call is not made. The same database also holds the budget, without which no call may
be paid.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid4

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards import SQL_PACKAGE
from zqyy_ai.guards.call_pauses import refuse_while_paused
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.storable_text import storable_or_none

EVERY_APP = "*"
_PAUSE = ""


def throttle_name(app_type: str) -> str:
    """The name of the breaker that holds an application while DashScope throttles it."""
    return f"throttled:{app_type}"


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`probe_lease` must be longer than a step may take."""

    failures: int
    cooldown: timedelta
    probe_lease: timedelta


@dataclass(frozen=True, slots=True)
class Breaker:
    """The stored state. `retry_at` is set while open; the probe's fields while half-open."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    retry_at: datetime | None = None
    probe_token: UUID | None = None
    probe_lease_expires_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. `probe_token` is set when this call is the probe on which the breaker's state depends."""

    app_type: str
    probe_token: UUID | None = None


def decide(
    breaker: Breaker, policy: BreakerPolicy, now: datetime, probe_token: UUID | None = None
) -> tuple[Breaker, UUID | None, datetime | None]:
    """May a call be made now? Returns the next state, the probe's token if this call is a probe, and, when refused, the moment
    at which asking again makes sense. Whoever brings the token of the present probe gets its lease anew."""
    if breaker.state is BreakerState.CLOSED:
        return breaker, None, None
    if breaker.state is BreakerState.HALF_OPEN and probe_token is not None and probe_token == breaker.probe_token:
        return replace(breaker, probe_lease_expires_at=now + policy.probe_lease), probe_token, None
    if breaker.state is BreakerState.OPEN and breaker.retry_at is not None and now < breaker.retry_at:
        return breaker, None, breaker.retry_at
    lease_end = breaker.probe_lease_expires_at
    if breaker.state is BreakerState.HALF_OPEN and lease_end is not None and now < lease_end:
        return breaker, None, min(lease_end, now + policy.cooldown)
    token = uuid4()
    probing = replace(breaker, state=BreakerState.HALF_OPEN, probe_token=token, probe_lease_expires_at=now + policy.probe_lease)
    return probing, token, None


def after_success(breaker: Breaker, probe_token: UUID | None) -> Breaker:
    """A closed breaker forgets its failures; a half-open one closes only for its own probe, not for a straggler from before."""
    if breaker.state is BreakerState.CLOSED or (probe_token is not None and probe_token == breaker.probe_token):
        return Breaker()
    return breaker


def after_failure(breaker: Breaker, probe_token: UUID | None, reason: str, policy: BreakerPolicy, now: datetime) -> Breaker:
    """Counts towards opening while closed; reopens when the probe failed; a straggler's failure changes nothing."""
    opened = Breaker(BreakerState.OPEN, max(breaker.failures + 1, policy.failures), now + policy.cooldown, reason=reason)
    match breaker.state:
        case BreakerState.CLOSED if breaker.failures + 1 < policy.failures:
            return replace(breaker, failures=breaker.failures + 1, reason=reason)
        case BreakerState.CLOSED:
            return opened
        case BreakerState.HALF_OPEN if probe_token is not None and probe_token == breaker.probe_token:
            return opened
        case _:
            return breaker


class BreakerGuard:
    """The breakers' stored state, and the decisions above carried out on it."""

    def __init__(self, policy: BreakerPolicy, throttle_policy: BreakerPolicy) -> None:
        self._policy = policy
        self._throttle_policy = throttle_policy

    def admit(self, connection: Connection, app_type: str) -> Permit:
        """Leave to call, or GuardRefusal with the moment to try again: `paused` by a person, `circuit_open`, or `rate_limited` while
        DashScope throttles.

        Call inside a transaction.
        """
        return self._admit(connection, Permit(app_type))

    def readmit(self, connection: Connection, permit: Permit) -> Permit:
        """The same once more, in the transaction after which the call leaves: the breaker may have opened while the call waited, and a
        probe may have been replaced. A probe's lease begins anew."""
        return self._admit(connection, permit)

    def _admit(self, connection: Connection, permit: Permit) -> Permit:
        app_type, probe_token = permit.app_type, None
        queries = named_queries("breakers", SQL_PACKAGE)
        open_ones = connection.execute(queries["not_closed"], {"app_types": _names_of(app_type)}).fetchall()
        for name in sorted(row["app_type"] for row in open_ones):
            if name == _PAUSE:
                refuse_while_paused(connection)
                continue
            breaker, now = self._lock(connection, name)
            decided, token, retry_at = decide(breaker, self._policy_of(name), now, permit.probe_token)
            if retry_at is not None:
                raise _refusal(name, breaker, retry_at)
            if token is not None:
                # One call probes the account and its own application alike: one token, so that its success closes both.
                probe_token = probe_token or permit.probe_token or token
                decided = replace(decided, probe_token=probe_token)
            if decided != breaker:
                self._save(connection, name, decided)
        return Permit(app_type, probe_token)

    def is_any_held(self, connection: Connection, app_types: Iterable[str]) -> bool:
        """Whether a breaker that calls of these applications must pass is not closed."""
        names = {name for app_type in app_types for name in _names_of(app_type)}
        rows = connection.execute(named_queries("breakers", SQL_PACKAGE)["not_closed"], {"app_types": sorted(names)})
        return any(row["app_type"] != _PAUSE for row in rows)

    def record_success(self, connection: Connection, permit: Permit) -> set[str]:
        """Also closes a hold whose probe this call was. Returns the names of the breakers that it closed."""
        rows = connection.execute(
            named_queries("breakers", SQL_PACKAGE)["succeeded"],
            {"app_types": _names_of(permit.app_type), "probe_token": permit.probe_token},
        ).fetchall()
        # Without a probe, what it touched were counters of closed breakers.
        return {row["app_type"] for row in rows} if permit.probe_token is not None else set()

    def record_failure(self, connection: Connection, permit: Permit, reason: str) -> bool:
        """Counts a failure; True when it opened the breaker. Call inside a transaction."""
        if permit.probe_token is not None:
            self._lock(connection, EVERY_APP)
        breaker, now = self._lock(connection, permit.app_type)
        failed = after_failure(breaker, permit.probe_token, reason, self._policy, now)
        if failed != breaker:
            self._save(connection, permit.app_type, failed)
        # If the call was the account's probe too: an application's failure tells nothing about the account.
        self.end_probe(connection, permit)
        return failed.state is BreakerState.OPEN and breaker.state is not BreakerState.OPEN

    def record_throttled(self, connection: Connection, permit: Permit, reason: str, retry_after: timedelta) -> bool:
        """Counts a call that DashScope throttled although its caller had waited; True when it held the application, or held it again.

        The hold lasts for `retry_after` if that is longer than the policy's cool-down. Call inside a transaction.
        """
        policy = replace(self._throttle_policy, cooldown=max(self._throttle_policy.cooldown, retry_after))
        name = throttle_name(permit.app_type)
        self.end_probe(connection, permit)
        breaker, now = self._lock(connection, name)
        throttled = after_failure(breaker, permit.probe_token, reason, policy, now)
        if throttled != breaker:
            self._save(connection, name, throttled)
        return throttled.state is BreakerState.OPEN and breaker.state is not BreakerState.OPEN

    def end_probe(self, connection: Connection, permit: Permit) -> None:
        """Gives a probe back that ended without telling anything about the application's health, so that the next may probe."""
        if permit.probe_token is not None:
            connection.execute(named_queries("breakers", SQL_PACKAGE)["end_probe"], {"probe_token": permit.probe_token})

    def hold_every_app(self, connection: Connection, permit: Permit, reason: str) -> bool:
        """Opens the account's breaker at once: no application calls until its probe succeeds. True when it was not open yet."""
        breaker, now = self._lock(connection, EVERY_APP)
        opened = Breaker(BreakerState.OPEN, self._policy.failures, now + self._policy.cooldown, reason=reason)
        self._save(connection, EVERY_APP, opened)
        self.end_probe(connection, permit)
        return breaker.state is BreakerState.CLOSED

    def _policy_of(self, name: str) -> BreakerPolicy:
        return self._throttle_policy if name.startswith(throttle_name("")) else self._policy

    def _lock(self, connection: Connection, name: str) -> tuple[Breaker, datetime]:
        row = connection.execute(named_queries("breakers", SQL_PACKAGE)["lock"], {"app_type": name}).fetchone()
        assert row is not None
        now = row.pop("now")
        return Breaker(**{**row, "state": BreakerState(row["state"])}), now

    def _save(self, connection: Connection, name: str, breaker: Breaker) -> None:
        connection.execute(
            named_queries("breakers", SQL_PACKAGE)["save"],
            {
                "app_type": name,
                "state": breaker.state.value,
                "failures": breaker.failures,
                "retry_at": breaker.retry_at,
                "probe_token": breaker.probe_token,
                "probe_lease_expires_at": breaker.probe_lease_expires_at,
                "reason": storable_or_none(breaker.reason),
            },
        )


def _names_of(app_type: str) -> list[str]:
    """The breakers that a call of the application must pass."""
    return [EVERY_APP, app_type, throttle_name(app_type)]


def _refusal(name: str, breaker: Breaker, retry_at: datetime) -> GuardRefusal:
    reason = breaker.reason or "连续失败"
    if name.startswith(throttle_name("")):
        app_type = name.removeprefix(throttle_name(""))
        return GuardRefusal("rate_limited", f"百炼正在对 {app_type} 限流({reason}),暂缓调用", retry_at=retry_at, has_own_alert=True)
    whom = "账户" if name == EVERY_APP else name
    return GuardRefusal("circuit_open", f"{whom} 的熔断器已打开:{reason}", retry_at=retry_at, has_own_alert=True)
