"""The sandbox: a site's mode and date, set by people; and what is refused in it. What it means for a job: docs/decisions/0017."""

from datetime import date

from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.store import runtime_contexts
from zqyy_ai.store.database import Connection
from zqyy_ai.store.runtime_contexts import SiteContext
from zqyy_ai.store.sites import Site


def refuse_in_sandbox(connection: Connection, site_id: int) -> None:
    """For a person's own run in Dagster, which is there to materialise live answers. Raises InvalidRequest."""
    context = runtime_contexts.context_of(connection, site_id)
    if context.is_sandbox:
        raise InvalidRequest(
            f"门店 {site_id} 处于沙箱模式（业务日 {context.sandbox_date}），不能从 Dagster 发起：沙箱的回答不物化。"
            "请从管理接口或命令行发起（结果写入 biz.ai_sandbox_answers），或先把门店切回 live"
        )


def set_context(
    connection: Connection, site: Site, mode: RuntimeMode, business_date: date | None, *, clock: Clock, updated_by: str
) -> SiteContext:
    """Jobs made from now on run in it; those that wait or run keep theirs. Returns what held before.

    Raises InvalidRequest for a sandbox without a date or with one in the future, and for a live site with a date.
    """
    today = LIVE.business_date(clock.now(), site.business_day_cutoff)
    if mode is RuntimeMode.LIVE and business_date is not None:
        raise InvalidRequest("live 模式不接受 business_date：业务日由时钟决定")
    if mode is RuntimeMode.SANDBOX and business_date is None:
        raise InvalidRequest("sandbox 模式需要 business_date")
    if business_date is not None and business_date > today:
        raise InvalidRequest(f"business_date 不能晚于今天的业务日 {today}")
    before = runtime_contexts.site_context(connection, site.site_id)
    runtime_contexts.put(connection, site.site_id, RuntimeContext(mode, business_date), updated_by)
    return before
