"""Faults in motion, the short form: the whole stack prewarms a site, or works off members' events, while processes and connections are
killed. The long form, with figures, is `make chaos`."""

from collections.abc import Iterator

import pytest

from benchmarks import chaos_events, chaos_prewarm
from benchmarks.chaos import chaos_stage
from benchmarks.chaos_events import killed_after_writes
from benchmarks.faults import Motion, kill, kill_connections
from benchmarks.stage import Stage

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

SEED = 7
# What `make chaos` holds below 30 s may take longer beside other tests; the rest is judged as strictly.
MOST_RECOVERY_SECONDS = 90.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with chaos_stage(sites=1) as played:
        yield played


def promises_kept(outcome: chaos_prewarm.Outcome | chaos_events.Outcome) -> bool:
    broken = [promise for promise in outcome.broken_promises() if "recovery" not in promise]
    assert broken == [], outcome
    assert outcome.recovery_seconds < MOST_RECOVERY_SECONDS
    return True


def test_a_killed_run_and_killed_connections_leave_nothing_undone_and_nothing_paid_twice(stage: Stage) -> None:
    def faults(motion: Motion) -> None:
        if motion.first_moment():
            kill(*stage.run_pids()[:1])
            motion.fault_is_over()
        while motion.wait(2.0):
            kill_connections(stage)

    outcome = chaos_prewarm.play(stage, "short", SEED, faults)

    assert outcome.faults == 1
    assert promises_kept(outcome)


def test_postgresql_may_stop_in_the_middle_of_a_prewarm(stage: Stage) -> None:
    def faults(motion: Motion) -> None:
        postgres = stage.stack.postgres
        assert postgres is not None
        for immediately in (False, True):
            if motion.first_moment():
                postgres.halt(immediately=immediately)
                motion.is_over.wait(2.0)
                postgres.resume()
                motion.fault_is_over()

    outcome = chaos_prewarm.play(stage, "short", SEED, faults)

    assert outcome.faults == 2
    assert promises_kept(outcome)


def test_events_survive_a_killed_run_and_killed_connections_each_with_its_answers_once(stage: Stage) -> None:
    def faults(motion: Motion) -> None:
        killed_after_writes(motion)
        while motion.wait(2.0):
            kill_connections(stage)

    outcome = chaos_events.play(stage, "short", SEED, faults, events=100)

    assert outcome.faults >= 1
    assert outcome.failing > 0
    assert promises_kept(outcome)
