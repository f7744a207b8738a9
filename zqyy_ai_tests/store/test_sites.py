from datetime import time

import pytest

from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.store import sites
from zqyy_ai.store.database import Connection


@pytest.fixture(autouse=True)
def three_sites(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO biz.sites (site_id, site_name, is_active, business_day_cutoff)"
        " VALUES (1002, '浦东店', true, '06:00'), (1001, '朝阳店', true, '00:00'), (1003, '天河店', false, '00:00')"
    )


def test_active_sites_come_by_id_and_closed_ones_not_at_all(connection: Connection) -> None:
    assert [(site.site_id, site.site_name) for site in sites.active_sites(connection)] == [(1001, "朝阳店"), (1002, "浦东店")]


def test_a_site_knows_when_its_business_day_turns(connection: Connection) -> None:
    assert sites.get_site(connection, 1002).business_day_cutoff == time(6, 0)


def test_an_unknown_and_a_closed_site_are_told_apart(connection: Connection) -> None:
    with pytest.raises(InvalidRequest, match="门店 9 不存在"):
        sites.get_site(connection, 9)
    with pytest.raises(InvalidRequest, match="门店 1003 已停用"):
        sites.get_site(connection, 1003)
    found = sites.find_site(connection, 1003)
    assert found is not None
    assert not found.is_active
    assert sites.find_site(connection, 9) is None
