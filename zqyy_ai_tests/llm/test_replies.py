import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zqyy_ai.llm import Usage
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.llm.replies import extract_usage


def model(inputs: Any, outputs: Any, model_id: Any = "qwen") -> dict[str, Any]:
    return {"model_id": model_id, "input_tokens": inputs, "output_tokens": outputs}


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"models": [model(10, 5)]}, Usage(10, 5, ("qwen",))),
        ({"models": [model(10, 5), model(1, 2, "qwen-turbo"), model(3, 3)]}, Usage(14, 10, ("qwen", "qwen-turbo"))),
        ({"models": [model(10, 5, None)]}, Usage(10, 5, ())),
        ({"models": [model(10.0, 5.0)]}, Usage(10, 5, ("qwen",))),
        ({"total_tokens": 15}, Usage(15, 0, ())),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, Usage(10, 5, ())),
        ({"output_tokens": 5, "total_tokens": 15}, Usage(10, 5, ())),
        ({"input_tokens": 10, "total_tokens": 15}, Usage(10, 5, ())),
        ({"models": [model(None, 5)], "total_tokens": 15}, Usage(15, 0, ("qwen",))),
        (SimpleNamespace(models=[SimpleNamespace(model_id="qwen", input_tokens=10, output_tokens=5)]), Usage(10, 5, ("qwen",))),
        (SimpleNamespace(total_tokens=15), Usage(15, 0, ())),
    ],
)
def test_usage_is_read_from_each_shape(reported: Any, expected: Usage) -> None:
    assert extract_usage(reported) == expected


@pytest.mark.parametrize(
    "reported",
    [
        None,
        {},
        [],
        "15",
        {"models": None},
        {"models": []},
        {"models": {}},
        {"models": [None]},
        {"models": [{"model_id": "qwen"}]},
        {"models": [model(None, None)]},
        {"models": [model(10, None)]},
        {"models": [model(10, 5), model(None, None)]},
        {"models": [model(True, True)]},
        {"models": [model("10", "5")]},
        {"models": [model(-1, 5)]},
        {"models": [model(0, 0)]},
        {"total_tokens": 0},
        {"total_tokens": None},
        {"input_tokens": 10},
    ],
)
def test_what_is_not_fully_reported_is_none_and_never_zero(reported: Any) -> None:
    assert extract_usage(reported) is None


KEYS = st.sampled_from(["models", "model_id", "input_tokens", "output_tokens", "total_tokens", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_any_value_gives_a_positive_usage_or_none(reported: Any) -> None:
    usage = extract_usage(reported)
    assert usage is None or (usage.total_tokens > 0 and usage.input_tokens >= 0 and usage.output_tokens >= 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)), min_size=1, max_size=5))
def test_usage_is_the_sum_over_all_models(counts: list[tuple[int, int]]) -> None:
    usage = extract_usage(json.loads(json.dumps({"models": [model(inputs, outputs) for inputs, outputs in counts]})))
    assert usage is not None
    assert usage.total_tokens == sum(inputs + outputs for inputs, outputs in counts)


def test_an_estimate_covers_the_prompt_the_system_prompt_and_the_largest_answer() -> None:
    assert estimate_tokens("字" * 101, overhead_tokens=1000, largest_output_tokens=2000) == 61 + 3000
