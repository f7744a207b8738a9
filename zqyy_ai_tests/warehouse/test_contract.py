from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.warehouse import contract
from zqyy_ai.warehouse.contract import ContractProblem, ProblemKind, check_contract
from zqyy_ai.warehouse.members import load_member
from zqyy_ai_tests.warehouse.conftest import LAST_DAY

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def own_tables_url(module_database_url: str) -> str:
    """The demo's contents in tables under the contract's names, so that a test can plant a problem in one row."""
    demo_data.fill(module_database_url, sites=2, days=80, members=20, seed=7, until=LAST_DAY)
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


def test_a_database_without_any_view_misses_them_all(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        problems = check_contract(connection)
    assert [(problem.kind, problem.view) for problem in problems] == [(ProblemKind.MISSING_VIEW, view) for view in contract.VIEWS]
    assert all("docs/warehouse.md" in problem.remedy for problem in problems)


def test_a_view_that_the_account_may_not_read_counts_as_missing(own_tables: Connection) -> None:
    own_tables.execute("CREATE ROLE contract_reader; GRANT USAGE ON SCHEMA ai_source TO contract_reader")
    own_tables.execute("GRANT SELECT ON ALL TABLES IN SCHEMA ai_source TO contract_reader")
    own_tables.execute("REVOKE SELECT ON ai_source.finance_daily FROM contract_reader; SET LOCAL ROLE contract_reader")
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
        ("members", "balance_cny", "double precision"),
        ("visits", "tables", "json"),
        ("visits", "started_at", "timestamp without time zone"),
        ("notes", "note_id", "text"),
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


# Members.


def planted_visit(connection: Connection, change: str) -> None:
    """Changes the newest visit that has a table, goods and a discount."""
    changed = connection.execute(
        f"""
        UPDATE ai_source.visits SET {change} WHERE (site_id, visit_id) = (
            SELECT site_id, visit_id FROM ai_source.visits
            WHERE jsonb_array_length(tables) = 1 AND jsonb_array_length(goods) > 0 AND discount_cny > 0
            ORDER BY business_date DESC, site_id, visit_id LIMIT 1
        )
        """.encode()
    )
    assert changed.rowcount == 1


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ("tables = jsonb_set(tables, '{0,fee_cny}', '0.01')", ["tables.fee"]),
        ("tables = NULL", ["tables.fee"]),
        ("goods = goods || goods", ["goods.amount"]),
        ("discounts = '[]'", ["discounts.amount"]),
        ("payments = payments || payments", ["payments.amount"]),
        ("paid_cny = paid_cny - 0.01", ["gross - discount", "payments.amount"]),
    ],
)
def test_a_bill_that_does_not_add_up_is_told(own_tables: Connection, change: str, rules: list[str]) -> None:
    planted_visit(own_tables, change)
    problems = check_contract(own_tables)
    assert {(problem.kind, problem.view) for problem in problems} == {(ProblemKind.BROKEN_IDENTITY, "visits")}
    assert [rule in problem.remedy for rule, problem in zip(rules, problems, strict=True)] == [True] * len(rules)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ("tables = jsonb_set(tables, '{0,area}', '\"all\"')", ProblemKind.UNKNOWN_AREA, 'area 为 "all"'),
        ("tables = jsonb_set(tables, '{0,area}', 'null')", ProblemKind.UNKNOWN_AREA, "area 为 null"),
        ("tables = jsonb_set(tables, '{0,ended_at}', '\"2026-04-18 19:30:00\"')", ProblemKind.UNUSABLE_PART, "ended_at"),
        ("tables = jsonb_set(tables, '{0,hours}', '\"2\"')", ProblemKind.UNUSABLE_PART, "hours"),
        ("tables = tables #- '{0,table_name}'", ProblemKind.UNUSABLE_PART, "table_name 为 空"),
        ("assistants = '[{\"assistant_id\": null, \"assistant_name\": \"x\", \"hours\": 1, \"fee_cny\": 0}]'", ProblemKind.UNUSABLE_PART, "assistant_id"),
        ("assistants = '[7]'", ProblemKind.UNUSABLE_PART, "assistants"),
        ("goods = jsonb_set(goods, '{0,quantity}', '1.5')", ProblemKind.UNUSABLE_PART, "quantity"),
        ("discounts = '{}'", ProblemKind.UNUSABLE_PART, "discounts 为 object"),
    ],
)  # fmt: skip
def test_a_part_of_a_bill_that_is_not_as_agreed_is_told(own_tables: Connection, change: str, kind: ProblemKind, said: str) -> None:
    planted_visit(own_tables, change)
    problems = [problem for problem in check_contract(own_tables) if problem.kind is not ProblemKind.BROKEN_IDENTITY]
    assert {(problem.kind, problem.view) for problem in problems} == {(kind, "visits")}
    assert any(said in problem.message for problem in problems)


def test_a_fraction_of_a_fen_within_a_bill_is_told(own_tables: Connection) -> None:
    planted_visit(own_tables, "payments = jsonb_build_array(jsonb_build_object('method', '现金', 'amount_cny', paid_cny + 0.001))")
    assert {problem.kind for problem in check_contract(own_tables)} == {ProblemKind.UNUSABLE_PART, ProblemKind.BROKEN_IDENTITY}


def test_a_bill_without_anything_but_what_was_paid_for_is_as_agreed(own_tables: Connection) -> None:
    planted_visit(
        own_tables,
        "gross_cny = 6, discount_cny = 0, paid_cny = 6.00, tables = NULL, assistants = 'null', discounts = NULL, guest_count = NULL,"
        """ goods = '[{"name": "可乐", "quantity": null, "amount_cny": 6, "barcode": "1"}]', payments = '[{"method": "现金", "amount_cny": 6.0}]'""",
    )
    assert check_contract(own_tables) == []


@pytest.mark.parametrize(
    ("view", "column"),
    [
        ("members", "member_name"),
        ("members", "is_active"),
        ("visits", "member_id"),
        ("visits", "visit_id"),
        ("visits", "business_date"),
        ("visits", "paid_cny"),
        ("assistants", "assistant_id"),
        ("tasks", "status"),
        ("tasks", "created_at"),
        ("notes", "content"),
    ],
)
def test_a_null_where_a_value_belongs_is_told_with_the_row(own_tables: Connection, view: str, column: str) -> None:
    order = {"members": "last_visit_on", "visits": "business_date", "assistants": "assistant_id"}.get(view, "created_at")
    own_tables.execute(
        f"UPDATE ai_source.{view} SET {column} = NULL"
        f" WHERE ctid = (SELECT ctid FROM ai_source.{view} ORDER BY {order} DESC NULLS LAST LIMIT 1)".encode()
    )
    problem = only_problem(own_tables)
    assert (problem.kind, problem.view) == (ProblemKind.UNUSABLE_ROW, view)
    assert f"{column} 为 NULL" in problem.message


@pytest.mark.parametrize("view", list(contract.MEMBER_VIEWS))
def test_a_row_about_members_that_is_held_twice_is_told(own_tables: Connection, view: str) -> None:
    order = {"members": "last_visit_on", "visits": "business_date", "assistants": "assistant_id"}.get(view, "created_at")
    own_tables.execute(
        f"INSERT INTO ai_source.{view} SELECT * FROM ai_source.{view} ORDER BY {order} DESC NULLS LAST, site_id LIMIT 1".encode()
    )
    problem = only_problem(own_tables)
    assert (problem.kind, problem.view) == (ProblemKind.DOUBLED_ROW, view)


def test_a_task_with_a_status_of_its_own_is_told(own_tables: Connection) -> None:
    own_tables.execute("UPDATE ai_source.tasks SET status = 'OPEN' WHERE ctid = (SELECT max(ctid) FROM ai_source.tasks)")
    problem = only_problem(own_tables)
    assert (problem.kind, problem.column) == (ProblemKind.UNUSABLE_ROW, "status")
    assert "OPEN" in problem.message


def test_of_very_many_visits_only_the_newest_are_looked_at(own_tables: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    own_tables.execute(
        "UPDATE ai_source.visits SET paid_cny = paid_cny - 1 WHERE business_date < (SELECT max(business_date) FROM ai_source.visits)"
    )
    assert {problem.kind for problem in check_contract(own_tables)} == {ProblemKind.BROKEN_IDENTITY, ProblemKind.MORE}
    monkeypatch.setattr(contract, "CHECKED_VISITS", 1)
    assert check_contract(own_tables) == []


def plant(connection: Connection, change: str, *, area: str) -> None:
    changed = connection.execute(
        f"UPDATE ai_source.finance_daily SET {change} WHERE site_id = 1002 AND business_date = '2026-04-18' AND area = '{area}'".encode()
    )
    assert changed.rowcount == 1


def mapping_examples() -> list[str]:
    """The page's statements that make views."""
    page = Path(__file__).parents[2].joinpath("docs", "warehouse.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in page.split("```sql\n")[1:]]
    return [example for example in examples if "CREATE VIEW" in example]


def test_the_mapping_example_of_the_documentation_keeps_the_contract(empty_database_url: str) -> None:
    finance_example, member_example = mapping_examples()
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
        connection.execute(finance_example.encode())
        connection.execute(TILL.encode())
        connection.execute(member_example.encode())
        problem = only_problem(connection)
        assert (problem.kind, problem.view) == (ProblemKind.MISSING_VIEW, "sites")
        assert connection.execute("SELECT count(*) FROM ai_source.finance_daily").fetchone() == (9,)
        data = load_member(connection, 1, "朝阳店", 7)
    [visit] = data.visits
    assert (visit.gross_fen, visit.discount_fen, visit.paid_fen) == (27_800, 800, 27_000)
    assert [(table.table_name, table.area, table.centihours) for table in visit.tables] == [("A03", "hallA", 167)]
    assert [(assistant.assistant_id, assistant.fee_fen) for assistant in visit.assistants] == [(3, 17_700)]
    assert [(item.name, item.amount_fen, item.quantity) for item in visit.goods] == [("可乐", 1_100, 2)]
    assert data.member is not None
    assert (data.member.member_name, data.member.gender, data.member.last_visit_on) == ("王先生", "男", date(2026, 4, 20))
    assert (data.open_task_assistants(), data.newest_note and data.newest_note.content, list(data.assistants)) == ((3,), "常客", [3])


TILL = """
CREATE SCHEMA till;
CREATE SCHEMA office;
CREATE TABLE till.members (store_id int, id int, name text, sex int, level_name text, opened_at timestamptz, birthday date,
    balance_fen bigint, points int, closed_at timestamptz);
CREATE TABLE till.bills (store_id int, id bigint, member_id int, biz_date date, opened_at timestamptz, settled_at timestamptz, guests int,
    gross_fen bigint, off_fen bigint, paid_fen bigint, state text);
CREATE TABLE till.bill_lines (id bigint, bill_id bigint, kind text, ref_id int, name text, area_name text, begin_at timestamptz,
    end_at timestamptz, minutes int, quantity int, amount_fen bigint);
CREATE TABLE till.assistants (store_id int, id int, nickname text, level_name text, hired_on date, left_on date);
CREATE TABLE office.tasks (store_id int, id bigint, member_id int, assistant_id int, kind text, title text, detail text,
    created_at timestamptz, due_on date, done_at timestamptz, cancelled_at timestamptz);
CREATE TABLE office.notes (store_id int, id bigint, member_id int, content text, author_name text, created_at timestamptz);
INSERT INTO till.members VALUES (1, 7, '王先生', 1, '金卡', '2024-01-01 12:00+08', '1990-05-01', 123456, 20, NULL);
INSERT INTO till.bills VALUES
    (1, 70, 7, '2026-04-20', '2026-04-20 19:00+08', '2026-04-20 21:00+08', 2, 27800, 800, 27000, 'SETTLED'),
    (1, 71, 7, '2026-04-21', '2026-04-21 19:00+08', '2026-04-21 21:00+08', 2, 100, 0, 100, 'OPEN');
INSERT INTO till.bill_lines VALUES
    (1, 70, 'table', NULL, 'A03', 'A区', '2026-04-20 19:00+08', '2026-04-20 20:40+08', 100, NULL, 9000),
    (2, 70, 'assistant', 3, '可可', NULL, NULL, NULL, 90, NULL, 17700),
    (3, 70, 'goods', NULL, '可乐', NULL, NULL, NULL, NULL, 2, 1100),
    (4, 70, 'discount', NULL, '会员折扣', NULL, NULL, NULL, NULL, NULL, 800),
    (5, 70, 'payment', NULL, '储值卡', NULL, NULL, NULL, NULL, NULL, 27000);
INSERT INTO till.assistants VALUES (1, 3, '可可', '初级', '2024-01-01', NULL);
INSERT INTO office.tasks VALUES (1, 1, 7, 3, '回访', '回访', NULL, '2026-04-20 10:00+08', NULL, NULL, NULL);
INSERT INTO office.notes VALUES (1, 1, 7, '常客', '前台', '2026-04-20 10:00+08'), (1, 2, 7, '', '前台', '2026-04-20 10:00+08');
"""
