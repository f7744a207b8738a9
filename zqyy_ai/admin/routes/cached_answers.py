"""What the mini-program reads: a target's newest answer, and its history. Nothing here starts anything."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from zqyy_ai.admin.access import ReaderAccess
from zqyy_ai.admin.cache_reads import CacheRead
from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.domain.apps import APPS
from zqyy_ai.store import cache
from zqyy_ai.store.cache import CachedAnswer

router = APIRouter(prefix="/ai/cache", tags=["缓存结果"])

_CACHE_TYPES = tuple(app.cache_type for app in APPS.values())
# Applications' names are accepted for their cache types, also the one that the old dispatcher used.
_BY_NAME = {
    "app8_consolidate": "app8_clue_consolidated",
    **{app.app_type.value: app.cache_type for app in APPS.values()},
    **{cache_type: cache_type for cache_type in _CACHE_TYPES},
}
# Kept by the client alone, and asked about each time: an answer may be invalidated at any moment.
_CACHING = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}


def _cache_type_of(name: str) -> str:
    try:
        return _BY_NAME[name]
    except KeyError:
        raise PydanticCustomError("cache_type", "应为 {allowed} 之一", {"allowed": "、".join(_CACHE_TYPES)}) from None


CacheType = Annotated[
    str,
    Path(description="缓存类型；也接受应用名称，如 app6_note", examples=["app2_finance"], json_schema_extra={"enum": sorted(_BY_NAME)}),
    AfterValidator(_cache_type_of),
]
SiteId = Annotated[int, Query(ge=1, le=2**63 - 1, description="门店", examples=[1001])]
TargetId = Annotated[
    str,
    Query(
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00]+$",
        description="财务为 `{时间维度}__{区域}`，会员为会员编号，助教为 `{助教}_{会员}`",
        examples=["this_month__all"],
    ),
]


class CachedResult(BaseModel):
    """An answer as it is stored. `stale_since` is when it expired, null while it is fresh."""

    model_config = ConfigDict(populate_by_name=True)

    id: int = Field(examples=[120])
    cache_type: str = Field(examples=["app2_finance"])
    site_id: int = Field(examples=[1001])
    target_id: str = Field(examples=["this_month__all"])
    result: dict[str, Any] | list[Any] | None = Field(description="AI 的回答，结构因应用而异", examples=[{"insights": []}])
    score: int | None = Field(description="备注分析的评分 1–10", examples=[None])
    created_at: datetime | None
    expires_at: datetime | None = Field(description="为空表示不过期")
    stale_since: datetime | None = Field(description="过期的时间；未过期为空")
    references: dict[str, Any] | list[Any] | None = Field(
        alias="_references", description="回答所依据的数据：来源、日期、行数", examples=[{"date_from": "2026-04-01", "rows": 20}]
    )


class HistoryEntry(CachedResult):
    status: str | None = Field(description="valid 或 invalidated", examples=["valid"])


class History(BaseModel):
    items: list[HistoryEntry]


@router.get(
    "/{cache_type}",
    summary="读取最新的缓存结果",
    responses={304: {"description": "与 If-None-Match 所指的相同"}, 404: {"description": "没有结果，或已过期（code 为 stale）"}},
    response_model=CachedResult,
)
def read_cached_answer(
    access: ReaderAccess,
    response: Response,
    cache_type: CacheType,
    site_id: SiteId,
    target_id: TargetId,
    allow_stale: Annotated[bool, Query(description="没有未过期的结果时，返回最近一次过期的结果")] = False,
    if_none_match: Annotated[str | None, Header(description="上次回答的 ETag")] = None,
) -> CachedResult | Response:
    """最新的有效结果。已过期时返回 404（`code` 为 `stale`）；带 `allow_stale=true` 则返回它，`stale_since` 为过期时间。

    回答带 ETag：以 If-None-Match 再次询问，未变化则为 304。
    """
    access.refuse_other_sites(site_id)
    now = access.services.clock.now()
    answer = cache.get_for_readers(access.database, cache_type, site_id, target_id, now=now)
    reads = access.services.cache_reads
    if answer is None:
        reads.note(cache_type, CacheRead.MISSING)
        raise not_found(f"{cache_type}/{target_id} 的结果")
    is_stale = answer.expires_at is not None and answer.expires_at <= now
    if is_stale:
        reads.note(cache_type, CacheRead.STALE, site_id)
    if is_stale and not allow_stale:
        raise Problem(404, f"{cache_type}/{target_id} 的结果已过期", code="stale", expires_at=_text(answer.expires_at))
    headers = {**_CACHING, "ETag": _etag(answer, is_stale=is_stale)}
    if if_none_match is not None and _names(if_none_match, headers["ETag"]):
        if not is_stale:
            reads.note(cache_type, CacheRead.UNCHANGED, site_id)
        return Response(status_code=304, headers=headers)
    if not is_stale:
        reads.note(cache_type, CacheRead.FRESH, site_id)
    response.headers.update(headers)
    return CachedResult(**_fields(answer, now))


@router.get("/{cache_type}/history", summary="读取历史结果")
def read_history(
    access: ReaderAccess,
    response: Response,
    cache_type: CacheType,
    site_id: SiteId,
    target_id: TargetId,
    limit: Annotated[int, Query(ge=1, le=50, description="最多返回多少条")] = 10,
) -> History:
    """最近的结果，最新的在前；已过期和已失效的也在内。没有结果时 `items` 为空。"""
    access.refuse_other_sites(site_id)
    with access.database.transaction() as connection:
        answers = cache.get_answers(connection, cache_type, site_id, target_id, limit=limit)
    response.headers.update(_CACHING)
    now = access.services.clock.now()
    return History(items=[HistoryEntry(**_fields(answer, now), status=answer.status or "valid") for answer in answers])


def _fields(answer: CachedAnswer, now: datetime) -> dict[str, Any]:
    result: Any = answer.result_json
    return {
        "id": answer.id,
        "cache_type": answer.cache_type,
        "site_id": answer.site_id,
        "target_id": answer.target_id,
        "result": result,
        "score": answer.score,
        "created_at": answer.created_at,
        "expires_at": answer.expires_at,
        "stale_since": answer.expires_at if answer.expires_at is not None and answer.expires_at <= now else None,
        "references": result.get("_references") if isinstance(result, dict) else None,
    }


def _etag(answer: CachedAnswer, *, is_stale: bool) -> str:
    """An answer that is used again has another expiry; one that expires reads otherwise."""
    expiry = "never" if answer.expires_at is None else f"{answer.expires_at.timestamp():.6f}"
    return f'"{answer.id}-{expiry}{"-stale" if is_stale else ""}"'


def _names(if_none_match: str, etag: str) -> bool:
    return if_none_match.strip() == "*" or etag in {part.strip().removeprefix("W/") for part in if_none_match.split(",")}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
