"""Chains side by side, a step at a time: threads that take whichever step is next, the sites in turn.

A chain gives its thread back after each step, so that a site whose first event comes while another one's thousands are at work waits for one
step to end, not for a chain. Within a site the more urgent come first, and chains that have begun go on before others begin. What comes of the steps is taken by one
consumer (`take`). A chain that may not begin yet, because another one of its member is under way, is looked at again a little later.
"""

import heapq
import itertools
import logging
import queue
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from zqyy_ai.engine.member_chain import MemberChain, StepOutcome
from zqyy_ai.engine.window_chain import WindowChain, WindowStepOutcome

logger = logging.getLogger(__name__)

Chain = MemberChain | WindowChain
Outcome = StepOutcome | WindowStepOutcome

_LOOK_AGAIN_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class ChainEnded:
    """The chain is over, has failed, or was left because the process stops."""

    chain: Chain


class ChainPool:
    """At most `threads` steps at once. `after_step` is called in the step's thread; `stopping`, once set, begins no further step."""

    def __init__(self, threads: int, stopping: threading.Event, *, after_step: Callable[[Chain], object]) -> None:
        self._most_threads = threads
        self._stopping = stopping
        self._after_step = after_step
        self._changed = threading.Condition()
        # By site, then by priority: the first site of the order is the next in turn.
        self._ready: OrderedDict[int, dict[int, deque[Chain]]] = OrderedDict()
        self._ready_count = 0
        self._later: list[tuple[float, int, Chain]] = []
        self._numbers = itertools.count()
        self._open: set[Chain] = set()
        self._in_a_step: set[Chain] = set()
        self._idle_threads = 0
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self._results: queue.SimpleQueue[Outcome | ChainEnded] = queue.SimpleQueue()

    def add(self, chain: Chain) -> None:
        with self._changed:
            self._open.add(chain)
            self._put(chain, first=False)

    def take(self, timeout_seconds: float) -> Outcome | ChainEnded | None:
        """The next outcome or end; None when none came in time. An ended chain counts as open until `forget`."""
        try:
            return self._results.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def forget(self, chain: Chain) -> None:
        with self._changed:
            self._open.discard(chain)

    @property
    def open_chains(self) -> list[Chain]:
        with self._changed:
            return list(self._open)

    @property
    def waiting_chains(self) -> list[Chain]:
        """Open chains that are not in a step now."""
        with self._changed:
            return list(self._open - self._in_a_step)

    def open_by_site(self, least_priority: int) -> dict[int, int]:
        """How many open chains of `least_priority` or above each site has."""
        with self._changed:
            return dict(Counter(chain.site_id for chain in self._open if chain.priority >= least_priority))

    def stop(self) -> list[Chain]:
        """Begins no further step; returns the open chains that are in none. Those may be ended at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return list(self._open - self._in_a_step)

    def close(self) -> None:
        """Begins no further step and waits for those under way."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _put(self, chain: Chain, *, first: bool) -> None:
        chains = self._ready.setdefault(chain.site_id, {}).setdefault(chain.priority, deque())
        if first:
            chains.appendleft(chain)
            # It comes from a step: the site has just had its turn.
            self._ready.move_to_end(chain.site_id)
        else:
            chains.append(chain)
        self._ready_count += 1
        # A thread that was notified counts as idle until it has come back to the lock.
        if self._ready_count > self._idle_threads and len(self._threads) < self._most_threads:
            thread = threading.Thread(target=self._work, name="zqyy-ai chain", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify()

    def _work(self) -> None:
        while (chain := self._next()) is not None:
            has_begun = self._step(chain)
            with self._changed:
                self._in_a_step.discard(chain)
                if chain.is_over or self._stopping.is_set():
                    self._results.put(ChainEnded(chain))
                elif has_begun:
                    self._put(chain, first=True)
                else:
                    heapq.heappush(self._later, (time.monotonic() + _LOOK_AGAIN_SECONDS, next(self._numbers), chain))
                    self._changed.notify()

    def _step(self, chain: Chain) -> bool:
        """False when it is not the chain's turn at its member yet."""
        try:
            if not chain.may_begin():
                return False
            outcome = chain.advance()
            if outcome is not None:
                self._results.put(outcome)
                self._after_step(chain)
        except BaseException as failure:
            # Kept in the chain: whoever ends its job tells of it.
            chain.failure = failure
            logger.exception("chain_pool.chain_failed job=%s", chain.work.job.id)
        return True

    def _next(self) -> Chain | None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._put(heapq.heappop(self._later)[2], first=False)
                if self._ready and not self._stopping.is_set():
                    chain = self._first_ready()
                    self._in_a_step.add(chain)
                    return chain
                self._idle_threads += 1
                self._changed.wait(max(0.0, self._later[0][0] - now) if self._later else None)
                self._idle_threads -= 1
            return None

    def _first_ready(self) -> Chain:
        """The most urgent chain of the site whose turn it is."""
        site_id, by_priority = next(iter(self._ready.items()))
        priority = max(by_priority)
        chain = by_priority[priority].popleft()
        if not by_priority[priority]:
            del by_priority[priority]
        if by_priority:
            self._ready.move_to_end(site_id)
        else:
            del self._ready[site_id]
        self._ready_count -= 1
        return chain
