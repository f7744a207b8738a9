"""Asking for members' answers: one application of one member, a backfill of many, a retry of a job that came to nothing.

Everything asked for is a row in `biz.ai_trigger_jobs`; the run that takes members' jobs does it. Nothing is run here.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from uuid import UUID, uuid4

from zqyy_ai.domain.access import ALL_SITES, SiteScope
from zqyy_ai.domain.apps import APPS, AppType, finance_app_of
from zqyy_ai.domain.business_clock import SHANGHAI, Clock, SystemClock, business_date_at
from zqyy_ai.domain.errors import InvalidRequest, NotFound, StateConflict
from zqyy_ai.domain.events import ASSISTANT_APPS, FINANCE_CHAIN, MEMBER_APPS, EventType, chain_text, dedup_key, dedup_key_on
from zqyy_ai.domain.jobs import UNSUCCESSFUL, JobStatus
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.domain.windows import WindowKey
from zqyy_ai.engine.call_pauses import why_held
from zqyy_ai.guards.call_pauses import CallPause, pause_in_force
from zqyy_ai.prompts.note import LONGEST_NOTE
from zqyy_ai.prompts.untrusted_text import untrusted
from zqyy_ai.settings import Settings
from zqyy_ai.store import cache, run_logs, runtime_contexts, sites, trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.run_logs import UsualCall
from zqyy_ai.store.sites import Site
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob
from zqyy_ai.warehouse.members import known_assistants, known_members, load_member, members_of_site, read_askable

# A person waits for it; events come next, and backfills take what is left.
RUN_APP_PRIORITY = 10
BACKFILL_PRIORITY = -10
_JOBS_A_TRANSACTION = 1000
HISTORY = timedelta(days=30)
# Before there is any history of calls.
_USUAL_PROMPT_TOKENS = 2500
_USUAL_CALL_SECONDS = 30.0
_APPS_TO_CHOOSE = f"可用 {'、'.join(app.value for app in MEMBER_APPS)}（或 app3 这样的简称），或 all"


def request_app(
    database: Database,
    app_type: AppType,
    site_id: int,
    member_id: int,
    *,
    assistant_id: int | None = None,
    clock: Clock | None = None,
    runtime_context: RuntimeContext = LIVE,
) -> int:
    """`add_app_job` in a transaction of its own."""
    with database.transaction() as connection:
        return add_app_job(
            connection, app_type, site_id, member_id, assistant_id=assistant_id, clock=clock, runtime_context=runtime_context
        )


def add_app_job(
    connection: Connection,
    app_type: AppType,
    site_id: int,
    member_id: int,
    *,
    assistant_id: int | None = None,
    note: Mapping[str, str] | None = None,
    source: str = "cli",
    clock: Clock | None = None,
    runtime_context: RuntimeContext = LIVE,
) -> int:
    """Makes a forced job that asks one application anew (it is paid) and returns its id.

    `note`: the fields of a note (`note_content`, `noted_by_name`, `noted_by_created_at`) that App6 is asked about in place of the latest.
    Raises InvalidRequest for an unknown or closed site, an unknown member, an application that has no members, an assistant where the
    application does not ask about one, or one who is not of the site or has nothing to do with the member.
    """
    if app_type not in MEMBER_APPS:
        raise InvalidRequest(f"{app_type.value} 不是会员应用；财务窗口请用 zqyy-ai prewarm")
    if assistant_id is not None and app_type not in ASSISTANT_APPS:
        raise InvalidRequest(f"{app_type.value} 不按助教生成，请去掉 --assistant")
    payload: dict[str, object] = {"app_type": app_type.value, "apps": [app_type.value], "regenerate": True, "source": source}
    if assistant_id is not None:
        payload["assistant_id"] = assistant_id
    if app_type is AppType.NOTE and note is not None:
        payload |= note
    site = sites.get_site(connection, site_id)
    _refuse_unknown(connection, site_id, [member_id])
    if assistant_id is not None:
        _refuse_unrelated(connection, site, member_id, assistant_id)
    context = runtime_contexts.context_of(connection, site_id, runtime_context)
    business_date = context.business_date((clock or SystemClock()).now(), site.business_day_cutoff)
    subject = f"{app_type.value}:{assistant_id or '-'}"
    return trigger_jobs.add(
        connection,
        NewJob(
            event_type=EventType.RUN_APP,
            site_id=site_id,
            member_id=member_id,
            business_date=business_date,
            dedup_key=dedup_key(EventType.RUN_APP, site_id, member_id, subject, business_date, context.mode.value),
            app_chain=chain_text((app_type,)),
            payload=payload,
            context=context,
            is_forced=True,
            priority=RUN_APP_PRIORITY,
        ),
    )


def add_window_job(
    connection: Connection,
    window: WindowKey,
    site_id: int,
    *,
    source: str,
    regenerate: bool = True,
    batch_id: UUID | None = None,
    clock: Clock | None = None,
    runtime_context: RuntimeContext = LIVE,
) -> int:
    """Makes a forced job for one finance window and returns its id. Raises InvalidRequest for an unknown or closed site.

    `regenerate`: it is asked anew, which is paid; else an answer to unchanged data is kept.
    """
    site = sites.get_site(connection, site_id)
    context = runtime_contexts.context_of(connection, site_id, runtime_context)
    business_date = context.business_date((clock or SystemClock()).now(), site.business_day_cutoff)
    return trigger_jobs.add(
        connection,
        NewJob(
            event_type=EventType.RUN_APP,
            site_id=site_id,
            business_date=business_date,
            dedup_key=dedup_key(EventType.RUN_APP, site_id, None, str(window), business_date, context.mode.value),
            app_chain=FINANCE_CHAIN,
            payload={
                "app_type": finance_app_of(window).app_type.value,
                "targets": [str(window)],
                "regenerate": regenerate,
                "source": source,
            },
            context=context,
            is_forced=True,
            priority=RUN_APP_PRIORITY,
            batch_id=batch_id,
        ),
    )


def add_window_jobs(
    connection: Connection, windows: Iterable[WindowKey], site_id: int, *, regenerate: bool, source: str, clock: Clock
) -> UUID:
    """A job for each window, with one id by which `batch_progress` finds them. Raises InvalidRequest for an unknown or closed site."""
    batch_id = uuid4()
    for window in windows:
        add_window_job(connection, window, site_id, source=source, regenerate=regenerate, batch_id=batch_id, clock=clock)
    return batch_id


def retry_job(database: Database, job_id: int) -> int:
    """`add_retry` in a transaction of its own."""
    with database.transaction() as connection:
        return add_retry(connection, job_id)


def add_retry(connection: Connection, job_id: int, *, scope: SiteScope = ALL_SITES) -> int:
    """Makes a new job that does what a `failed`, `partial` or `dead` one left undone; returns its id.

    It runs in the retried job's context, whatever the site's is by now. Steps that succeeded are not paid again. Raises NotFound for a job that `scope` does not see, StateConflict for one that is not at such an
    end, can't be retried, or whose retry is still under way.
    """
    job = trigger_jobs.get_locked(connection, job_id)
    if job is None or not scope.sees(job.site_id):
        raise NotFound(f"任务 {job_id} 不存在")
    if job.status not in UNSUCCESSFUL:
        raise StateConflict(f"任务 {job_id} 的状态是 {job.status.value}，只能重试 failed、partial 或 dead 的任务")
    if job.dedup_key is None or job.is_own_run or job.business_date is None:
        raise StateConflict(f"任务 {job_id} 不能重试：它由旧调度器或 Dagster 中的一次运行写入，请重新发起该运行")
    retry = trigger_jobs.open_retry_of(connection, job_id)
    if retry is not None:
        raise StateConflict(f"任务 {job_id} 已有重试在进行：任务 {retry.id}")
    site = sites.get_site(connection, job.site_id)
    # A finished load is about the day on which it is done; a past date would count as superseded.
    business_date = job.context.business_date(SystemClock().now(), site.business_day_cutoff)
    left_out = ("given_up", "done_by_job")
    return trigger_jobs.add(
        connection,
        NewJob(
            event_type=EventType(job.event_type),
            site_id=job.site_id,
            member_id=job.member_id,
            business_date=business_date,
            dedup_key=dedup_key_on(job.dedup_key, business_date),
            app_chain=job.app_chain or "",
            payload={name: value for name, value in job.payload.items() if name not in left_out},
            context=job.context,
            is_forced=True,
            priority=job.priority if job.priority < 0 else RUN_APP_PRIORITY,
            retry_of=job_id,
        ),
    )


# Backfills


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What a backfill would do: at most so many calls, tokens and minutes. Unchanged input is reused and costs nothing of it.

    `calls_by_app` counts only targets that have something to ask about; with `only_missing`, those without a valid answer. `minutes` is the
    greatest of what the calls take side by side, what the longest chain of one member takes, and what the site's rate lets through. `digest`
    stands for exactly these targets: a later plan with another one has found others.
    """

    site_id: int
    apps: tuple[AppType, ...]
    member_ids: tuple[int, ...]
    only_missing: bool
    calls_by_app: dict[AppType, int]
    tokens: int
    minutes: float
    digest: str

    @property
    def calls(self) -> int:
        return sum(self.calls_by_app.values())


def wanted_apps(wanted: Iterable[str]) -> tuple[AppType, ...]:
    """Member applications out of what a person typed: `app3_clue`, `app3` or `all`, separated by commas; in the chains' order.

    A comma too many is no matter. Raises InvalidRequest for an unknown name, and where there is none.
    """
    by_name = {app.value: app for app in MEMBER_APPS} | {app.value.partition("_")[0]: app for app in MEMBER_APPS}
    found: set[AppType] = set()
    for name in (part.strip() for text in wanted for part in text.split(",") if part.strip()):
        if name == "all":
            found |= set(MEMBER_APPS)
        elif name in by_name:
            found.add(by_name[name])
        else:
            raise InvalidRequest(f"应用 {name!r} 无效：{_APPS_TO_CHOOSE}")
    if not found:
        raise InvalidRequest(f"没有指定应用：{_APPS_TO_CHOOSE}")
    return tuple(app for app in MEMBER_APPS if app in found)


def plan_backfill(
    database: Database, settings: Settings, site_id: int, apps: tuple[AppType, ...], members: str, *, only_missing: bool
) -> BackfillPlan:
    """What `apps` would take for `members`: `active`, `all`, or ids separated by commas. Writes nothing.

    `active` are those whose card is not closed and who came in the last `settings.active_member_days` days, `all` those whose card is not
    closed; a member who is named may have left. Raises InvalidRequest for an unknown or closed site, members that the site does not have,
    and text that names none.
    """
    now = SystemClock().now()
    with database.autocommit() as connection:
        site = sites.get_site(connection, site_id)
        context = runtime_contexts.context_of(connection, site_id)
        now = context.moment(now, site.business_day_cutoff)
        wanted = _wanted_members(connection, site_id, members, active_since=now - timedelta(days=settings.active_member_days))
        asked = _asked_targets(connection, site_id, wanted, apps, only_missing=only_missing, now=now, context=context)
        usual = run_logs.usual_calls(connection, since=SystemClock().now() - HISTORY)
    calls = sum(len(targets) for targets in asked.values())
    tokens = 0.0
    seconds_by_member: defaultdict[int, float] = defaultdict(float)
    for app, targets in asked.items():
        each = usual.get(app.value) or UsualCall(
            tokens=_USUAL_PROMPT_TOKENS + APPS[app].overhead_tokens + APPS[app].largest_output_tokens, seconds=_USUAL_CALL_SECONDS
        )
        tokens += len(targets) * each.tokens
        for target in targets:
            seconds_by_member[_member_of(target)] += each.seconds
    seconds = max(
        sum(seconds_by_member.values()) / settings.llm_concurrency,
        # A member's steps are one after another, however many calls may be made at once.
        max(seconds_by_member.values(), default=0.0),
        (calls - settings.site_calls_burst) / settings.site_calls_per_minute * 60,
    )
    # Who has nothing to be asked about needs no job.
    member_ids = tuple(member for member in wanted if member in seconds_by_member)
    calls_by_app = {app: len(targets) for app, targets in asked.items()}
    return BackfillPlan(site_id, apps, member_ids, only_missing, calls_by_app, round(tokens), seconds / 60, _digest_of(asked))


def _asked_targets(
    connection: Connection,
    site_id: int,
    member_ids: Sequence[int],
    apps: Collection[AppType],
    *,
    only_missing: bool,
    now: datetime,
    context: RuntimeContext,
) -> dict[AppType, set[str]]:
    """The targets for which each application's step would find something to ask about, as its prompt decides it (`prompts/`).

    What an application brings counts for those after it in the chain, though it may turn out to hold no clue.
    """
    askable = read_askable(connection, site_id, member_ids)
    members = {str(member) for member in member_ids}
    visited = {str(member) for member in askable.visited}
    assigned = {f"{assistant}_{member}" for member, assistant in askable.open_tasks}

    def with_clues(app: AppType) -> set[str]:
        known = cache.targets_with_clues(connection, APPS[app].cache_type, site_id, now=now, context=context)
        return asked.get(app, set()) | (members & known)

    asked: dict[AppType, set[str]] = {}
    for app in (app for app in MEMBER_APPS if app in apps):
        match app:
            case AppType.CLUE:
                targets = visited
            case AppType.NOTE:
                targets = {str(member) for member, content in askable.newest_notes.items() if untrusted(content, LONGEST_NOTE)}
            case AppType.CONSOLIDATION:
                targets = with_clues(AppType.CLUE) | with_clues(AppType.NOTE)
            case AppType.CUSTOMER:
                targets = visited | {str(member) for member, _ in askable.open_tasks} | with_clues(AppType.CONSOLIDATION)
            case _:
                targets = assigned
        if only_missing:
            targets = targets - cache.valid_target_ids(connection, APPS[app].cache_type, site_id, now=now, context=context)
        asked[app] = targets
    return asked


def _member_of(target_id: str) -> int:
    """The member's id ends each target."""
    return int(target_id.rpartition("_")[2])


def _digest_of(targets: Mapping[AppType, Collection[str]]) -> str:
    told = (f"{app.value}:{','.join(sorted(found))}" for app, found in sorted(targets.items()))
    return sha256(";".join(told).encode()).hexdigest()


def request_backfill(database: Database, plan: BackfillPlan) -> UUID:
    """Makes a job for each member of the plan; returns the batch that they belong to."""
    batch_id = uuid4()
    with database.autocommit() as connection:
        site = sites.get_site(connection, plan.site_id)
        context = runtime_contexts.context_of(connection, plan.site_id)
    business_date = context.business_date(SystemClock().now(), site.business_day_cutoff)
    jobs = jobs_of_plan(plan, business_date, batch_id, context, event_type=EventType.BACKFILL, source="cli")
    for first in range(0, len(jobs), _JOBS_A_TRANSACTION):
        with database.transaction() as connection:
            trigger_jobs.add_all(connection, jobs[first : first + _JOBS_A_TRANSACTION])
    return batch_id


def jobs_of_plan(
    plan: BackfillPlan, business_date: date, batch_id: UUID, context: RuntimeContext, *, event_type: EventType, source: str
) -> list[NewJob]:
    """A job for each member of the plan, behind all events."""
    chain = chain_text(plan.apps)
    payload = {"apps": [app.value for app in plan.apps], "only_missing": plan.only_missing, "source": source}
    return [
        NewJob(
            event_type=event_type,
            site_id=plan.site_id,
            member_id=member_id,
            business_date=business_date,
            dedup_key=dedup_key(event_type, plan.site_id, member_id, chain, business_date, context.mode.value),
            app_chain=chain,
            payload=payload,
            context=context,
            is_forced=True,
            priority=BACKFILL_PRIORITY,
            batch_id=batch_id,
        )
        for member_id in plan.member_ids
    ]


def expected_call(app_type: AppType, usual: Mapping[str, UsualCall]) -> UsualCall:
    """What a call of the application will take: as its calls usually do, else a guess from the catalogue. Input and output are known."""
    app = APPS[app_type]
    guess_in, guess_out = float(_USUAL_PROMPT_TOKENS + app.overhead_tokens), float(app.largest_output_tokens)
    known = usual.get(app_type.value)
    if known is None:
        return UsualCall(guess_in + guess_out, _USUAL_CALL_SECONDS, guess_in, guess_out)
    if known.input_tokens is None or known.output_tokens is None:
        share = guess_in / (guess_in + guess_out)
        return UsualCall(known.tokens, known.seconds, known.tokens * share, known.tokens * (1 - share))
    return known


def expected_cost(settings: Settings, calls_by_app: Mapping[AppType, int], usual: Mapping[str, UsualCall]) -> tuple[float, float]:
    """Tokens and yuan of so many calls of each application."""
    tokens = cny = 0.0
    for app, calls in calls_by_app.items():
        call = expected_call(app, usual)
        tokens += calls * call.tokens
        cny += calls * (call.input_tokens or 0.0) * settings.input_price_cny_per_million_tokens / 1_000_000
        cny += calls * (call.output_tokens or 0.0) * settings.output_price_cny_per_million_tokens / 1_000_000
    return tokens, cny


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is: jobs by status, steps that are done, reused and failed, and what was spent."""

    jobs_by_status: dict[JobStatus, int]
    done: int
    reused: int
    failed: int
    calls: int
    tokens: int
    not_before: datetime | None
    error_message: str | None
    pause: CallPause | None

    @property
    def total(self) -> int:
        return sum(self.jobs_by_status.values())

    @property
    def ended(self) -> int:
        return sum(jobs for status, jobs in self.jobs_by_status.items() if status.is_final)

    @property
    def is_good(self) -> bool:
        return self.jobs_by_status.get(JobStatus.COMPLETED, 0) == self.total

    @property
    def is_running(self) -> bool:
        return bool(self.jobs_by_status.get(JobStatus.RUNNING))

    @property
    def why_waiting(self) -> str | None:
        """Why nothing goes on, and until when; None while something does, or when it is simply the jobs' turn to come."""
        if self.is_running:
            return None
        if self.pause is not None:
            return why_held(self.pause)
        if self.not_before is None:
            return None
        return f"{self.not_before.astimezone(SHANGHAI):%m-%d %H:%M:%S} 之后继续：{self.error_message or ''}"


def batch_progress(database: Database, batch_id: UUID) -> BatchProgress:
    with database.autocommit() as connection:
        shares = trigger_jobs.batch_shares(connection, batch_id)
        pause = pause_in_force(connection)
    waiting = next((share for share in shares if share.status is JobStatus.PENDING), None)
    failed = next((share.error_message for share in shares if share.status in UNSUCCESSFUL and share.error_message), None)
    return BatchProgress(
        jobs_by_status={share.status: share.jobs for share in shares},
        done=sum(share.done for share in shares),
        reused=sum(share.reused for share in shares),
        failed=sum(share.failed for share in shares),
        calls=sum(share.calls for share in shares),
        tokens=sum(share.tokens for share in shares),
        not_before=waiting.not_before if waiting else None,
        error_message=(waiting.error_message if waiting and waiting.error_message else None) or failed,
        pause=pause,
    )


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job and what its steps brought: (application, target, status, error) of each run log, oldest first."""

    job: TriggerJob
    steps: list[run_logs.JobStep]
    pause: CallPause | None

    @property
    def why_waiting(self) -> str | None:
        """Why the job waits in the queue, and until when; None when it is simply its turn to come."""
        if self.job.status is not JobStatus.PENDING:
            return None
        if self.pause is not None:
            return why_held(self.pause)
        if self.job.not_before is None or self.job.not_before <= SystemClock().now():
            return None
        return f"{self.job.not_before.astimezone(SHANGHAI):%m-%d %H:%M:%S} 之后重试：{self.job.error_message or ''}"


def job_report(database: Database, job_id: int) -> JobReport:
    """Raises InvalidRequest for a job that does not exist."""
    with database.autocommit() as connection:
        job = trigger_jobs.get(connection, job_id)
        if job is None:
            raise NotFound(f"任务 {job_id} 不存在")
        return JobReport(job, run_logs.steps_of_job(connection, job_id), pause_in_force(connection))


def _wanted_members(connection: Connection, site_id: int, members: str, *, active_since: datetime) -> list[int]:
    if members == "all":
        return members_of_site(connection, site_id, since=None)
    if members == "active":
        return members_of_site(connection, site_id, since=business_date_at(active_since))
    ids = []
    for text in (part.strip() for part in members.split(",") if part.strip()):
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
            raise InvalidRequest(f"会员编号 {text!r} 无效：应为正整数、以逗号分隔，或 active、all")
        ids.append(int(text))
    if not ids:
        raise InvalidRequest("没有指定会员：给出编号（以逗号分隔）、active 或 all")
    ids = list(dict.fromkeys(ids))
    _refuse_unknown(connection, site_id, ids)
    return ids


def _refuse_unknown(connection: Connection, site_id: int, member_ids: Sequence[int]) -> None:
    unknown = sorted(set(member_ids) - known_members(connection, site_id, member_ids))
    if unknown:
        named = "、".join(map(str, unknown[:10])) + (" 等" if len(unknown) > 10 else "")
        raise InvalidRequest(f"门店 {site_id} 没有会员 {named}（ai_source.members）")


def _refuse_unrelated(connection: Connection, site: Site, member_id: int, assistant_id: int) -> None:
    """What App4 and App5 say of two who have nothing to do with each other is paid and worth nothing."""
    related = load_member(connection, site.site_id, site.site_name, member_id).assistants
    if assistant_id in related:
        return
    if known_assistants(connection, site.site_id, [assistant_id]):
        why = f"助教 {assistant_id} 与会员 {member_id} 没有关系（没有服务过，也没有未完成的任务）"
    else:
        why = f"门店 {site.site_id} 没有助教 {assistant_id}（ai_source.assistants）"
    choice = (
        f"请改为与该会员有关的助教 {'、'.join(map(str, sorted(related)))}" if related else "该会员还没有相关的助教，请核对助教与会员的编号"
    )
    raise InvalidRequest(f"{why}；{choice}")
