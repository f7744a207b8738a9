"""`biz.ai_step_claims`: who may call for, and write, one target.

A claim is taken before a call and ended in the transaction that writes the answer: whoever lost it to another worker meanwhile
finds no row and writes nothing.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


@dataclass(frozen=True, slots=True)
class StepClaim:
    cache_type: str
    site_id: int
    target_id: str
    token: UUID


def take(
    connection: Connection, cache_type: str, site_id: int, target_id: str, *, worker_id: UUID, lease: timedelta, token: UUID | None = None
) -> StepClaim | None:
    """The claim, or None while another worker holds an unexpired one. `token`, given again, makes a repetition safe."""
    claim = StepClaim(cache_type, site_id, target_id, token or uuid4())
    row = connection.execute(
        named_queries("step_claims")["take"],
        {
            "cache_type": cache_type,
            "site_id": site_id,
            "target_id": target_id,
            "token": claim.token,
            "worker_id": worker_id,
            "lease": lease,
        },
    ).fetchone()
    return claim if row else None


def take_for_job(
    connection: Connection,
    claim: StepClaim,
    *,
    worker_id: UUID,
    lease: timedelta,
    job_id: int,
    fencing_token: int,
) -> bool | None:
    """The same for a claim that belongs to a job's work: whether it was taken; None where the job is no longer the worker's."""
    row = connection.execute(
        named_queries("step_claims")["take_for_job"],
        {
            "cache_type": claim.cache_type,
            "site_id": claim.site_id,
            "target_id": claim.target_id,
            "token": claim.token,
            "worker_id": worker_id,
            "lease": lease,
            "job_id": job_id,
            "fencing_token": fencing_token,
        },
    ).fetchone()
    assert row is not None
    return bool(row["is_taken"]) if row["is_ours"] else None


def renew(connection: Connection, claim: StepClaim, lease: timedelta) -> bool:
    """Counts the claim's lease anew from now: just before a call leaves. False when it was lost: the caller must not call."""
    return (
        connection.execute(
            named_queries("step_claims")["renew"],
            {
                "cache_type": claim.cache_type,
                "site_id": claim.site_id,
                "target_id": claim.target_id,
                "token": claim.token,
                "lease": lease,
            },
        ).rowcount
        == 1
    )


def is_held(connection: Connection, claim: StepClaim) -> bool:
    """Whether nobody else has taken it. A look without a lock: the heartbeat renews a worker's claims in no order."""
    return (
        connection.execute(
            named_queries("step_claims")["is_held"],
            {"cache_type": claim.cache_type, "site_id": claim.site_id, "target_id": claim.target_id, "token": claim.token},
        ).fetchone()
        is not None
    )


def end(connection: Connection, claim: StepClaim) -> bool:
    """Gives the claim back. False when it was lost: the caller must not write (or must roll back what it wrote)."""
    row = connection.execute(
        named_queries("step_claims")["end"],
        {"cache_type": claim.cache_type, "site_id": claim.site_id, "target_id": claim.target_id, "token": claim.token},
    ).fetchone()
    return row is not None
