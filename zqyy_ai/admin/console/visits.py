"""Who looks at a page, by the cookie of their login, and at which site.

A page's address holds its site (`?site_id=1001`; none: all sites that the visitor may see), so that a link shows the same to a colleague.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool

from zqyy_ai.admin.access import SESSION_COOKIE, Access, check_csrf
from zqyy_ai.admin.console.queries import id_of
from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.admin.request_ids import request_id_of
from zqyy_ai.admin.services import Services, TheServices
from zqyy_ai.domain.access import Role
from zqyy_ai.guards.call_pauses import CallPause, pause_in_force
from zqyy_ai.store import alerts, api_tokens, runtime_contexts, sites
from zqyy_ai.store.api_tokens import Session
from zqyy_ai.store.runtime_contexts import SandboxedSite
from zqyy_ai.store.sites import Site

_MAY_LOOK = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
_MAY_START = frozenset({Role.OPERATOR, Role.ADMIN})


class SignInNeeded(Exception):
    """Nobody is logged in, or no longer."""


@dataclass(frozen=True, slots=True)
class Visit:
    """`site` is the one that the address names; `sites` are those that the visitor may choose from, `sandboxed` those of them in a sandbox."""

    access: Access
    session: Session
    site: Site | None
    sites: list[Site]
    sandboxed: list[SandboxedSite]
    open_alerts: int
    pause: CallPause | None

    @property
    def site_id(self) -> int | None:
        return self.site.site_id if self.site else None

    @property
    def may_start(self) -> bool:
        """What an operator may: start, repeat, invalidate, deal with alerts."""
        return self.access.caller.role in _MAY_START

    @property
    def may_administrate(self) -> bool:
        """What changes the whole chain: triggers, the pause switch."""
        return self.access.caller.role is Role.ADMIN and self.access.scope.is_all

    def site_name(self, site_id: int | None) -> str:
        if site_id is None:
            return "全部门店"
        return next((site.site_name or str(site_id) for site in self.sites if site.site_id == site_id), str(site_id))

    def sandbox_of(self, site_id: int | None) -> SandboxedSite | None:
        return next((sandbox for sandbox in self.sandboxed if sandbox.site_id == site_id), None)

    def chosen_site(self) -> Site:
        """For pages that are about one site: the address's, else the first that is open. Raises Problem 404 where there is none."""
        chosen = self.site or next((site for site in self.sites if site.is_active), None)
        if chosen is None:
            raise Problem(404, "没有可查看的门店：请检查 biz.sites，或换一个有门店权限的令牌")
        return chosen


async def _visit(
    request: Request,
    services: TheServices,
    site_id: Annotated[str, Query(max_length=20)] = "",
) -> Visit:
    return await run_in_threadpool(_look_up, request, services, id_of(site_id, "门店编号"))


def _look_up(request: Request, services: Services, site_id: int | None) -> Visit:
    cookie = request.cookies.get(SESSION_COOKIE)
    with services.chain_database.transaction() as connection:
        session = api_tokens.find_session(connection, cookie) if cookie else None
    if session is None:
        raise SignInNeeded
    check_csrf(request, session)
    if session.caller.role not in _MAY_LOOK:
        raise Problem(403, f"角色 {session.caller.role.value} 的令牌不能使用控制台：请用 viewer、operator 或 admin 的令牌登录")
    access = Access(session.caller, services, request_id_of(request))
    with access.database.transaction() as connection:
        seen = sites.sites_of(connection, access.scope)
        sandboxed = runtime_contexts.sandboxed_sites(connection, access.scope)
        pause = pause_in_force(connection)
        open_alerts = sum(found.alerts for found in alerts.count_open(connection, access.scope))
    site = None
    if site_id is not None:
        site = next((one for one in seen if one.site_id == site_id), None)
        if site is None:
            raise not_found(f"门店 {site_id}")
    return Visit(access, session, site, seen, sandboxed, open_alerts, pause)


TheVisit = Annotated[Visit, Depends(_visit)]


async def _operator(visit: TheVisit) -> Visit:
    if not visit.may_start:
        raise Problem(403, "查看角色不能执行该操作：请用 operator 或 admin 的令牌登录")
    return visit


async def _administrator(visit: TheVisit) -> Visit:
    if visit.access.caller.role is not Role.ADMIN:
        raise Problem(403, "该操作需要管理员的令牌")
    return visit


OperatorVisit = Annotated[Visit, Depends(_operator)]
AdministratorVisit = Annotated[Visit, Depends(_administrator)]
