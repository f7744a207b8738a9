from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.warehouse import contract
from zqyy_ai.warehouse.contract import ContractProblem, ProblemKind, check_contract
from zqyy_ai_tests.warehouse.conftest import LAST_DAY

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def own_tables_url(module_database_url: str) -> str:
    """The demo's contents in tables under the contract's names, so that a test can plant a problem in one row."""
    demo_data.fill(module_database_url, sites=2, days=80, seed=7, until=LAST_DAY)
    with psycopg.connect(module_database_url) as connection:
        for view in contract.VIEWS:
            connection.execute(f"CREATE TABLE ai_source.own AS TABLE ai_source.{view}".encode())
            connection.execute(f"DROP VIEW ai_source.{view}".encode())
            connection.execute(f"ALTER TABLE ai_source.own RENAME TO {view}".encode())
    return module_database_url


@pytest.fixture
def own_tables(own_tables_url: str) -> Iterator[Connection]:
    """A transaction on those tables that is rolled back."""
    with psycopg.connect(own_tables_url) as connection:
        yield connection
        connection.rollback()


def only_problem(connection: Connection) -> ContractProblem:
    problems = check_contract(connection)
    assert len(problems) == 1, problems
    return problems[0]


def test_tables_under_the_contracts_names_are_as_good_as_views(own_tables: Connection) -> None:
    assert check_contract(own_tables) == []


def test_a_database_without_any_view_misses_all_three(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        problems = check_contract(connection)
    assert [(problem.kind, problem.view) for problem in problems] == [(ProblemKind.MISSING_VIEW, view) for view in contract.VIEWS]
    assert all("docs/warehouse.md" in problem.remedy for problem in problems)


def test_a_view_that_the_account_may_not_read_counts_as_missing(own_tables: Connection) -> None:
    own_tables.execute("CREATE ROLE contract_reader; GRANT USAGE ON SCHEMA ai_source TO contract_reader")
    own_tables.execute("GRANT SELECT ON ai_source.sites, ai_source.etl_runs TO contract_reader; SET LOCAL ROLE contract_reader")
    problem = only_problem(own_tables)
    assert (problem.kind, problem.view) == (ProblemKind.MISSING_VIEW, "finance_daily")


@pytest.mark.parametrize(("view", "column"), [(view, column) for view, columns in contract.VIEWS.items() for column in columns])
def test_each_missing_column_is_named(own_tables: Connection, view: str, column: str) -> None:
    own_tables.execute(f"ALTER TABLE ai_source.{view} DROP COLUMN {column}".encode())
    problem = only_problem(own_tables)
    assert (problem.kind, problem.view, problem.column) == (ProblemKind.MISSING_COLUMN, view, column)
    assert column in problem.message


@pytest.mark.parametrize(
    ("view", "column", "wrong_type"),
    [
        ("finance_daily", "net_revenue_cny", "double precision"),
        ("finance_daily", "order_count", "text"),
        ("finance_daily", "business_date", "timestamp with time zone"),
        ("etl_runs", "finished_at", "timestamp without time zone"),
        ("etl_runs", "etl_run_id", "character varying(5)"),
        ("sites", "site_id", "text"),
    ],
)
def test_a_column_of_another_type_is_named_with_the_type_wanted(own_tables: Connection, view: str, column: str, wrong_type: str) -> None:
    own_tables.execute(f"ALTER TABLE ai_source.{view} ALTER COLUMN {column} TYPE {wrong_type} USING NULL::{wrong_type}".encode())
    if wrong_type.startswith("character varying"):
        # A length is no matter; what the rows then hold is.
        assert {problem.kind for problem in check_contract(own_tables)} <= {ProblemKind.UNUSABLE_LOAD, ProblemKind.MORE}
        return
    problem = only_problem(own_tables)
    assert (problem.kind, problem.view, problem.column) == (ProblemKind.WRONG_TYPE, view, column)
    assert wrong_type in problem.message


@pytest.mark.parametrize("column", [column.name for column in FINANCE_COLUMNS])
@pytest.mark.parametrize("area", ["hall", "all"])
def test_a_sum_that_is_off_by_the_smallest_amount_is_told_with_site_date_area_and_column(
    own_tables: Connection, area: str, column: str
) -> None:
    smallest = "1" if column.endswith("count") else "0.01"
    plant(own_tables, f"{column} = {column} + {smallest}", area=area)
    problems = [problem for problem in check_contract(own_tables) if problem.kind is ProblemKind.BROKEN_SUM]
    assert len(problems) == 1
    assert problems[0].column == column
    for named in ("1002", "2026-04-18", f"区域 {area}", column):
        assert named in problems[0].message


def test_a_part_that_is_off_breaks_the_sums_above_it(own_tables: Connection) -> None:
    plant(own_tables, "order_count = order_count + 1", area="hallB")
    assert [(problem.kind, "区域 hall:" in problem.message) for problem in check_contract(own_tables)] == [
        (ProblemKind.BROKEN_SUM, False),
        (ProblemKind.BROKEN_SUM, True),
    ]


@pytest.mark.parametrize(("deleted", "said"), [("area = 'all'", "缺少 all 行"), ("area IN ('hallA', 'hallB', 'hallC')", "没有数据")])
def test_a_whole_without_parts_and_parts_without_a_whole_are_told_once(own_tables: Connection, deleted: str, said: str) -> None:
    own_tables.execute(f"DELETE FROM ai_source.finance_daily WHERE site_id = 1002 AND business_date = '2026-04-18' AND {deleted}".encode())
    problems = check_contract(own_tables)
    assert sum(said in problem.message for problem in problems) == 1
    assert {problem.kind for problem in problems} == {ProblemKind.BROKEN_SUM, *([ProblemKind.MORE] if len(problems) > 20 else [])}


@pytest.mark.parametrize(
    ("column", "broken"),
    [("other_revenue_cny", "gross_revenue_cny"), ("coupon_discount_cny", "net_revenue_cny"), ("refund_cny", "net_revenue_cny")],
)
def test_a_row_that_does_not_add_up_in_itself_is_told(own_tables: Connection, column: str, broken: str) -> None:
    plant(own_tables, f"{column} = {column} + 0.01", area="vip")
    problems = [problem for problem in check_contract(own_tables) if problem.kind is ProblemKind.BROKEN_IDENTITY]
    assert [problem.column for problem in problems] == [broken]
    assert "区域 vip" in problems[0].message


@pytest.mark.parametrize("value", ["NULL", "1.005", "'NaN'"])
def test_a_figure_that_cannot_be_summed_exactly_is_told(own_tables: Connection, value: str) -> None:
    own_tables.execute("ALTER TABLE ai_source.finance_daily ALTER COLUMN goods_cny TYPE numeric")
    plant(own_tables, f"goods_cny = {value}", area="mahjong")
    problems = [problem for problem in check_contract(own_tables) if problem.kind is ProblemKind.UNUSABLE_FIGURE]
    assert [problem.column for problem in problems] == ["goods_cny"]


def test_what_is_not_measured_by_area_may_be_null_there(own_tables: Connection) -> None:
    own_tables.execute(
        "UPDATE ai_source.finance_daily SET recharge_cny = NULL, card_spending_cny = NULL, guest_count = NULL WHERE area <> 'all'"
    )
    assert check_contract(own_tables) == []


def test_a_key_that_is_held_twice_is_told(own_tables: Connection) -> None:
    own_tables.execute(
        "INSERT INTO ai_source.finance_daily SELECT * FROM ai_source.finance_daily "
        "WHERE site_id = 1002 AND business_date = '2026-04-18' AND area = 'vip'"
    )
    assert ProblemKind.DOUBLED_ROW in {problem.kind for problem in check_contract(own_tables)}


def test_an_area_that_is_none_is_told(own_tables: Connection) -> None:
    plant(own_tables, "area = 'VIP'", area="vip")
    problems = [problem for problem in check_contract(own_tables) if problem.kind is ProblemKind.UNKNOWN_AREA]
    assert len(problems) == 1
    assert "区域 VIP" in problems[0].message


@pytest.mark.parametrize("planted", ["status = 'SUCCESS'", "loaded_through = NULL", "finished_at = NULL", "etl_run_id = NULL"])
def test_a_load_that_says_too_little_is_told(own_tables: Connection, planted: str) -> None:
    own_tables.execute(f"UPDATE ai_source.etl_runs SET {planted} WHERE site_id IS NULL AND loaded_through = '2026-04-18'".encode())
    assert only_problem(own_tables).kind is ProblemKind.UNUSABLE_LOAD


def test_old_problems_are_left_alone_and_many_are_counted_and_not_listed(own_tables: Connection) -> None:
    own_tables.execute(
        "UPDATE ai_source.finance_daily SET order_count = order_count + 1 WHERE area = 'all' AND business_date < '2026-02-15'"
    )
    assert check_contract(own_tables) == []
    own_tables.execute(
        "UPDATE ai_source.finance_daily SET order_count = order_count + 1 WHERE area = 'all' AND business_date >= '2026-03-01'"
    )
    problems = check_contract(own_tables)
    assert [problem.kind for problem in problems] == [ProblemKind.BROKEN_SUM] * contract.LISTED + [ProblemKind.MORE]


def test_a_view_that_fails_while_it_is_read_is_told_and_the_connection_goes_on(own_tables: Connection) -> None:
    own_tables.execute("ALTER TABLE ai_source.finance_daily RENAME TO whole")
    columns = ", ".join(
        "1 / (length(area) - length(area))::numeric AS goods_cny" if column.name == "goods_cny" else column.name
        for column in FINANCE_COLUMNS
    )
    own_tables.execute(
        f"CREATE VIEW ai_source.finance_daily AS SELECT site_id, business_date, area, {columns} FROM ai_source.whole".encode()
    )
    assert ProblemKind.UNREADABLE in {problem.kind for problem in check_contract(own_tables)}
    assert own_tables.execute("SELECT 1").fetchone() == (1,)


def test_a_view_that_takes_too_long_is_told_and_the_callers_time_limit_stays(
    own_tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "TIME_LIMIT_SECONDS", 1)
    own_tables.execute("SET LOCAL statement_timeout = '77s'")
    own_tables.execute("ALTER TABLE ai_source.etl_runs RENAME TO whole")
    own_tables.execute("CREATE VIEW ai_source.etl_runs AS SELECT whole.* FROM ai_source.whole, pg_sleep(10)")
    problem = only_problem(own_tables)
    assert problem.kind is ProblemKind.UNREADABLE
    assert "1 秒" in problem.message
    assert own_tables.execute("SHOW statement_timeout").fetchone() == ("77s",)


def plant(connection: Connection, change: str, *, area: str) -> None:
    changed = connection.execute(
        f"UPDATE ai_source.finance_daily SET {change} WHERE site_id = 1002 AND business_date = '2026-04-18' AND area = '{area}'".encode()
    )
    assert changed.rowcount == 1


def test_the_mapping_example_of_the_documentation_keeps_the_contract(empty_database_url: str) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "warehouse.md").read_text(encoding="utf-8")
    example = page.partition("```sql\n")[2].partition("```")[0].partition("GRANT")[0]
    amounts = [
        "table_fen",
        "assistant_fen",
        "goods_fen",
        "other_fen",
        "member_off_fen",
        "groupbuy_off_fen",
        "coupon_off_fen",
        "activity_off_fen",
        "staff_off_fen",
        "rounding_fen",
        "refund_fen",
        "recharge_fen",
        "card_paid_fen",
        "bills",
        "guests",
        "used_minutes",
        "open_minutes",
    ]
    with psycopg.connect(empty_database_url) as connection:
        columns = ", ".join(f"{amount} bigint" for amount in amounts)
        connection.execute(
            f"CREATE SCHEMA dws; CREATE TABLE dws.area_day (store_id bigint, biz_date date, area_name text, {columns})".encode()
        )
        connection.execute(
            "CREATE SCHEMA etl; CREATE TABLE etl.batches "
            "(batch_no int, job text, state text, begin_at timestamptz, end_at timestamptz, data_date date)"
        )
        connection.execute("INSERT INTO etl.batches VALUES (1, 'dws_area_day', 'OK', now(), now(), '2026-04-20')")
        with connection.cursor() as cursor, cursor.copy("COPY dws.area_day FROM STDIN") as copy:
            for index, area in enumerate(("A区", "B区", "C区", "包厢", "斯诺克", "麻将", "KTV", "吧台")):
                copy.write_row((1, "2026-04-20", area, *(101 + 7 * index + offset for offset in range(len(amounts)))))
        connection.execute(example.encode())
        problem = only_problem(connection)
        assert (problem.kind, problem.view) == (ProblemKind.MISSING_VIEW, "sites")
        assert connection.execute("SELECT count(*) FROM ai_source.finance_daily").fetchone() == (9,)
