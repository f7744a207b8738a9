"""The `ai_source` contract, checked: what docs/warehouse.md promises the prompts, held against the views of a deployment.

Used by `zqyy-ai doctor`. Nothing here repairs or writes. Invariant: bounded work, whatever the size of the views: the last
`CHECKED_DAYS` business dates (of visits the newest `CHECKED_VISITS`), else the newest `CHECKED_ROWS` rows, a time limit for each check, and
at most `LISTED` findings of a kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import dict_row

from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.domain.windows import BASE_AREAS, HALL_PARTS, Area
from zqyy_ai.store.queries import named_queries

CHECKED_DAYS = 60
CHECKED_VISITS = 20_000
CHECKED_ROWS = 1000
LISTED = 20
TASK_STATUSES = ("open", "done", "cancelled")
TIME_LIMIT_SECONDS = 20

_SET_TIME_LIMIT = "SELECT set_config('statement_timeout', %s, true)"

Row = dict[str, Any]

# Never floating point: sums of a day's areas would differ by the order in which they are added.
_EXACT_NUMBERS = ("numeric", "smallint", "integer", "bigint")
_TEXTS = ("text", "character varying")
_IDS = ("integer", "bigint")
_MOMENTS = ("timestamp with time zone",)
_LISTS = ("jsonb",)

FINANCE_VIEWS: dict[str, dict[str, tuple[str, ...]]] = {
    "sites": {"site_id": _IDS, "site_name": _TEXTS, "city": _TEXTS, "opened_on": ("date",), "is_active": ("boolean",)},
    "finance_daily": {"site_id": _IDS, "business_date": ("date",), "area": _TEXTS}
    | {column.name: _EXACT_NUMBERS for column in FINANCE_COLUMNS},
    "etl_runs": {
        "etl_run_id": _TEXTS,
        "site_id": _IDS,
        "status": _TEXTS,
        "started_at": _MOMENTS,
        "finished_at": _MOMENTS,
        "loaded_through": ("date",),
    },
}
# What the applications about members read, App3 to App8; the finance applications do without.
MEMBER_VIEWS: dict[str, dict[str, tuple[str, ...]]] = {
    "members": {
        "site_id": _IDS,
        "member_id": _IDS,
        "member_name": _TEXTS,
        "gender": _TEXTS,
        "level": _TEXTS,
        "joined_on": ("date",),
        "birthday": ("date",),
        "balance_cny": _EXACT_NUMBERS,
        "points": _EXACT_NUMBERS,
        "last_visit_on": ("date",),
        "is_active": ("boolean",),
    },
    "visits": {
        "site_id": _IDS,
        "visit_id": _IDS,
        "member_id": _IDS,
        "business_date": ("date",),
        "started_at": _MOMENTS,
        "ended_at": _MOMENTS,
        "guest_count": _EXACT_NUMBERS,
        "gross_cny": _EXACT_NUMBERS,
        "discount_cny": _EXACT_NUMBERS,
        "paid_cny": _EXACT_NUMBERS,
        "tables": _LISTS,
        "assistants": _LISTS,
        "goods": _LISTS,
        "discounts": _LISTS,
        "payments": _LISTS,
    },
    "assistants": {
        "site_id": _IDS,
        "assistant_id": _IDS,
        "assistant_name": _TEXTS,
        "level": _TEXTS,
        "joined_on": ("date",),
        "is_active": ("boolean",),
    },
    "tasks": {
        "site_id": _IDS,
        "task_id": _IDS,
        "member_id": _IDS,
        "assistant_id": _IDS,
        "task_type": _TEXTS,
        "title": _TEXTS,
        "detail": _TEXTS,
        "status": _TEXTS,
        "created_at": _MOMENTS,
        "due_on": ("date",),
    },
    "notes": {
        "site_id": _IDS,
        "note_id": _IDS,
        "member_id": _IDS,
        "content": _TEXTS,
        "noted_by_name": _TEXTS,
        "created_at": _MOMENTS,
    },
}
VIEWS = FINANCE_VIEWS | MEMBER_VIEWS


class ProblemKind(StrEnum):
    MISSING_VIEW = "missing_view"
    MISSING_COLUMN = "missing_column"
    WRONG_TYPE = "wrong_type"
    UNREADABLE = "unreadable"
    DOUBLED_ROW = "doubled_row"
    UNKNOWN_AREA = "unknown_area"
    UNUSABLE_FIGURE = "unusable_figure"
    BROKEN_SUM = "broken_sum"
    BROKEN_IDENTITY = "broken_identity"
    UNUSABLE_LOAD = "unusable_load"
    UNUSABLE_ROW = "unusable_row"
    UNUSABLE_PART = "unusable_part"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class ContractProblem:
    """One way in which the views break the contract. `message` says what is wrong and where, `remedy` what to do: both for an operator."""

    kind: ProblemKind
    view: str
    message: str
    remedy: str
    column: str | None = None


def check_contract(connection: psycopg.Connection[Any]) -> list[ContractProblem]:
    """Everything that is wrong with the `ai_source` views; empty when they keep the contract.

    Contents are checked only of views whose columns are right. The connection is left as it was.
    """
    declared = _declared_columns(connection)
    problems = [problem for view, columns in VIEWS.items() for problem in _column_problems(view, columns, declared.get(view))]
    sound = set(VIEWS) - {problem.view for problem in problems}
    for check in _CONTENT_CHECKS:
        if check.view in sound:
            problems += _content_problems(connection, check)
    return problems


def _declared_columns(connection: psycopg.Connection[Any]) -> dict[str, dict[str, str]]:
    declared: dict[str, dict[str, str]] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_query("columns"), {"views": list(VIEWS)}):
            declared.setdefault(row["view_name"], {})[row["column_name"]] = row["type_name"]
    return declared


def _column_problems(view: str, wanted: dict[str, tuple[str, ...]], declared: dict[str, str] | None) -> list[ContractProblem]:
    if declared is None:
        return [
            ContractProblem(
                ProblemKind.MISSING_VIEW,
                view,
                f"缺少视图 ai_source.{view},或当前账号没有读取权限",
                "按 docs/warehouse.md 建立该视图,并执行 GRANT USAGE ON SCHEMA ai_source 与 GRANT SELECT",
            )
        ]
    problems = []
    for column, types in wanted.items():
        if column not in declared:
            problems.append(
                ContractProblem(
                    ProblemKind.MISSING_COLUMN,
                    view,
                    f"ai_source.{view} 缺少列 {column}({types[0]})",
                    "在视图中补上该列,含义与单位见 docs/warehouse.md",
                    column,
                )
            )
        elif declared[column] not in types:
            problems.append(
                ContractProblem(
                    ProblemKind.WRONG_TYPE,
                    view,
                    f"ai_source.{view}.{column} 的类型是 {declared[column]},应为 {' 或 '.join(types)}",
                    f"在视图中转换类型,例如 {column}::{types[0]}",
                    column,
                )
            )
    return problems


@dataclass(frozen=True, slots=True)
class _ContentCheck:
    query: str
    view: str
    told: Callable[[Row], ContractProblem]


def _content_problems(connection: psycopg.Connection[Any], check: _ContentCheck) -> list[ContractProblem]:
    parameters = {
        "days": CHECKED_DAYS,
        "visits": CHECKED_VISITS,
        "rows": CHECKED_ROWS,
        "task_statuses": list(TASK_STATUSES),
        "listed": LISTED,
        "areas": [area.value for area in Area],
        "hall_parts": [area.value for area in HALL_PARTS],
        "base_areas": [area.value for area in BASE_AREAS],
    }
    try:
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            limit_before = cursor.execute("SELECT current_setting('statement_timeout') AS setting").fetchall()[0]["setting"]
            cursor.execute(_SET_TIME_LIMIT, (f"{TIME_LIMIT_SECONDS}s",))
            rows = cursor.execute(_query(check.query), parameters).fetchall()
            # Within a transaction of the caller's the setting would outlive this block.
            cursor.execute(_SET_TIME_LIMIT, (limit_before,))
    except psycopg.errors.QueryCanceled:
        return [
            ContractProblem(
                ProblemKind.UNREADABLE,
                check.view,
                f"检查 ai_source.{check.view} 超过 {TIME_LIMIT_SECONDS} 秒而中止",
                "让视图能按 site_id 与 business_date 使用索引,或改为物化视图",
            )
        ]
    except psycopg.Error as error:
        return [
            ContractProblem(
                ProblemKind.UNREADABLE,
                check.view,
                f"读取 ai_source.{check.view} 失败:{error.diag.message_primary or error}",
                "修正视图的定义或授权后再运行 zqyy-ai doctor",
            )
        ]
    problems = [check.told(row) for row in rows]
    if rows and rows[0]["found"] > len(rows):
        problems.append(
            ContractProblem(
                ProblemKind.MORE,
                check.view,
                f"ai_source.{check.view}:同类问题共 {rows[0]['found']} 处,仅列出前 {len(rows)} 处",
                "先修正已列出的",
            )
        )
    return problems


def _where(row: Row) -> str:
    return f"门店 {row['site_id']}、{row['business_date']}、区域 {row['area']}"


def _useless_row(row: Row) -> ContractProblem:
    if row["finding"] == "doubled":
        return ContractProblem(
            ProblemKind.DOUBLED_ROW,
            "finance_daily",
            f"{_where(row)}:有多行",
            "(site_id, business_date, area) 必须唯一:在视图中汇总或去重",
        )
    return ContractProblem(
        ProblemKind.UNKNOWN_AREA,
        "finance_daily",
        f"{_where(row)}:区域或门店不在约定之内",
        f"area 只能是 {'、'.join(area.value for area in Area)};site_id 不能为空",
        "area",
    )


def _unusable_figure(row: Row) -> ContractProblem:
    is_null = row["value"] is None
    return ContractProblem(
        ProblemKind.UNUSABLE_FIGURE,
        "finance_daily",
        f"{_where(row)}、列 {row['column_name']}:{'为 NULL' if is_null else '不是两位小数以内的数:' + str(row['value'])}",
        "没有发生时填 0;没有数据时不要给出该行" if is_null else "在视图中保留两位小数,并由区域相加得到 hall 与 all",
        row["column_name"],
    )


def _broken_sum(row: Row) -> ContractProblem:
    parts = "hallA+hallB+hallC" if row["area"] == Area.HALL else "+".join(area.value for area in BASE_AREAS)
    if not row["whole_rows"]:
        said = f"缺少 {row['area']} 行,而它的组成区域有数据"
    elif not row["part_rows"]:
        said = f"有 {row['area']} 行,而它的组成区域({parts})没有数据"
    else:
        said = f"列 {row['column_name']}:{row['area']} 为 {row['whole_value']},组成区域之和为 {row['parts_value']}"
    return ContractProblem(
        ProblemKind.BROKEN_SUM,
        "finance_daily",
        f"{_where(row)}:{said}",
        f"{row['area']} 必须等于 {parts}:在视图中由区域相加得到",
        row["column_name"],
    )


def _broken_identity(row: Row) -> ContractProblem:
    rule = (
        "gross_revenue = table_fee + assistant_fee + goods + other_revenue"
        if row["column_name"] == "gross_revenue_cny"
        else "net_revenue = gross_revenue - 各项 discount - refund"
    )
    return ContractProblem(
        ProblemKind.BROKEN_IDENTITY,
        "finance_daily",
        f"{_where(row)}、列 {row['column_name']}:数值为 {row['value']},按口径应为 {row['expected']}",
        f"口径:{rule}",
        row["column_name"],
    )


def _unusable_load(row: Row) -> ContractProblem:
    return ContractProblem(
        ProblemKind.UNUSABLE_LOAD,
        "etl_runs",
        f"加载 {row['etl_run_id']}(门店 {row['site_id'] or '全部'}、状态 {row['status']}):"
        f"finished_at={row['finished_at']}、loaded_through={row['loaded_through']}",
        "etl_run_id 不能为空;status 只能是 success、failed、running;success 必须有 finished_at 与 loaded_through",
    )


_KEYS = {"members": "member_id", "visits": "visit_id", "assistants": "assistant_id", "tasks": "task_id", "notes": "note_id"}


def _unusable_row(view: str) -> Callable[[Row], ContractProblem]:
    key = _KEYS[view]

    def told(row: Row) -> ContractProblem:
        where = f"ai_source.{view}:门店 {row['site_id']}、{key} {row['row_id']}"
        if row["columns"]:
            return ContractProblem(
                ProblemKind.UNUSABLE_ROW, view, f"{where}:{row['columns']} 为 NULL", "这些列不能为空:在视图中补上,或不要给出该行"
            )
        if row["status"] is not None:
            return ContractProblem(
                ProblemKind.UNUSABLE_ROW,
                view,
                f"{where}:status 为 {row['status'][:40]}",
                f"status 只能是 {'、'.join(TASK_STATUSES)}",
                "status",
            )
        return ContractProblem(ProblemKind.DOUBLED_ROW, view, f"{where}:有 {row['held']} 行", f"(site_id, {key}) 必须唯一:在视图中去重")

    return told


_PART_KINDS = {
    "array": "JSON 数组或 NULL",
    "string": "字符串",
    "area": "、".join(area.value for area in BASE_AREAS),
    "moment": "带时区的 ISO 时间,例如 2026-04-18T19:30:00+08:00",
    "amount": "两位小数以内的数",
    "whole": "整数",
    "whole or null": "整数或 null",
}


def _unusable_part(row: Row) -> ContractProblem:
    field = f" 中的 {row['field']}" if row["field"] else ""
    return ContractProblem(
        ProblemKind.UNKNOWN_AREA if row["kind"] == "area" else ProblemKind.UNUSABLE_PART,
        "visits",
        f"{_which_visit(row)}:{row['column_name']}{field} 为 {'空' if row['value'] is None else row['value']}",
        f"应为 {_PART_KINDS[row['kind']]}",
        row["column_name"],
    )


def _broken_visit_identity(row: Row) -> ContractProblem:
    return ContractProblem(
        ProblemKind.BROKEN_IDENTITY,
        "visits",
        f"{_which_visit(row)}:{row['column_name']} 为 {row['value']},按口径应为 {row['expected']}",
        f"口径:{row['rule']}",
        row["column_name"],
    )


def _which_visit(row: Row) -> str:
    return f"ai_source.visits:门店 {row['site_id']}、{row['business_date']}、visit_id {row['visit_id']}"


_CONTENT_CHECKS = (
    _ContentCheck("rows_of_no_use", "finance_daily", _useless_row),
    _ContentCheck("unusable_figures", "finance_daily", _unusable_figure),
    _ContentCheck("broken_sums", "finance_daily", _broken_sum),
    _ContentCheck("broken_identities", "finance_daily", _broken_identity),
    _ContentCheck("unusable_loads", "etl_runs", _unusable_load),
    _ContentCheck("unusable_members", "members", _unusable_row("members")),
    _ContentCheck("unusable_visits", "visits", _unusable_row("visits")),
    _ContentCheck("unusable_assistants", "assistants", _unusable_row("assistants")),
    _ContentCheck("unusable_tasks", "tasks", _unusable_row("tasks")),
    _ContentCheck("unusable_notes", "notes", _unusable_row("notes")),
    _ContentCheck("unusable_visit_parts", "visits", _unusable_part),
    _ContentCheck("broken_visit_identities", "visits", _broken_visit_identity),
)


def _query(name: str) -> bytes:
    return named_queries("contract", "zqyy_ai.warehouse")[name]
