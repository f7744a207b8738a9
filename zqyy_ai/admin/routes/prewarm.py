"""How far the 72 finance windows of a site are."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.admin.parameters import LARGEST_ID
from zqyy_ai.admin.problems import not_found
from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.store import cache, job_pages, sites

router = APIRouter(prefix="/admin/ai/prewarm", tags=["预热"])


class PrewarmMissingItem(BaseModel):
    target_id: str = Field(examples=["this_month__hallA"])
    time_dimension: str = Field(examples=["this_month"])
    area: str = Field(examples=["hallA"])


class PrewarmJob(BaseModel):
    """The site's prewarm job: the one that runs, else the one that waits, else the newest."""

    id: int = Field(examples=[88])
    status: str = Field(examples=["running"])
    progress: dict[str, Any] = Field(description="total、done、reused、failed、calls、tokens", examples=[{"total": 72, "done": 40}])
    is_forced: bool
    run_id: str | None = Field(description="执行它的 Dagster 运行")
    not_before: datetime | None
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class PrewarmProgressResponse(BaseModel):
    total: int = Field(examples=[72])
    done: int = Field(description="有有效且未过期回答的窗口数", examples=[71])
    missing: list[PrewarmMissingItem]
    last_updated: datetime | None = Field(description="最新一份有效回答的生成时间")
    job: PrewarmJob | None = Field(description="没有预热任务为 null")


@router.get("/progress", summary="预热进度")
def prewarm_progress(
    access: ViewerAccess, site_id: Annotated[int, Query(ge=1, le=LARGEST_ID, description="门店编号", examples=[1001])]
) -> PrewarmProgressResponse:
    access.refuse_other_sites(site_id)
    with access.database.transaction() as connection:
        if sites.find_site(connection, site_id) is None:
            raise not_found(f"门店 {site_id}")
        fresh = cache.fresh_targets(connection, site_id, map(str, WINDOW_KEYS), now=access.services.clock.now())
        job = job_pages.newest_prewarm(connection, access.scope, site_id)
    missing = [window for window in WINDOW_KEYS if str(window) not in fresh]
    return PrewarmProgressResponse(
        total=len(WINDOW_KEYS),
        done=len(fresh),
        missing=[
            PrewarmMissingItem(target_id=str(window), time_dimension=window.time_dimension.value, area=window.area.value)
            for window in missing
        ],
        last_updated=max(fresh.values(), default=None),
        job=None if job is None else PrewarmJob(**{name: getattr(job, name) for name in PrewarmJob.model_fields}),
    )
