"""App2 and App2a: the prompts of a site's 72 finance windows, from one frame of its days.

What a window covers is `domain/windows.py`, its figures are `finance_facts.py`, what App2a adds is `finance_area.py`. Invariant: equal data
gives an equal prompt, byte for byte; only absolute dates are named, and none that moves without new data.
"""

import json
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any

from zqyy_ai.domain.answers import FinanceAnswer, Insight
from zqyy_ai.domain.windows import AREA_TITLES, TIME_DIMENSION_TITLES, Area, DataWindow, Period, WindowKey, data_window
from zqyy_ai.prompts import finance_area
from zqyy_ai.prompts.finance_facts import PARTS_OF, Facts, FinanceCube, nominal_period, window_facts

if TYPE_CHECKING:
    import pandas as pd

SOURCE_VIEW = "ai_source.finance_daily"

TASK = "你是台球连锁门店的财务分析师。请只依据 <facts> 中的数据,为老板写出该门店全店在“数据期间”的财务洞察,兼顾收入、区域、优惠与利用率。"

_RULES = """规则:
1. 只输出一个 JSON 对象,符合下面的 JSON Schema;不要输出任何其他文字、Markdown、代码块、链接或 HTML。
2. 用简体中文写 {fewest} 至 {most} 条洞察,最重要的在前,seq 从 1 起连续编号;title {title_least} 至 {title_most} 字,body {body_least} 至 {body_most} 字,一至三句。
3. 只引用 facts 里给出的数字,并带上单位(元、单、人、小时、%、百分点);不要自行计算、估计或补充 facts 里没有的数字。
4. 每条写清发生了什么,再给出可能的原因或可执行的建议;原因只能作为推测,不能当作事实。
5. 日期一律写具体日期,不用“今天”“昨天”等相对说法。
6. null 表示没有数据、未按该口径统计或无法计算,不得当作 0;“对比期”为 null 时不写同比或环比。
7. “数据期间”短于“名义期间”时说明数据截至日期;“数据缺口”不为 0 时优先比较日均值,并提示缺口。
口径:毛收入=台费+助教费+商品+其他收入;净收入=毛收入-优惠合计-退款;充值不计入收入;储值卡消费是净收入中用储值卡支付的部分;台时利用率=台时使用÷台时可用;变化=(本期-对比期)÷对比期。"""


@dataclass(frozen=True, slots=True)
class WindowPrompt:
    """What is asked about one window.

    Exactly one of `text` (the prompt, with `facts` in it) and `fixed_answer` (a FinanceAnswer for a window without data, which needs no call) is set.
    `references` says which data were used: it goes into the result's `_references`, not into the prompt.
    """

    text: str | None
    references: dict[str, Any]
    fixed_answer: dict[str, Any] | None
    facts: Facts | None = None


class FinancePrompts:
    """All windows of one site on one business date. Building it sums the frame once; a window then costs about a millisecond.

    `daily` is the frame of `warehouse.finance.load_finance`, from `windows.earliest_day(business_date)` on; days after `loaded_through`
    are ignored. Safe to share between threads.
    """

    def __init__(self, daily: "pd.DataFrame", *, site_id: int, site_name: str, business_date: date, loaded_through: date | None) -> None:
        self._cube = FinanceCube(daily, loaded_through)
        self._site_id = site_id
        self._site_name = site_name
        self._business_date = business_date
        self._loaded_through = loaded_through

    def for_window(self, key: WindowKey) -> WindowPrompt:
        window = data_window(key.time_dimension, self._business_date, self._loaded_through)
        data, area = window.data, key.area
        references = self._references(area, window)
        if data is None or not self._cube.totals(area, data).days:
            return WindowPrompt(None, references, self._answer_without_data(key, window))
        facts = window_facts(self._cube, site_name=self._site_name, dimension=key.time_dimension, area=area, window=window, data=data)
        if area is not Area.ALL:
            facts["与全店对比"] = finance_area.site_comparison(self._cube, area, data, window.comparison)
        return WindowPrompt(_prompt_text(TASK if area is Area.ALL else finance_area.TASK, facts), references, None, facts)

    def _references(self, area: Area, window: DataWindow) -> dict[str, Any]:
        areas = {area, *PARTS_OF.get(area, ())} | {Area.ALL}
        used = [known for known in Area if known in areas]
        return {
            "source": SOURCE_VIEW,
            "site_id": self._site_id,
            "areas": [known.value for known in used],
            "period": _iso(window.period),
            "data": None if window.data is None else _iso(window.data),
            "comparison": _iso(window.comparison),
            "rows": {
                "data": 0 if window.data is None else self._cube.row_count(used, window.data),
                "comparison": self._cube.row_count(used, window.comparison),
            },
        }

    def _answer_without_data(self, key: WindowKey, window: DataWindow) -> dict[str, Any]:
        nominal = nominal_period(key.time_dimension, window.period)
        area, dimension = AREA_TITLES[key.area], TIME_DIMENSION_TITLES[key.time_dimension]
        days = f"{nominal.start.isoformat()} 至 {nominal.end.isoformat()}"
        has_comparison = self._cube.totals(key.area, window.comparison).days > 0
        before = f"{window.comparison.start.isoformat()} 至 {window.comparison.end.isoformat()}"
        insights = [
            Insight(
                seq=1, title=f"{dimension}{area}暂无经营数据", body=f"{days} 期间,{self._site_name[:40]}{area}没有已加载完成的经营数据。"
            ),
            Insight(
                seq=2,
                title="暂时无法比较",
                body=f"对比期间 {before} {'已有数据,但本期没有数据' if has_comparison else '同样没有数据'},因此无法计算变化。",
            ),
            Insight(
                seq=3,
                title="数据加载后自动更新",
                body="数据加载完成后会重新生成洞察;若该区域应有营业却一直没有数据,请检查数据加载任务与区域设置。",
            ),
        ]
        return FinanceAnswer(insights=insights).as_result()


def _prompt_text(task: str, facts: Facts) -> str:
    facts_json = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"{task}\n\n{_rules_and_schema()}\n\n<facts>\n{facts_json}\n</facts>"


@cache
def _rules_and_schema() -> str:
    """The rules with the answer model's own bounds, and its JSON schema: what the model is told is what its answer is held to."""
    schema = FinanceAnswer.model_json_schema()
    insight = schema["$defs"]["Insight"]["properties"]
    bounds = {name: {k: v for k, v in insight[name].items() if k not in ("title", "description")} for name in ("seq", "title", "body")}
    insights = schema["properties"]["insights"]
    told = {
        "type": "object",
        "required": ["insights"],
        "properties": {
            "insights": {
                "type": "array",
                "minItems": insights["minItems"],
                "maxItems": insights["maxItems"],
                "items": {"type": "object", "required": list(bounds), "properties": bounds},
            }
        },
    }
    rules = _RULES.format(
        fewest=insights["minItems"],
        most=insights["maxItems"],
        title_least=bounds["title"]["minLength"],
        title_most=bounds["title"]["maxLength"],
        body_least=bounds["body"]["minLength"],
        body_most=bounds["body"]["maxLength"],
    )
    return f"{rules}\n\nJSON Schema:{json.dumps(told, ensure_ascii=False, separators=(',', ':'))}"


def _iso(period: Period) -> dict[str, str]:
    return {"start": period.start.isoformat(), "end": period.end.isoformat()}
