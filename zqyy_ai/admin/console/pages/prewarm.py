"""预热矩阵: the 72 finance windows of a site, what each says, and making them anew."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response

from zqyy_ai.admin.console.costs import Costs
from zqyy_ai.admin.console.queries import choice_of, needed_id, request_of
from zqyy_ai.admin.console.rendering import address, done, render
from zqyy_ai.admin.console.visits import OperatorVisit, TheVisit, Visit
from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.admin.routes.app_runs import refuse_while_paused, start_window_runs
from zqyy_ai.admin.routes.manual_events import ManualEventType, ManualTriggerRequest, trigger
from zqyy_ai.domain.apps import AppType, finance_app_of
from zqyy_ai.domain.windows import AREA_TITLES, TIME_DIMENSION_TITLES, WINDOW_KEYS, Area, TimeDimension, WindowKey
from zqyy_ai.engine.member_requests import BatchProgress, batch_progress
from zqyy_ai.engine.prewarm_requests import PrewarmProgress, prewarm_progress
from zqyy_ai.engine.prices import cost_cny
from zqyy_ai.settings import Settings
from zqyy_ai.store import cache, job_pages, prewarm_windows, sandbox_answers
from zqyy_ai.store.prewarm_windows import PrewarmWindow, WindowState

router = APIRouter(prefix="/prewarm")

_VERSIONS_SHOWN = 5
_BATCH_SHOWN_FOR = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Progress:
    """Work under way, or the last that was: `eta_seconds` is None where nothing tells how long it will still take."""

    title: str
    job_id: int | None
    run_id: str | None
    is_over: bool
    total: int
    done: int
    reused: int
    failed: int
    calls: int
    tokens: int
    cost_cny: float
    begun_at: datetime | None
    ended_at: datetime | None
    eta_seconds: float | None
    waits_for: str | None
    error: str | None


@router.get("")
def show(request: Request, visit: TheVisit, target_id: Annotated[str, Query(max_length=60)] = "") -> Response:
    """`target_id` opens that window beside the matrix."""
    site = visit.chosen_site()
    now = visit.access.services.clock.now()
    open_sites = [one for one in visit.sites if one.is_active or one.site_id == site.site_id]
    with visit.access.database.transaction() as connection:
        windows = prewarm_windows.windows_of_site(connection, site.site_id, now=now)
        glance = prewarm_windows.fresh_by_site(connection, [one.site_id for one in open_sites], now=now)
        queues = {state.site_id: state for state in job_pages.queue_states(connection, visit.access.scope)}
    wanting, failed = ([one.window for one in windows.values() if is_one(one)] for is_one in (_is_wanting, _has_failed))
    return render(
        request,
        visit,
        "prewarm.html",
        one_site=True,
        shown_site_id=site.site_id,
        site=site,
        rows=_rows(windows),
        areas=AREA_TITLES,
        counts=_counts(windows),
        fresh=sum(window.has_fresh_answer for window in windows.values()),
        wanting=wanting,
        failed=failed,
        opened=address("/prewarm/cell", site_id=site.site_id, target_id=_window(target_id)) if target_id else None,
        last_updated=max((window.answered_at for window in windows.values() if window.answered_at), default=None),
        progress=_progress(visit, site.site_id, now),
        glance=[(one, glance[one.site_id], queues.get(one.site_id)) for one in open_sites],
        total=len(WINDOW_KEYS),
        question=_questions(visit),
        all_windows=WINDOW_KEYS,
        columns={area: [window for window in WINDOW_KEYS if window.area is area] for area in Area},
        now=now,
    )


def _rows(windows: dict[WindowKey, PrewarmWindow]) -> list[tuple[str, str, list[PrewarmWindow]]]:
    return [
        (dimension.value, title, [windows[WindowKey(dimension, area)] for area in Area])
        for dimension, title in TIME_DIMENSION_TITLES.items()
    ]


def _counts(windows: dict[WindowKey, PrewarmWindow]) -> dict[str, int]:
    return {state.value: sum(window.state is state for window in windows.values()) for state in WindowState}


def _is_wanting(window: PrewarmWindow) -> bool:
    return window.is_wanting


def _has_failed(window: PrewarmWindow) -> bool:
    return window.state is WindowState.FAILED


def _questions(visit: Visit) -> Callable[[Sequence[WindowKey]], str]:
    """What running some windows may cost, at most."""
    costs = Costs(visit.access)
    return lambda windows: f"运行 {len(windows)} 个窗口？\n数据未变的窗口直接复用；{costs.at_most(Counter(map(_app_type, windows)))}。"


def _app_type(window: WindowKey) -> AppType:
    return finance_app_of(window).app_type


def _progress(visit: Visit, site_id: int, now: datetime) -> list[Progress]:
    """The site's prewarm, and the windows that people asked for: what runs comes first."""
    access, settings = visit.access, visit.access.services.settings
    with access.database.transaction() as connection:
        job = job_pages.newest_prewarm(connection, access.scope, site_id)
        batches = prewarm_windows.recent_batches(connection, site_id, since=now - _BATCH_SHOWN_FOR)
    found = []
    if job is not None:
        far = prewarm_progress(access.database, job.id)
        found.append(_of_prewarm(far, job, settings, now))
    found += [_of_batch(batch_progress(access.database, batch.batch_id), batch, settings, now) for batch in batches]
    return sorted(found, key=lambda one: one.is_over)


def _of_prewarm(far: PrewarmProgress, job: job_pages.JobRow, settings: Settings, now: datetime) -> Progress:
    return Progress(
        title="预热任务",
        job_id=job.id,
        run_id=job.run_id,
        is_over=far.finished,
        **_counted(far, settings),
        begun_at=job.started_at,
        ended_at=job.finished_at,
        eta_seconds=None if far.finished else _eta(job.started_at, far.done + far.failed, far.total, now),
        waits_for=far.why_waiting,
        error=far.error_message,
    )


def _of_batch(far: BatchProgress, batch: prewarm_windows.WindowBatch, settings: Settings, now: datetime) -> Progress:
    is_over = far.ended == far.total
    return Progress(
        title=f"手动运行 {far.total} 个窗口",
        job_id=None,
        run_id=None,
        is_over=is_over,
        **_counted(far, settings),
        begun_at=batch.started_at or batch.created_at,
        ended_at=batch.finished_at if is_over else None,
        eta_seconds=None if is_over else _eta(batch.started_at, far.ended, far.total, now),
        waits_for=None if is_over else far.why_waiting,
        error=far.error_message,
    )


def _counted(far: PrewarmProgress | BatchProgress, settings: Settings) -> dict[str, Any]:
    """What is told of both; the cost at the dearer price, because nobody has kept apart what was read and what was written."""
    counts = {name: getattr(far, name) for name in ("total", "done", "reused", "failed", "calls", "tokens")}
    return {**counts, "cost_cny": cost_cny(settings, tokens=far.tokens, input_tokens=0, output_tokens=0)}


def _eta(begun_at: datetime | None, ended: int, total: int, now: datetime) -> float | None:
    """As fast as so far."""
    if begun_at is None or not ended:
        return None
    return (now - begun_at).total_seconds() / ended * max(0, total - ended)


@router.get("/cell")
def cell(request: Request, visit: TheVisit, target_id: Annotated[str, Query(max_length=60)]) -> Response:
    """What a window says now, and what it said before."""
    site, window = visit.chosen_site(), _window(target_id)
    app, now = finance_app_of(window), visit.access.services.clock.now()
    with visit.access.database.transaction() as connection:
        found = prewarm_windows.windows_of_site(connection, site.site_id, now=now)[window]
        versions = cache.get_answers(connection, app.cache_type, site.site_id, target_id, limit=_VERSIONS_SHOWN)
        sandboxed = sandbox_answers.of_target(connection, site.site_id, app.cache_type, target_id, limit=_VERSIONS_SHOWN)
    return render(
        request,
        visit,
        "prewarm_cell.html",
        site=site,
        found=found,
        target_id=target_id,
        app=app,
        versions=versions,
        sandboxed=sandboxed,
        question=_questions(visit)([window]),
        now=now,
    )


@router.post("/run")
def run(
    visit: OperatorVisit,
    site_id: Annotated[str, Form(max_length=20)],
    target_id: Annotated[str, Form(max_length=60)] = "",
    time_dimension: Annotated[str, Form(max_length=40)] = "",
    area: Annotated[str, Form(max_length=40)] = "",
    state: Annotated[str, Form(max_length=10)] = "",
    regenerate: Annotated[bool, Form()] = False,
) -> Response:
    """A window, all of a time dimension or of an area, or all that have failed."""
    site = needed_id(site_id, "门店编号")
    row, column = choice_of(TimeDimension, time_dimension, "时间维度"), choice_of(Area, area, "区域")
    if target_id:
        windows = [_window(target_id)]
    elif row or column:
        windows = [key for key in WINDOW_KEYS if (row is None or key.time_dimension is row) and (column is None or key.area is column)]
    elif state == WindowState.FAILED:
        visit.access.refuse_other_sites(site)
        with visit.access.database.transaction() as connection:
            found = prewarm_windows.windows_of_site(connection, site, now=visit.access.services.clock.now())
        windows = [one.window for one in found.values() if _has_failed(one)]
        if not windows:
            raise Problem(409, "没有失败的窗口：可能刚刚恢复")
    else:
        raise Problem(422, "请指定窗口、时间维度或区域")
    start_window_runs(windows, site, visit.access, regenerate=regenerate)
    return done(f"已登记 {len(windows)} 个窗口，几秒后开始；进度在矩阵上方")


@router.post("/run-missing")
def run_missing(visit: OperatorVisit, site_id: Annotated[str, Form(max_length=20)], scope: Annotated[str, Form()] = "missing") -> Response:
    """A prewarm of what has no answer that is still valid, or of all windows."""
    if scope not in {"missing", "all"}:
        raise Problem(422, "范围应为 missing 或 all")
    with visit.access.database.transaction() as connection:
        refuse_while_paused(connection)
    body = request_of(
        ManualTriggerRequest,
        event_type=ManualEventType.DWS_COMPLETED,
        site_id=needed_id(site_id, "门店编号"),
        member_id=None,
        assistant_id=None,
        payload={"only_missing": scope == "missing"},
        is_forced=True,
    )
    made = trigger(body, visit.access)
    return done(f"已登记预热任务 {made.trigger_job_id}，进度在矩阵上方", link=f"/jobs?job_id={made.trigger_job_id}", link_text="查看任务")


def _window(target_id: str) -> WindowKey:
    try:
        return WindowKey.parse(target_id)
    except ValueError:
        raise not_found(f"窗口 {target_id[:60]!r}") from None
