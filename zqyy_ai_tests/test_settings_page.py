"""docs/settings.md says what `Settings` is: it is read more often than the code, and nothing else would notice when it rots."""

import re
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from zqyy_ai.settings import Settings

REPOSITORY = Path(__file__).parents[1]
COLUMNS = ("variable", "type", "unit", "range", "default", "meaning", "read by")


def rows_of_the_page() -> dict[str, dict[str, str]]:
    """Rows of all tables that describe settings, by variable."""
    rows = {}
    for line in (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == len(COLUMNS):
            row = dict(zip(COLUMNS, cells, strict=True))
            rows[row["variable"].strip("`")] = row
    return rows


def default_as_told(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    match value:
        case None:
            return "unset"
        case dict() | () if not value:
            return "empty"
        case float() if value.is_integer():
            return f"{value:,.0f}"
        case int() if field.alias and not field.alias.endswith("PORT"):
            return f"{value:,}"
        case _:
            return str(value)


def range_as_told(field: FieldInfo) -> str:
    least = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    most = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    above = next((bound.gt for bound in field.metadata if isinstance(bound, Gt)), None)
    if least is not None and most is not None:
        return f"{least}–{most}"
    if least is not None:
        return f"≥ {least}"
    return f"> {above}" if above is not None else ""


FIELDS = {field.alias: field for field in Settings.model_fields.values() if field.alias}


def test_the_page_has_every_setting_and_no_other() -> None:
    assert sorted(rows_of_the_page()) == sorted(FIELDS)


def test_defaults_and_ranges_are_as_the_page_tells() -> None:
    told = {name: (row["default"], row["range"]) for name, row in rows_of_the_page().items()}
    assert told == {name: (default_as_told(field), range_as_told(field)) for name, field in FIELDS.items()}


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml"])
def test_what_dagsters_own_files_read_from_the_environment_is_on_the_page(name: str) -> None:
    wanted = re.findall(r"^\s*env: (\w+)$", (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE)
    page = (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8")
    assert wanted
    assert [variable for variable in wanted if f"`{variable}`" not in page] == []
