"""Rate limits: GCRA, one row a key, for each site and each application.

The generic cell rate algorithm (ITU-T I.371) keeps one moment a key, the theoretical arrival time. A grant moves it on by one
emission interval; a caller whose turn is later than now is told how long to wait, and has its turn reserved meanwhile.

Fails closed: without its state nobody calls.
"""

from dataclasses import dataclass
from datetime import timedelta

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards import SQL_PACKAGE
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


@dataclass(frozen=True, slots=True)
class Rate:
    """`calls` in every `seconds`, with bursts of up to `burst` calls at once."""

    calls: int
    seconds: float
    burst: int

    @property
    def emission_interval(self) -> timedelta:
        return timedelta(seconds=self.seconds / self.calls)


@dataclass(frozen=True, slots=True)
class RatePolicy:
    site: Rate
    app: Rate


class RateGuard:
    def __init__(self, policy: RatePolicy) -> None:
        self._policy = policy

    def take(self, connection: Connection, site_id: int, app_type: str, *, longest_wait: timedelta) -> timedelta:
        """Reserves the caller's turn at both limits and returns how long to wait for it, zero or more.

        Raises GuardRefusal (`rate_limited`) when the wait would be longer than `longest_wait`; the turn is not reserved then. Call
        inside a transaction, so that a refusal at the second limit takes back the turn at the first.
        """
        site, app = self._policy.site, self._policy.app
        keys = (f"site:{site_id}", f"app:{app_type}")
        rows = connection.execute(
            named_queries("rate_limits", SQL_PACKAGE)["take"],
            {
                "site_key": keys[0],
                "site_interval": site.emission_interval,
                "site_burst": site.emission_interval * site.burst,
                "app_key": keys[1],
                "app_interval": app.emission_interval,
                "app_burst": app.emission_interval * app.burst,
                "longest_wait": longest_wait,
            },
        ).fetchall()
        waits: dict[str, timedelta] = {row["rate_key"]: row["wait"] for row in rows}
        for key in keys:
            if key not in waits:
                raise GuardRefusal("rate_limited", f"限流:{key} 的排队时间超过 {longest_wait.total_seconds():.0f} 秒")
        return max(*waits.values(), timedelta(0))

    def push_forward(self, connection: Connection, app_type: str, by: timedelta) -> None:
        """After DashScope throttled a call: nobody calls this application for `by`."""
        connection.execute(
            named_queries("rate_limits", SQL_PACKAGE)["push_forward"],
            {"rate_key": f"app:{app_type}", "ahead": by + self._policy.app.emission_interval * self._policy.app.burst},
        )
