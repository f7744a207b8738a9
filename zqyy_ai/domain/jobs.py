"""Jobs: the rows of `biz.ai_trigger_jobs`, and how they move.

    pending ─→ running ─→ completed | partial | failed
       ↑          │
       ├──────────┤  a refusal that time cures (not_before set, no attempt spent), or the lease was lost
       │          └─→ dead  (attempts spent)
       └ completed    a finished-load job of a past business date: superseded

A retry is a new job with `retry_of`.
"""

from enum import StrEnum


class JobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    DEAD = "dead"

    @property
    def is_final(self) -> bool:
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


# A job that ended so does not keep an equal event from starting a new one.
UNSUCCESSFUL = (JobStatus.FAILED, JobStatus.PARTIAL, JobStatus.DEAD)
