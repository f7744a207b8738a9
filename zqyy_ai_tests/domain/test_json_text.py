from typing import Any

import pytest

from zqyy_ai.domain.json_text import read_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ('{"a": [1, 2.5, null, "字"]}', {"a": [1, 2.5, None, "字"]}),
        ("[" * 50 + "]" * 50, read_json("[" * 50 + "]" * 50)),
        ("[" * 51 + "]" * 51, None),
        ("[" * 100_000 + "]" * 100_000, None),
        ("1e999", None),
        ("NaN", None),
        ("9" * 5_000, None),
        ("{", None),
        ("", None),
    ],
)
def test_what_can_be_written_again_is_read_and_nothing_else(text: str | None, value: Any) -> None:
    assert read_json(text) == value
    assert read_json("[" * 50 + "]" * 50) is not None
