"""What the engine's tests are built from: the emulator's control door, engines, step requests, and looks into the tables."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

import requests

from zqyy_ai.devkit.emulator import RunningEmulator
from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.domain.apps import finance_app_of
from zqyy_ai.domain.business_clock import MIDNIGHT, SHANGHAI, HandClock
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.domain.windows import WindowKey
from zqyy_ai.engine.assembly import Engine, build_engine
from zqyy_ai.engine.step import StepRequest
from zqyy_ai.settings import Settings, load_settings
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.sites import Site

# A Wednesday in the past, so that the clock turned by hand is never ahead of the database's.
NOW = datetime(2025, 6, 18, 10, 0, tzinfo=SHANGHAI)
TODAY = NOW.date()
SITE = Site(1001, "朝阳店", is_active=True, business_day_cutoff=MIDNIGHT)
TARGET = "this_month__all"
FINANCE_APP_ID, AREA_APP_ID = "id-finance", "id-finance-area"


@dataclass
class EmulatorControl:
    running: RunningEmulator
    session: requests.Session = field(default_factory=requests.Session)

    def plan(self, *faults: dict[str, Any], **rest: Any) -> None:
        answer = self.session.put(f"{self.running.origin}/control/plan", json={"faults": list(faults)} | rest)
        assert answer.status_code == 200, answer.text

    def reset(self) -> None:
        self.session.post(f"{self.running.origin}/control/reset").raise_for_status()

    @property
    def posts(self) -> int:
        return int(self.session.get(f"{self.running.origin}/control/calls").json()["total"]["posts"])

    @property
    def posts_by_app_id(self) -> dict[str, int]:
        counts = self.session.get(f"{self.running.origin}/control/calls").json()["by_app_id"]
        return {app_id: count["posts"] for app_id, count in counts.items()}

    @property
    def in_flight(self) -> int:
        return int(self.session.get(f"{self.running.origin}/control/calls").json()["total"]["in_flight"])

    def received_at(self) -> list[datetime]:
        """When the last calls came in, at most as many as the emulator keeps prompts."""
        entries = self.session.get(f"{self.running.origin}/control/prompts").json()
        return [datetime.fromisoformat(entry["received_at"]) for entry in entries]

    def close(self) -> None:
        self.session.close()


class EngineMaker(Protocol):
    def __call__(self, **environment: str) -> Engine: ...


def settings_for(database: Database, emulator: EmulatorControl, **environment: str) -> Settings:
    return load_settings(
        {
            "ZQYY_DATABASE_URL": database.url,
            "DASHSCOPE_API_KEY": "sk-test",
            "DASHSCOPE_HTTP_BASE_URL": emulator.running.base_url,
            "ZQYY_APP_ID_2_FINANCE": FINANCE_APP_ID,
            "ZQYY_APP_ID_2A_FINANCE_AREA": AREA_APP_ID,
            "ZQYY_STEP_TIMEOUT_SECONDS": "20",
            "ZQYY_GUARD_WAIT_SECONDS": "20",
            "ZQYY_LLM_CONCURRENCY": "8",
            "ZQYY_SITE_CALLS_BURST": "1000",
            **environment,
        }
    )


def engine_on(database: Database, emulator: EmulatorControl, **environment: str) -> Engine:
    return build_engine(settings_for(database, emulator, **environment), clock=HandClock(NOW))


def prompt_about(net_revenue_cny: int) -> str:
    """A prompt in the form that the emulator answers; another figure makes it another input."""
    facts = {"门店": "朝阳店", "区域": "全店", "本期": {"净收入_元": net_revenue_cny}}
    return f'请写财务洞察,格式 {{"required":["insights"]}}\n\n<facts>\n{json.dumps(facts, ensure_ascii=False)}\n</facts>'


def request(target_id: str = TARGET, *, net_revenue_cny: int = 100, **more: Any) -> StepRequest:
    """A step's request as a prewarm would make it."""
    known: dict[str, Any] = {
        "app": finance_app_of(WindowKey.parse(target_id)),
        "site": SITE,
        "target_id": target_id,
        "answer_model": FinanceAnswer,
        "business_date": TODAY,
        "context": LIVE,
        "references": {"source": "ai_source.finance_daily"},
        "triggered_by": "dws_completed",
        "trigger_type": "event",
        "prompt": prompt_about(net_revenue_cny),
    }
    return StepRequest(**(known | more))


# Looks into the tables.


def logs(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_run_logs ORDER BY id").fetchall()


def log_statuses(connection: Connection) -> list[tuple[str, str | None]]:
    return [(row["status"], row["error_code"]) for row in logs(connection)]


def cached(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_cache ORDER BY id").fetchall()


def alerts(connection: Connection) -> list[tuple[str, int]]:
    """Type and occurrences of each alert, in the order in which they were opened."""
    rows = connection.execute("SELECT alert_type, occurrences FROM biz.ai_alerts ORDER BY id").fetchall()
    return [(row["alert_type"], row["occurrences"]) for row in rows]


def spent(connection: Connection) -> tuple[int, int]:
    """Used and reserved tokens of the chain's day."""
    row = connection.execute(
        "SELECT coalesce(sum(used_tokens), 0)::bigint AS used, coalesce(sum(reserved_tokens), 0)::bigint AS reserved"
        " FROM biz.ai_budget_windows WHERE scope = 'chain' AND kind = 'day'"
    ).fetchone()
    assert row is not None
    return row["used"], row["reserved"]


def breakers(connection: Connection) -> dict[str, tuple[str, int]]:
    """State and failures of each breaker that is not as new."""
    rows = connection.execute("SELECT app_type, state, failures FROM biz.ai_breakers WHERE state <> 'closed' OR failures > 0").fetchall()
    return {row["app_type"]: (row["state"], row["failures"]) for row in rows}


def held_rows(connection: Connection) -> int:
    """Claims, slots and reservations that somebody still holds."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM biz.ai_step_claims) + (SELECT count(*) FROM biz.ai_call_slots WHERE token IS NOT NULL)"
        " + (SELECT count(*) FROM biz.ai_budget_reservations) AS held"
    ).fetchone()
    assert row is not None
    return int(row["held"])


def jobs(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_trigger_jobs ORDER BY id").fetchall()


def wait_until(is_so: Callable[[], bool]) -> None:
    """For what happens in the emulator or in a thread: looks again until it is so."""
    patience = threading.Event()
    for _ in range(3000):
        if is_so():
            return
        patience.wait(0.01)
    raise AssertionError("it never came to be so")


def day(text: str) -> date:
    return date.fromisoformat(text)
