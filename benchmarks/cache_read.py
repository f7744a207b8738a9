"""What a read of the cache over HTTP takes: a real `zqyy-ai serve` on the embedded PostgreSQL with millions of rows, at a steady rate.

Open loop: requests are sent when they are due, whether the ones before were answered or not, and time counts from when they were due. A client in a
process of its own, on kept-alive connections, reads targets at random, so that most answers are not in anybody's cache.
"""

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.served_api import serving
from zqyy_ai.devkit.embedded_postgres import APPLICATION_DATABASE, EmbeddedPostgres
from zqyy_ai.domain.access import Role
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import migrate

SITES, FIRST_SITE = 20, 1001
REQUESTS_A_SECOND = 50
WARM_UP_SECONDS = 3
ROWS_A_TARGET = 5
# Four of five are fresh, as they are where prewarms run; the result is as large as a usual answer of App3.
_FILL = """
INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, score, triggered_by, created_at, expires_at, status, input_hash)
SELECT 'app3_clue', %(first_site)s + n %% %(sites)s, (n / %(sites)s / %(each)s)::text,
       jsonb_build_object('clues', (SELECT jsonb_agg(jsonb_build_object('category', '消费习惯', 'summary', '📅 偏好周末下午 ' || n || '-' || clue,
                                                                        'detail', repeat('近三个月到店以周六、周日下午为主。', 4)))
                                    FROM generate_series(1, 5) AS clue),
                          '_references', jsonb_build_object('source', 'visits', 'rows', n %% 40)),
       NULL, 'consumption', now() - n / %(sites)s %% %(each)s * interval '1 day', now() + (3 - n / %(sites)s %% %(each)s) * interval '1 day', 'valid', md5(n::text)
FROM generate_series(%(from)s::bigint, %(to)s::bigint) AS n
"""


@dataclass(frozen=True, slots=True)
class Load:
    """Milliseconds from when a request was due to its whole answer."""

    rows: int
    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    longest_ms: float


def measure(*, rows: int, seconds: int) -> tuple[Load, Load]:
    """The load of whole answers, and that of questions whether an answer is still the same (304)."""
    with tempfile.TemporaryDirectory(prefix="zqyy-ai-bench-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "postgres") as server:
            url = server.ensure_database(APPLICATION_DATABASE)
            migrate(url)
            fill(url, rows)
            with Database(url, max_connections=1) as database, database.transaction() as connection:
                token = api_tokens.create(connection, name="benchmark", role=Role.READER, site_ids=range(FIRST_SITE, FIRST_SITE + SITES))
            with serving(url, Path(folder)) as (address, _):
                return _measure(address, token, rows, seconds, "full"), _measure(address, token, rows, seconds, "same")


def fill(url: str, rows: int) -> None:
    """Without the WAL of it: what is measured is reading."""
    with psycopg.connect(url, autocommit=True) as connection:
        for start in range(0, rows, 200_000):
            part = {"from": start, "to": min(start + 200_000, rows) - 1}
            connection.execute(_FILL, {"first_site": FIRST_SITE, "sites": SITES, "each": ROWS_A_TARGET, **part})
        connection.execute("VACUUM (ANALYZE) biz.ai_cache")
        connection.execute("CHECKPOINT")


def _measure(address: str, token: str, rows: int, seconds: int, kind: str) -> Load:
    command = [sys.executable, "-m", "benchmarks.cache_read", address, str(rows), str(seconds), kind]
    done = subprocess.run(command, input=token, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    waits = sorted(told["ms"])
    return Load(rows, len(waits), told["failed"], statistics.median(waits), waits[int(len(waits) * 0.99)], waits[-1])


# The client's process. It speaks HTTP by itself: the usual clients cost as much as the server, on the same cores.


async def _read_steadily(address: str, token: str, rows: int, seconds: int, kind: str) -> None:
    targets = rows // SITES // ROWS_A_TARGET
    host, _, port = address.removeprefix("http://").partition(":")
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    waits_ms: list[float] = []
    failed = 0

    async def read(due: float, *, counts: bool) -> None:
        nonlocal failed
        # What the server has closed meanwhile, because nobody used it, is not used.
        while idle and idle[-1][0].at_eof():
            idle.pop()[1].close()
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
        site_id, target_id = random.randrange(SITES) + FIRST_SITE, random.randrange(targets)
        same = "If-None-Match: *\r\n" if kind == "same" else ""
        writer.write(
            f"GET /api/ai/cache/app3_clue?site_id={site_id}&target_id={target_id} HTTP/1.1\r\n"
            f"Host: {host}\r\nAuthorization: Bearer {token}\r\n{same}\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if found := re.search(rb"content-length: (\d+)", head):
            await reader.readexactly(int(found[1]))
        if counts:
            waits_ms.append(1000 * (time.perf_counter() - due))
            failed += not head.startswith(b"HTTP/1.1 304" if kind == "same" else b"HTTP/1.1 200")
        idle.append((reader, writer))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as requests:
        for number in range((WARM_UP_SECONDS + seconds) * REQUESTS_A_SECOND):
            due = started + number / REQUESTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            requests.create_task(read(due, counts=number >= WARM_UP_SECONDS * REQUESTS_A_SECOND))
    print(json.dumps({"ms": waits_ms, "failed": failed}), flush=True)
    for _, writer in idle:
        writer.close()


if __name__ == "__main__":
    asyncio.run(_read_steadily(sys.argv[1], sys.stdin.read(), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
