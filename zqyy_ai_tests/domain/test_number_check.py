import json
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqyy_ai.devkit.emulator.answers import compose, facts_of
from zqyy_ai.domain.number_check import NumberCheck, Rule, check_insights
from zqyy_ai.domain.number_check.notation import Unit, Written
from zqyy_ai.domain.number_check.rules import matches
from zqyy_ai.domain.windows import WINDOW_KEYS, earliest_day
from zqyy_ai_tests.domain.number_figures import FRAMES, HALVES, corpus_figures, cpu_ms_an_answer, random_percentages_explained
from zqyy_ai_tests.prompts.finance_days import made_up_days, prompts_of

FACTS: dict[str, Any] = {
    "门店": "西门2店",
    "区域": "全店",
    "时间维度": "本月",
    "名义期间": {"起": "2026-04-01", "止": "2026-04-30", "天数": 30},
    "数据期间": {"起": "2026-04-01", "止": "2026-04-20", "天数": 20},
    "对比期间": {"起": "2026-03-01", "止": "2026-03-20", "天数": 20},
    "本期": {
        "毛收入_元": 200000,
        "台费_元": 120000,
        "商品_元": 80000,
        "会员优惠_元": 12000,
        "团购券优惠_元": 8000,
        "优惠合计_元": 20000,
        "净收入_元": 180000.5,
        "储值卡消费_元": 54000,
        "订单数_单": 900,
        "客人数_人": 2345,
        "台时使用_小时": 4321.5,
        "优惠率_%": 10,
        "台时利用率_%": 43.2,
        "单均净收入_元": 200,
        "日均净收入_元": 9000.03,
        "有数据天数": 20,
    },
    "对比期": {
        "毛收入_元": 220000,
        "台费_元": 110000,
        "商品_元": 110000,
        "优惠合计_元": 19000,
        "净收入_元": 200000,
        "订单数_单": 880,
        "优惠率_%": 8.6,
        "台时利用率_%": 47.6,
        "单均净收入_元": 227.27,
        "日均净收入_元": 10000,
        "有数据天数": 20,
    },
    "变化_%": {"净收入": -10, "毛收入": -9.1, "台费": 9.1, "商品": -27.3, "订单数": 2.3, "日均净收入": -10, "台时利用率_百分点": -4.4},
    "收入构成_%": {"台费": 60, "商品": 40},
    "区域构成": [
        {"区域": "大厅A区", "净收入_元": 72000, "占比_%": 40, "变化_%": -15.5, "台时利用率_%": 51.1},
        {"区域": "KTV", "净收入_元": 36000, "占比_%": 20, "变化_%": 6.2, "台时利用率_%": 33.3},
    ],
    "单日高低": {
        "净收入最高": [{"日期": "2026-04-18", "净收入_元": 15000}, {"日期": "2026-04-11", "净收入_元": 14000}],
        "净收入最低": [{"日期": "2026-04-06", "净收入_元": 5000}, {"日期": "2026-04-07", "净收入_元": 5500}],
    },
    "工作日与周末": {
        "周一至周五": {"有数据天数": 14, "日均净收入_元": 8000, "日均订单数_单": 40, "台时利用率_%": 39.9},
        "周六周日": {"有数据天数": 6, "日均净收入_元": 12000, "日均订单数_单": 55, "台时利用率_%": 52.2},
    },
    "数据缺口": {
        "本期缺数天数": 0,
        "本期缺数日期": [],
        "对比期缺数天数": 2,
        "对比期缺数日期": ["2026-03-05", "2026-03-06"],
        "部分区域缺数天数": {"KTV": 3},
    },
}
CHECK = NumberCheck(FACTS)


def rules_of(text: str) -> list[tuple[str, Rule]]:
    return [(number.text, number.rule) for number in CHECK.insight(1, "经营概况", text)]


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("净收入 180000.5 元。", [Rule.FACT]),
        ("净收入 180,001 元。", [Rule.ROUNDING]),
        ("净收入18万元。", [Rule.UNIT_CHANGE]),
        ("净收入 ¥18.0万，订单数 900。", [Rule.UNIT_CHANGE, Rule.FACT]),
        ("净收入超过17万元。", [Rule.UNIT_CHANGE]),
        ("净收入近20万元。", [Rule.UNIT_CHANGE]),
        ("净收入约 180,000 元。", [Rule.ROUNDING]),
        ("净收入下降10%，即 -10.0%。", [Rule.FACT, Rule.FACT]),
        ("净收入较对比期少 19,999.5 元。", [Rule.CHANGE_AGAINST_COMPARISON]),
        ("单均净收入下降 12.0%。", [Rule.CHANGE_AGAINST_COMPARISON]),
        ("台时利用率 43.2%，比对比期的 47.6% 低 4.4 个百分点。", [Rule.FACT] * 3),
        ("净收入由 20 万元降至 18 万元。", [Rule.UNIT_CHANGE] * 2),
        ("台费占毛收入六成，商品占四成。", [Rule.UNIT_CHANGE] * 2),
        ("会员优惠占优惠合计的 60%。", [Rule.SHARE_OF_TOTAL]),
        ("储值卡消费占净收入三成。", [Rule.SHARE_OF_TOTAL]),
        ("日均客人 117.25 人。", [Rule.AVERAGE_PER_DAY]),
        ("周末日均净收入 12,000 元，比工作日高 50%，是工作日的 1.5 倍。", [Rule.FACT, Rule.DIFFERENCE_OF_TWO, Rule.RATIO_OF_TWO]),
        ("大厅A区和KTV利用率分别为 51.1% 和 33.3%。", [Rule.FACT] * 2),
        ("大厅A区与KTV合计净收入 10.8 万元。", [Rule.SUM_OF_PARTS]),
        ("台费、商品合计 20 万元。", [Rule.SUM_OF_PARTS]),
        ("4月18日净收入最高，为 15,000 元。", [Rule.DATE, Rule.FACT]),
        ("2026-04-18 与 4/6 的净收入相差 1 万元。", [Rule.DATE, Rule.DATE, Rule.DIFFERENCE_OF_TWO]),
        ("4月1日至20日（对比期为2026年3月1日到3月20日）共 20 天。", [Rule.DATE] * 4 + [Rule.FACT]),
        ("对比期缺数 2 天（3月5日、3月6日），KTV 缺数 3 天。", [Rule.FACT, Rule.DATE, Rule.DATE, Rule.FACT]),
        ("建议将台时利用率提升至 50%，优惠率控制在 8% 以内。", [Rule.PROPOSAL] * 2),
        ("建议在 14:00-18:00 推出 8 折套餐。", [Rule.PROPOSAL] * 3),
        ("西门2店：1. 两点建议，第2条优先，3 个区域可先试。", []),
        ("订单百分之二点三的增长，客人２３４５人。", [Rule.FACT, Rule.FACT]),
        ("净收入十八万元，大厅A区贡献了五分之二的净收入。", [Rule.UNIT_CHANGE] * 2),
        ("上月净收入 20 万元，本月 18 万元。", [Rule.UNIT_CHANGE] * 2),
        ("一季度净收入 20 万元，二季度为 18 万元。", [Rule.DATE, Rule.UNIT_CHANGE] * 2),
        ("4月净收入 18 万元。", [Rule.DATE, Rule.UNIT_CHANGE]),
        ("净收入比3月少 19,999.5 元。", [Rule.DATE, Rule.CHANGE_AGAINST_COMPARISON]),
        ("本期和对比期净收入分别为 18 万元和 20 万元。", [Rule.UNIT_CHANGE] * 2),
        ("周末日均净收入是工作日 8,000 元的 1.5 倍。", [Rule.FACT, Rule.RATIO_OF_TWO]),
        ("平均每天净收入由 10,000 元降至 9,000.03 元。", [Rule.FACT] * 2),
        ("工作日日均订单 40 单，全月共 900 单订单，接待 2345 位客人。", [Rule.FACT] * 3),
        ("大厅A区以 40% 的占比居首。", [Rule.FACT]),
        ("受订单下降影响净收入仅 18 万元。", [Rule.UNIT_CHANGE]),
        ("比预想中更好的KTV净收入 36,000 元。", [Rule.FACT]),
        ("净收入应达到 25 万元以上。", [Rule.PROPOSAL]),
    ],
)
def test_a_number_is_explained_by_its_rule(text: str, rules: list[Rule]) -> None:
    assert [rule for _, rule in rules_of(text)] == rules, rules_of(text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("净收入 180,012 元。", "180,012 元"),
        ("净收入 200,000 元。", "200,000 元"),
        ("净收入增长 10%。", "10%"),
        ("净收入下降 10 个百分点。", "10 个百分点"),
        ("台时利用率 47.6%。", "47.6%"),
        ("台时利用率降至 47.6%。", "47.6%"),
        ("优惠率 43.2%。", "43.2%"),
        ("KTV净收入 72,000 元。", "72,000 元"),
        ("周末台时利用率 39.9%。", "39.9%"),
        ("商品占毛收入六成。", "六成"),
        ("会员优惠占毛收入 60%。", "60%"),
        ("净收入18元。", "18元"),
        ("净收入超过19万元。", "19万元"),
        ("4月11日净收入最高。", "4月11日"),
        ("数据截至 4月19日。", "4月19日"),
        ("5月份净收入走低。", "5月份"),
        ("净收入预计全月达 27 万元。", "27 万元"),
        ("客流集中在 20:00 以后。", "20:00"),
        ("建议排查KTV 7.2% 的增幅。", "7.2%"),
        ("周末日均净收入比工作日低 50%。", "50%"),
        ("对比期缺数 3 天。", "3 天"),
        ("净收入分别为 18 万元和 20 万元。", "20 万元"),
        ("对应的净收入为 25 万元。", "25 万元"),
        ("净收入几乎翻倍。", "翻倍"),
        ("商品腰斩。", "腰斩"),
        ("台费占毛收入的一半。", "一半"),
        ("2月30日净收入 5,000 元。", "2月30日"),
        ("3月至4月净收入 18 万元。", "3月"),
    ],
)
def test_a_right_value_in_the_wrong_place_and_an_invented_one_are_unexplained(text: str, wrong: str) -> None:
    assert (wrong, Rule.UNEXPLAINED) in rules_of(text), rules_of(text)


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("净收入录得{}增长10%。", "负", "正"),
        ("净收入{}，幅度达10%。", "明显下滑", "明显攀升"),
        ("净收入{}高达10%。", "降幅", "增幅"),
        ("大厅A区净收入15.5%的{}值得关注。", "跌幅", "涨幅"),
        ("大厅A区台时利用率{}KTV 17.8个百分点。", "高于", "低于"),
        ("工作日日均净收入比周末{}4,000元。", "少", "多"),
        ("4月18日比4月6日净收入{}1万元。", "多", "少"),
        ("台时利用率由47.6%{}43.2%。", "降至", "升至"),
        ("订单数{}2.3%，客人也不少。", "+", "-"),
        ("大厅A区和KTV净收入分别变化-15.5%和{}6.2%。", "+", "-"),
        ("订单数和{}分别增长 2.3% 和 9.1%。", "台费", "毛收入"),
    ],
)
def test_the_word_for_a_direction_must_be_the_facts_own(text: str, right: str, wrong: str) -> None:
    assert Rule.UNEXPLAINED not in [rule for _, rule in rules_of(text.format(right))]
    assert Rule.UNEXPLAINED in [rule for _, rule in rules_of(text.format(wrong))]


def test_an_explained_number_names_the_facts_that_it_follows_from() -> None:
    [number] = CHECK.insight(3, "经营概况", "会员优惠占优惠合计的 60%。")
    assert (number.seq, number.field, number.value, number.unit) == (3, "body", 60, "%")
    assert number.paths == "本期.会员优惠_元 ÷ 本期.优惠合计_元"


def test_the_result_lists_each_unexplained_number_with_its_place() -> None:
    body = "净收入 18 万元，优惠率 9.9%。"
    result = check_insights(FACTS, [{"seq": 2, "title": "优惠率 9.9%", "body": body}])
    assert result["checked"] == 3
    assert [(number["seq"], number["field"], number["text"]) for number in result["unexplained"]] == [
        (2, "title", "9.9%"),
        (2, "body", "9.9%"),
    ]
    last = result["unexplained"][1]
    assert body[last["start"] : last["end"]] == "9.9%"


@given(st.integers(1, 10**9), st.integers(0, 2))
def test_a_fact_rounded_to_any_digits_is_explained_and_a_step_beside_it_is_not(fen: int, decimals: int) -> None:
    check = NumberCheck(FACTS | {"本期": {"净收入_元": fen / 100}, "对比期": None, "变化_%": None})
    step = 10**-decimals
    rounded = round(fen / 100, decimals)

    def rule(value: float) -> Rule:
        [number] = check.insight(1, "经营概况", f"净收入 {value:,.{decimals}f} 元。")
        return number.rule

    assert rule(rounded) is not Rule.UNEXPLAINED
    assert rule(rounded + 2 * step) is Rule.UNEXPLAINED


@given(st.floats(0.1, 1e9), st.floats(0.1, 1e9))
def test_a_plain_number_matches_within_half_a_step_and_nowhere_else(quoted: float, value: float) -> None:
    written = Written(quoted, 0.5, Unit.CNY)
    if abs(quoted - value) <= 0.5:
        assert matches(written, value)
    elif abs(quoted - value) > 0.51 + 1e-8 * value:
        assert not matches(written, value)


@given(st.text(alphabet="净收入毛台费增长下降占比较对比期%元万.,，。0123456789月日年-至（）周末约超近成倍的是为和", max_size=80))
def test_any_text_can_be_read_and_each_number_stands_where_it_says(text: str) -> None:
    for number in CHECK.insight(1, "经营概况", text):
        assert text[number.start : number.end] == number.text


def test_facts_of_an_unknown_shape_check_nothing_and_break_nothing() -> None:
    assert check_insights({"会员": "张先生"}, [{"seq": 1, "title": "消费 300 元", "body": "消费了 300 元，占 12%。"}]) == {
        "checked": 0,
        "unexplained": [],
    }


@pytest.mark.parametrize("unmeasured", [False, True])
def test_every_number_of_the_emulators_answers_to_all_72_prompts_is_explained(unmeasured: bool) -> None:
    business_date = date(2026, 4, 22)
    days = made_up_days(earliest_day(business_date), business_date - timedelta(days=1), missing_share=0.02, unmeasured=unmeasured)
    prompts = prompts_of(days, business_date)
    for key in WINDOW_KEYS:
        text = prompts.for_window(key).text
        assert text is not None
        facts = facts_of(text)
        assert facts is not None
        result = check_insights(facts, json.loads(compose(text).text)["insights"])
        assert result["checked"] > 10
        assert result["unexplained"] == [], key


@pytest.mark.parametrize("half", HALVES)
def test_on_the_corpus_wrong_numbers_are_found_and_right_ones_left_alone(half: str) -> None:
    figures = corpus_figures(half)
    print(f"{half}: recall {figures.recall:.1%}, false alarms {figures.false_alarms:.1%}")
    assert figures.insights >= 300
    assert figures.recall >= 0.95
    assert figures.false_alarms <= 0.03
    for kind, planted in figures.planted.items():
        assert figures.found[kind] / planted >= 0.8, kind


def test_a_random_percentage_is_hardly_ever_explained() -> None:
    assert len(FRAMES) >= 20
    assert random_percentages_explained(5000) < 0.05


def test_an_answer_costs_a_few_milliseconds() -> None:
    # 3 ms is the bar on a quiet machine (`python -m benchmarks --only numbers`).
    assert cpu_ms_an_answer(rounds=3) < 15
