"""Doing over what a job left undone."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import OperatorAccess
from zqyy_ai.admin.fields import LARGEST_ID
from zqyy_ai.admin.problems import CONFLICT
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.member_requests import add_retry
from zqyy_ai.store import audit, trigger_jobs

router = APIRouter(prefix="/admin/ai/trigger-jobs", tags=["触发任务"])


class RetryResponse(BaseModel):
    """The new job. `retry_of` is the one that it does over."""

    trigger_job_id: int = Field(examples=[108])
    status: JobStatus = Field(examples=[JobStatus.PENDING])
    retry_of: int = Field(examples=[42])


@router.post("/{job_id}/retry", summary="重试未完成的任务", responses=CONFLICT)
def retry(job_id: Annotated[int, Path(ge=1, le=LARGEST_ID)], access: OperatorAccess) -> RetryResponse:
    """登记一个新任务，只做 `failed`、`partial` 或 `dead` 的任务没有做完的步骤；已成功的步骤不再付费。"""
    with access.database.transaction() as connection:
        retry_id = add_retry(connection, job_id, scope=access.scope)
        made = trigger_jobs.get(connection, retry_id)
        old = trigger_jobs.get(connection, job_id)
        assert made is not None
        assert old is not None
        audit.record(
            connection,
            access.caller,
            "trigger_job.retry",
            site_id=made.site_id,
            subject=str(job_id),
            before={"status": old.status.value, "error_message": old.error_message},
            after={"trigger_job_id": retry_id, "status": made.status.value},
            request_id=access.request_id,
        )
    return RetryResponse(trigger_job_id=retry_id, status=made.status, retry_of=job_id)
