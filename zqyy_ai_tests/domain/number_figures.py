"""How good the numbers check is: on the labelled corpus, on random percentages, and in CPU. For the tests and for `python -m benchmarks`."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zqyy_ai.devkit.emulator.answers import compose
from zqyy_ai.domain.number_check import CheckedNumber, NumberCheck, Rule, check_insights
from zqyy_ai.domain.windows import AREA_TITLES

CORPUS = Path(__file__).parents[1] / "fixtures" / "number_corpus"
HALVES = ("development", "held_out")

# Sentences in which a percentage stands, with metric names as the prompts have them.
FRAMES = (
    "净收入较对比期{moved} {x}%。",
    "台时利用率 {x}%。",
    "优惠率为 {x}%，仍可优化。",
    "{area}净收入占比 {x}%。",
    "{area}台时利用率 {x}%。",
    "{kind}占毛收入 {x}%。",
    "订单数{moved} {x}%，需要关注。",
    "{discount}占优惠合计的 {x}%。",
    "台时利用率较对比期{moved} {x} 个百分点。",
    "周末台时利用率 {x}%。",
    "{kind}较对比期{moved} {x}%。",
    "{area}净收入{moved}了 {x}%。",
    "占比达 {x}%。",
    "单均净收入{moved} {x}%。",
    "日均净收入{moved}约 {x}%。",
    "其中 {x}% 来自{kind}。",
    "周末日均净收入比工作日高 {x}%。",
    "变化为 {x}%。",
    "{area}占 {x}%，{kind}占 12.3%。",
    "{moved} {x}%。",
)


@dataclass(frozen=True, slots=True)
class CorpusFigures:
    """`found` and `planted`: wrong numbers by kind. `alarms`: right numbers, proposals and list numbers that were reported, of `others`."""

    insights: int
    found: Counter[str]
    planted: Counter[str]
    alarms: int
    others: int

    @property
    def recall(self) -> float:
        return self.found.total() / self.planted.total()

    @property
    def false_alarms(self) -> float:
        return self.alarms / self.others


@cache
def prepared(name: str) -> NumberCheck:
    return NumberCheck(json.loads((CORPUS / "facts" / name).read_text(encoding="utf-8")))


def corpus_rows(half: str) -> Iterator[dict[str, Any]]:
    for line in (CORPUS / f"{half}.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def corpus_figures(half: str) -> CorpusFigures:
    found: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    alarms = others = insights = 0
    for row in corpus_rows(half):
        insights += 1
        numbers = prepared(row["facts"]).insight(1, row["title"], row["body"])
        unexplained = [number for number in numbers if number.rule is Rule.UNEXPLAINED]
        for label in row["wrong"]:
            planted[label["kind"]] += 1
            found[label["kind"]] += _overlaps(label, unexplained)
        for label in (*row["right"], *row["proposals"], *row["plain"]):
            others += 1
            alarms += _overlaps(label, unexplained)
    return CorpusFigures(insights, found, planted, alarms, others)


def _overlaps(label: dict[str, Any], numbers: list[CheckedNumber]) -> bool:
    return any(number.field == label["field"] and number.start < label["end"] and label["start"] < number.end for number in numbers)


def random_percentages_explained(trials: int, seed: int = 20260420) -> float:
    """The share of random percentages, with one decimal between 0.1 and 99.9, that some rule explains."""
    draw = random.Random(seed)
    facts = sorted(path.name for path in (CORPUS / "facts").glob("*.json"))
    explained = 0
    for _ in range(trials):
        figure = f"{draw.randrange(1, 1000) / 10:.1f}"
        text = draw.choice(FRAMES).format(
            x=figure,
            moved=draw.choice(("增长", "下降")),
            area=draw.choice(list(AREA_TITLES.values())),
            kind=draw.choice(("台费", "助教费", "商品", "其他收入")),
            discount=draw.choice(("会员优惠", "团购券优惠", "活动优惠")),
        )
        start = text.index(figure)
        [number] = [found for found in prepared(draw.choice(facts)).insight(1, "经营概况", text) if found.start == start]
        explained += number.rule is not Rule.UNEXPLAINED
    return explained / trials


def cpu_ms_an_answer(rounds: int = 5) -> float:
    """CPU of an answer's check, its facts' preparation included, for the emulator's answers to the corpus's facts; the best round."""
    asked = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((CORPUS / "facts").glob("*.json"))]
    answers = [json.loads(compose(_prompt(facts)).text)["insights"] for facts in asked]
    best = float("inf")
    for _ in range(rounds):
        started = time.thread_time()
        for facts, insights in zip(asked, answers, strict=True):
            check_insights(facts, insights)
        best = min(best, (time.thread_time() - started) * 1000 / len(asked))
    return best


def _prompt(facts: dict[str, Any]) -> str:
    return f'"insights"\n<facts>\n{json.dumps(facts, ensure_ascii=False)}\n</facts>'
