"""The pause switch: a person stops all calls of all applications, with a reason, until a person lets them go on.

The breakers' admission looks at it (`breaker.py`), when a call asks and once more in the transaction after which the call leaves: what
leaves after the pause was committed had looked some milliseconds before. Calls already under way are paid: they end, and their answers are written.

Fails closed: when the switch cannot be read, the call is not made.
"""

from dataclasses import dataclass
from datetime import datetime

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards import SQL_PACKAGE
from zqyy_ai.store.database import Connection, database_now
from zqyy_ai.store.queries import named_queries

REFUSAL = "paused"


@dataclass(frozen=True, slots=True)
class CallPause:
    id: int
    reason: str
    paused_by: str
    paused_at: datetime


def pause_in_force(connection: Connection) -> CallPause | None:
    row = connection.execute(named_queries("call_pauses", SQL_PACKAGE)["in_force"]).fetchone()
    return CallPause(**row) if row else None


def refuse_while_paused(connection: Connection) -> None:
    """Raises GuardRefusal (`paused`). Its `retry_at` is now: no run is asked for during a pause, and the end of it wakes them all."""
    pause = pause_in_force(connection)
    if pause is not None:
        message = f"所有模型调用已由 {pause.paused_by} 暂停:{pause.reason}"
        raise GuardRefusal(REFUSAL, message, retry_at=database_now(connection), has_own_alert=True)


def pause(connection: Connection, *, reason: str, paused_by: str) -> CallPause | None:
    """Begins a pause; None when one is in force already."""
    row = connection.execute(named_queries("call_pauses", SQL_PACKAGE)["pause"], {"reason": reason, "paused_by": paused_by}).fetchone()
    return CallPause(**row) if row else None


def resume(connection: Connection, *, resumed_by: str) -> CallPause | None:
    """Ends the pause in force and returns it; None when there is none."""
    row = connection.execute(named_queries("call_pauses", SQL_PACKAGE)["resume"], {"resumed_by": resumed_by}).fetchone()
    return CallPause(**row) if row else None


def calls_in_flight(connection: Connection) -> int:
    """How many calls are under way, across all processes."""
    row = connection.execute(named_queries("call_pauses", SQL_PACKAGE)["calls_in_flight"]).fetchone()
    assert row is not None
    return int(row["calls"])
