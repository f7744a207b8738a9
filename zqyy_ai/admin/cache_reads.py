"""How readers of the cache fared, counted in this process for Prometheus."""

from enum import StrEnum

from prometheus_client import Counter


class CacheRead(StrEnum):
    """`UNCHANGED`: the reader has it already (304). `STALE`: expired, whether it was allowed to be read or not."""

    FRESH = "fresh"
    UNCHANGED = "unchanged"
    STALE = "stale"
    MISSING = "missing"


class CacheReads:
    """A counter that begins at 0 with the process, as Prometheus expects of one."""

    def __init__(self) -> None:
        self.counter = Counter(
            "zqyy_ai_cache_reads",
            "Reads of cached answers over HTTP, by what was found; of missing ones the site is not told",
            ("cache_type", "site", "result"),
            registry=None,
        )

    def note(self, cache_type: str, read: CacheRead, site_id: int | None = None) -> None:
        """`site_id`: None for what is not there. Whoever asks for made-up sites must not make up series."""
        self.counter.labels(cache_type, "-" if site_id is None else str(site_id), read.value).inc()
