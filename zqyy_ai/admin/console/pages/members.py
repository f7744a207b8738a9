"""会员视图: what the applications say of one member, what is known of them from all sources, and asking anew."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from zqyy_ai.admin.access import Access
from zqyy_ai.admin.console import names
from zqyy_ai.admin.console.queries import choice_of, id_of, needed_id, request_of
from zqyy_ai.admin.console.rendering import done, render
from zqyy_ai.admin.console.visits import OperatorVisit, TheVisit
from zqyy_ai.admin.parameters import DayRange, Page
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.routes.app_runs import RunAppRequest, start_app_run
from zqyy_ai.admin.routes.run_logs import list_run_logs
from zqyy_ai.admin.routes.trigger_jobs import list_trigger_jobs
from zqyy_ai.domain.apps import APPS, App, AppType
from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.domain.events import ASSISTANT_APPS, MEMBER_APPS
from zqyy_ai.domain.members import MemberData
from zqyy_ai.store import cache, clues, sandbox_answers
from zqyy_ai.store.cache import CachedAnswer
from zqyy_ai.store.sites import Site
from zqyy_ai.warehouse.members import load_member

router = APIRouter(prefix="/members")

_JOBS_LOOKED_AT = 100
_MEMBERS_OFFERED = 20
_LOGS_SHOWN = 20
_VERSIONS_SHOWN = 20
_MOST_ASSISTANTS = 12
_MOST_CLUES = 200
_ANY_DAY = DayRange(None, None)
# The order in which a reader wants them: what is concluded first.
_ORDER = (AppType.CUSTOMER, AppType.CONSOLIDATION, AppType.CLUE, AppType.NOTE, AppType.ANALYSIS, AppType.TACTICS)


@dataclass(frozen=True, slots=True)
class MemberAnswerCard:
    """An application's answer for a member; of App4 and App5 one for each assistant. `state`: a key of `names.CACHE_STATUS`, or missing."""

    app: App
    target_id: str
    assistant_id: int | None
    assistant_name: str | None
    answer: CachedAnswer | None
    state: str


@router.get("")
def show(request: Request, visit: TheVisit, member_id: Annotated[str, Query(max_length=20)] = "") -> Response:
    site, member = visit.chosen_site(), id_of(member_id, "会员编号")
    if member is None:
        return render(
            request, visit, "members.html", one_site=True, shown_site_id=site.site_id, site=site, recent=_recent(visit.access, site.site_id)
        )
    access, now = visit.access, visit.access.services.clock.now()
    known, trouble = _known(access, site, member)
    logs = list_run_logs(access, Page(1, _LOGS_SHOWN), _ANY_DAY, site_id=site.site_id, member_id=member)
    seen = [log.assistant_id for log in logs.items if log.assistant_id]
    assistants = {assistant.assistant_id: assistant.assistant_name for assistant in known.assistants.values()} if known else {}
    ids = list(dict.fromkeys([*(known.open_task_assistants() if known else ()), *seen]))[:_MOST_ASSISTANTS]
    with access.database.transaction() as connection:
        cards = []
        for app_type in _ORDER:
            app = APPS[app_type]
            for assistant_id in ids if app_type in ASSISTANT_APPS else (None,):
                target_id = f"{assistant_id}_{member}" if assistant_id else str(member)
                answers = cache.get_answers(connection, app.cache_type, site.site_id, target_id, limit=5)
                answer = next((one for one in answers if one.status in {None, "valid"}), answers[0] if answers else None)
                cards.append(MemberAnswerCard(app, target_id, assistant_id, assistants.get(assistant_id or 0), answer, _state(answer, now)))
        found_clues = clues.clues_of_member(connection, site.site_id, member, rows=_MOST_CLUES)
    return render(
        request,
        visit,
        "member.html",
        one_site=True,
        shown_site_id=site.site_id,
        site=site,
        member_id=member,
        known=known,
        trouble=trouble,
        cards=cards,
        clues=found_clues,
        logs=logs,
        assistants=assistants,
        assistant_apps={app.value for app in ASSISTANT_APPS},
        now=now,
    )


def _recent(access: Access, site_id: int) -> list[tuple[int, datetime]]:
    """Members whom the newest jobs are about, with when the newest was made."""
    jobs = list_trigger_jobs(access, Page(1, _JOBS_LOOKED_AT), _ANY_DAY, site_id=site_id)
    recent: dict[int, datetime] = {}
    for job in jobs.items:
        if job.member_id:
            recent.setdefault(job.member_id, job.created_at)
    return list(recent.items())[:_MEMBERS_OFFERED]


def _known(access: Access, site: Site, member_id: int) -> tuple[MemberData | None, str | None]:
    """What the business data say; else why they say nothing: answers are shown all the same."""
    try:
        with access.database.transaction() as connection:
            return load_member(connection, site.site_id, site.site_name, member_id, cutoff=site.business_day_cutoff), None
    except SourceContractError:
        return None, "业务数据的视图（ai_source）不可读，只显示已生成的内容：请管理员运行 zqyy-ai doctor"


def _state(answer: CachedAnswer | None, now: datetime) -> str:
    if answer is None:
        return "missing"
    if answer.status not in {None, "valid"}:
        return answer.status or "missing"
    return "valid" if answer.expires_at is None or answer.expires_at > now else "expired"


@router.get("/history")
def history(
    request: Request, visit: TheVisit, app_type: Annotated[str, Query(max_length=40)], target_id: Annotated[str, Query(max_length=60)]
) -> Response:
    site, app = visit.chosen_site(), choice_of(AppType, app_type, "应用")
    if app is None:
        raise Problem(422, "请指定应用")
    cache_type, target_id = APPS[app].cache_type, target_id.replace("\0", "")
    with visit.access.database.transaction() as connection:
        answers = cache.get_answers(connection, cache_type, site.site_id, target_id, limit=_VERSIONS_SHOWN)
        sandboxed = sandbox_answers.of_target(connection, site.site_id, cache_type, target_id, limit=_VERSIONS_SHOWN)
    return render(request, visit, "member_history.html", app=APPS[app], target_id=target_id, answers=answers, sandboxed=sandboxed)


@router.post("/run")
def run(
    visit: OperatorVisit,
    app_type: Annotated[str, Form(max_length=40)],
    site_id: Annotated[str, Form(max_length=20)],
    member_id: Annotated[str, Form(max_length=20)],
    assistant_id: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """One application asked anew; App6 about the newest note."""
    app = choice_of(AppType, app_type, "应用")
    if app not in MEMBER_APPS:
        raise Problem(422, "请指定会员应用（App3 至 App8）")
    body = request_of(
        RunAppRequest,
        site_id=needed_id(site_id, "门店编号"),
        member_id=needed_id(member_id, "会员编号"),
        assistant_id=id_of(assistant_id, "助教编号"),
    )
    job_id = start_app_run(app, body, visit.access, needs_note=False)
    return done(
        f"{names.app_title(app.value)} 正在重新生成（任务 {job_id}），完成后自动显示", link=f"/jobs?job_id={job_id}", link_text="查看任务"
    )
