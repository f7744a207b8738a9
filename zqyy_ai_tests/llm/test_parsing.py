import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.llm import Reply, Usage, parse_reply
from zqyy_ai.llm.errors import ReplyInvalid

USAGE = Usage(10, 5, ("m",))
ANSWER = {
    "insights": [{"seq": seq, "title": f"标题{seq}", "body": "净收入 100 元,较对比期增长。"} for seq in (1, 2, 3)],
}
TEXT = json.dumps(ANSWER, ensure_ascii=False)


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def reply(text: str, finish_reason: str | None = "stop") -> Reply:
    return Reply(text, finish_reason, USAGE, None, "request-1", 1)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"\n {TEXT} \n",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```",
        f"好的,以下是结果:\n```json\n{TEXT}\n```\n希望有帮助。",
        f"好的,结果如下:{TEXT} 希望有帮助。",
        TEXT[:-1] + ",}",
        TEXT.replace('"', "'"),
        TEXT[:-1] + ",}}",
    ],
)
def test_a_finished_answer_is_read_plain_fenced_or_repaired(text: str) -> None:
    assert parse_reply(reply(text), FinanceAnswer).as_result() == ANSWER


@pytest.mark.parametrize("finish_reason", ["length", "null", "content_filter", "", None])
@pytest.mark.parametrize("text", [TEXT, TEXT[: len(TEXT) // 2]])
def test_an_unfinished_text_is_never_taken_nor_repaired(text: str, finish_reason: str | None) -> None:
    with pytest.raises(ReplyInvalid) as caught:
        parse_reply(reply(text, finish_reason), FinanceAnswer)
    assert caught.value.error_code == "reply_unfinished"


@pytest.mark.parametrize(
    "form",
    ["{}", "```json\n{}\n```", "好的,以下是结果:\n{}"],
    ids=["plain", "fenced", "in prose"],
)
@pytest.mark.parametrize("written", [TEXT, TEXT.replace('"', "'"), TEXT.replace("}]", "},]")], ids=["valid", "single quotes", "faulty"])
def test_wherever_a_text_is_cut_nothing_is_made_of_its_beginning_even_if_it_says_that_it_is_finished(form: str, written: str) -> None:
    """A workflow says `stop` of itself when the model inside it was cut short, and json-repair would close the figure 1 of 123,456."""
    whole = form.replace("{}", written)
    for end in range(len(whole)):
        try:
            answer = parse_reply(reply(whole[:end]), FinanceAnswer)
        except ReplyInvalid:
            continue
        assert answer.as_result() == ANSWER
        assert end > whole.rindex("}"), "only what comes after the JSON may be missing"


def test_a_line_break_within_a_sentence_is_kept() -> None:
    broken = TEXT.replace("元,较", "元,\n较")
    assert parse_reply(reply(broken), FinanceAnswer).insights[0].body == "净收入 100 元,\n较对比期增长。"


@pytest.mark.parametrize(
    ("text", "error_code"),
    [
        ("", "reply_empty"),
        (" \n", "reply_empty"),
        ("抱歉,我不能回答。", "reply_not_json"),
        ("[1,2]", "reply_not_json"),
        ("[" * 100_000, "reply_not_json"),
        ('{"insights":[]}', "reply_invalid"),
        ('{"insights":[{"seq":"秘密"}]}', "reply_invalid"),
        (TEXT[:-1] + ',"x":NaN}', "reply_invalid"),
        (TEXT[:-1] + ',"x":"\\u0000"}', "reply_invalid"),
        (TEXT[:-1] + ',"x":"\\ud800"}', "reply_invalid"),
    ],
)
def test_what_cannot_be_used_or_stored_is_refused_with_its_usage(text: str, error_code: str) -> None:
    with pytest.raises(ReplyInvalid) as caught:
        parse_reply(reply(text), FinanceAnswer)
    assert caught.value.error_code == error_code
    assert caught.value.usage == USAGE
    assert caught.value.request_id == "request-1"


def test_the_error_says_where_it_does_not_fit_and_repeats_nothing() -> None:
    with pytest.raises(ReplyInvalid) as caught:
        parse_reply(reply('{"insights":[{"seq":1,"title":"手机13800000000","body":"短"}]}'), FinanceAnswer)
    assert "insights.0.body string_too_short" in str(caught.value)
    assert "13800000000" not in str(caught.value)
    assert caught.value.__context__ is None


TEXTS = st.text("ab中，\"'\\\n{}[]:`", max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "中"]), JSON))
def test_valid_json_comes_back_as_it_is(value: dict[str, Any]) -> None:
    assert parse_reply(reply(json.dumps(value, ensure_ascii=False)), Anything).model_dump() == value


@settings(deadline=None)
@given(st.text('abc中 {}[]":,`\n\\01', max_size=60), st.sampled_from(["stop", "length", None]))
def test_any_text_is_an_answer_or_a_reply_invalid(text: str, finish_reason: str | None) -> None:
    try:
        answer = parse_reply(reply(text, finish_reason), FinanceAnswer)
    except ReplyInvalid:
        return
    assert answer.insights
