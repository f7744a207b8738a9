"""What happens to a member or a note becomes answers, on the whole stack: fired by SQL, looked at in tables, in Dagster and on the command line."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.journeys.stack import POLL_SECONDS, Stack

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

CONSUMPTION_CHAIN = ("app3_clue", "app8_consolidation", "app7_customer", "app4_analysis", "app5_tactics")
CHECK = "answer_written"


@dataclass(frozen=True, slots=True)
class Member:
    """One of the demo's members who has visited. `assistant_id`: who has an open task for them."""

    site_id: int
    member_id: int
    assistant_id: int

    @property
    def partition(self) -> str:
        return f"{self.site_id}|{self.member_id}"

    @property
    def names(self) -> dict[str, int]:
        """As a payload names them."""
        return {"site_id": self.site_id, "member_id": self.member_id}


@pytest.fixture(scope="module")
def strangers(served_stack: Stack, closed_sites: Iterator[int]) -> Iterator[Iterator[Member]]:
    """Members of one open site of whom no journey has made anything yet."""
    site_id = next(closed_sites)
    served_stack.sql("UPDATE biz.sites SET is_active = true WHERE site_id = %s", site_id)
    rows = served_stack.sql(
        "SELECT member_id, min(assistant_id) AS assistant_id FROM ai_source.members JOIN ai_source.assistants USING (site_id)"
        " WHERE site_id = %s AND last_visit_on IS NOT NULL GROUP BY member_id ORDER BY member_id",
        site_id,
    )
    yield iter([Member(site_id, **row) for row in rows])
    served_stack.sql("UPDATE biz.sites SET is_active = false WHERE site_id = %s", site_id)


@pytest.fixture
def member(stack: Stack, strangers: Iterator[Member]) -> Member:
    """A member of this journey alone, with an open task."""
    found = next(strangers)
    stack.sql(
        "INSERT INTO demo_dws.tasks (site_id, task_id, member_id, assistant_id, task_type, title, created_at)"
        " SELECT %s, max(task_id) + 1, %s, %s, 'recall', '久未到店召回', now() FROM demo_dws.tasks",
        found.site_id,
        found.member_id,
        found.assistant_id,
    )
    return found


def cached(stack: Stack, member: Member) -> list[tuple[str, str]]:
    """Cache type and target of each of the member's answers, oldest first."""
    rows = stack.sql(
        "SELECT cache_type, target_id FROM biz.ai_cache WHERE site_id = %s AND split_part(reverse(target_id), '_', 1) = reverse(%s) ORDER BY id",
        member.site_id,
        str(member.member_id),
    )
    return [(row["cache_type"], row["target_id"]) for row in rows]


def clue_sources(stack: Stack, member: Member) -> set[str]:
    rows = stack.sql(
        "SELECT DISTINCT source::text FROM public.member_retention_clue WHERE site_id = %s AND member_id = %s",
        member.site_id,
        member.member_id,
    )
    return {row["source"] for row in rows}


def steps(stack: Stack, job_id: int) -> list[tuple[str, str]]:
    """Application and status of each of the job's run logs, oldest first."""
    rows = stack.sql("SELECT app_type, status FROM biz.ai_run_logs WHERE trigger_job_id = %s ORDER BY id", job_id)
    return [(row["app_type"], row["status"]) for row in rows]


def test_a_settled_consumption_with_an_assistant_becomes_five_answers_clues_and_materialisations(stack: Stack, member: Member) -> None:
    event = stack.fire("ai_consumption_settled", **member.names, has_assistant=True, assistant_id=member.assistant_id)

    [job] = stack.wait_for_ends(event)

    assert (job["status"], job["app_chain"]) == ("completed", "app3→app8→app7→app4→app5")
    alone, with_assistant = str(member.member_id), f"{member.assistant_id}_{member.member_id}"
    assert cached(stack, member) == [
        ("app3_clue", alone),
        ("app8_clue_consolidated", alone),
        ("app7_customer_analysis", alone),
        ("app4_analysis", with_assistant),
        ("app5_tactics", with_assistant),
    ]
    assert steps(stack, job["id"]) == [(app, "success") for app in CONSUMPTION_CHAIN]
    assert clue_sources(stack, member) == {"ai_consumption"}
    assert {app: stack.materialised_by(app, member.partition) for app in CONSUMPTION_CHAIN} == {
        app: [job["run_id"]] for app in CONSUMPTION_CHAIN
    }
    assert stack.wait_for_run_end(job["run_id"]) == "SUCCESS"


def test_two_notes_of_a_day_are_two_analyses_and_one_note_told_twice_is_one(stack: Stack, member: Member) -> None:
    told = {**member.names, "noted_by_name": "前台小李", "noted_by_created_at": "2026-04-20T10:00:00+08:00"}
    first = stack.fire("ai_note_created", **told, note_content="客人说周末要带同事来打斯诺克,喜欢安静的包厢。")
    second = stack.fire("ai_note_created", **told, note_content="客人投诉空调太冷,已道歉并换台。")
    known = stack.fire("ai_note_created", **told, note_id=71001, note_content="客人下月生日,想充值办卡。")
    again = stack.fire("ai_note_created", **told, note_id=71001, note_content="客人下月生日,想充值办卡。")

    jobs = stack.wait_for_ends(first, second, known, again)

    assert [(job["status"], job["app_chain"]) for job in jobs] == [("completed", "app6→app8")] * 4
    assert len({job["id"] for job in jobs}) == 3
    assert jobs[2]["id"] == jobs[3]["id"]
    assert jobs[3]["duplicate_count"] == 1
    assert [cache_type for cache_type, _ in cached(stack, member)].count("app6_note_analysis") == 3
    scores = stack.sql(
        "SELECT score FROM biz.ai_cache WHERE cache_type = 'app6_note_analysis' AND site_id = %s AND target_id = %s",
        member.site_id,
        str(member.member_id),
    )
    assert all(1 <= row["score"] <= 10 for row in scores)
    assert clue_sources(stack, member) == {"ai_note"}


def test_a_task_that_goes_to_another_assistant_is_told_to_both(stack: Stack, member: Member) -> None:
    others = stack.sql(
        "SELECT assistant_id FROM ai_source.assistants WHERE site_id = %s AND assistant_id <> %s ORDER BY 1",
        member.site_id,
        member.assistant_id,
    )
    assistants = [member.assistant_id, others[0]["assistant_id"]]

    jobs = stack.wait_for_ends(*(stack.fire("ai_task_assigned", **member.names, assistant_id=assistant) for assistant in assistants))

    assert [(job["status"], job["app_chain"]) for job in jobs] == [("completed", "app4→app5")] * 2
    targets = [f"{assistant}_{member.member_id}" for assistant in assistants]
    assert sorted(cached(stack, member)) == sorted((app, target) for target in targets for app in ("app4_analysis", "app5_tactics"))


def test_a_failed_application_stops_no_later_one_and_a_retry_completes_the_chain(stack: Stack, member: Member) -> None:
    stack.wait_for_ends(stack.fire("ai_note_created", **member.names, note_content="客人常和球友一起来,喜欢晚上打中八。"))
    stack.plan_faults({"kind": "data_inspection", "app": "app3_clue"})

    [job] = stack.wait_for_ends(stack.fire("ai_consumption_settled", **member.names))

    assert job["status"] == "partial"
    by_app = dict(steps(stack, job["id"]))
    assert by_app["app3_clue"] == "failed"
    assert by_app["app8_consolidation"] in {"success", "reused"}
    assert by_app["app7_customer"] == "success"
    assert stack.check_status(CHECK, member.partition, asset="app3_clue") == "FAILED"
    assert stack.check_status(CHECK, member.partition, asset="app7_customer") is None
    assert stack.materialised_by("app7_customer", member.partition) == [job["run_id"]]
    assert f"任务 {job['id']}" in last_error(stack)
    # A failed step of an event is a job's status, an alert and a failed check; the run does what else comes.
    assert stack.wait_for_run_end(job["run_id"]) == "SUCCESS"

    stack.plan_faults()
    retried = stack.run("jobs", "retry", str(job["id"]))

    assert retried.returncode == 0, retried.stderr
    retry = stack.wait_for_job(member.site_id, "completed", seconds=60)
    assert retry["retry_of"] == job["id"]
    assert steps(stack, retry["id"])[0] == ("app3_clue", "success")
    assert stack.check_status(CHECK, member.partition, asset="app3_clue") == "SUCCEEDED"
    assert clue_sources(stack, member) == {"ai_consumption", "ai_note"}
    assert last_error(stack) == ""


def last_error(stack: Stack) -> str:
    [trigger] = stack.sql("SELECT coalesce(last_error, '') AS said FROM biz.trigger_jobs WHERE job_type = 'ai_consumption_settled'")
    return str(trigger["said"])


def test_while_dashscope_is_down_events_wait_behind_one_alert_and_all_complete_when_it_is_back(
    stack: Stack, strangers: Iterator[Member]
) -> None:
    newest_alert = stack.count("SELECT coalesce(max(id), 0) FROM biz.ai_alerts")
    stack.plan_faults({"kind": "http_error", "status": 500})
    waiting = [next(strangers) for _ in range(8)]

    events = [stack.fire("ai_consumption_settled", **member.names) for member in waiting]

    def most_wait() -> bool:
        # One may still be at it: the call that finds out whether DashScope is back.
        waiting_jobs = [job for job in stack.jobs_of(*events) if job["status"] == "pending" and job["sent_back_count"]]
        return len(waiting_jobs) >= len(events) - 1

    eventually(most_wait, seconds=90, every_seconds=POLL_SECONDS)
    assert all(job["finished_at"] is None for job in stack.jobs_of(*events))
    alerts = stack.sql("SELECT alert_type, app_type FROM biz.ai_alerts WHERE id > %s ORDER BY id", newest_alert)
    assert {alert["alert_type"] for alert in alerts} == {"circuit_open"}, alerts
    assert "app3_clue" in {alert["app_type"] for alert in alerts}
    assert len(alerts) == len({alert["app_type"] for alert in alerts}), alerts

    stack.plan_faults()
    cooling = "SELECT count(*) FROM biz.ai_breakers WHERE state = 'open' AND retry_at > now()"
    eventually(lambda: stack.count(cooling) == 0, every_seconds=POLL_SECONDS)
    events.append(stack.fire("ai_consumption_settled", **next(strangers).names))

    jobs = stack.wait_for_ends(*events, seconds=150)
    assert {job["status"] for job in jobs} == {"completed"}
    assert len({job["id"] for job in jobs}) == len(events)
    for member in waiting:
        made = [cache_type for cache_type, _ in cached(stack, member)]
        # One that came through before App3 did is made again when there are clues.
        assert made.count("app3_clue") == made.count("app8_clue_consolidated") == 1
        assert made[-1] == "app7_customer_analysis"
        assert clue_sources(stack, member) == {"ai_consumption"}


def test_one_application_of_one_member_is_asked_from_our_command_line_from_dagsters_ui_and_from_dagsters_command_line(
    stack: Stack, member: Member
) -> None:
    before = stack.emulator_counts()["answered"]

    asked = stack.run("run-app", "app7", "--site", str(member.site_id), "--member", str(member.member_id))

    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert '"strategies"' in asked.stdout
    assert cached(stack, member) == [("app7_customer_analysis", str(member.member_id))]
    assert stack.emulator_counts()["answered"] - before == 1

    clicked = stack.materialise("app7_customer", member.partition)

    assert stack.wait_for_run_end(clicked) == "SUCCESS"
    assert stack.materialised_by("app7_customer", member.partition)[0] == clicked
    newest = stack.jobs(member.site_id)[-1]
    assert (newest["event_type"], newest["status"], newest["run_id"]) == ("run_app", "completed", clicked)

    typed = subprocess.run(
        [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "app7_customer", "--partition", member.partition],
        env={**stack.home.environment, **stack.environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=stack.home.folder,
    )

    assert typed.returncode == 0, typed.stderr[-3000:]
    assert len(stack.materialised_by("app7_customer", member.partition)) == 3
    # What is asked without need is answered from the cache.
    assert stack.emulator_counts()["answered"] - before == 1
    assert stack.materialised_by("app3_clue", member.partition) == []


def test_a_backfill_of_named_members_shows_its_progress_and_completes(stack: Stack, strangers: Iterator[Member]) -> None:
    members = [next(strangers) for _ in range(5)]
    named = ",".join(str(member.member_id) for member in members)

    done = stack.run("backfill", "--site", str(members[0].site_id), "--apps", "app3,app8", "--members", named)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "补跑 5/5 完成 10 步" in done.stdout
    for member in members:
        assert [cache_type for cache_type, _ in cached(stack, member)] == ["app3_clue", "app8_clue_consolidated"]


def open_run(stack: Stack, *events: int) -> tuple[str, psutil.Process]:
    """The run that has begun one of the events' jobs, and its process."""
    eventually(lambda: any(job["status"] == "running" for job in stack.jobs_of(*events)), seconds=60, every_seconds=POLL_SECONDS)
    run_id = next(job["run_id"] for job in stack.jobs_of(*events) if job["status"] == "running")
    return run_id, psutil.Process(stack.worker_pid(run_id))


def test_an_open_run_outlives_its_code_server_and_the_next_one_is_started_by_its_successor(
    stack: Stack, strangers: Iterator[Member]
) -> None:
    stack.plan_faults(latency_seconds=1.0)
    before = stack.fire("ai_consumption_settled", **next(strangers).names)
    run_id, process = open_run(stack, before)

    stack.kill_code_server()

    jobs = stack.wait_for_ends(before, stack.fire("ai_consumption_settled", **next(strangers).names))
    assert [(job["status"], job["run_id"], job["attempt"]) for job in jobs] == [("completed", run_id, 1)] * 2
    assert stack.wait_for_run_end(run_id) == "SUCCESS"
    eventually(lambda: not is_at_work(process), every_seconds=POLL_SECONDS)

    [job] = stack.wait_for_ends(stack.fire("ai_consumption_settled", **next(strangers).names), seconds=90)

    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert stack.wait_for_run_end(job["run_id"]) == "SUCCESS"


def test_a_run_that_is_given_up_though_its_process_lives_ends_and_leaves_its_work_to_another(
    stack: Stack, strangers: Iterator[Member]
) -> None:
    stack.plan_faults(latency_seconds=1.0)
    waiting = [next(strangers) for _ in range(3)]
    events = [stack.fire("ai_consumption_settled", **member.names) for member in waiting]
    run_id, process = open_run(stack, *events)
    eventually(lambda: stack.emulator_counts()["in_flight"] == len(events), every_seconds=0.05)
    process.suspend()
    try:
        assert stack.wait_for_run_end(run_id) == "FAILURE"
        jobs = stack.wait_for_ends(*events, seconds=90)
        posts = stack.emulator_counts()["posts"]
    finally:
        process.resume()

    assert [(job["status"], job["attempt"]) for job in jobs] == [("completed", 2)] * 3
    assert run_id not in {job["run_id"] for job in jobs}
    eventually(lambda: not is_at_work(process), seconds=60, every_seconds=POLL_SECONDS)
    assert stack.emulator_counts()["posts"] == posts
    for member in waiting:
        assert [cache_type for cache_type, _ in cached(stack, member)] == ["app3_clue", "app8_clue_consolidated", "app7_customer_analysis"]
    assert stack.wait_for_run_end(jobs[-1]["run_id"]) == "SUCCESS"
    assert stack.count("SELECT count(*) FROM biz.ai_step_claims") == 0


def is_at_work(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
