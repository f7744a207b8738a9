"""Token budget: daily and monthly limits, for the whole chain and for each site.

    reserve ─→ sent ─→ settle (used, or the estimate where the outcome is unknown)
       └──────────────→ release

Admission never lets used + reserved pass a limit; what a call uses beyond its reservation is counted as overshoot, and told where it
passes a limit. A reservation whose holder died is charged at its estimate if it was sent and released if not. The database's clock
decides the day: the chain's turns at midnight, a site's at its business-day cut-off, both in Asia/Shanghai. Calls of the sandbox have a
daily limit of their own, for all sites together, and never touch the other windows.

Fails closed: a call that cannot be reserved is not made. Marking as sent and settling commit synchronously: they are money. Lock order:
reservations, then windows in key order, then run logs, then alerts.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from uuid import UUID, uuid4

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards import SQL_PACKAGE
from zqyy_ai.store import alerts, run_logs
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

_REASON_TITLES = {
    "daily": "全店群每日",
    "monthly": "全店群每月",
    "site_daily": "门店每日",
    "site_monthly": "门店每月",
    "sandbox_daily": "沙箱每日",
}
_CHAIN = "chain"
_SANDBOX = "sandbox"


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Limits in tokens."""

    daily_tokens: int
    monthly_tokens: int
    site_daily_tokens: int
    site_monthly_tokens: int
    sandbox_daily_tokens: int = 1_000_000

    def limit_of(self, scope: str, kind: str) -> tuple[str, int]:
        """Name and tokens of the limit of a budget window; `scope` is `chain`, `site:<site_id>` or `sandbox`, `kind` `day` or `month` (of the
        sandbox `day`)."""
        if scope == _SANDBOX:
            return "sandbox_daily", self.sandbox_daily_tokens
        match scope == _CHAIN, kind:
            case True, "day":
                return "daily", self.daily_tokens
            case True, _:
                return "monthly", self.monthly_tokens
            case False, "day":
                return "site_daily", self.site_daily_tokens
            case _:
                return "site_monthly", self.site_monthly_tokens


@dataclass(frozen=True, slots=True)
class Reservation:
    token: UUID
    tokens: int


@dataclass(frozen=True, slots=True)
class PassedLimit:
    """A window in which used + reserved is beyond the limit, because a call used more than its reservation."""

    scope: str
    kind: str
    starts_on: date
    limit: str
    limit_tokens: int
    spoken_for_tokens: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a reservation ended; `run_log_id` is None for one that was never marked as sent."""

    run_log_id: int | None
    overshoot_tokens: int
    passed_limits: tuple[PassedLimit, ...]


@dataclass(frozen=True, slots=True)
class BudgetWindow:
    """What is spoken for in a budget window of the present, in tokens."""

    scope: str
    kind: str
    starts_on: date
    used_tokens: int
    reserved_tokens: int
    overshoot_tokens: int


class BudgetGuard:
    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy

    def reserve(
        self,
        connection: Connection,
        *,
        site_id: int,
        site_cutoff: time,
        app_type: str,
        tokens: int,
        worker_id: UUID,
        lease: timedelta,
        token: UUID | None = None,
        is_sandbox: bool = False,
    ) -> Reservation:
        """Sets `tokens` aside in all four windows (of the sandbox: in its own), or raises GuardRefusal (`budget_exceeded:<limit>`) and sets nothing aside.

        The refusal's `retry_at` is the start of that limit's next window; it is None for a call that is larger than the whole limit.
        `token` is the reservation's, for a caller who may have to release one whose commit was not confirmed.
        """
        reservation = Reservation(token or uuid4(), tokens)
        row = connection.execute(
            named_queries("budget", SQL_PACKAGE)["reserve_in_sandbox" if is_sandbox else "reserve"],
            {
                "token": reservation.token,
                "worker_id": worker_id,
                "site_id": site_id,
                "app_type": app_type,
                "tokens": tokens,
                "lease": lease,
                "site_cutoff": site_cutoff,
                "daily": self._policy.daily_tokens,
                "monthly": self._policy.monthly_tokens,
                "site_daily": self._policy.site_daily_tokens,
                "site_monthly": self._policy.site_monthly_tokens,
                "sandbox_daily": self._policy.sandbox_daily_tokens,
            },
        ).fetchone()
        assert row is not None
        reason = row["refused_by"]
        if reason is not None:
            message = f"Token 预算超限({_REASON_TITLES[reason]}),本次需要 {tokens}"
            raise GuardRefusal(f"budget_exceeded:{reason}", message, retry_at=row["retry_at"])
        return reservation

    def mark_sent(self, connection: Connection, reservation: Reservation, *, run_log_id: int, lease: timedelta) -> bool:
        """Notes that the call is about to leave, and its log: from here on a dead holder is charged. Its lease begins anew. False when
        the reservation is gone."""
        marks = {"token": reservation.token, "run_log_id": run_log_id, "lease": lease}
        return connection.execute(named_queries("budget", SQL_PACKAGE)["mark_sent"], marks).rowcount == 1

    def settle(self, connection: Connection, reservation: Reservation, spent_tokens: int) -> Settlement | None:
        """Ends the reservation with what was spent, 0 to release it. None, changing nothing, when it was already ended."""
        windows = connection.execute(
            named_queries("budget", SQL_PACKAGE)["settle"], {"token": reservation.token, "spent_tokens": spent_tokens}
        ).fetchall()
        if not windows:
            return None
        overshoot_tokens = max(0, spent_tokens - reservation.tokens)
        passed = []
        for window in windows if overshoot_tokens else ():
            if window["scope"].startswith(_SANDBOX):
                continue  # an experiment's overshoot is nobody's alarm
            limit, limit_tokens = self._policy.limit_of(window["scope"], window["kind"])
            spoken_for_tokens = window["used_tokens"] + window["reserved_tokens"]
            if spoken_for_tokens > limit_tokens:
                passed.append(PassedLimit(window["scope"], window["kind"], window["starts_on"], limit, limit_tokens, spoken_for_tokens))
        return Settlement(windows[0]["run_log_id"], overshoot_tokens, tuple(passed))

    def report_overshoot(self, connection: Connection, settlement: Settlement | None) -> None:
        """Tells people of limits that a call passed by its overshoot, one alert a window. The last thing in the settling transaction."""
        for passed in settlement.passed_limits if settlement else ():
            title = _REASON_TITLES[passed.limit]
            message = (
                f"调用用量超过预估,Token 预算已越过限额({title},{passed.starts_on} 起):"
                f"已用与预留 {passed.spoken_for_tokens:,},限额 {passed.limit_tokens:,}"
            )
            site_id = None if passed.scope == _CHAIN else int(passed.scope.removeprefix("site:"))
            detail = f"overshoot:{passed.limit}:{passed.starts_on}"
            assert settlement is not None
            alerts.raise_alert(connection, Alert(AlertType.BUDGET_EXCEEDED, message, site_id, log_id=settlement.run_log_id, detail=detail))

    def settle_of_the_dead(self, connection: Connection, worker_ids: list[UUID] | None = None) -> tuple[int, int]:
        """Ends the reservations of these workers, or those whose lease ran out; returns how many were charged and how many released.

        The charge of a call is written into its log too. Call inside a transaction.
        """
        queries = named_queries("budget", SQL_PACKAGE)
        rows = connection.execute(queries["of_the_dead"], {"worker_ids": worker_ids}).fetchall()
        if not rows:
            return 0, 0
        connection.execute(queries["lock_windows"], {"tokens": [row["token"] for row in rows]})
        charged_logs: list[tuple[int | None, int]] = []
        for row in rows:
            sent_at: datetime | None = row["sent_at"]
            settlement = self.settle(connection, Reservation(row["token"], row["tokens"]), row["tokens"] if sent_at else 0)
            if sent_at is not None and settlement is not None:
                charged_logs.append((settlement.run_log_id, row["tokens"]))
        for run_log_id, tokens in charged_logs:
            if run_log_id is not None:
                run_logs.close_of_dead_call(connection, run_log_id, charged_tokens=tokens)
        return len(charged_logs), len(rows) - len(charged_logs)


def current_windows(connection: Connection) -> list[BudgetWindow]:
    """The chain's, all sites' and the sandbox's windows of this day and month, those in which anything was reserved yet."""
    return [BudgetWindow(**row) for row in connection.execute(named_queries("budget", SQL_PACKAGE)["current_windows"])]
