"""触发任务: what was asked for and how far it is, doing over what failed, firing events by hand, and events that were refused."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response

from zqyy_ai.admin.console.costs import Costs
from zqyy_ai.admin.console.dagster_links import run_url
from zqyy_ai.admin.console.queries import choice_of, days_of_form, id_of, last_page_at_most, needed_id, page_of, request_of
from zqyy_ai.admin.console.rendering import done, render
from zqyy_ai.admin.console.visits import OperatorVisit, TheVisit, Visit
from zqyy_ai.admin.routes.events import list_events
from zqyy_ai.admin.routes.job_retries import retry
from zqyy_ai.admin.routes.manual_events import ManualEventType, ManualTriggerRequest, trigger
from zqyy_ai.admin.routes.run_logs import RunLogItem
from zqyy_ai.admin.routes.trigger_jobs import TriggerJobDetailResponse, get_trigger_job, list_trigger_jobs
from zqyy_ai.domain.apps import AppType, finance_app_of
from zqyy_ai.domain.events import ASSISTANT_APPS, CHAINS, EVENT_NAMES, EVENT_TYPES, EventType
from zqyy_ai.domain.jobs import UNSUCCESSFUL, JobStatus
from zqyy_ai.domain.windows import WINDOW_KEYS

router = APIRouter(prefix="/jobs")

_STEPS_IN_TIMELINE = 30


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """A step of a job: its log, or None for one that has left none. `after_seconds`: since the job's start."""

    app_type: str
    log: RunLogItem | None
    after_seconds: float | None


@router.get("")
def show(
    request: Request,
    visit: TheVisit,
    event_type: Annotated[str, Query(max_length=40)] = "",
    status: Annotated[str, Query(max_length=20)] = "",
    member_id: Annotated[str, Query(max_length=20)] = "",
    date_from: Annotated[str, Query(max_length=10)] = "",
    date_to: Annotated[str, Query(max_length=10)] = "",
    page: Annotated[str, Query(max_length=10)] = "",
    job_id: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """`job_id` opens that job beside the list."""
    opened = id_of(job_id, "任务编号")
    days, member = days_of_form(date_from, date_to), id_of(member_id, "会员编号")
    kind, state = choice_of(EventType, event_type, "任务类型"), choice_of(JobStatus, status, "状态")
    found = last_page_at_most(lambda one: list_trigger_jobs(visit.access, one, days, kind, state, visit.site_id, member), page_of(page))
    filters = {"event_type": event_type, "status": status, "member_id": member_id, "date_from": date_from, "date_to": date_to}
    return render(
        request,
        visit,
        "jobs.html",
        found=found,
        filters=filters,
        query={**filters, "site_id": visit.site_id},
        opened=f"/jobs/{opened}" if opened else None,
        now=visit.access.services.clock.now(),
    )


@router.get("/rejected")
def rejected(request: Request, visit: TheVisit, page: Annotated[str, Query(max_length=10)] = "") -> Response:
    found = last_page_at_most(lambda one: list_events(visit.access, one, rejected=True, site_id=visit.site_id), page_of(page))
    return render(request, visit, "rejected_events.html", found=found)


@router.get("/new")
def new(request: Request, visit: OperatorVisit) -> Response:
    """The form that fires an event."""
    costs = Costs(visit.access)
    calls = {
        kind.value: Counter(CHAINS[EVENT_TYPES[EVENT_NAMES[kind]]]) for kind in ManualEventType if kind is not ManualEventType.DWS_COMPLETED
    }
    calls[ManualEventType.CONSUMPTION.value] += Counter(ASSISTANT_APPS)
    calls[ManualEventType.DWS_COMPLETED.value] = Counter(finance_app_of(window).app_type for window in WINDOW_KEYS)
    return render(
        request,
        visit,
        "job_new.html",
        event_types=tuple(ManualEventType),
        costs={kind: costs.at_most(of_kind) for kind, of_kind in calls.items()},
    )


@router.post("")
def fire(
    visit: OperatorVisit,
    event_type: Annotated[str, Form(max_length=40)],
    event_site_id: Annotated[str, Form(max_length=20)],
    member_id: Annotated[str, Form(max_length=20)] = "",
    assistant_id: Annotated[str, Form(max_length=20)] = "",
    note_content: Annotated[str, Form(max_length=20_000)] = "",
    noted_by_name: Annotated[str, Form(max_length=200)] = "",
    is_forced: Annotated[bool, Form()] = False,
    only_missing: Annotated[bool, Form()] = False,
) -> Response:
    kind = choice_of(ManualEventType, event_type, "事件") or ManualEventType.CONSUMPTION
    payload: dict[str, Any] = {}
    if kind is ManualEventType.NOTE_CREATED:
        payload = {"note_content": note_content, "noted_by_name": noted_by_name}
    if kind is ManualEventType.DWS_COMPLETED:
        payload = {"only_missing": only_missing}
    body = request_of(
        ManualTriggerRequest,
        event_type=kind,
        site_id=needed_id(event_site_id, "门店编号"),
        member_id=None if kind is ManualEventType.DWS_COMPLETED else needed_id(member_id, "会员编号"),
        assistant_id=id_of(assistant_id, "助教编号"),
        payload={name: value for name, value in payload.items() if value not in {"", False}},
        is_forced=is_forced,
    )
    made = trigger(body, visit.access)
    told = f"事件与任务 {made.trigger_job_id} 重复，已并入" if made.is_duplicate else f"已登记任务 {made.trigger_job_id}"
    return done(told, link=f"/jobs?job_id={made.trigger_job_id}", link_text="查看任务")


@router.get("/{job_id}")
def detail(request: Request, visit: TheVisit, job_id: str) -> Response:
    job = get_trigger_job(visit.access, needed_id(job_id, "任务编号"))
    steps = _timeline(job)
    return render(
        request,
        visit,
        "job_detail.html",
        job=job,
        steps=steps[:_STEPS_IN_TIMELINE],
        steps_total=len(steps),
        targets=_targets(job),
        retry_question=_retry_question(visit, job, steps),
        can_be_retried=visit.may_start and job.status in {status.value for status in UNSUCCESSFUL},
        run_url=run_url(request, visit.access.services.settings, job.run_id),
        now=visit.access.services.clock.now(),
    )


def _targets(job: TriggerJobDetailResponse) -> list[str]:
    """The windows that a job names; none for a finished load, which is about all."""
    targets = (job.payload or {}).get("targets")
    return [target for target in targets if isinstance(target, str)][:9] if isinstance(targets, list) else []


def _retry_question(visit: Visit, job: TriggerJobDetailResponse, steps: list[TimelineStep]) -> str:
    """What of it is left, and what that may cost."""
    left = Counter(AppType(step.app_type) for step in steps if step.app_type in set(AppType) and not _is_good(step))
    return f"重试任务 {job.id}？\n只做没有完成的步骤，已成功的不再付费；{Costs(visit.access).at_most(left)}。"


def _is_good(step: TimelineStep) -> bool:
    return step.log is not None and step.log.outcome in {"success", "reused"}


@router.post("/{job_id}/retry")
def try_again(visit: OperatorVisit, job_id: str) -> Response:
    made = retry(needed_id(job_id, "任务编号"), visit.access)
    return done(
        f"已登记任务 {made.trigger_job_id}，只做任务 {made.retry_of} 没有完成的步骤",
        link=f"/jobs?job_id={made.trigger_job_id}",
        link_text="查看任务",
    )


def _timeline(job: TriggerJobDetailResponse) -> list[TimelineStep]:
    """What was done, in its order; then the chain's applications that have left nothing. Of a prewarm what failed comes first."""
    done_steps = [TimelineStep(step.app_type, step, _seconds_between(job.started_at, step.created_at)) for step in job.steps]
    if len(done_steps) > _STEPS_IN_TIMELINE:
        done_steps.sort(key=_is_good)
        return done_steps
    by_number = {app.value.partition("_")[0]: app.value for app in AppType}
    chain = [by_number[part] for part in (job.app_chain or "").split("→") if part in by_number]
    left = chain[:] if chain != [AppType.FINANCE.value] else []
    for step in job.steps:
        if step.app_type in left:
            left.remove(step.app_type)
    return [*done_steps, *(TimelineStep(app_type, None, None) for app_type in left)]


def _seconds_between(begin: datetime | None, end: datetime) -> float | None:
    return None if begin is None else max(0.0, (end - begin).total_seconds())
