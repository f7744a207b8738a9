"""docs/settings.md says what `Settings` is: it is read more often than the code, and nothing else would notice when it rots."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
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
        case dict() if not value:
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


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_settings_default_and_range_are_as_the_page_tells(name: str) -> None:
    row = rows_of_the_page()[name]
    assert (row["default"], row["range"]) == (default_as_told(FIELDS[name]), range_as_told(FIELDS[name]))


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml"])
def test_what_dagsters_own_files_read_from_the_environment_is_on_the_page(name: str) -> None:
    def variables(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["env"]] if set(node) == {"env"} else [found for value in node.values() for found in variables(value)]
        return [found for value in node for found in variables(value)] if isinstance(node, list) else []

    page = (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8")
    wanted = variables(yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8")))

    assert wanted
    assert [variable for variable in wanted if not re.search(rf"`{variable}`", page)] == []
