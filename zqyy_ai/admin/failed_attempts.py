"""Failed logins, limited by source: whoever guesses is slowed down, and whoever has a valid token always gets in.

Kept in memory: a guess costs a lookup, and 256 random bits are not guessed anyway. What matters is that the log and the database aren't flooded.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_SOURCES = 10_000


class FailedAttempts:
    """A bucket of `burst` attempts a source, refilled over `seconds`."""

    def __init__(self, *, burst: int = 20, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._seconds_an_attempt = seconds / burst
        self._clock = clock
        self._full_again_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, source: str) -> float:
        """Counts a failed attempt; returns for how many seconds the source is to wait, 0 when it may try at once."""
        with self._lock:
            now = self._clock()
            full_again_at = max(self._full_again_at.pop(source, now), now)
            wait_seconds = full_again_at + self._seconds_an_attempt - now - self._burst * self._seconds_an_attempt
            if wait_seconds <= 0:
                full_again_at += self._seconds_an_attempt
            self._full_again_at[source] = full_again_at
            if len(self._full_again_at) > _MOST_SOURCES:
                self._full_again_at.popitem(last=False)
        return max(wait_seconds, 0.0)
