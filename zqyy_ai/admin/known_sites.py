"""A site that a request names: the caller's, and there."""

from zqyy_ai.admin.access import Access
from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.store import sites
from zqyy_ai.store.database import Connection
from zqyy_ai.store.sites import Site


def open_site(access: Access, connection: Connection, site_id: int) -> Site:
    """Raises Problem 404 for a site that does not exist or is not the caller's, 409 for one that is closed."""
    access.refuse_other_sites(site_id)
    site = sites.find_site(connection, site_id)
    if site is None:
        raise not_found(f"门店 {site_id}")
    if not site.is_active:
        raise Problem(409, f"门店 {site_id} 已停用", code="site_closed")
    return site
