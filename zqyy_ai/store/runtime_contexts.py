"""`biz.ai_runtime_contexts`: which sites are in the sandbox, and for which date. A site without a row is live.

Looked up where a job is made, and kept in the job: a switch changes what is made from then on, and no job that waits or runs.
"""

from dataclasses import dataclass
from datetime import date, datetime

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


@dataclass(frozen=True, slots=True)
class SiteContext:
    """A site's context, and who set it when; both None where nobody ever did."""

    context: RuntimeContext
    updated_at: datetime | None = None
    updated_by: str | None = None


def site_context(connection: Connection, site_id: int, otherwise: RuntimeContext = LIVE) -> SiteContext:
    """`otherwise` is for a site that has no row."""
    row = connection.execute(named_queries("runtime_contexts")["get"], {"site_id": site_id}).fetchone()
    if row is None:
        return SiteContext(otherwise)
    return SiteContext(RuntimeContext(RuntimeMode(row["mode"]), row["business_date"]), row["updated_at"], row["updated_by"])


def context_of(connection: Connection, site_id: int, otherwise: RuntimeContext = LIVE) -> RuntimeContext:
    """The context in which a job that is made for the site now runs."""
    return site_context(connection, site_id, otherwise).context


def put(connection: Connection, site_id: int, context: RuntimeContext, updated_by: str) -> None:
    connection.execute(
        named_queries("runtime_contexts")["put"],
        {"site_id": site_id, "mode": context.mode.value, "business_date": context.sandbox_date, "updated_by": updated_by},
    )


@dataclass(frozen=True, slots=True)
class SandboxedSite:
    """`business_date`: the day of the past for which the site's work is done."""

    site_id: int
    business_date: date


def sandboxed_sites(connection: Connection, scope: SiteScope) -> list[SandboxedSite]:
    """In the order of their ids."""
    rows = connection.execute(named_queries("runtime_contexts")["sandboxed"], {"site_ids": scope.ids})
    return [SandboxedSite(**row) for row in rows]
