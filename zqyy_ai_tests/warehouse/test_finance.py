from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS, NET_REVENUE, RECHARGE
from zqyy_ai.domain.windows import WINDOW_KEYS, data_window, earliest_day
from zqyy_ai.prompts.finance import FinancePrompts
from zqyy_ai.store.database import Database
from zqyy_ai.warehouse.finance import FinishedLoad, finished_loads, load_finance, loaded_through
from zqyy_ai.warehouse.sites import SourceSite, list_sites
from zqyy_ai_tests.warehouse.conftest import LAST_DAY

Connection = psycopg.Connection[Any]
FIRST_DAY = LAST_DAY - timedelta(days=89)


def test_a_frame_holds_every_row_of_the_view_exactly(connection: Connection) -> None:
    frame = load_finance(connection, 1002, FIRST_DAY, LAST_DAY)
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM ai_source.finance_daily WHERE site_id = 1002 AND business_date BETWEEN %s AND %s "
            'ORDER BY business_date, area COLLATE "C"',
            (FIRST_DAY, LAST_DAY),
        ).fetchall()
    assert len(frame) == len(rows) > 700
    assert [moment.date() for moment in frame["business_date"]] == [row["business_date"] for row in rows]
    assert list(frame["area"]) == [row["area"] for row in rows]
    for column in FINANCE_COLUMNS:
        assert [Decimal(int(value)) for value in frame[column.frame_name]] == [row[column.name] * column.unit.scale for row in rows]


def test_a_null_stays_a_null_and_its_neighbours_stay_exact(connection: Connection) -> None:
    connection.execute("ALTER TABLE demo_dws.area_daily ALTER COLUMN recharge_cny DROP NOT NULL")
    connection.execute("UPDATE demo_dws.area_daily SET recharge_cny = NULL WHERE area = 'vip' AND business_date = %s", (LAST_DAY,))
    connection.execute(
        "UPDATE demo_dws.area_daily SET recharge_cny = 123456789012.34 WHERE area = 'hallA' AND business_date = %s", (LAST_DAY,)
    )
    frame = load_finance(connection, 1001, LAST_DAY, LAST_DAY).set_index("area")
    assert frame[RECHARGE.frame_name].isna()["vip"]
    assert frame[RECHARGE.frame_name]["hallA"] == 12_345_678_901_234


def test_a_site_or_a_period_without_rows_gives_an_empty_frame_that_prompts_can_use(connection: Connection) -> None:
    for site_id, first_day in ((9999, FIRST_DAY), (1001, LAST_DAY + timedelta(days=1))):
        frame = load_finance(connection, site_id, first_day, first_day + timedelta(days=30))
        assert len(frame) == 0
        prompts = FinancePrompts(frame, site_id=site_id, site_name="空店", business_date=LAST_DAY, loaded_through=LAST_DAY)
        assert all(prompts.for_window(key).fixed_answer for key in WINDOW_KEYS)


def test_the_72_prompts_of_a_demo_site_show_what_sql_sums(connection: Connection) -> None:
    business_date = LAST_DAY + timedelta(days=1)
    frame = load_finance(connection, 1001, earliest_day(business_date), business_date)
    through = loaded_through(connection, 1001)
    prompts = FinancePrompts(frame, site_id=1001, site_name="朝阳店", business_date=business_date, loaded_through=through)
    for key in WINDOW_KEYS:
        window = data_window(key.time_dimension, business_date, through)
        assert window.data is not None
        row = connection.execute(
            f"SELECT sum({NET_REVENUE.name}) FROM ai_source.finance_daily WHERE site_id = 1001 AND area = %s "
            "AND business_date BETWEEN %s AND %s".encode(),
            (key.area.value, window.data.start, window.data.end),
        ).fetchone()
        assert row is not None
        shown = f"{row[0]:f}".rstrip("0").rstrip(".")
        assert f'"{NET_REVENUE.key}":{shown},' in (prompts.for_window(key).text or ""), key


def test_rows_are_read_alike_on_connections_of_the_store(demo_url: str, connection: Connection) -> None:
    with Database(demo_url, max_connections=2) as database, database.transaction() as dict_connection:
        assert load_finance(dict_connection, 1001, FIRST_DAY, LAST_DAY).equals(load_finance(connection, 1001, FIRST_DAY, LAST_DAY))
        assert loaded_through(dict_connection, 1001) == LAST_DAY
        assert len(list_sites(dict_connection)) == 3
        assert finished_loads(dict_connection, datetime(2026, 4, 19, tzinfo=UTC))


def test_loaded_through_counts_successful_loads_of_the_site_and_of_all_sites(connection: Connection) -> None:
    connection.execute("DELETE FROM demo_dws.etl_runs")
    assert loaded_through(connection, 1001) is None
    add_load(connection, "all", None, "success", date(2026, 4, 10))
    add_load(connection, "one", 1001, "success", date(2026, 4, 12))
    add_load(connection, "failed", None, "failed", date(2026, 4, 15))
    add_load(connection, "running", 1001, "running", date(2026, 4, 16))
    add_load(connection, "silent", 1001, "success", None)
    assert (loaded_through(connection, 1001), loaded_through(connection, 1002)) == (date(2026, 4, 12), date(2026, 4, 10))


def test_finished_loads_are_the_successful_ones_since_a_moment_oldest_first(connection: Connection) -> None:
    connection.execute("DELETE FROM demo_dws.etl_runs")
    moment = datetime(2026, 4, 20, 1, 0, tzinfo=UTC)
    add_load(connection, "late", 1002, "success", date(2026, 4, 19), moment + timedelta(hours=3))
    add_load(connection, "at", None, "success", date(2026, 4, 19), moment)
    add_load(connection, "before", None, "success", date(2026, 4, 18), moment - timedelta(seconds=1))
    add_load(connection, "failed", None, "failed", None, moment + timedelta(hours=1))
    assert finished_loads(connection, moment) == [
        FinishedLoad("at", None, moment, date(2026, 4, 19)),
        FinishedLoad("late", 1002, moment + timedelta(hours=3), date(2026, 4, 19)),
    ]


def test_sites_come_with_what_the_warehouse_knows_of_them(connection: Connection) -> None:
    connection.execute("UPDATE demo_dws.sites SET is_active = false WHERE site_id = 1003")
    sites = list_sites(connection)
    assert sites[0] == SourceSite(1001, "朝阳店", "北京", date(2022, 3, 18), True)
    assert [(site.site_id, site.is_active) for site in sites] == [(1001, True), (1002, True), (1003, False)]


def test_a_doubled_key_is_refused_and_named(connection: Connection) -> None:
    connection.execute("ALTER VIEW ai_source.finance_daily RENAME TO once")
    connection.execute("CREATE VIEW ai_source.finance_daily AS SELECT * FROM ai_source.once UNION ALL SELECT * FROM ai_source.once")
    with pytest.raises(SourceContractError, match=r"site 1001.*2026-04-20.*more than once"):
        load_finance(connection, 1001, LAST_DAY, LAST_DAY)


def test_a_missing_view_is_a_clear_error(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for read in (
            lambda: load_finance(connection, 1001, FIRST_DAY, LAST_DAY),
            lambda: loaded_through(connection, 1001),
            lambda: finished_loads(connection, datetime(2026, 4, 20, tzinfo=UTC)),
            lambda: list_sites(connection),
        ):
            with pytest.raises(SourceContractError, match=r"ai_source.*zqyy-ai doctor"):
                read()


def add_load(
    connection: Connection, etl_run_id: str, site_id: int | None, status: str, through: date | None, finished_at: datetime | None = None
) -> None:
    finished_at = finished_at or datetime(2026, 4, 20, tzinfo=UTC)
    connection.execute(
        "INSERT INTO demo_dws.etl_runs (etl_run_id, site_id, status, started_at, finished_at, loaded_through) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        (etl_run_id, site_id, status, finished_at - timedelta(minutes=5), finished_at, through),
    )
