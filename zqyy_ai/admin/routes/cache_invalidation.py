"""Making cached answers invalid, by scope; what was asked again meanwhile stays out of it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import OperatorAccess
from zqyy_ai.admin.fields import Id, Text, invalid_field
from zqyy_ai.admin.known_sites import open_site
from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.events import MEMBER_APPS
from zqyy_ai.store import audit, cache, live_events

router = APIRouter(prefix="/admin/ai/cache", tags=["缓存"])

_MOST_MEMBERS_TOLD = 200


class CacheInvalidateRequest(BaseModel):
    """All answers of the site, or those of an application, of a member, of a target."""

    model_config = ConfigDict(extra="forbid")

    site_id: Id
    app_type: AppType | None = None
    member_id: Id | None = Field(None, description="App3 至 App8 的目标，App4、App5 为 `助教_会员` 中的会员")
    target_id: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(None, examples=["this_month__all"])
    preview: bool = Field(False, description="只计数，不改动")


class InvalidatedOfApp(BaseModel):
    app_type: AppType
    rows: int = Field(examples=[12])


class InvalidatedOfMember(BaseModel):
    member_id: int = Field(examples=[1001000001])
    rows: int = Field(examples=[3])


class CacheInvalidateResponse(BaseModel):
    """`affected_count` counts rows, also those that had expired. `by_member` names at most 200 members, those with most rows."""

    affected_count: int = Field(examples=[15])
    preview: bool
    by_app: list[InvalidatedOfApp]
    by_member: list[InvalidatedOfMember]
    member_count: int = Field(examples=[4])


@router.post("/invalidate", summary="使缓存失效")
def invalidate(body: CacheInvalidateRequest, access: OperatorAccess) -> CacheInvalidateResponse:
    """标记范围内所有 `valid`（或没有状态）的行，已过期的也在内；下一次生成会重新调用模型。`preview` 只计数。"""
    if body.member_id is not None and body.app_type is not None and body.app_type not in MEMBER_APPS:
        raise invalid_field("body.member_id", f"{body.app_type.value} 没有会员")
    apps = (body.app_type,) if body.app_type else tuple(AppType)
    with access.database.transaction() as connection:
        open_site(access, connection, body.site_id)
        find = cache.count_invalidatable if body.preview else cache.invalidate
        counts = find(
            connection,
            body.site_id,
            [APPS[app].cache_type for app in apps],
            member_id=body.member_id,
            target_id=body.target_id,
        )
        by_app = {
            app.app_type: sum(share.rows for share in counts if share.cache_type == app.cache_type)
            for app in APPS.values()
            if any(share.cache_type == app.cache_type for share in counts)
        }
        by_member: dict[int, int] = {}
        for share in counts:
            if share.member_id is not None:
                by_member[share.member_id] = by_member.get(share.member_id, 0) + share.rows
        if not body.preview:
            scope = body.model_dump(mode="json", exclude_none=True, exclude={"preview"})
            live_events.publish_all(
                connection,
                "cache_updated",
                [
                    (
                        body.site_id,
                        {
                            "cache_type": APPS[app].cache_type,
                            "app_type": app.value,
                            "status": "invalidated",
                            "target_id": body.target_id,
                            "member_id": body.member_id,
                            "rows": rows,
                        },
                    )
                    for app, rows in by_app.items()
                ],
            )
            audit.record(
                connection,
                access.caller,
                "cache.invalidate",
                site_id=body.site_id,
                subject=body.app_type.value if body.app_type else None,
                before={"scope": scope, "valid_rows": sum(by_app.values())},
                after={"invalidated_rows": {app.value: rows for app, rows in by_app.items()}},
                request_id=access.request_id,
            )
    most = sorted(by_member.items(), key=lambda member: (-member[1], member[0]))[:_MOST_MEMBERS_TOLD]
    return CacheInvalidateResponse(
        affected_count=sum(by_app.values()),
        preview=body.preview,
        by_app=[InvalidatedOfApp(app_type=app, rows=rows) for app, rows in by_app.items()],
        by_member=[InvalidatedOfMember(member_id=member_id, rows=rows) for member_id, rows in most],
        member_count=len(by_member),
    )
