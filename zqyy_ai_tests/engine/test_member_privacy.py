"""No personal number that somebody wrote leaves the process or is kept by it: from the event to the prompts, run logs, cache and clues."""

import json
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from zqyy_ai.domain.apps import AppType
from zqyy_ai.engine.step import StepStatus
from zqyy_ai_tests.engine.member_bench import SITE, MemberBench, results, told
from zqyy_ai_tests.engine.workbench import logs

PHONE, BANK_CARD, ID_CARD, WECHAT = "13912345678", "6222021234567890128", "11010519900307671x", "lily_8888"
PLACEHOLDERS = "[手机号]", "[银行卡号]", "[身份证号]", "[微信号]"
# Each as (phone, bank card, id card, WeChat id).
FORMS = {
    "plain": ("13912345678", "6222021234567890128", "11010519900307671X", "lily_8888"),
    "spaced": ("139 1234 5678", "6222 0212 3456 7890 128", "110105 19900307 671X", " lily_8888"),
    "dashed": ("139-1234-5678", "6222-0212-3456-7890-128", "110105-19900307-671X", "-lily_8888"),
    "full-width": (
        "１３９１２３４５６７８",
        "６２２２０２１２３４５６７８９０１２８",
        "１１０１０５１９９００３０７６７１Ｘ",
        "：ｌｉｌｙ＿８８８８",
    ),
    "+86": ("+86 139 1234 5678", "622202 1234 5678 90128", "110 105 1990 0307 671x", "👉lily_8888"),
    "Chinese numerals": (
        "么三九一二三四五六七八",
        "六二二二零二一二三四五六七八九零一二八",
        "一一零一零五一九九零零三零七六七一X",
        "号叫做lily_8888",
    ),
    "zero-width": ("139\u200b1234\u200b5678", "6222\u200b021234567890128", "110105\u200b19900307671X", "li\u200bly_8888"),
    "line breaks": ("139\n1234\n5678", "6222\n0212\n3456\n7890\n128", "110105\n19900307\n671X", "\nlily_8888"),
}
KEPT = "A12号台", "1288元", "2026-04-20", "1930-2130"
QUANTITIES = "晚上喜欢" + " ".join(KEPT)


def note_with(form: tuple[str, str, str, str]) -> str:
    phone, bank_card, id_card, wechat = form
    return f"{QUANTITIES}。电话{phone}常来。充值用卡{bank_card}可以。生日看{id_card}可知。微信{wechat}可约。"


def digits_and_letters(text: str) -> str:
    """What is left for who looks for a number in whatever form it stands."""
    plain = unicodedata.normalize("NFKC", text).lower()
    for numerals in ("零一二三四五六七八九", "〇么两"):
        plain = plain.translate({ord(numeral): str(value) for value, numeral in enumerate(numerals)})
    return "".join(character for character in plain if character == "_" or (character.isalnum() and character.isascii()))


def parts_of_numbers_in(text: str) -> list[str]:
    seen = digits_and_letters(text)
    windows = [number[start : start + 7] for number in (PHONE, BANK_CARD, ID_CARD) for start in range(len(number) - 6)]
    return [part for part in (*windows, WECHAT) if part in seen]


def kept_texts(bench: MemberBench) -> list[str]:
    """All that the emulator got, and all that the process has written of it; JSON as it reads."""
    rows = logs(bench.connection)
    replies = [row["response_text"] for row in rows]
    return [
        *(prompt.text for prompt in bench.prompts()),
        *(row["request_prompt"] for row in rows),
        *replies,
        *(json.dumps(json.loads(reply), ensure_ascii=False) for reply in replies),
        *(row["error_message"] or "" for row in rows),
        *(json.dumps(row["result_json"], ensure_ascii=False) for row in bench.cached()),
        *(f"{clue['summary']} {clue['detail']} {clue['recorded_by_name']}" for clue in bench.clues()),
    ]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_number_of_a_note_reaches_a_prompt_a_log_the_cache_or_the_clues_while_prices_and_times_do(
    bench: MemberBench, form: tuple[str, str, str, str]
) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.note(member, note_with(form), noted_by_name=f"小王{form[0]}")
    bench.drain()
    [noted] = bench.prompts(AppType.NOTE)
    assert all(placeholder in noted.facts["备注"]["内容"] for placeholder in PLACEHOLDERS)
    bench.add_task(member, assistant, f"微信{form[3]}约{form[0]}")
    bench.consumption(member, assistant)
    outcomes = bench.drain(run_id="run-2")
    assert [name for name, _ in told(outcomes)] == ["app3", "app8", "app7", "app4", "app5"]
    assert results(outcomes) == {StepStatus.ANSWERED}
    texts = kept_texts(bench)
    assert [parts for text in texts if (parts := parts_of_numbers_in(text))] == []
    # Prices and times went all the way: note, App6, App8, its clues, App7.
    [from_note] = bench.cached(AppType.NOTE)
    [customer] = bench.prompts(AppType.CUSTOMER)
    for text in (
        noted.text,
        json.dumps(from_note["result_json"], ensure_ascii=False),
        bench.prompts(AppType.CONSOLIDATION)[-1].text,
        " ".join(clue["summary"] for clue in bench.clues()),
        customer.text,
    ):
        assert QUANTITIES in text


# A reply of the model's own


@contextmanager
def model_that_says(text: str) -> Iterator[str]:
    """Base URL of a server that gives every call this text."""

    class Completion(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            usage = {"models": [{"model_id": "m", "input_tokens": 10, "output_tokens": 10}]}
            reply = {"output": {"finish_reason": "stop", "session_id": "s", "text": text}, "usage": usage, "request_id": "r"}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on the tests' error stream."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Completion) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api/v1"
        finally:
            server.shutdown()
            thread.join()


def coded(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


@pytest.mark.parametrize(
    "in_json",
    [
        f"电话{PHONE}",
        r"电话\n139\n1234\n5678",
        f"电话{coded(PHONE)}",
        coded(f"电话{PHONE}"),
        r"电话139\u200b1234\t5678",
        r"微信\nlily_8888",
        r"微信\u003alily_8888",
        r"卡6222\n0212\n3456\n7890\n128",
        r"电话\\n139\\n1234\\n5678",
        f"电话{coded(PHONE)}".replace("\\", "\\\\"),
    ],
)
def test_a_number_that_the_model_makes_up_is_in_no_log_and_no_answer_however_its_json_is_written(bench: MemberBench, in_json: str) -> None:
    text = (
        f'{{"score": 7, "clues": [{{"category": "客户基础", "summary": "可约 {in_json}", "detail": ""}}], "summary": "1288元 {in_json}"}}'
    )
    bench.note(bench.visitors()[0], site_id=SITE)
    with model_that_says(text) as url:
        bench.drain(DASHSCOPE_HTTP_BASE_URL=url)
    [answered] = bench.cached(AppType.NOTE)
    assert answered["result_json"]["summary"].startswith("1288元 ")
    first = logs(bench.connection)[0]
    assert json.loads(first["response_text"])["summary"].startswith("1288元 ")
    texts = (first["response_text"], str(json.loads(first["response_text"])), json.dumps(answered["result_json"], ensure_ascii=False))
    assert [parts for each in texts if (parts := parts_of_numbers_in(each))] == []
    assert not any(parts_of_numbers_in(clue["summary"] + clue["detail"]) for clue in bench.clues())
