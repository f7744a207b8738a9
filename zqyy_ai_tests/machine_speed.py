"""How fast this machine is at this moment, so that a bar on time says the same on a slow or shared one."""

import time

# What the loop below takes where the bars were set: one core, nothing else running.
_USUAL_SECONDS = 0.0009
_ROUNDS = 60


def slowness() -> float:
    """How much longer than usual plain work takes now, by the wall clock, so that a shared core counts; at least 1."""
    begun = time.monotonic()
    for _ in range(_ROUNDS):
        sum(number * number for number in range(20_000))
    return max(1.0, (time.monotonic() - begun) / _ROUNDS / _USUAL_SECONDS)
