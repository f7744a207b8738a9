"""Whose step is next: chains of real jobs in a pool of one thread, so that the order of their outcomes is the order of their steps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.chain_pool import ChainEnded, ChainPool, Outcome
from zqyy_ai.engine.member_chain import CHAIN_CLAIM, MemberChain, StepOutcome, work_of_job
from zqyy_ai.store import sites, step_claims, trigger_jobs
from zqyy_ai_tests.engine.member_bench import OTHER_SITE, SITE, MemberBench
from zqyy_ai_tests.engine.workbench import wait_until

# Long enough for a test to put chains into the pool while the first one's call is under way.
CALL = {"seconds": 0.2}


def claimed_chains(bench: MemberBench, engine: Engine) -> list[MemberChain]:
    """A chain for each event that was fired, in the order of the events."""
    bench.take_in()
    jobs = trigger_jobs.claim_member_jobs(
        bench.connection,
        run_id="run-1",
        worker_id=engine.worker.id,
        lease=engine.worker.lease,
        most=100,
        most_of_site=100,
        least_priority=-1000,
        held={},
    )
    return [
        MemberChain(engine, work_of_job(bench.connection, job, sites.get_site(bench.connection, job.site_id), "run-1"))
        for job in sorted(jobs, key=lambda job: job.id)
    ]


@contextmanager
def pool_of(engine: Engine, threads: int = 1) -> Iterator[ChainPool]:
    pool = ChainPool(threads, engine.worker.stopping, after_step=lambda _: None)
    try:
        yield pool
    finally:
        pool.close()
        for chain in pool.open_chains:
            chain.end()


def taken_until_all_ended(pool: ChainPool) -> list[Outcome | ChainEnded]:
    taken: list[Outcome | ChainEnded] = []
    while pool.open_chains:
        one = pool.take(10.0)
        assert one is not None
        taken.append(one)
        if isinstance(one, ChainEnded):
            one.chain.end()
            pool.forget(one.chain)
    return taken


def order(taken: list[Outcome | ChainEnded]) -> list[int]:
    """The member of each step."""
    return [one.member_id for one in taken if isinstance(one, StepOutcome)]


def test_sites_take_turns_step_by_step_and_within_a_site_chains_that_have_begun_go_on_first(bench: MemberBench) -> None:
    here, there = bench.visitors(SITE)[:2], bench.visitors(OTHER_SITE)[0]
    for member in here:
        bench.consumption(member)
    bench.consumption(there, site_id=OTHER_SITE)
    bench.emulator.plan(latency=CALL)
    engine = bench.engine()
    with pool_of(engine) as pool:
        for chain in claimed_chains(bench, engine):
            pool.add(chain)
        taken = taken_until_all_ended(pool)
    assert order(taken) == [here[0], there, here[0], there, here[0], there, *[here[1]] * 3]


def test_the_more_urgent_chain_has_the_next_step_and_all_after_it(bench: MemberBench) -> None:
    first, urgent = bench.visitors()[:2]
    bench.consumption(first)
    bench.consumption(urgent)
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET priority = 5 WHERE member_id = %s", [urgent])
    bench.emulator.plan(latency=CALL)
    engine = bench.engine()
    with pool_of(engine) as pool:
        usual_chain, urgent_chain = claimed_chains(bench, engine)
        pool.add(usual_chain)
        wait_until(lambda: bench.emulator.in_flight == 1)
        pool.add(urgent_chain)
        assert pool.open_by_site(0) == {SITE: 2}
        assert pool.open_by_site(1) == {SITE: 1}
        taken = taken_until_all_ended(pool)
    assert order(taken) == [first, *[urgent] * 3, first, first]


def test_no_more_steps_are_under_way_than_there_are_threads(bench: MemberBench) -> None:
    for member in bench.visitors()[:6]:
        bench.note(member)
    bench.emulator.plan(latency=CALL)
    engine = bench.engine()
    with pool_of(engine, threads=3) as pool:
        for chain in claimed_chains(bench, engine):
            pool.add(chain)
        taken = taken_until_all_ended(pool)
    assert len(order(taken)) == 12
    calls = bench.emulator.session.get(f"{bench.emulator.running.origin}/control/calls").json()
    assert calls["total"]["max_in_flight"] == 3


def test_a_chain_whose_member_is_somebody_elses_now_waits_without_a_thread(bench: MemberBench) -> None:
    waiting, other = bench.visitors()[:2]
    theirs = step_claims.take(
        bench.connection, CHAIN_CLAIM, SITE, str(waiting), worker_id=uuid4(), lease=timedelta(minutes=1), token=uuid4()
    )
    assert theirs is not None
    bench.note(waiting)
    bench.note(other)
    engine = bench.engine()
    with pool_of(engine) as pool:
        chains = claimed_chains(bench, engine)
        for chain in chains:
            pool.add(chain)
        assert order([one for one in (pool.take(10.0), pool.take(10.0)) if one is not None]) == [other, other]
        wait_until(lambda: chains[0] in pool.waiting_chains)
        assert step_claims.end(bench.connection, theirs)
        ended = pool.take(10.0)
        assert isinstance(ended, ChainEnded)
        pool.forget(ended.chain)
        assert order(taken_until_all_ended(pool)) == [waiting, waiting]


def test_a_chain_that_breaks_ends_with_its_failure_and_breaks_no_other(bench: MemberBench) -> None:
    broken, sound = bench.visitors()[:2]
    bench.add_visit(broken)
    bench.connection.execute("UPDATE demo_dws.visits SET tables = '{}' WHERE business_date = '2026-04-21'")
    bench.consumption(broken)
    bench.consumption(sound)
    engine = bench.engine()
    with pool_of(engine) as pool:
        for chain in claimed_chains(bench, engine):
            pool.add(chain)
        taken = taken_until_all_ended(pool)
    first = taken[0]
    assert isinstance(first, ChainEnded)
    assert first.chain.work.member_id == broken
    assert isinstance(first.chain.failure, SourceContractError)
    assert order(taken) == [sound] * 3


def test_once_the_process_is_to_stop_no_step_begins_and_the_one_under_way_ends(bench: MemberBench) -> None:
    for member in bench.visitors()[:3]:
        bench.note(member)
    bench.emulator.plan(latency=CALL)
    engine = bench.engine()
    with pool_of(engine) as pool:
        for chain in claimed_chains(bench, engine):
            pool.add(chain)
        wait_until(lambda: bench.emulator.in_flight == 1)
        engine.worker.stopping.set()
        pool.close()
        taken = [pool.take(1.0), pool.take(1.0), pool.take(0.0)]
        assert len(pool.open_chains) == 3
    assert isinstance(taken[0], StepOutcome)
    assert isinstance(taken[1], ChainEnded)
    assert not taken[1].chain.is_over
    assert taken[2] is None
    assert bench.emulator.posts == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "zqyy-ai chain"]
