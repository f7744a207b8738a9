from typing import Any

import pytest
from pydantic import ValidationError

from zqyy_ai.domain.answers import FinanceAnswer


def reply(*sequence_numbers: int, **more: Any) -> dict[str, Any]:
    insights = [{"seq": seq, "title": f"第{seq}条", "body": "净收入 12.3 万元,比上期多 4.5%。"} for seq in sequence_numbers]
    return {"insights": insights, **more}


@pytest.mark.parametrize("count", [3, 7])
def test_three_to_seven_insights_are_an_answer(count: int) -> None:
    assert len(FinanceAnswer.model_validate(reply(*range(1, count + 1))).insights) == count


@pytest.mark.parametrize("count", [0, 2, 8])
def test_fewer_or_more_insights_are_no_answer(count: int) -> None:
    with pytest.raises(ValidationError, match="insights"):
        FinanceAnswer.model_validate(reply(*range(1, count + 1)))


@pytest.mark.parametrize("sequence_numbers", [(1, 3, 2), (1, 1, 2), (2, 3, 4), (0, 1, 2)])
def test_insights_are_numbered_from_one_in_order(sequence_numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        FinanceAnswer.model_validate(reply(*sequence_numbers))


@pytest.mark.parametrize(
    ("field", "text"), [("title", ""), ("title", "长" * 41), ("title", " 短 "), ("body", "太短"), ("body", "长" * 601), ("body", None)]
)
def test_a_title_or_body_out_of_bounds_refuses_the_whole_answer(field: str, text: str | None) -> None:
    broken = reply(1, 2, 3)
    broken["insights"][1][field] = text
    with pytest.raises(ValidationError, match=field):
        FinanceAnswer.model_validate(broken)


def test_what_goes_into_the_cache_is_stripped_and_keeps_fields_that_only_front_ends_know() -> None:
    given = reply(1, 2, 3, summary="整体平稳")
    given["insights"][0] |= {"title": "  收入  ", "level": "warning"}
    result = FinanceAnswer.model_validate(given).as_result()
    assert result["summary"] == "整体平稳"
    assert result["insights"][0] == {"seq": 1, "title": "收入", "body": given["insights"][0]["body"], "level": "warning"}
