"""Faults in motion, the short form: a site is prewarmed by the whole stack while processes and connections are killed. The long form, with
figures, is `make chaos`."""

from collections.abc import Iterator

import pytest

from benchmarks.chaos import Motion, Outcome, chaos_stage, kill, kill_connections, play, run_pids
from benchmarks.stage import Stage

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

SEED = 7
# What `make chaos` holds below 30 s may take longer beside other tests; the rest is judged as strictly.
MOST_RECOVERY_SECONDS = 90.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with chaos_stage(sites=1) as played:
        yield played


def promises_kept(outcome: Outcome) -> bool:
    broken = [promise for promise in outcome.broken_promises() if "recovery" not in promise]
    assert broken == [], outcome
    assert outcome.recovery_seconds < MOST_RECOVERY_SECONDS
    return True


def test_a_killed_run_and_killed_connections_leave_nothing_undone_and_nothing_paid_twice(stage: Stage) -> None:
    def faults(motion: Motion) -> None:
        if motion.first_moment():
            kill(*run_pids(stage)[:1])
            motion.fault_is_over()
        while motion.wait(2.0):
            kill_connections(stage)

    outcome = play(stage, "short", SEED, faults)

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

    outcome = play(stage, "short", SEED, faults)

    assert outcome.faults == 2
    assert promises_kept(outcome)
