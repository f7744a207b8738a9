"""What the command line shows while it waits, and that it shows texts of the database as they are."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from typing import TypeVar

import pytest
from rich.console import Console
from rich.table import Table

from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.member_requests import BatchProgress, JobReport
from zqyy_ai.engine.prewarm_requests import PrewarmProgress
from zqyy_ai.guards.call_pauses import CallPause
from zqyy_ai.store.alerts import AlertStatus, StoredAlert
from zqyy_ai.store.run_logs import JobStep
from zqyy_ai.store.trigger_jobs import TriggerJob
from zqyy_ai.terminal import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    Narration,
    alert_table,
    job_steps_table,
    job_table,
    new_console,
    show_job_end,
    watch_batch,
    watch_job,
    watch_prewarm,
)

POLLS_OF_PATIENCE = int(PATIENCE_SECONDS / POLL_SECONDS)
AT = datetime(2026, 4, 20, 2, 3, 4, tzinfo=UTC)
LATER = datetime(2099, 1, 1, 19, 4, 5, tzinfo=UTC)
PAUSE = CallPause(id=1, reason="核对[red]账单[/]", paused_by="王店长", paused_at=AT)
# Markup that would colour, markup that would be an error, an emoji's name.
NASTY = "[red]红[/red] [/] [link=x]:cat: \\[x]"

Shown = TypeVar("Shown")

PENDING, RUNNING, COMPLETED = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.COMPLETED


class Given(list[float]):
    """Stands in for sleeping: remembers how long, and gives up after so many times."""

    def __init__(self, most: int = 10 * POLLS_OF_PATIENCE) -> None:
        super().__init__()
        self._most = most

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        assert len(self) < self._most, "never ends"


@pytest.fixture
def console() -> Console:
    console = new_console()
    console.file = StringIO()
    console.width = 300
    return console


def said(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def batch(jobs: dict[JobStatus, int], *, pause: CallPause | None = None, not_before: datetime | None = None) -> BatchProgress:
    return BatchProgress(jobs, 0, 0, 0, 0, 0, not_before, "1 个步骤未完成:[x]" if not_before else None, pause)


def job(status: JobStatus, **changes: object) -> TriggerJob:
    plain = TriggerJob(
        id=7,
        event_type="run_app",
        site_id=1001,
        member_id=42,
        status=status,
        payload={},
        app_chain="app3",
        is_forced=True,
        is_own_run=False,
        priority=10,
        retry_of=None,
        batch_id=None,
        business_date=AT.date(),
        dedup_key="run_app|1001|42|app3_clue:-|2026-04-20|live",
        attempt=0,
        fencing_token=0,
        duplicate_count=0,
        sent_back_count=0,
        failed_rounds=0,
        not_before=None,
        run_id=None,
        progress={},
        error_message=None,
        created_at=AT,
        started_at=None,
        finished_at=None,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def one_after_another(*shown: tuple[Shown, int]) -> Callable[[], Shown]:
    """Gives each as many times as is said, and the last for ever."""

    def each() -> Iterator[Shown]:
        for state, times in shown:
            for _ in range(times):
                yield state
        while True:
            yield shown[-1][0]

    states = each()
    return lambda: next(states)


# What is waited for


def test_a_batch_that_nobody_takes_says_after_a_while_and_once_where_to_look(console: Console) -> None:
    done = batch({COMPLETED: 2})
    waited = Given()
    read = one_after_another((batch({PENDING: 2}), POLLS_OF_PATIENCE), (done, 1))
    assert watch_batch(console, read, waited) == done
    assert sum(waited) == PATIENCE_SECONDS
    assert "仍在排队" not in said(console), "not before its time"

    watch_batch(console, one_after_another((batch({PENDING: 2}), 3 * POLLS_OF_PATIENCE), (done, 1)), Given())
    assert said(console).count("补跑：仍在排队：请确认 Dagster 正在运行（zqyy-ai doctor）") == 1


def test_a_batch_that_goes_on_is_not_said_to_wait(console: Console) -> None:
    moving = [
        state
        for ended in range(4)
        for state in (
            (batch({PENDING: 4 - ended, COMPLETED: ended}), POLLS_OF_PATIENCE - 1),
            (batch({RUNNING: 1, PENDING: 3 - ended, COMPLETED: ended}), 2),
        )
    ]
    watch_batch(console, one_after_another((batch({RUNNING: 4}), 2 * POLLS_OF_PATIENCE), *moving, (batch({COMPLETED: 4}), 1)), Given())
    assert "仍在排队" not in said(console)


def test_jobs_that_end_between_two_looks_are_progress_too(console: Console) -> None:
    states = [(batch({PENDING: 4 - ended, COMPLETED: ended}), POLLS_OF_PATIENCE - 1) for ended in range(5)]
    watch_batch(console, one_after_another(*states), Given())
    assert "仍在排队" not in said(console)


def test_a_batch_says_at_once_and_as_it_is_written_what_is_known_to_hold_it(console: Console) -> None:
    read = one_after_another((batch({PENDING: 1}, pause=PAUSE), 3), (batch({PENDING: 1}, not_before=LATER), 3), (batch({COMPLETED: 1}), 1))
    watch_batch(console, read, Given())
    lines = [line for line in said(console).splitlines() if line.startswith("补跑：")]
    assert lines == [
        "补跑：2026-04-20 10:03:04 由 王店长 暂停全部模型调用,原因:核对[red]账单[/];恢复:zqyy-ai resume",
        "补跑：01-02 03:04:05 之后继续：1 个步骤未完成:[x]",
    ]


@pytest.mark.parametrize(
    ("waiting", "pause", "line"),
    [
        (job(PENDING), None, "任务 7：仍在排队：请确认 Dagster 正在运行（zqyy-ai doctor）"),
        (job(PENDING, not_before=LATER, error_message=NASTY), None, f"任务 7：01-02 03:04:05 之后重试：{NASTY}"),
        (job(PENDING, not_before=AT, error_message="x"), None, "任务 7：仍在排队：请确认 Dagster 正在运行（zqyy-ai doctor）"),
        (
            job(PENDING),
            PAUSE,
            "任务 7：2026-04-20 10:03:04 由 王店长 暂停全部模型调用,原因:核对[red]账单[/];恢复:zqyy-ai resume",
        ),
    ],
    ids=["nobody takes it", "until later", "due", "paused"],
)
def test_a_job_that_waits_says_once_for_what(console: Console, waiting: TriggerJob, pause: CallPause | None, line: str) -> None:
    done = JobReport(job(COMPLETED), [], None)
    read = one_after_another((JobReport(waiting, [], pause), 3 * POLLS_OF_PATIENCE), (done, 1))
    assert watch_job(console, read, Given()) == done
    assert said(console).splitlines() == [line]


def test_a_job_at_work_waits_for_nothing(console: Console) -> None:
    read = one_after_another((JobReport(job(RUNNING), [], None), 3 * POLLS_OF_PATIENCE), (JobReport(job(COMPLETED), [], None), 1))
    watch_job(console, read, Given())
    assert said(console) == ""


def test_a_prewarm_that_waits_says_once_for_what(console: Console) -> None:
    waiting = PrewarmProgress(PENDING, 0, 0, 0, 72, 0, 0, None, NASTY, not_before=LATER)
    idle = replace(waiting, not_before=None)
    done = replace(idle, status=COMPLETED, done=72)
    watch_prewarm(
        console,
        1001,
        one_after_another((idle, 2 * POLLS_OF_PATIENCE), (waiting, 2), (replace(waiting, pause=PAUSE), 2), (done, 1)),
        Given(),
    )
    assert [line for line in said(console).splitlines() if line.startswith("门店 1001：")] == [
        "门店 1001：仍在排队：请确认 Dagster 正在运行（zqyy-ai doctor），或该门店已有运行在进行",
        f"门店 1001：03:04:05 之后重试:{NASTY}",
        "门店 1001：2026-04-20 10:03:04 由 王店长 暂停全部模型调用,原因:核对[red]账单[/];恢复:zqyy-ai resume",
    ]


# Ends


@pytest.mark.parametrize(("status", "title"), [(JobStatus.FAILED, "失败"), (JobStatus.DEAD, "已放弃"), (JobStatus.PARTIAL, "部分完成")])
def test_a_job_that_did_not_complete_says_why_and_never_that_there_was_nothing_to_ask(
    console: Console, status: JobStatus, title: str
) -> None:
    show_job_end(console, JobReport(job(status, error_message=NASTY), [], None))
    show_job_end(console, JobReport(job(status), [], None))
    assert said(console).splitlines() == [
        f"任务 7 {title}：{NASTY}；重试：zqyy-ai jobs retry 7",
        f"任务 7 {title}：没有记录原因；重试：zqyy-ai jobs retry 7",
    ]


def test_a_job_that_completed_without_a_step_had_nothing_to_ask(console: Console) -> None:
    show_job_end(console, JobReport(job(COMPLETED), [], None))
    assert "没有可询问的内容" in said(console)


def test_answers_are_shown_as_they_are_without_what_is_only_ours(console: Console) -> None:
    step = JobStep("app3_clue", "42", "success", None, None, 10, 10, {"summary": NASTY * 20, "_references": {}})
    show_job_end(console, JobReport(job(COMPLETED), [step], None))
    title, *answer = said(console).splitlines()
    assert title == "app3_clue 42："
    assert len(answer) == 3, "no line is broken"
    assert NASTY.replace("\\", "\\\\") in answer[1]
    assert "_references" not in said(console)


# Texts of the database


def test_tables_show_what_the_database_holds_letter_by_letter(console: Console) -> None:
    alert = StoredAlert(
        id=1,
        fingerprint=None,
        alert_type=NASTY,
        severity=NASTY,
        status=AlertStatus.OPEN,
        site_id=1001,
        app_type=NASTY,
        message=NASTY,
        log_id=None,
        occurrences=1,
        reopened_count=0,
        created_at=AT,
        opened_at=AT,
        last_seen_at=AT,
        status_changed_at=AT,
        status_changed_by=NASTY,
        status_reason=NASTY,
        resolved_at=None,
    )
    tables: list[Table] = [
        job_table([job(JobStatus.FAILED, event_type=NASTY, app_chain=NASTY, error_message=NASTY)]),
        job_steps_table([JobStep(NASTY, NASTY, NASTY, NASTY, NASTY, 0, 0, None)]),
        alert_table([alert]),
    ]
    for table, times in zip(tables, (3, 5, 6), strict=True):
        console.file = StringIO()
        console.print(table)
        assert said(console).count(NASTY) == times, said(console)


def test_narration_shows_what_it_is_given_letter_by_letter(console: Console) -> None:
    Narration(console).say(NASTY)
    assert said(console) == f"· {NASTY}\n"
