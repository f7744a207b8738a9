"""The catalogue of the eight AI applications: names, cache types, expiry and size.

Adding an application touches one row here, its prompt module and its output model. `app_type` and `cache_type` are read by other
systems and never change.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from zqyy_ai.domain.business_clock import MIDNIGHT, end_of_business_day
from zqyy_ai.domain.windows import Area, WindowKey


class AppType(StrEnum):
    FINANCE = "app2_finance"
    FINANCE_AREA = "app2a_finance_area"
    CLUE = "app3_clue"
    ANALYSIS = "app4_analysis"
    TACTICS = "app5_tactics"
    NOTE = "app6_note"
    CUSTOMER = "app7_customer"
    CONSOLIDATION = "app8_consolidation"


@dataclass(frozen=True, slots=True)
class App:
    """One application.

    `expires_after_days` 0 means the end of the business day. `overhead_tokens` is the first guess of what the application's own
    system prompt adds to each call; `largest_output_tokens` bounds the answer. Both only size the budget reservation.
    """

    app_type: AppType
    cache_type: str
    title: str
    app_id_setting: str
    expires_after_days: int
    overhead_tokens: int
    largest_output_tokens: int

    def expires_at(self, now: datetime, business_date: date, cutoff: time = MIDNIGHT) -> datetime:
        if self.expires_after_days == 0:
            return end_of_business_day(business_date, cutoff)
        return now + timedelta(days=self.expires_after_days)


APPS: dict[AppType, App] = {
    app.app_type: app
    for app in (
        App(AppType.FINANCE, "app2_finance", "财务洞察", "ZQYY_APP_ID_2_FINANCE", 0, 1000, 2000),
        App(AppType.FINANCE_AREA, "app2a_finance_area", "区域财务洞察", "ZQYY_APP_ID_2A_FINANCE_AREA", 0, 1000, 2000),
        App(AppType.CLUE, "app3_clue", "客户线索", "ZQYY_APP_ID_3_CLUE", 7, 1000, 2000),
        App(AppType.ANALYSIS, "app4_analysis", "助教关系", "ZQYY_APP_ID_4_ANALYSIS", 7, 1000, 2000),
        App(AppType.TACTICS, "app5_tactics", "话术", "ZQYY_APP_ID_5_TACTICS", 7, 1000, 2000),
        App(AppType.NOTE, "app6_note_analysis", "备注分析", "ZQYY_APP_ID_6_NOTE", 30, 1000, 1500),
        App(AppType.CUSTOMER, "app7_customer_analysis", "客户分析", "ZQYY_APP_ID_7_CUSTOMER", 7, 1000, 2000),
        App(AppType.CONSOLIDATION, "app8_clue_consolidated", "线索整合", "ZQYY_APP_ID_8_CONSOLIDATION", 7, 1000, 2000),
    )
}


def finance_app_of(window: WindowKey) -> App:
    """`area='all'` goes to App2's application, every other area to App2a's."""
    return APPS[AppType.FINANCE if window.area is Area.ALL else AppType.FINANCE_AREA]
