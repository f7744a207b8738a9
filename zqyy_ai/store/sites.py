"""`biz.sites`: the halls of the chain. Other systems own the rows; we only read them."""

from dataclasses import dataclass
from datetime import time

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.store.database import Connection


@dataclass(frozen=True, slots=True)
class Site:
    """`business_day_cutoff` is the local time at which a business date turns."""

    site_id: int
    site_name: str
    is_active: bool
    business_day_cutoff: time


_COLUMNS = """
SELECT site_id, coalesce(site_name, '') AS site_name, coalesce(is_active, true) AS is_active,
       coalesce(business_day_cutoff, time '00:00') AS business_day_cutoff
FROM biz.sites
"""
_ACTIVE = f"{_COLUMNS} WHERE coalesce(is_active, true) AND site_id IS NOT NULL ORDER BY site_id"
_OF_SCOPE = (
    f"{_COLUMNS} WHERE site_id IS NOT NULL AND (%(site_ids)s::bigint[] IS NULL OR site_id = ANY(%(site_ids)s::bigint[])) ORDER BY site_id"
)
_ONE = f"{_COLUMNS} WHERE site_id = %s"


def active_sites(connection: Connection) -> list[Site]:
    return [Site(**row) for row in connection.execute(_ACTIVE)]


def sites_of(connection: Connection, scope: SiteScope) -> list[Site]:
    """Those of the scope, closed ones too."""
    return [Site(**row) for row in connection.execute(_OF_SCOPE, {"site_ids": scope.ids})]


def find_site(connection: Connection, site_id: int) -> Site | None:
    row = connection.execute(_ONE, [site_id]).fetchone()
    return Site(**row) if row else None


def get_site(connection: Connection, site_id: int) -> Site:
    """Raises InvalidRequest for a site that does not exist or is closed."""
    site = find_site(connection, site_id)
    if site is None:
        raise InvalidRequest(f"门店 {site_id} 不存在:请检查 biz.sites")
    if not site.is_active:
        raise InvalidRequest(f"门店 {site_id} 已停用(biz.sites.is_active = false)")
    return site
