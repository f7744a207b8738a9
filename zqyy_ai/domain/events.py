"""Events that start work, the types of the jobs they become, and the chains of applications those run.

Names are the original system's: the inbox and `biz.trigger_jobs` speak of event names (`ai_dws_completed`), `ai_trigger_jobs` of
event types (`dws_completed`).
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256
from typing import Any

from zqyy_ai.domain.apps import AppType


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

# What a chain asks, in this order; a consumption with an assistant goes on with `ASSISTANT_APPS`.
ASSISTANT_APPS = (AppType.ANALYSIS, AppType.TACTICS)
CHAINS: dict[EventType, tuple[AppType, ...]] = {
    EventType.CONSUMPTION: (AppType.CLUE, AppType.CONSOLIDATION, AppType.CUSTOMER),
    EventType.NOTE_CREATED: (AppType.NOTE, AppType.CONSOLIDATION),
    EventType.TASK_ASSIGNED: ASSISTANT_APPS,
}
# The applications whose partitions are members, in the order in which each finds what it needs of the others.
MEMBER_APPS = (AppType.CLUE, AppType.NOTE, AppType.CONSOLIDATION, AppType.CUSTOMER, *ASSISTANT_APPS)
FINANCE_CHAIN = "app2"
# By the type of a job, as its row has it: the event that it started from. Jobs that no event starts have none.
EVENT_NAMES: dict[str, EventName] = {event_type: name for name, event_type in EVENT_TYPES.items()}


def chain_text(apps: tuple[AppType, ...]) -> str:
    """A chain as `ai_trigger_jobs.app_chain` has it: `app3→app8→app7`."""
    return "→".join(app.value.partition("_")[0] for app in apps)


class DedupPolicy(StrEnum):
    """`business_day`: one job a business date. `coalesce`: merge while pending, one follow-up while running."""

    BUSINESS_DAY = "business_day"
    COALESCE = "coalesce"


@dataclass(frozen=True, slots=True)
class Event:
    """The payload of an event, as far as anything is decided by it. All but a finished load name a member.

    `assistant_id`: whom App4 and App5 serve; None where the event brings no assistant. `note_digest` tells notes without an id apart.
    """

    event_type: EventType
    site_id: int
    member_id: int | None = None
    assistant_id: int | None = None
    note_id: str | None = None
    note_digest: str | None = None
    etl_run_id: str | None = None
    connector_type: str = "feiqiu"
    is_forced: bool = False

    @property
    def subject(self) -> str:
        """What makes two events of one member and day two jobs; `-` where nothing does."""
        match self.event_type:
            case EventType.NOTE_CREATED:
                return f"note:{self.note_id}" if self.note_id else f"text:{self.note_digest}"
            case EventType.TASK_ASSIGNED:
                return str(self.assistant_id)
            case EventType.DWS_COMPLETED:
                return self.etl_run_id or "-"
            case _:
                return "-"

    @property
    def app_chain(self) -> str:
        return FINANCE_CHAIN if self.event_type is EventType.DWS_COMPLETED else chain_text(self.apps)

    @property
    def apps(self) -> tuple[AppType, ...]:
        """The member applications of its chain, in order; none for a finished load."""
        apps = CHAINS.get(self.event_type, ())
        has_more = self.event_type is EventType.CONSUMPTION and self.assistant_id is not None
        return apps + ASSISTANT_APPS if has_more else apps


def parse_event(name: EventName, payload: Any) -> Event:
    """Raises ValueError, in words for an operator, when the payload cannot be meant. Unknown fields are allowed."""
    if not isinstance(payload, dict):
        raise ValueError("payload 必须是 JSON 对象")  # noqa: TRY004 - one class for whatever is wrong with a payload
    event_type = EVENT_TYPES[name]
    for flag in ("regenerate", "only_missing"):
        _flag(payload, flag)
    has_assistant = _flag(payload, "has_assistant")
    assistant_id = _id(payload, "assistant_id", is_needed=event_type is EventType.TASK_ASSIGNED)
    if event_type is EventType.NOTE_CREATED or (event_type is EventType.CONSUMPTION and not has_assistant):
        # Of a consumption both must say so: a till that always names somebody means nobody by it.
        assistant_id = None
    note = _note(payload) if event_type is EventType.NOTE_CREATED else None
    return Event(
        event_type=event_type,
        site_id=_needed_id(payload, "site_id"),
        member_id=None if event_type is EventType.DWS_COMPLETED else _needed_id(payload, "member_id"),
        assistant_id=assistant_id,
        note_id=_optional_text(payload, "note_id") if note is not None else None,
        note_digest=sha256(note.encode("utf-8", "replace")).hexdigest()[:16] if note is not None else None,
        etl_run_id=_optional_text(payload, "etl_run_id") if event_type is EventType.DWS_COMPLETED else None,
        connector_type=_optional_text(payload, "connector_type") or "feiqiu",
        is_forced=_flag(payload, "is_forced"),
    )


def dedup_key(event_type: EventType, site_id: int, member_id: int | None, subject: str, business_date: date, mode: str) -> str:
    """What is one job: `consumption|1001|7|-|2026-04-20|live`; a site's own jobs name no member: `dws_completed|1001|-|2026-04-20|live`."""
    member = () if member_id is None else (str(member_id),)
    # A subject may hold the separator; whoever splits takes date and mode from the end.
    return "|".join((event_type.value, str(site_id), *member, subject, business_date.isoformat(), mode))


def dedup_key_on(key: str, business_date: date) -> str:
    """The same key for another business date."""
    rest, _, mode = key.rsplit("|", 2)
    return f"{rest}|{business_date.isoformat()}|{mode}"


def _note(payload: dict[str, Any]) -> str:
    content = payload.get("note_content")
    if not isinstance(content, str) or not content.strip():
        raise ValueError("note_content 必须是非空字符串")
    for name in ("noted_by_name", "noted_by_created_at"):
        _optional_text(payload, name)
    return content.strip()


def _needed_id(payload: dict[str, Any], name: str) -> int:
    found = _id(payload, name, is_needed=True)
    assert found is not None
    return found


def _id(payload: dict[str, Any], name: str, *, is_needed: bool) -> int | None:
    value = payload.get(name)
    if value is None:
        if is_needed:
            raise ValueError(f"缺少 {name}")
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        # Never the value itself: what stands in the wrong field may be somebody's phone number, and this goes to logs and webhooks.
        raise ValueError(f"{name} 必须是正整数,收到的是{_kind_of(value)}")
    return value


def _kind_of(value: Any) -> str:
    match value:
        case bool():
            return "布尔值"
        case int() | float():
            return "超出范围的数或小数"
        case str():
            return "字符串"
        case list():
            return "数组"
        case _:
            return "对象"


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
