"""Batches: an estimate, a confirmation that starts exactly that, progress, and cancelling."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import OperatorAccess, ViewerAccess
from zqyy_ai.admin.fields import Id
from zqyy_ai.admin.known_sites import open_site
from zqyy_ai.admin.problems import CONFLICT
from zqyy_ai.domain.apps import AppType
from zqyy_ai.engine import batches
from zqyy_ai.guards.budget import current_windows
from zqyy_ai.store import audit

router = APIRouter(prefix="/admin/ai/batch-run", tags=["批量运行"])

BatchStatus = Annotated[
    str,
    Field(
        description="estimated | expired | waiting | running | completed | partial | failed | cancelling | cancelled", examples=["running"]
    ),
]


class BatchRunRequest(BaseModel):
    """Applications of members; the finance applications stand for all of their windows (8 and 64)."""

    model_config = ConfigDict(extra="forbid")

    site_id: Id
    app_types: list[AppType] = Field(min_length=1, max_length=20, examples=[["app3_clue", "app8_consolidation"]])
    member_ids: list[Id] = Field(max_length=5000, description="空数组：全部活跃会员", examples=[[1001000001, 1001000002]])


class BatchRunEstimate(BaseModel):
    """At most so much: what has not changed since its last answer is reused and costs nothing. Can be confirmed until `expires_at`."""

    batch_id: UUID
    estimated_calls: int = Field(examples=[320])
    estimated_tokens: int = Field(examples=[1_500_000])
    estimated_cny: float = Field(description="按 docs/settings.md 的单价估算", examples=[2.4])
    estimated_minutes: float = Field(examples=[4.5])
    calls_by_app: dict[str, int] = Field(examples=[{"app3_clue": 160, "app8_consolidation": 160}])
    member_count: int = Field(examples=[160])
    expires_at: datetime


class BatchRunConfirmRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    batch_id: UUID


class BatchRunConfirmResponse(BaseModel):
    status: str = Field(examples=["started"])
    batch_id: UUID
    job_count: int = Field(examples=[160])
    calls_by_app: dict[str, int]


class BatchRunProgress(BaseModel):
    """`done`, `reused` and `failed` count steps, `jobs_by_status` jobs; `calls` and `tokens` are what was spent."""

    batch_id: UUID
    site_id: int
    status: BatchStatus
    app_types: list[str]
    estimated_calls: int
    estimated_tokens: int
    estimated_cny: float
    estimated_minutes: float
    job_count: int
    ended_count: int
    jobs_by_status: dict[str, int] = Field(examples=[{"completed": 120, "running": 8, "pending": 32}])
    done: int
    reused: int
    failed: int
    calls: int
    tokens: int
    waits_for: str | None = Field(description="为什么没有进展（暂停、预算等）；有任务在执行时为空")
    created_by: str
    created_at: datetime
    expires_at: datetime
    confirmed_at: datetime | None
    cancelled_at: datetime | None


class BatchRunCancelResponse(BaseModel):
    """`cancelled_jobs` had not been begun and end as `failed`（已取消）; what runs ends by itself."""

    status: BatchStatus
    batch_id: UUID
    cancelled_jobs: int


@router.post("", summary="估算一个批次")
def estimate(body: BatchRunRequest, access: OperatorAccess) -> BatchRunEstimate:
    """只估算调用次数、Token、费用与用时，不登记任务；15 分钟内可以确认。"""
    with access.database.transaction() as connection:
        open_site(access, connection, body.site_id)
    plan = batches.plan_batch(
        access.database, access.services.settings, body.site_id, set(body.app_types), list(dict.fromkeys(body.member_ids))
    )
    with access.database.transaction() as connection:
        batch = batches.keep_estimate(connection, plan, by=access.caller.name)
        audit.record(
            connection,
            access.caller,
            "batch.estimate",
            site_id=batch.site_id,
            subject=str(batch.id),
            after={
                "app_types": batch.selection["app_types"],
                "members": len(plan.member_ids) or "active",
                "calls": plan.calls,
                "tokens": plan.tokens,
            },
            request_id=access.request_id,
        )
    return BatchRunEstimate(
        batch_id=batch.id,
        estimated_calls=plan.calls,
        estimated_tokens=plan.tokens,
        estimated_cny=float(plan.cny),
        estimated_minutes=plan.minutes,
        calls_by_app=plan.calls_by_app,
        member_count=len(plan.members.member_ids) if plan.members else 0,
        expires_at=batch.expires_at,
    )


@router.post("/confirm", summary="确认并开始一个批次", responses=CONFLICT)
def confirm(body: BatchRunConfirmRequest, access: OperatorAccess) -> BatchRunConfirmResponse:
    """只生效一次。选中的内容变化了、估算过期了或预算不够时返回 409，并附数字。"""
    services = access.services
    plan = batches.plan_again(access.database, services.settings, body.batch_id, access.scope)
    with services.chain_database.transaction() as connection:
        budget = current_windows(connection)
    with access.database.transaction() as connection:
        job_count = batches.start_batch(
            connection, body.batch_id, plan, settings=services.settings, budget=budget, shown=access.scope, by=access.caller.name
        )
        audit.record(
            connection,
            access.caller,
            "batch.confirm",
            site_id=plan.site_id,
            subject=str(body.batch_id),
            before={"status": "estimated"},
            after={"status": "started", "jobs": job_count, "calls_by_app": plan.calls_by_app, "tokens": plan.tokens},
            request_id=access.request_id,
        )
    return BatchRunConfirmResponse(status="started", batch_id=body.batch_id, job_count=job_count, calls_by_app=plan.calls_by_app)


@router.get("/{batch_id}", summary="批次的进度")
def progress(batch_id: UUID, access: ViewerAccess) -> BatchRunProgress:
    report = batches.batch_report(access.database, batch_id, access.scope)
    batch, found = report.batch, report.progress
    as_they_are: dict[str, Any] = {
        name: getattr(batch, name)
        for name in ("site_id", "estimated_tokens", "estimated_minutes", "created_by", "created_at", "expires_at", "confirmed_at")
    }
    as_they_are |= {name: getattr(found, name) for name in ("done", "reused", "failed", "calls", "tokens")}
    return BatchRunProgress(
        batch_id=batch.id,
        status=report.status,
        app_types=batch.selection["app_types"],
        estimated_calls=batch.calls,
        estimated_cny=float(batch.estimated_cny),
        job_count=found.total,
        ended_count=found.ended,
        jobs_by_status={status.value: jobs for status, jobs in found.jobs_by_status.items()},
        waits_for=found.why_waiting if found.total > found.ended else None,
        cancelled_at=batch.cancelled_at,
        **as_they_are,
    )


@router.post("/{batch_id}/cancel", summary="取消一个批次", responses=CONFLICT)
def cancel(batch_id: UUID, access: OperatorAccess) -> BatchRunCancelResponse:
    """还没有开始的任务不再执行；已完成的保留，执行中的会做完。"""
    before = batches.batch_report(access.database, batch_id, access.scope)
    with access.database.transaction() as connection:
        cancelled = batches.cancel_batch(connection, batch_id, by=access.caller.name, scope=access.scope)
        audit.record(
            connection,
            access.caller,
            "batch.cancel",
            site_id=before.batch.site_id,
            subject=str(batch_id),
            before={"status": before.status},
            after={"status": "cancelled", "cancelled_jobs": cancelled},
            request_id=access.request_id,
        )
    after = batches.batch_report(access.database, batch_id, access.scope).status
    return BatchRunCancelResponse(status=after, batch_id=batch_id, cancelled_jobs=cancelled)
