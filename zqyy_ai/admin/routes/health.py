"""For probes: is the process alive, and does the whole do its work. Without a token, and without anything that is nobody's business."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from zqyy_ai.admin.services import TheServices
from zqyy_ai.engine.readiness import check_readiness

router = APIRouter(tags=["探针"])


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class CheckItem(BaseModel):
    name: str = Field(description="database、migrations、queue 或 dagster", examples=["database"])
    ok: bool
    detail: str = Field(examples=["可用"])


class Readiness(BaseModel):
    status: Literal["ok", "unavailable"]
    checks: list[CheckItem]


@router.get("/healthz", summary="进程存活")
async def healthz() -> Liveness:
    """Not in the thread pool: alive also when all its threads wait."""
    return Liveness()


@router.get("/readyz", summary="能否正常工作", responses={503: {"model": Readiness, "description": "至少一项不正常"}})
def readyz(response: Response, services: TheServices) -> Readiness:
    """数据库、迁移、队列与 Dagster 守护进程；任一不正常为 503。"""
    found = check_readiness(services.chain_database, services.settings)
    is_ready = all(check.is_ok for check in found)
    response.status_code = 200 if is_ready else 503
    response.headers["Cache-Control"] = "no-store"
    return Readiness(
        status="ok" if is_ready else "unavailable",
        checks=[CheckItem(name=check.name, ok=check.is_ok, detail=check.detail) for check in found],
    )
