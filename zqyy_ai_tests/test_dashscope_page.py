"""docs/dashscope.md says what `llm/errors.py` does and what the emulator can play: nothing else would notice when it rots."""

import json
import re
from pathlib import Path

import pytest

from zqyy_ai.devkit.emulator import load_fault_plan
from zqyy_ai.devkit.emulator.fault_plan import FaultKind
from zqyy_ai.domain.call_failures import BudgetEffect, RetryRule
from zqyy_ai.llm import ModelCallError, Usage, errors
from zqyy_ai.llm.errors import ContentRefused, TokenRateThrottled

PAGE = (Path(__file__).parents[1] / "docs/dashscope.md").read_text(encoding="utf-8")
COLUMNS = ("class", "when", "retry", "breaker", "budget", "sent_back")
RETRY = {RetryRule.NEVER: "no", RetryRule.ONCE: "once", RetryRule.WITHIN_STEP: "yes"}
BUDGET = {
    BudgetEffect.RELEASE: "release",
    BudgetEffect.CHARGE_ESTIMATE: "charge the estimate",
    BudgetEffect.SETTLE_USAGE: "settle the usage",
}


def rows_of_failures() -> dict[str, dict[str, str]]:
    """Rows of "What each failure means", by class."""
    section = PAGE.partition("## What each failure means")[2].partition("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            row = dict(zip(COLUMNS, cells, strict=True))
            rows[row["class"].strip("`")] = row
    return rows


def failure_classes() -> list[type[ModelCallError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ModelCallError)]
    return [value for value in found if value is not ModelCallError]


def test_the_page_has_a_row_for_each_failure_and_no_other() -> None:
    assert set(rows_of_failures()) == {error.__name__ for error in failure_classes()}


@pytest.mark.parametrize("error", failure_classes(), ids=lambda error: error.__name__)
def test_a_row_of_the_page_says_what_the_failures_rule_says(error: type[ModelCallError]) -> None:
    row, rule = rows_of_failures()[error.__name__], error.rule
    retry, *notes = row["retry"].split(", ")
    assert retry == RETRY[rule.retry]
    assert ("holds every application" in notes) == rule.holds_every_app
    assert ("a configuration alert" in notes) == rule.is_configuration
    assert ("up to 60 s" in notes) == (error is TokenRateThrottled and error.longest_wait_seconds == 60)
    assert row["breaker"] == ("counts" if rule.counts_for_breaker else "no")
    assert row["sent_back"] == ("yes" if rule.is_transient else "no")
    if error is ContentRefused:
        assert row["budget"] == "the usage if reported, else release"
        assert rule.budget is BudgetEffect.RELEASE
        assert ContentRefused("", error_code="x", usage=Usage(1, 1, ())).rule.budget is BudgetEffect.SETTLE_USAGE
    else:
        assert row["budget"] == BUDGET[rule.budget]


def test_the_page_shows_a_plan_for_each_kind_of_fault_that_the_emulator_takes(tmp_path: Path) -> None:
    shown = [json.loads(fault) for fault in re.findall(r"^\| `(\{.*?\})` \|", PAGE, re.MULTILINE) if '"kind"' in fault]
    assert sorted(fault["kind"] for fault in shown) == sorted(kind.value for kind in FaultKind)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"faults": shown}))
    assert len(load_fault_plan(plan).faults) == len(FaultKind)


def test_the_pages_longer_plan_can_be_meant(tmp_path: Path) -> None:
    (plan,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "plan.json"
    path.write_text(plan)
    assert len(load_fault_plan(path).faults) == 3
