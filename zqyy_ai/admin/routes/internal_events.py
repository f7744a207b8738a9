"""What other services tell: a finished load, and any event. Validated first, taken in at once."""

from typing import Annotated, Any, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from zqyy_ai.admin.access import Access, InternalAccess
from zqyy_ai.admin.fields import Id, Text, invalid_field, refuse_unstorable
from zqyy_ai.admin.problems import not_found
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.event_requests import SettledEvent, fire, settle_events, understood
from zqyy_ai.engine.intake import LARGEST_PAYLOAD_BYTES
from zqyy_ai.store import audit, sites
from zqyy_ai.store.database import Connection

router = APIRouter(prefix="/internal", tags=["内部"])


class EtlCompletedRequest(BaseModel):
    """Exactly one of `site_id`, `site_ids` and `all`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"site_id": 1001, "etl_run_id": "20260420-0400"}, {"site_ids": [1001, 1002]}, {"all": True, "etl_run_id": "r1"}]
        },
    )

    site_id: Id | None = None
    site_ids: Annotated[list[Id], Field(min_length=1, max_length=1000)] | None = None
    all: bool = Field(False, description="令牌可见的全部营业门店")
    etl_run_id: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(
        None, description="同一次加载重复通知时不会再次执行", examples=["20260420-0400"]
    )

    @model_validator(mode="after")
    def _names_sites_once(self) -> Self:
        if (self.site_id is not None) + (self.site_ids is not None) + self.all != 1:
            raise ValueError("site_id、site_ids 与 all 恰好给出一个")
        return self


class InternalEventRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    event_name: EventName = Field(examples=[EventName.CONSUMPTION_SETTLED])
    payload: dict[str, Any] = Field(
        description="字段见 docs/operations.md「触发事件」",
        examples=[{"site_id": 1001, "member_id": 1001000001, "has_assistant": True, "assistant_id": 100103}],
    )


class FiredEvent(BaseModel):
    """What became of an event. Without a job, `rejected_reason` says why (the trigger is disabled, the site is closed)."""

    event_id: int
    site_id: int
    trigger_job_id: int | None
    status: JobStatus | None
    is_duplicate: bool = Field(description="已有任务代表该事件，没有新建")
    rejected_reason: str | None

    @classmethod
    def of(cls, site_id: int, settled: SettledEvent) -> Self:
        return cls(
            event_id=settled.event_id,
            site_id=site_id,
            trigger_job_id=settled.trigger_job_id,
            status=settled.status,
            is_duplicate=settled.is_duplicate,
            rejected_reason=settled.rejected_reason,
        )


class EtlCompletedResponse(BaseModel):
    events: list[FiredEvent]


@router.post("/etl-completed", summary="数据加载已完成")
def etl_completed(body: EtlCompletedRequest, access: InternalAccess) -> EtlCompletedResponse:
    """为一个、多个或全部门店触发 `ai_dws_completed`。"""
    load = {} if body.etl_run_id is None else {"etl_run_id": body.etl_run_id}
    with access.database.transaction() as connection:
        if body.all:
            site_ids = [site.site_id for site in sites.active_sites(connection) if access.scope.sees(site.site_id)]
        else:
            site_ids = list(dict.fromkeys(body.site_ids or ([] if body.site_id is None else [body.site_id])))
            for site_id in site_ids:
                access.refuse_other_sites(site_id)
                if sites.find_site(connection, site_id) is None:
                    raise not_found(f"门店 {site_id}")
        event_ids = [fire(connection, EventName.DWS_COMPLETED, {"site_id": site_id, "source": "api", **load}) for site_id in site_ids]
        for site_id, event_id in zip(site_ids, event_ids, strict=True):
            _record(access, connection, EventName.DWS_COMPLETED, site_id, event_id, load)
    services = access.services
    settled = settle_events(services.chain_database, services.clock, event_ids)
    return EtlCompletedResponse(events=[FiredEvent.of(site_id, event) for site_id, event in zip(site_ids, settled, strict=True)])


@router.post("/events", summary="触发一个事件")
def fire_event(body: InternalEventRequest, access: InternalAccess) -> FiredEvent:
    """与 `biz.fire_ai_event` 相同，但先校验并立即接收：返回事件与任务的编号。"""
    refuse_unstorable(body.payload, "body.payload", LARGEST_PAYLOAD_BYTES)
    try:
        event = understood(body.event_name, body.payload)
    except InvalidRequest as invalid:
        raise invalid_field("body.payload", str(invalid)) from None
    with access.database.transaction() as connection:
        access.refuse_other_sites(event.site_id)
        if sites.find_site(connection, event.site_id) is None:
            raise not_found(f"门店 {event.site_id}")
        event_id = fire(connection, body.event_name, body.payload)
        _record(access, connection, body.event_name, event.site_id, event_id, {"member_id": event.member_id})
    services = access.services
    [settled] = settle_events(services.chain_database, services.clock, [event_id])
    return FiredEvent.of(event.site_id, settled)


def _record(access: Access, connection: Connection, name: EventName, site_id: int, event_id: int, more: dict[str, Any]) -> None:
    audit.record(
        connection,
        access.caller,
        "event.fire",
        site_id=site_id,
        subject=str(event_id),
        after={"event_name": name.value, "site_id": site_id, **more},
        request_id=access.request_id,
    )
