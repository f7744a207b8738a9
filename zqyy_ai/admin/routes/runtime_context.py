"""A site's runtime context: live, or a sandbox at a date of the past; and what the sandbox has brought."""

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import Access, AdminAccess, ViewerAccess
from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.runtime_context import RuntimeMode
from zqyy_ai.engine.sandbox import set_context
from zqyy_ai.store import audit, runtime_contexts, sandbox_answers, sites
from zqyy_ai.store.database import Connection
from zqyy_ai.store.runtime_contexts import SiteContext
from zqyy_ai.store.sandbox_answers import SandboxAnswer
from zqyy_ai.store.sites import Site

router = APIRouter(prefix="/admin/ai/runtime-context", tags=["沙箱"])

_CACHE_TYPES = [app.cache_type for app in APPS.values()]

SiteId = Annotated[int, Query(ge=1, le=2**63 - 1, description="门店编号", examples=[1001])]


class RuntimeContextRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: RuntimeMode = Field(description="live：日常；sandbox：以过去的某个业务日试运行", examples=["sandbox"])
    business_date: date | None = Field(
        None, ge=date(2000, 1, 1), description="sandbox 必填，不晚于今天的业务日；live 不填", examples=["2026-04-20"]
    )


class RuntimeContextResponse(BaseModel):
    """`business_date` is the sandbox's date, null where the clock decides; `current_business_date` is that of a job made now."""

    site_id: int = Field(examples=[1001])
    site_name: str = Field(examples=["春熙路店"])
    mode: RuntimeMode
    business_date: date | None = Field(examples=["2026-04-20"])
    current_business_date: date = Field(examples=["2026-04-20"])
    updated_at: datetime | None = Field(description="从未设置过则为空")
    updated_by: str | None = Field(examples=["店长"])

    @classmethod
    def of(cls, site: Site, found: SiteContext, clock: Clock) -> "RuntimeContextResponse":
        context = found.context
        return cls(
            site_id=site.site_id,
            site_name=site.site_name,
            mode=context.mode,
            business_date=context.sandbox_date,
            current_business_date=context.business_date(clock.now(), site.business_day_cutoff),
            updated_at=found.updated_at,
            updated_by=found.updated_by,
        )


class SandboxAnswerItem(BaseModel):
    """`created_at` is the real moment, `expires_at` one of the sandbox's time."""

    id: int
    cache_type: str = Field(examples=["app3_clue"])
    target_id: str = Field(examples=["7"])
    sandbox_date: date = Field(examples=["2026-04-20"])
    result_json: dict[str, Any]
    score: int | None
    triggered_by: str | None = Field(examples=["consumption"])
    created_at: datetime
    expires_at: datetime | None
    run_log_id: int | None

    @classmethod
    def of(cls, answer: SandboxAnswer) -> "SandboxAnswerItem":
        return cls.model_validate(answer, from_attributes=True)


class SandboxAnswersResponse(BaseModel):
    items: list[SandboxAnswerItem] = Field(description="最新的在前")


@router.get("", summary="门店的运行模式")
def show(site_id: SiteId, access: ViewerAccess) -> RuntimeContextResponse:
    with access.database.transaction() as connection:
        site = _site(connection, access, site_id)
        return RuntimeContextResponse.of(site, runtime_contexts.site_context(connection, site_id), access.services.clock)


@router.put("", summary="切换门店的运行模式")
def put(site_id: SiteId, body: RuntimeContextRequest, access: AdminAccess) -> RuntimeContextResponse:
    """此后为该门店生成的任务（事件、预热、加载、手动）都在新模式下执行；已生成的任务保持原来的模式。

    沙箱的回答写入 `biz.ai_sandbox_answers`，不进入缓存与线索表，费用单独计算。
    """
    clock = access.services.clock
    with access.database.transaction() as connection:
        site = _site(connection, access, site_id)
        before = set_context(connection, site, body.mode, body.business_date, clock=clock, updated_by=access.caller.name)
        after = runtime_contexts.site_context(connection, site_id)
        audit.record(
            connection,
            access.caller,
            "runtime_context.put",
            site_id=site_id,
            before=_told(before),
            after=_told(after),
            request_id=access.request_id,
        )
        return RuntimeContextResponse.of(site, after, clock)


@router.get("/answers", summary="沙箱的回答")
def answers(
    site_id: SiteId,
    cache_type: Annotated[
        str, Query(max_length=40, description="缓存类型", examples=["app3_clue"], json_schema_extra={"enum": list(_CACHE_TYPES)})
    ],
    target_id: Annotated[str, Query(max_length=60, pattern=r"^\w+$", description="如会员编号、this_month__all", examples=["7"])],
    access: ViewerAccess,
    business_date: Annotated[date | None, Query(description="只看这个沙箱业务日", examples=["2026-04-20"])] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="最多返回多少条")] = 20,
) -> SandboxAnswersResponse:
    if cache_type not in _CACHE_TYPES:
        raise Problem(422, f"cache_type 应为 {'、'.join(_CACHE_TYPES)} 之一")
    with access.database.transaction() as connection:
        _site(connection, access, site_id)
        found = sandbox_answers.of_target(connection, site_id, cache_type, target_id, sandbox_date=business_date, limit=limit)
    return SandboxAnswersResponse(items=[SandboxAnswerItem.of(answer) for answer in found])


def _site(connection: Connection, access: Access, site_id: int) -> Site:
    """Raises Problem 404 for a site that the caller does not see, as for one that does not exist."""
    access.refuse_other_sites(site_id)
    site = sites.find_site(connection, site_id)
    if site is None:
        raise not_found(f"门店 {site_id}")
    return site


def _told(found: SiteContext) -> dict[str, str | None]:
    day = found.context.sandbox_date
    return {"mode": found.context.mode.value, "business_date": day.isoformat() if day else None}
