"""Events that start work, the types of the jobs they become, and the chains of applications those run.

Names are the original system's: the inbox and `biz.trigger_jobs` speak of event names (`ai_dws_completed`), `ai_trigger_jobs` of
event types (`dws_completed`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EventName(StrEnum):
    CONSUMPTION_SETTLED = "ai_consumption_settled"
    NOTE_CREATED = "ai_note_created"
    TASK_ASSIGNED = "ai_task_assigned"
    DWS_COMPLETED = "ai_dws_completed"


class EventType(StrEnum):
    CONSUMPTION = "consumption"
    NOTE_CREATED = "note_created"
    TASK_ASSIGNED = "task_assigned"
    DWS_COMPLETED = "dws_completed"
    RUN_APP = "run_app"
    BATCH_RUN = "batch_run"
    BACKFILL = "backfill"


EVENT_TYPES: dict[EventName, EventType] = {
    EventName.CONSUMPTION_SETTLED: EventType.CONSUMPTION,
    EventName.NOTE_CREATED: EventType.NOTE_CREATED,
    EventName.TASK_ASSIGNED: EventType.TASK_ASSIGNED,
    EventName.DWS_COMPLETED: EventType.DWS_COMPLETED,
}

APP_CHAINS: dict[EventType, str] = {
    EventType.CONSUMPTION: "app3→app8→app7",
    EventType.NOTE_CREATED: "app6→app8",
    EventType.TASK_ASSIGNED: "app4→app5",
    EventType.DWS_COMPLETED: "app2",
}


class DedupPolicy(StrEnum):
    """`business_day`: one job a business date. `coalesce`: merge while pending, one follow-up while running."""

    BUSINESS_DAY = "business_day"
    COALESCE = "coalesce"


@dataclass(frozen=True, slots=True)
class DwsCompleted:
    """The payload of `ai_dws_completed`: a load of one site's business data has finished."""

    site_id: int
    etl_run_id: str | None
    connector_type: str
    is_forced: bool
    regenerate: bool
    only_missing: bool


def parse_dws_completed(payload: Any) -> DwsCompleted:
    """Raises ValueError, in words for an operator, when the payload cannot be meant. Unknown fields are allowed."""
    if not isinstance(payload, dict):
        raise ValueError("payload 必须是 JSON 对象")  # noqa: TRY004 - one class for whatever is wrong with a payload
    return DwsCompleted(
        site_id=_site_id(payload),
        etl_run_id=_optional_text(payload, "etl_run_id"),
        connector_type=_optional_text(payload, "connector_type") or "feiqiu",
        is_forced=_flag(payload, "is_forced"),
        regenerate=_flag(payload, "regenerate"),
        only_missing=_flag(payload, "only_missing"),
    )


def _site_id(payload: dict[str, Any]) -> int:
    value = payload.get("site_id")
    if value is None:
        raise ValueError("缺少 site_id")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise ValueError(f"site_id 必须是正整数,收到 {value!r}"[:200])
    return value


def _optional_text(payload: dict[str, Any], name: str) -> str | None:
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{name} 必须是字符串")  # noqa: TRY004
    return str(value)[:200]


def _flag(payload: dict[str, Any], name: str) -> bool:
    value = payload.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} 必须是 true 或 false")  # noqa: TRY004
    return value
