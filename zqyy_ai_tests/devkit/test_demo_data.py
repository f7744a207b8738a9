import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.demo_calendar import is_public_holiday
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.windows import Area
from zqyy_ai.warehouse.contract import VIEWS, check_contract
from zqyy_ai.warehouse.finance import finished_loads, loaded_through
from zqyy_ai_tests.machine_speed import slowness

UNTIL = date(2026, 4, 20)


def contents(database_url: str) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(database_url) as connection:
        return {view: connection.execute(f"TABLE ai_source.{view} ORDER BY 1, 2, 3".encode()).fetchall() for view in VIEWS}


def scalar(database_url: str, query: str) -> Any:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def default_fill(module_database_url: str) -> tuple[str, float]:
    """The default sizes up to a fixed day, and the seconds that it would have taken at the machine's usual speed."""
    before, begun = slowness(), time.monotonic()
    filled = demo_data.fill(module_database_url, until=UNTIL)
    seconds = (time.monotonic() - begun) / max(before, slowness())
    assert (filled.sites, filled.first_day, filled.last_day) == (3, date(2025, 3, 17), UNTIL)
    return module_database_url, seconds


def test_the_default_fill_takes_less_than_10_seconds(default_fill: tuple[str, float]) -> None:
    """On a machine of the usual speed."""
    assert default_fill[1] < 10


def test_the_whole_demo_keeps_the_contract_and_its_sums_are_exact_over_all_400_days(
    default_fill: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zqyy_ai.warehouse.contract.CHECKED_DAYS", 10_000)
    for bound in ("VISITS", "ROWS"):
        monkeypatch.setattr(f"zqyy_ai.warehouse.contract.CHECKED_{bound}", 1_000_000)
    with psycopg.connect(default_fill[0]) as connection:
        assert check_contract(connection) == []


def test_every_figure_is_plausible(default_fill: tuple[str, float]) -> None:
    impossible = (
        "SELECT count(*) FROM ai_source.finance_daily WHERE net_revenue_cny < 0 OR net_revenue_cny > gross_revenue_cny OR refund_cny < 0 "
        "OR table_hours_used > table_hours_available OR order_count < 1 OR guest_count < order_count OR card_spending_cny > net_revenue_cny"
    )
    assert scalar(default_fill[0], impossible) == 0


def test_weekends_holidays_promotions_refunds_and_a_bad_week_can_be_seen(default_fill: tuple[str, float]) -> None:
    url = default_fill[0]

    def mean_net(condition: str) -> float:
        return float(
            scalar(url, f"SELECT avg(net_revenue_cny) FROM ai_source.finance_daily WHERE site_id = 1001 AND area = 'all' AND {condition}")
        )

    workday, weekend = mean_net("extract(isodow FROM business_date) < 5"), mean_net("extract(isodow FROM business_date) > 5")
    assert weekend > 1.25 * workday
    assert mean_net("business_date BETWEEN '2025-10-01' AND '2025-10-07'") > 1.25 * workday
    assert mean_net("business_date = '2026-02-16'") < 0.8 * workday
    for happens in ("promotion_discount_cny > 0", "refund_cny > 0", "recharge_cny > 0", "manual_discount_cny > 0"):
        assert scalar(url, f"SELECT count(*) FROM ai_source.finance_daily WHERE area <> 'all' AND {happens}") > 20
    worst_week, usual_week = (
        scalar(
            url,
            f"SELECT {aggregate} FROM (SELECT sum(net_revenue_cny) AS net FROM ai_source.finance_daily WHERE site_id = 1001 AND area = 'all' "
            "GROUP BY date_trunc('week', business_date) HAVING count(*) = 7) AS weeks",
        )
        for aggregate in ("min(net)", "avg(net)")
    )
    assert worst_week < 0.75 * float(usual_week)


def test_areas_differ_in_size_and_a_third_site_has_no_ktv(default_fill: tuple[str, float]) -> None:
    url = default_fill[0]
    assert Area.KTV not in demo_data.areas_of_site(2)
    assert scalar(url, "SELECT count(*) FROM ai_source.finance_daily WHERE site_id = 1003 AND area = 'ktv'") == 0
    assert scalar(url, "SELECT count(DISTINCT area) FROM ai_source.finance_daily WHERE site_id = 1001") == 9
    biggest, smallest = (
        scalar(
            url,
            f"SELECT {aggregate}(net) FROM (SELECT sum(net_revenue_cny) AS net FROM demo_dws.area_daily GROUP BY site_id, area) AS areas",
        )
        for aggregate in ("max", "min")
    )
    assert biggest > 2 * smallest


def test_some_days_are_missing_for_a_site_and_some_for_an_area(default_fill: tuple[str, float]) -> None:
    url = default_fill[0]
    site_days = scalar(url, "SELECT count(*) FROM ai_source.finance_daily WHERE site_id = 1001 AND area = 'all'")
    area_days = scalar(
        url, "SELECT min(days) FROM (SELECT count(*) AS days FROM demo_dws.area_daily WHERE site_id = 1001 GROUP BY area) AS areas"
    )
    assert 390 <= site_days < 400
    assert 370 <= area_days < site_days


def test_loads_fail_at_first_now_and_then_and_some_are_of_one_site(default_fill: tuple[str, float]) -> None:
    url = default_fill[0]
    assert scalar(url, "SELECT count(*) FROM ai_source.etl_runs WHERE status = 'failed'") > 5
    assert scalar(url, "SELECT count(*) FROM ai_source.etl_runs WHERE site_id IS NOT NULL") > 5
    assert scalar(url, "SELECT count(DISTINCT loaded_through) FROM ai_source.etl_runs WHERE status = 'success'") == 400


def test_the_same_arguments_give_the_same_rows_and_another_seed_gives_others(make_database: Callable[[], str]) -> None:
    first, second, third = make_database(), make_database(), make_database()
    demo_data.fill(first, sites=2, days=40, members=25, seed=5, until=UNTIL)
    demo_data.fill(second, sites=2, days=40, members=25, seed=5, until=UNTIL)
    demo_data.fill(third, sites=2, days=40, members=25, seed=6, until=UNTIL)
    assert contents(first) == contents(second)
    for view in ("finance_daily", "members", "visits", "assistants", "tasks", "notes"):
        assert contents(first)[view] != contents(third)[view]


def test_a_second_fill_replaces_the_first(make_database: Callable[[], str]) -> None:
    url, fresh_url = make_database(), make_database()
    demo_data.fill(url, sites=3, days=60, members=25, seed=4, until=UNTIL)
    demo_data.fill(url, sites=2, days=30, members=25, seed=5, until=UNTIL)
    demo_data.fill(fresh_url, sites=2, days=30, members=25, seed=5, until=UNTIL)
    assert contents(url) == contents(fresh_url)


def test_advancing_appends_the_rows_that_a_longer_fill_would_hold(make_database: Callable[[], str]) -> None:
    advanced, whole = make_database(), make_database()
    demo_data.fill(advanced, sites=2, days=40, members=25, seed=5, until=UNTIL)
    demo_data.fill(whole, sites=2, days=43, members=25, seed=5, until=UNTIL + timedelta(days=3))
    first = demo_data.advance(advanced, UNTIL + timedelta(days=1))
    demo_data.advance(advanced, UNTIL + timedelta(days=3))
    assert first.rows > 0
    assert contents(advanced) == contents(whole)
    assert demo_data.advance(advanced, UNTIL).rows == 0
    assert contents(advanced) == contents(whole)


def test_an_advance_shows_as_a_finished_load_at_the_moment_asked_for(database_url: str) -> None:
    demo_data.fill(database_url, sites=1, days=20, members=0, until=UNTIL)
    tomorrow, moment = UNTIL + timedelta(days=1), datetime(2026, 4, 21, 3, 0, tzinfo=UTC)
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert loaded_through(connection, 1001) == UNTIL
        demo_data.advance(database_url, tomorrow, finished_at=moment)
        assert loaded_through(connection, 1001) == tomorrow
        assert [(load.finished_at, load.loaded_through) for load in finished_loads(connection, moment)][:1] == [(moment, tomorrow)]


def test_a_demo_warehouse_from_before_there_were_members_is_to_be_filled_again(database_url: str) -> None:
    demo_data.fill(database_url, sites=1, days=10, members=0, until=UNTIL)
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP VIEW ai_source.members, ai_source.tasks; DROP TABLE demo_dws.members")
        connection.execute("ALTER TABLE demo_dws.filled DROP COLUMN members_per_site")
    assert not demo_data.is_filled_until(database_url, UNTIL)
    demo_data.fill(database_url, sites=1, days=10, members=2, until=UNTIL)
    assert demo_data.is_filled_until(database_url, UNTIL)
    assert scalar(database_url, "SELECT count(*) FROM ai_source.members") == 2


def test_it_is_known_how_far_a_demo_reaches(database_url: str) -> None:
    assert not demo_data.is_filled_until(database_url, UNTIL)
    demo_data.fill(database_url, sites=1, days=10, members=0, until=UNTIL)
    assert demo_data.is_filled_until(database_url, UNTIL)
    assert not demo_data.is_filled_until(database_url, UNTIL + timedelta(days=1))


def test_by_default_the_data_reach_to_yesterday(database_url: str) -> None:
    filled = demo_data.fill(database_url, sites=1, days=2, members=0)
    shanghai_today = datetime.now(UTC) + timedelta(hours=8)
    assert filled.last_day in {(shanghai_today - timedelta(days=1)).date(), (shanghai_today - timedelta(days=1, minutes=5)).date()}


def test_sites_are_put_into_biz_sites_and_an_operators_closing_is_kept(database_url: str) -> None:
    def known_sites() -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url) as connection:
            return connection.execute("SELECT site_id, site_name, is_active FROM biz.sites ORDER BY site_id").fetchall()

    demo_data.fill(database_url, sites=3, days=5, members=0, until=UNTIL)
    assert known_sites() == [(1001, "朝阳店", True), (1002, "浦东店", True), (1003, "天河店", True)]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = 1002")
        connection.execute("INSERT INTO biz.sites (site_id, site_name) VALUES (77, '别人的店')")
    demo_data.fill(database_url, sites=2, days=5, members=0, until=UNTIL)
    assert [(site_id, is_active) for site_id, _, is_active in known_sites()] == [(77, True), (1001, True), (1002, False), (1003, False)]
    demo_data.fill(database_url, sites=4, days=5, members=0, until=UNTIL)
    assert [(site_id, is_active) for site_id, _, is_active in known_sites()][1:] == [
        (1001, True),
        (1002, False),
        (1003, True),
        (1004, True),
    ]


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE public.own (site_id bigint); CREATE VIEW ai_source.sites AS SELECT * FROM public.own",
        "CREATE VIEW ai_source.sites AS SELECT 1::bigint AS site_id",
        "CREATE TABLE ai_source.finance_daily (site_id bigint)",
        "CREATE VIEW ai_source.notes AS SELECT 1::bigint AS note_id",
        """
        CREATE SCHEMA demo_dws; CREATE TABLE demo_dws.a (x int); CREATE TABLE public.b (y int);
        CREATE VIEW ai_source.etl_runs AS SELECT x, y FROM demo_dws.a, public.b
        """,
    ],
)
def test_views_of_somebody_else_are_never_touched(database_url: str, foreign: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS ai_source; {foreign}".encode())
    with pytest.raises(InvalidRequest, match="ai_source"):
        demo_data.fill(database_url, sites=1, days=2, members=0, until=UNTIL)
    with pytest.raises(InvalidRequest, match="ai_source"):
        demo_data.advance(database_url, UNTIL)
    assert not demo_data.is_filled_until(database_url, UNTIL)
    assert scalar(database_url, "SELECT count(*) FROM biz.sites") == 0


@pytest.mark.parametrize(
    "sizes", [{"sites": 0}, {"sites": 501}, {"days": 0}, {"days": 4000}, {"seed": -1}, {"members": -1}, {"members": 10_000}]
)
def test_sizes_that_cannot_be_meant_are_refused(database_url: str, sizes: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="演示数据"):
        demo_data.fill(database_url, **sizes, until=UNTIL)


def test_a_database_that_is_not_migrated_is_refused(empty_database_url: str) -> None:
    with pytest.raises(InvalidRequest, match="zqyy-ai migrate"):
        demo_data.fill(empty_database_url, sites=1, days=2, members=0, until=UNTIL)


def test_there_is_nothing_to_append_to_without_a_fill(database_url: str) -> None:
    with pytest.raises(InvalidRequest, match="zqyy-ai demo-data"):
        demo_data.advance(database_url, UNTIL)


@pytest.mark.parametrize("day", ["2025-01-28", "2025-06-02", "2025-10-06", "2026-02-17", "2026-05-05", "2026-09-27", "2031-10-01"])
def test_public_holidays_are_known(day: str) -> None:
    assert is_public_holiday(date.fromisoformat(day))
    assert not is_public_holiday(date(2026, 3, 12))
