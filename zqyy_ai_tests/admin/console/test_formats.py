"""How values are written."""

from datetime import UTC, datetime, timedelta

import pytest

from zqyy_ai.admin.console import formats
from zqyy_ai.admin.console.prompt_parts import parts_of

NOON = datetime(2026, 4, 20, 4, 0, tzinfo=UTC)


def test_times_are_those_of_shanghai() -> None:
    assert formats.moment(NOON) == "2026-04-20 12:00:00"
    assert formats.short_moment(NOON) == "04-20 12:00"
    assert formats.moment(None) == formats.NOTHING


@pytest.mark.parametrize(
    ("before", "written"),
    [
        (timedelta(seconds=3), "刚刚"),
        (timedelta(minutes=5, seconds=59), "5 分钟前"),
        (timedelta(hours=23), "23 小时前"),
        (timedelta(days=3), "3 天前"),
        (-timedelta(hours=2, minutes=1), "2 小时后"),
        (-timedelta(seconds=5), "即将"),
    ],
)
def test_how_long_ago_is_written_in_its_largest_unit(before: timedelta, written: str) -> None:
    assert formats.ago(NOON - before, NOON) == written


def test_numbers_and_money_have_their_separators() -> None:
    assert formats.number(1_234_567) == "1,234,567"
    assert formats.number(1234.5) == "1,234.5"
    assert formats.compact(1_260_000) == "126 万"
    assert formats.compact(9_999) == "9,999"
    assert formats.compact(2_345_600_000) == "23.46 亿"
    assert formats.yuan(1234.5) == "¥1,234.50"
    assert formats.yuan(0.0027) == "¥0.0027"
    assert formats.yuan(0) == "¥0.00"
    assert formats.percent(99.05) == "99.0%"
    assert formats.seconds(8_300) == "8.3 秒"
    assert formats.duration(0.42) == "0.4 秒"
    assert formats.duration(9.97) == "10 秒"
    assert formats.duration(3_900) == "1 小时 5 分"
    assert formats.duration(200) == "3 分 20 秒"


def test_marks_are_put_where_they_belong_and_everything_is_escaped() -> None:
    text = "增长 <b>4.5%</b> 与 9%"
    assert str(formats.marked(text, [{"start": 6, "end": 10}])) == (
        '增长 &lt;b&gt;<mark title="数据中找不到依据，请核实">4.5%<span class="unseen">（找不到依据）</span></mark>&lt;/b&gt; 与 9%'
    )


@pytest.mark.parametrize(
    "place", [{}, {"start": 3}, {"start": "1", "end": "2"}, {"start": 5, "end": 2}, {"start": 0, "end": 99}, {"start": -3, "end": 2}]
)
def test_a_place_that_is_none_marks_nothing(place: dict[str, object]) -> None:
    assert str(formats.marked("增长 4.5%", [place])) == "增长 4.5%"


def test_a_prompt_is_shown_in_its_parts_with_the_facts_first() -> None:
    prompt = (
        '请只依据 <facts> 回答。\n\nJSON Schema:{"type":"object"}\n\n<facts>\n{"a":1}\n</facts>\n\n以前说过：\n<history>\n[]\n</history>'
    )
    parts = parts_of(prompt)
    assert [(part.title, part.text) for part in parts] == [
        ("事实数据（facts）", '{"a":1}'),
        ("历史回答（history）", "[]"),
        ("要求", "请只依据 <facts> 回答。\n\n\n\n\n\n以前说过："),
        ("回答的 JSON Schema", '{"type":"object"}'),
    ]


def test_a_prompt_of_another_form_is_one_part() -> None:
    [part] = parts_of("随便写的")
    assert (part.text, part.is_folded) == ("随便写的", False)
