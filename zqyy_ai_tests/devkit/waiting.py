"""Waiting for what has no event to wait for: the end of a process that is not our child, a line in a file."""

import time
from collections.abc import Callable


def eventually(is_so: Callable[[], bool], *, seconds: float = 20.0, every_seconds: float = 0.02) -> None:
    """Returns as soon as `is_so()`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(every_seconds)
