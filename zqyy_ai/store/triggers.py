"""`biz.trigger_jobs`: the five triggers: which events start work, and when the daily prewarm runs.

An edited row holds from the next look on; nothing is kept in memory.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zqyy_ai.domain.events import DedupPolicy, EventName
from zqyy_ai.store.database import Connection, what_is_only_shown
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.storable_text import storable

PREWARM_JOB_TYPE = "ai_dws_prewarm"


@dataclass(frozen=True, slots=True)
class Trigger:
    id: int
    job_name: str
    job_type: str
    trigger_condition: str
    trigger_config: dict[str, Any]
    status: str
    description: str | None
    last_run_at: datetime | None
    next_run_at: datetime | None
    last_error: str | None
    scheduled_expression: str | None

    @property
    def is_enabled(self) -> bool:
        return self.status == "enabled"

    @property
    def dedup_policy(self) -> DedupPolicy:
        """The config's `dedup_policy`; by default a business day, for finished loads `coalesce` (a late load is never lost)."""
        by_default = DedupPolicy.COALESCE if self.job_type == EventName.DWS_COMPLETED else DedupPolicy.BUSINESS_DAY
        try:
            return DedupPolicy(self.trigger_config.get("dedup_policy", by_default))
        except ValueError:
            return by_default

    @property
    def cron_expression(self) -> str | None:
        return self.trigger_config.get("cron_expression")


def trigger_for_event(connection: Connection, event_name: str) -> Trigger | None:
    row = connection.execute(named_queries("triggers")["for_event"], {"event_name": event_name}).fetchone()
    return _trigger(row) if row else None


def all_triggers(connection: Connection) -> list[Trigger]:
    """Those that start work of ours; other systems' rows of the table are left out."""
    job_types = [*EventName, PREWARM_JOB_TYPE]
    return [_trigger(row) for row in connection.execute(named_queries("triggers")["all"], {"job_types": job_types})]


def get_locked(connection: Connection, trigger_id: int) -> Trigger | None:
    """One of ours (other systems keep theirs in the table too); nobody else decides about it until the transaction ends."""
    job_types = [*EventName, PREWARM_JOB_TYPE]
    row = connection.execute(named_queries("triggers")["get_locked"], {"trigger_id": trigger_id, "job_types": job_types}).fetchone()
    return _trigger(row) if row else None


def change(
    connection: Connection,
    trigger: Trigger,
    *,
    status: str | None = None,
    description: str | None = None,
    cron_expression: str | None = None,
) -> None:
    """What is None stays as it is; of the config, everything but the expression."""
    connection.execute(
        named_queries("triggers")["change"],
        {"trigger_id": trigger.id, "status": status, "description": description, "cron_expression": cron_expression},
    )


def cron_triggers(connection: Connection, job_type: str) -> list[Trigger]:
    """The cron rows of a job type, locked until the transaction ends so that two schedulers never fire one of them twice."""
    return [_trigger(row) for row in connection.execute(named_queries("triggers")["of_job_type"], {"job_type": job_type})]


def record_run(connection: Connection, trigger_id: int, ran_at: datetime) -> None:
    """Notes that the trigger fired; for those who look, so that neither a row that somebody holds nor a foreign rule of the table's is in its way."""
    with what_is_only_shown(connection, "triggers.run"):
        connection.execute(named_queries("triggers")["ran"], {"trigger_id": trigger_id, "ran_at": ran_at})


def record_job_end(connection: Connection, event_name: str, error: str | None) -> None:
    """Shows on an event's trigger how its last job ended: `error`, or None for a good end. Writes only what changes, for those who look."""
    shown = storable(error[:1000]) if error else None
    with what_is_only_shown(connection, "triggers.job_end"):
        connection.execute(named_queries("triggers")["job_ended"], {"event_name": event_name, "error": shown})


def record_error(connection: Connection, trigger_id: int, error: str) -> None:
    """Shows the operator why the trigger is not scheduled; it will be once its row is put right."""
    connection.execute(named_queries("triggers")["failed"], {"trigger_id": trigger_id, "error": storable(error[:1000])})


def schedule_next(connection: Connection, trigger: Trigger, next_run_at: datetime | None) -> None:
    """Keeps when the trigger is due next, and for which expression that was worked out."""
    connection.execute(
        named_queries("triggers")["schedule"],
        {"trigger_id": trigger.id, "next_run_at": next_run_at, "expression": trigger.cron_expression},
    )


def _trigger(row: dict[str, Any]) -> Trigger:
    config = row["trigger_config"]
    return Trigger(**{**row, "trigger_config": config if isinstance(config, dict) else {}})
