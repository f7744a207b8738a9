"""Partitions: what one materialisation is about.

App2 is site x window; the window's key is the cache's own target id. Sites are dynamic and kept in step with `biz.sites`. App3-App8 have
one dynamic partition for each member of a site that is active, `site_id|member_id`: a product of both would be mostly nobody.
"""

import dagster as dg

from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey

SITE_PARTITIONS_NAME = "site"
MEMBER_PARTITIONS_NAME = "member"

site_partitions = dg.DynamicPartitionsDefinition(name=SITE_PARTITIONS_NAME)
window_partitions = dg.StaticPartitionsDefinition([str(window) for window in WINDOW_KEYS])
# Dagster sorts dimensions by name, `site` before `window`: a site's 72 windows are one contiguous range of keys.
finance_partitions = dg.MultiPartitionsDefinition({"site": site_partitions, "window": window_partitions})

member_partitions = dg.DynamicPartitionsDefinition(name=MEMBER_PARTITIONS_NAME)


def member_key(site_id: int, member_id: int) -> str:
    return f"{site_id}|{member_id}"


def parse_member_key(key: str) -> tuple[int, int]:
    """Raises ValueError for a key that is not `<site_id>|<member_id>`."""
    site, _, member = key.partition("|")
    return int(site), int(member)


def finance_key(site_id: int, window: WindowKey) -> str:
    return f"{site_id}|{window}"


def parse_finance_key(key: str) -> tuple[int, WindowKey]:
    """Raises ValueError for a key that is not `<site_id>|<window>`."""
    site, _, window = key.partition("|")
    return int(site), WindowKey.parse(window)


def range_of_site(site_id: int) -> tuple[str, str]:
    """First and last key of a site's windows."""
    return finance_key(site_id, WINDOW_KEYS[0]), finance_key(site_id, WINDOW_KEYS[-1])
