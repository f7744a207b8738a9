"""The figures of a site's business day: the columns of `ai_source.finance_daily`, as every room names them.

The warehouse reads them, the prompts sum them, the demo warehouse makes them, docs/warehouse.md defines them. Invariant: a figure is
an integer inside the project (fen, hundredths of an hour, pieces), so that sums are exact whatever their order.
"""

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """Unit of a figure in the view. Inside the project, yuan become fen and hours become hundredths of an hour."""

    CNY = "元"
    HOURS = "小时"
    ORDERS = "单"
    GUESTS = "人"

    @property
    def scale(self) -> int:
        """How many of the project's integers make one of the view's units."""
        return 100 if self in (Unit.CNY, Unit.HOURS) else 1


@dataclass(frozen=True, slots=True)
class FinanceColumn:
    """One figure. `may_be_null`: a warehouse may not measure it by area, so that a row of an area may hold NULL."""

    name: str
    frame_name: str
    title: str
    unit: Unit
    may_be_null: bool = False

    @property
    def key(self) -> str:
        """The figure's name in a prompt, with its unit: `净收入_元`."""
        return f"{self.title}_{self.unit.value}"


def _money(name: str, title: str, *, may_be_null: bool = False) -> FinanceColumn:
    return FinanceColumn(f"{name}_cny", f"{name}_fen", title, Unit.CNY, may_be_null)


GROSS_REVENUE = _money("gross_revenue", "毛收入")
TABLE_FEE = _money("table_fee", "台费")
ASSISTANT_FEE = _money("assistant_fee", "助教费")
GOODS = _money("goods", "商品")
OTHER_REVENUE = _money("other_revenue", "其他收入")
MEMBER_DISCOUNT = _money("member_discount", "会员优惠")
COUPON_DISCOUNT = _money("coupon_discount", "团购券优惠")
PROMOTION_DISCOUNT = _money("promotion_discount", "活动优惠")
MANUAL_DISCOUNT = _money("manual_discount", "手动优惠")
ROUNDING_DISCOUNT = _money("rounding_discount", "抹零")
REFUND = _money("refund", "退款")
NET_REVENUE = _money("net_revenue", "净收入")
RECHARGE = _money("recharge", "充值", may_be_null=True)
CARD_SPENDING = _money("card_spending", "储值卡消费", may_be_null=True)
ORDER_COUNT = FinanceColumn("order_count", "order_count", "订单数", Unit.ORDERS)
GUEST_COUNT = FinanceColumn("guest_count", "guest_count", "客人数", Unit.GUESTS, may_be_null=True)
TABLE_HOURS_USED = FinanceColumn("table_hours_used", "table_centihours_used", "台时使用", Unit.HOURS)
TABLE_HOURS_AVAILABLE = FinanceColumn("table_hours_available", "table_centihours_available", "台时可用", Unit.HOURS)

REVENUE_KINDS = (TABLE_FEE, ASSISTANT_FEE, GOODS, OTHER_REVENUE)
DISCOUNT_KINDS = (MEMBER_DISCOUNT, COUPON_DISCOUNT, PROMOTION_DISCOUNT, MANUAL_DISCOUNT, ROUNDING_DISCOUNT)

FINANCE_COLUMNS: tuple[FinanceColumn, ...] = (
    GROSS_REVENUE,
    *REVENUE_KINDS,
    *DISCOUNT_KINDS,
    REFUND,
    NET_REVENUE,
    RECHARGE,
    CARD_SPENDING,
    ORDER_COUNT,
    GUEST_COUNT,
    TABLE_HOURS_USED,
    TABLE_HOURS_AVAILABLE,
)
