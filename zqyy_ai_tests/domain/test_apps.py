from collections import Counter
from datetime import date, datetime, time, timedelta

import pytest

from zqyy_ai.domain.apps import APPS, AppType, finance_app_of
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.windows import WINDOW_KEYS, Area
from zqyy_ai.settings import Settings

NOW = datetime(2026, 4, 2, 10, 30, tzinfo=SHANGHAI)


def test_the_names_that_other_systems_read_are_the_original_ones() -> None:
    assert {app.app_type.value: app.cache_type for app in APPS.values()} == {
        "app2_finance": "app2_finance",
        "app2a_finance_area": "app2a_finance_area",
        "app3_clue": "app3_clue",
        "app4_analysis": "app4_analysis",
        "app5_tactics": "app5_tactics",
        "app6_note": "app6_note_analysis",
        "app7_customer": "app7_customer_analysis",
        "app8_consolidation": "app8_clue_consolidated",
    }


def test_every_application_has_a_row_and_a_setting_of_its_own() -> None:
    assert set(APPS) == set(AppType)
    settings = {field.alias for field in Settings.model_fields.values()}
    names = [app.app_id_setting for app in APPS.values()]
    assert len(set(names)) == len(AppType)
    assert set(names) <= settings


def test_eight_windows_of_a_site_are_app2s_and_sixty_four_app2as() -> None:
    assert Counter(finance_app_of(window).app_type for window in WINDOW_KEYS) == {AppType.FINANCE: 8, AppType.FINANCE_AREA: 64}
    assert all((finance_app_of(window).app_type is AppType.FINANCE) == (window.area is Area.ALL) for window in WINDOW_KEYS)


@pytest.mark.parametrize("app", [AppType.FINANCE, AppType.FINANCE_AREA])
def test_finance_answers_expire_with_the_business_day(app: AppType) -> None:
    assert APPS[app].expires_at(NOW, date(2026, 4, 2)) == datetime(2026, 4, 2, 23, 59, 59, tzinfo=SHANGHAI)
    assert APPS[app].expires_at(NOW, date(2026, 4, 2), time(6, 0)) == datetime(2026, 4, 3, 5, 59, 59, tzinfo=SHANGHAI)


@pytest.mark.parametrize(
    ("app", "days"),
    [
        (AppType.CLUE, 7),
        (AppType.ANALYSIS, 7),
        (AppType.TACTICS, 7),
        (AppType.NOTE, 30),
        (AppType.CUSTOMER, 7),
        (AppType.CONSOLIDATION, 7),
    ],
)
def test_member_answers_expire_after_days(app: AppType, days: int) -> None:
    assert APPS[app].expires_at(NOW, date(2026, 4, 2)) == NOW + timedelta(days=days)
