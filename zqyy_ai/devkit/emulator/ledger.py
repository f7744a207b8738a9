"""What the emulator remembers of its calls: counts by application id, and the last prompts. No behaviour hangs on it but `attempt`."""

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(slots=True)
class Counts:
    """Calls of one application id, or of all.

    `answered` are complete 200s with an output, the ones that would be paid; `answered_again` those of them whose prompt had been
    answered before. `refused` are error answers, `broken` those that were cut, stalled or dripped, `abandoned` those whose caller had
    gone when the answer was ready.
    """

    posts: int = 0
    answered: int = 0
    answered_again: int = 0
    refused: int = 0
    broken: int = 0
    abandoned: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    tokens: int = 0

    def begin(self) -> None:
        self.posts += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)


@dataclass(slots=True)
class Entry:
    """One POST. `outcome` is None while it is under way."""

    number: int
    app_id: str
    app: str | None
    attempt: int
    session_id: str | None
    received_at: str
    prompt: str
    outcome: str | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Ledger:
    kept_prompts: int
    total: Counts = field(default_factory=Counts)
    by_app_id: dict[str, Counts] = field(default_factory=dict)
    apps: dict[str, set[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    connections: set[tuple[str, int]] = field(default_factory=set)
    attempts: Counter[str] = field(default_factory=Counter)
    answered_digests: set[str] = field(default_factory=set)
    entries: deque[Entry] = field(default_factory=deque)

    def counts(self, app_id: str) -> tuple[Counts, Counts]:
        return self.total, self.by_app_id.setdefault(app_id, Counts())

    def note(self, app_id: str, app: str | None, attempt: int, session_id: str | None, prompt: str) -> Entry:
        if app is not None:
            self.apps.setdefault(app_id, set()).add(app)
        entry = Entry(self.total.posts, app_id, app, attempt, session_id, datetime.now(UTC).isoformat(timespec="milliseconds"), prompt)
        self.entries.append(entry)
        while len(self.entries) > self.kept_prompts:
            self.entries.popleft()
        return entry

    def settle(self, app_id: str, digest: str, tokens: int) -> None:
        """An answer went out."""
        again = digest in self.answered_digests
        self.answered_digests.add(digest)
        for counts in self.counts(app_id):
            counts.answered += 1
            counts.answered_again += again
            counts.tokens += tokens

    def as_json(self) -> dict[str, Any]:
        return {
            "total": asdict(self.total),
            "by_app_id": {
                app_id: asdict(counts) | {"apps": sorted(self.apps.get(app_id, ()))} for app_id, counts in sorted(self.by_app_id.items())
            },
            "faults": dict(self.faults),
            "connections": len(self.connections),
        }


def elapsed_seconds(started_monotonic: float) -> float:
    return round(time.monotonic() - started_monotonic, 3)
