"""The emulator's own protocol and controls, over HTTP; what the client makes of it is tested in the llm room."""

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from zqyy_ai.devkit.emulator import EmulatorConfig, Latency, load_fault_plan, running_emulator
from zqyy_ai.devkit.emulator.answers import compose, facts_of
from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.domain.errors import SettingError
from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.domain.windows import Area, TimeDimension, WindowKey, earliest_day
from zqyy_ai.llm import Reply, parse_reply
from zqyy_ai.prompts.finance import FinancePrompts

SEED = 7
PROMPT = '{"required":["insights"]}\n\n<facts>\n{"门店":"旗舰店","区域":"大厅","本期":{"净收入_元":100.5}}\n</facts>'


class Console:
    """What a person at a terminal would send."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._session = requests.Session()

    def post(self, prompt: str = PROMPT, app_id: str = "app", key: str = "sk-x", **rest: Any) -> requests.Response:
        body = {"model": "", "parameters": rest.pop("parameters", {}), "input": {"prompt": prompt} | rest.pop("input", {})}
        headers = {"Authorization": f"Bearer {key}"} | rest.pop("headers", {})
        return self._session.post(f"{self._origin}/api/v1/apps/{app_id}/completion", json=body, headers=headers, **rest)

    def get(self, path: str) -> Any:
        answer = self._session.get(f"{self._origin}/control/{path}")
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    def put_plan(self, plan: Any) -> requests.Response:
        return self._session.put(f"{self._origin}/control/plan", json=plan)

    def reset(self) -> None:
        self._session.post(f"{self._origin}/control/reset").raise_for_status()


@pytest.fixture(scope="module")
def shared_console() -> Iterator[Console]:
    with running_emulator(EmulatorConfig(seed=SEED)) as emulator:
        yield Console(emulator.origin)


@pytest.fixture
def console(shared_console: Console) -> Console:
    shared_console.reset()
    return shared_console


def test_an_answer_has_dashscopes_envelope_and_says_that_it_is_no_model(console: Console) -> None:
    answer = console.post()
    body = answer.json()
    assert answer.status_code == 200
    assert body["output"]["finish_reason"] == "stop"
    assert body["output"]["session_id"]
    assert body["request_id"] == answer.headers["X-Request-Id"]
    (used,) = body["usage"]["models"]
    assert used["model_id"] == "emulator"
    assert used["output_tokens"] == -(-len(body["output"]["text"]) * 6 // 10)


def test_a_given_session_goes_on(console: Console) -> None:
    assert console.post(input={"session_id": "s-1"}).json()["output"]["session_id"] == "s-1"


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer invalid"}, {"Authorization": ""}, {"Authorization": "Basic eA=="}])
def test_a_bad_key_is_refused(console: Console, headers: dict[str, str]) -> None:
    answer = console.post(headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "InvalidApiKey")
    assert console.get("calls")["total"]["refused"] == 1


def test_a_request_without_a_prompt_is_refused_like_dashscope_does(console: Console) -> None:
    answer = console.post("")
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")


@pytest.mark.parametrize("is_incremental", [True, False])
def test_a_stream_carries_the_same_text(console: Console, is_incremental: bool) -> None:
    whole = console.post().json()["output"]["text"]
    answer = console.post(
        headers={"Accept": "text/event-stream", "X-DashScope-SSE": "enable"}, parameters={"incremental_output": is_incremental}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    outputs = [json.loads(data)["output"] for data in re.findall(r"^data:(.*)$", answer.content.decode(), re.MULTILINE)]
    texts = [output["text"] for output in outputs]
    assert len(outputs) > 1
    assert [output["finish_reason"] for output in outputs] == ["null"] * (len(outputs) - 1) + ["stop"]
    assert ("".join(texts) if is_incremental else texts[-1]) == whole


@pytest.mark.parametrize("kind", ["close_in_body", "close_in_chunks"])
def test_a_stream_too_is_cut_in_the_middle(console: Console, kind: str) -> None:
    console.put_plan({"faults": [{"kind": kind}]})
    streaming = {"Accept": "text/event-stream", "X-DashScope-SSE": "enable"}
    received = b""
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        for piece in console.post(headers=streaming, stream=True).iter_content(1):
            received += piece
    assert received.startswith(b"id:1\nevent:result\n")
    assert b'"finish_reason": "stop"' not in received
    assert console.get("calls")["total"]["broken"] == 1


def test_calls_are_counted_by_application(console: Console) -> None:
    console.put_plan({"faults": [{"kind": "http_error", "status": 429, "app_id": "b"}]})
    console.post(app_id="a")
    console.post(app_id="a")
    console.post(app_id="b")
    calls = console.get("calls")
    assert {name: calls["total"][name] for name in ("posts", "answered", "answered_again", "refused", "in_flight")} == {
        "posts": 3,
        "answered": 2,
        "answered_again": 1,
        "refused": 1,
        "in_flight": 0,
    }
    assert calls["by_app_id"]["a"]["apps"] == ["app2a_finance_area"]
    assert calls["by_app_id"]["b"]["refused"] == 1
    assert calls["faults"] == {"http_error": 1}


def test_calls_in_flight_are_seen_while_they_last(console: Console) -> None:
    console.put_plan({"latency": {"seconds": 0.4}})
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(console.post, f"{PROMPT}{number}")
        seen = [console.get("calls")["total"]["in_flight"]]
        while max(seen) < 8 and console.get("calls")["total"]["answered"] == 0:
            seen.append(console.get("calls")["total"]["in_flight"])
    assert max(seen) == 8
    assert console.get("calls")["total"]["max_in_flight"] == 8
    assert console.get("calls")["total"]["in_flight"] == 0


def test_a_caller_who_has_gone_is_no_answered_call(console: Console) -> None:
    console.put_plan({"latency": {"seconds": 0.3}})
    with pytest.raises(requests.ReadTimeout):
        console.post(timeout=0.1)
    deadline = time.monotonic() + 10
    while console.get("calls")["total"]["in_flight"] and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    total = console.get("calls")["total"]
    assert (total["abandoned"], total["answered"]) == (1, 0)


def test_the_last_prompts_are_shown_newest_first(console: Console) -> None:
    for number in range(3):
        console.post(f"{PROMPT}{number}")
    entries = console.get("prompts?last=2")
    assert [entry["prompt"][-1] for entry in entries] == ["2", "1"]
    assert entries[0]["outcome"] == "answered"
    assert entries[0]["attempt"] == 1


def test_the_page_shows_the_calls_and_escapes_the_prompt(console: Console) -> None:
    console.post("<script>alert(1)</script>")
    page = console.get("")
    assert "模拟器" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_a_plan_that_cannot_be_meant_is_refused_and_the_old_one_stays(console: Console) -> None:
    console.put_plan({"faults": [{"kind": "prose"}]})
    answer = console.put_plan({"faults": [{"kind": "earthquake"}]})
    assert answer.status_code == 400
    assert "faults.0.kind" in answer.json()["error"]
    assert console.get("plan") == {"faults": [{"kind": "prose"}]}


def test_a_reset_brings_back_the_start(console: Console) -> None:
    console.put_plan({"faults": [{"kind": "prose"}]})
    console.post()
    console.reset()
    assert console.get("plan") == {}
    assert console.get("calls")["total"]["posts"] == 0
    assert console.get("prompts") == []


def statuses(console: Console, prompts: list[str]) -> list[int]:
    return [console.post(prompt).status_code for prompt in prompts]


def test_conditions_choose_the_calls(console: Console) -> None:
    console.put_plan(
        {
            "faults": [
                {"kind": "http_error", "status": 503, "prompt_contains": "三月"},
                {"kind": "http_error", "status": 500, "app": "app2a_finance_area", "attempts": [2]},
                {"kind": "http_error", "status": 429, "nth": [3], "prompt_contains": "随便"},
                {"kind": "http_error", "status": 504, "count": 2, "prompt_contains": "慢"},
            ]
        }
    )
    assert statuses(console, ["三月", "四月"]) == [503, 200]
    assert statuses(console, [PROMPT, PROMPT, PROMPT]) == [200, 500, 200]
    assert statuses(console, ["随便1", "随便2", "随便3", "随便4"]) == [200, 200, 429, 200]
    assert statuses(console, ["慢1", "慢2", "慢3"]) == [504, 504, 200]


def test_chance_hangs_on_seed_prompt_and_attempt_and_not_on_the_order(console: Console) -> None:
    plan = {"faults": [{"kind": "http_error", "status": 503, "rate": 0.5}]}
    prompts = [f"第{number}个" for number in range(40)]
    console.put_plan(plan)
    first = dict(zip(prompts, statuses(console, prompts), strict=True))
    again = statuses(console, prompts)
    console.reset()
    console.put_plan(plan)
    backwards = dict(zip(prompts[::-1], statuses(console, prompts[::-1]), strict=True))
    assert first == backwards
    assert 5 < list(first.values()).count(503) < 35
    assert list(first.values()) != again


@pytest.mark.parametrize(
    "latency",
    [
        Latency(kind="uniform", low_seconds=0.2, high_seconds=0.9),
        Latency(kind="lognormal", median_seconds=0.5, sigma=1.0, longest_seconds=0.9),
        Latency(seconds=0.4),
    ],
)
def test_latency_is_drawn_within_its_bounds(latency: Latency) -> None:
    import random

    drawn = [latency.draw(random.Random(number)) for number in range(200)]
    assert 0 < min(drawn) <= max(drawn) <= 0.9
    assert drawn == [latency.draw(random.Random(number)) for number in range(200)]


def test_a_fault_plan_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"latency":{"seconds":1},"faults":[{"kind":"close","rate":0.1}]}')
    assert load_fault_plan(path).faults[0].rate == 0.1
    path.write_text("{")
    with pytest.raises(SettingError, match="is not JSON"):
        load_fault_plan(path)
    path.write_text('{"faults":[{"kind":"close","rate":2}]}')
    with pytest.raises(SettingError, match=r"faults\.0\.rate"):
        load_fault_plan(path)
    with pytest.raises(SettingError, match="cannot be read"):
        load_fault_plan(tmp_path / "missing.json")


@pytest.fixture(scope="module")
def finance_prompts() -> FinancePrompts:
    today = date(2026, 4, 16)
    days = [earliest_day(today) + timedelta(days=offset) for offset in range((today - earliest_day(today)).days)]
    rows = [
        {"business_date": day, "area": area.value}
        | {column.frame_name: 1000 + 37 * day.day + 101 * number + 7 * index for number, column in enumerate(FINANCE_COLUMNS)}
        for day in days
        for index, area in enumerate(Area)
        if not (area is Area.KTV or day.day == 13)
    ]
    frame = pd.DataFrame(rows)
    frame["business_date"] = pd.to_datetime(frame["business_date"])
    for column in FINANCE_COLUMNS:
        frame[column.frame_name] = frame[column.frame_name].astype("Int64")
    return FinancePrompts(frame, site_id=1, site_name="旗舰店", business_date=today, loaded_through=today - timedelta(days=1))


@pytest.mark.parametrize("dimension", TimeDimension)
def test_answers_to_the_finance_prompts_fit_and_quote_only_numbers_of_the_facts(
    finance_prompts: FinancePrompts, dimension: TimeDimension
) -> None:
    for area in Area:
        prompt = finance_prompts.for_window(WindowKey(dimension, area)).text
        if prompt is None:
            continue
        composed = compose(prompt)
        answer = parse_reply(Reply(composed.text, "stop", None, None, None, 0), FinanceAnswer)
        assert composed.app == ("app2_finance" if area is Area.ALL else "app2a_finance_area")
        assert len(answer.insights) >= 5
        assert "模拟器" not in composed.text
        facts = json.dumps(facts_of(prompt), ensure_ascii=False)
        for insight in answer.insights:
            for number in re.findall(r"\d+(?:\.\d+)?", insight.title + insight.body):
                assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]\d)", facts), (number, insight)


@pytest.mark.parametrize(
    "facts",
    [
        "{}",
        '{"本期":null}',
        '{"本期":[],"区域构成":{},"单日高低":3}',
        '{"区域构成":[{"区域":"大厅"},null,3]}',
        "[]",
        "{",
        '{"收入构成_%":{"台费":null}}',
    ],
)
def test_facts_of_another_shape_still_make_a_valid_answer(facts: str) -> None:
    text = compose(f'"insights"\n<facts>\n{facts}\n</facts>').text
    if facts in ("[]", "{"):
        assert "模拟器" in text
    else:
        assert parse_reply(Reply(text, "stop", None, None, None, 0), FinanceAnswer).insights


def test_stopping_it_in_the_middle_of_a_call_breaks_the_connection_instead_of_answering() -> None:
    with ThreadPoolExecutor(1) as pool:
        with running_emulator(EmulatorConfig(latency=Latency(seconds=60))) as emulator:
            console = Console(emulator.origin)
            call = pool.submit(Console(emulator.origin).post)
            while console.get("calls")["total"]["in_flight"] == 0:
                threading.Event().wait(0.01)
        with pytest.raises(requests.ConnectionError):
            call.result(timeout=10)
