"""Who calls the API, what that role may do, and which sites it sees. Pure nouns: tokens are stored in `store/api_tokens.py`."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """`viewer` looks, `operator` also starts and repairs, `admin` also changes settings; `internal` fires events, `reader` reads answers."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    INTERNAL = "internal"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class SiteScope:
    """The sites that somebody may see. `site_ids` is None for all of them; rows without a site are then seen too, and only then."""

    site_ids: frozenset[int] | None

    @property
    def is_all(self) -> bool:
        return self.site_ids is None

    def sees(self, site_id: int | None) -> bool:
        return self.site_ids is None or site_id in self.site_ids

    @property
    def ids(self) -> list[int] | None:
        """For a query's `site_id = ANY(…)`: in order; None for all."""
        return None if self.site_ids is None else sorted(self.site_ids)

    @property
    def setting(self) -> str:
        """What the policies read in `zqyy.sites`."""
        return "all" if self.site_ids is None else "{" + ",".join(map(str, sorted(self.site_ids))) + "}"

    def narrowed_to(self, site_id: int | None) -> "SiteScope":
        """Only that site, of those that are seen; None leaves the scope as it is."""
        if site_id is None:
            return self
        return SiteScope(frozenset({site_id}) if self.sees(site_id) else frozenset())


ALL_SITES = SiteScope(None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token stands for. `token_id` and `name` go to the audit."""

    token_id: int
    name: str
    role: Role
    scope: SiteScope
