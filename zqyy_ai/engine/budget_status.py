"""How much of the token budget is spoken for: the chain's windows, or those of the sites that somebody may see."""

from dataclasses import dataclass

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.engine.assembly import budget_policy
from zqyy_ai.guards.budget import BudgetPolicy, BudgetWindow, current_windows
from zqyy_ai.settings import Settings
from zqyy_ai.store.database import Connection
from zqyy_ai.store.sites import Site, sites_of


@dataclass(frozen=True, slots=True)
class BudgetGauge:
    """Tokens of one window, or of several added."""

    used: int
    limit: int
    reserved: int
    overshoot: int

    @property
    def percentage(self) -> float:
        """Of the limit, what was used; 0–100, more where calls overshot."""
        return round(100 * self.used / self.limit, 2) if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class SiteBudget:
    site: Site
    day: BudgetGauge
    month: BudgetGauge


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """`day` and `month` are the chain's for who sees all sites, else the sums of the sites seen. `by_site` holds all of these."""

    day: BudgetGauge
    month: BudgetGauge
    by_site: list[SiteBudget]


def budget_status(connection: Connection, settings: Settings, scope: SiteScope) -> BudgetStatus:
    """The windows of the present, by the database's clock."""
    policy = budget_policy(settings)
    windows = {(window.scope, window.kind): window for window in current_windows(connection)}
    by_site = [
        SiteBudget(site, *(_gauge(windows, policy, f"site:{site.site_id}", kind) for kind in ("day", "month")))
        for site in sites_of(connection, scope)
    ]
    if scope.is_all:
        return BudgetStatus(_gauge(windows, policy, "chain", "day"), _gauge(windows, policy, "chain", "month"), by_site)
    return BudgetStatus(_sum([site.day for site in by_site]), _sum([site.month for site in by_site]), by_site)


def _gauge(windows: dict[tuple[str, str], BudgetWindow], policy: BudgetPolicy, scope: str, kind: str) -> BudgetGauge:
    """A window in which nothing was reserved yet has no row."""
    _, limit = policy.limit_of(scope, kind)
    window = windows.get((scope, kind))
    if window is None:
        return BudgetGauge(0, limit, 0, 0)
    return BudgetGauge(window.used_tokens, limit, window.reserved_tokens, window.overshoot_tokens)


def _sum(gauges: list[BudgetGauge]) -> BudgetGauge:
    return BudgetGauge(
        sum(gauge.used for gauge in gauges),
        sum(gauge.limit for gauge in gauges),
        sum(gauge.reserved for gauge in gauges),
        sum(gauge.overshoot for gauge in gauges),
    )
