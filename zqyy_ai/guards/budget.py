"""Token budget: daily and monthly limits, for the whole chain and for each site.

    reserve ─→ sent ─→ settle (used, or the estimate where the outcome is unknown)
       └──────────────→ release

Admission never lets used + reserved pass a limit; what a call uses beyond its reservation is counted as overshoot. A reservation
whose holder died is charged at its estimate if it was sent and released if not. The database's clock decides the day.

Fails closed: a call that cannot be reserved is not made. Statements run with synchronous commit: they are money.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from uuid import UUID, uuid4

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards import SQL_PACKAGE
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

_REASON_TITLES = {"daily": "全店群每日", "monthly": "全店群每月", "site_daily": "门店每日", "site_monthly": "门店每月"}


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Limits in tokens."""

    daily_tokens: int
    monthly_tokens: int
    site_daily_tokens: int
    site_monthly_tokens: int


@dataclass(frozen=True, slots=True)
class Reservation:
    token: UUID
    tokens: int


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
    ) -> Reservation:
        """Sets `tokens` aside in all four windows, or raises GuardRefusal (`budget_exceeded:<limit>`) and sets nothing aside.

        `token` is the reservation's, for a caller who may have to release one whose commit was not confirmed.
        """
        reservation = Reservation(token or uuid4(), tokens)
        row = connection.execute(
            named_queries("budget", SQL_PACKAGE)["reserve"],
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
            },
        ).fetchone()
        assert row is not None
        reason = row["refused_by"]
        if reason is not None:
            raise GuardRefusal(f"budget_exceeded:{reason}", f"Token 预算超限({_REASON_TITLES[reason]}),本次需要 {tokens}")
        return reservation

    def mark_sent(self, connection: Connection, reservation: Reservation) -> bool:
        """Notes that the call is about to leave: from here on a dead holder is charged. False when the reservation is gone."""
        return connection.execute(named_queries("budget", SQL_PACKAGE)["mark_sent"], {"token": reservation.token}).rowcount == 1

    def settle(self, connection: Connection, reservation: Reservation, spent_tokens: int) -> bool:
        """Ends the reservation with what was spent, 0 to release it. False, changing nothing, when it was already ended."""
        row = connection.execute(
            named_queries("budget", SQL_PACKAGE)["settle"], {"token": reservation.token, "spent_tokens": spent_tokens}
        ).fetchone()
        return bool(row and row["settled"])

    def settle_of_the_dead(self, connection: Connection, worker_id: UUID | None = None) -> tuple[int, int]:
        """Ends reservations whose lease ran out, or that `worker_id` held; returns how many were charged and how many released."""
        rows = connection.execute(named_queries("budget", SQL_PACKAGE)["of_the_dead"], {"worker_id": worker_id}).fetchall()
        charged = 0
        for row in rows:
            sent_at: datetime | None = row["sent_at"]
            self.settle(connection, Reservation(row["token"], row["tokens"]), row["tokens"] if sent_at else 0)
            charged += sent_at is not None
        return charged, len(rows) - charged
