"""The doctor on a running stack."""

import pytest

from zqyy_ai_tests.journeys.stack import Stack

pytestmark = [pytest.mark.journey, pytest.mark.timeout(240)]


def test_the_doctor_finds_a_running_stack_well_and_names_a_view_that_is_gone(stack: Stack, site: int) -> None:
    well = stack.run("doctor")
    stack.sql("ALTER VIEW ai_source.finance_daily RENAME TO finance_daily_gone")
    try:
        ill = stack.run("doctor")
    finally:
        stack.sql("ALTER VIEW ai_source.finance_daily_gone RENAME TO finance_daily")

    assert well.returncode == 0, well.stdout + well.stderr
    assert "✗" not in well.stdout
    assert "?" not in well.stdout
    assert ill.returncode == 1
    complaint, remedy = failing(ill.stdout)
    assert "ai_source.finance_daily" in complaint
    assert "docs/warehouse.md" in remedy


def failing(told: str) -> tuple[str, str]:
    """The one failed check and the line under it."""
    lines = told.splitlines()
    (place,) = (place for place, line in enumerate(lines) if line.startswith("✗"))
    assert lines[place + 1].lstrip().startswith("→")
    return lines[place], lines[place + 1]
