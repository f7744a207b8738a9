"""The demo warehouse: plausible billiard halls in schema `demo_dws`, seen through the `ai_source` views of docs/warehouse.md.

For demos, tests and benchmarks; nothing of a deployment reads it. Invariants: a day's rows depend on (seed, site, day) alone, so that the
same arguments give the same rows and a longer fill holds a shorter one; it never touches `ai_source` views that are not its own.
What can be seen in the data: weekdays, evenings, public holidays, seasons, promotions, one bad week a quarter, refunds, recharges, missing
days of a site and of an area, a site without KTV, loads that failed first and loads of one site alone. The members are `demo_members`.
"""

from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import class_row

from zqyy_ai.devkit.demo_calendar import is_lunar_new_year, is_public_holiday
from zqyy_ai.devkit.demo_members import MOST_MEMBERS, append_members
from zqyy_ai.domain.business_clock import SHANGHAI, SystemClock, business_date_at
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.domain.windows import Area, first_of_month, first_of_quarter, monday_of
from zqyy_ai.store.queries import named_queries

FIRST_SITE_ID = 1001
OPENING_HOURS = 16  # 10:00 to 02:00

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SITE_NAMES = (
    "朝阳店", "浦东店", "天河店", "武侯店", "西湖店", "南山店", "江汉店", "雁塔店", "鼓楼店", "岳麓店",
    "渝中店", "历下店", "市南店", "和平店", "思明店", "金水店", "五华店", "蜀山店", "长安店", "海曙店",
)  # fmt: skip
_CITIES = (
    "北京", "上海", "广州", "成都", "杭州", "深圳", "武汉", "西安", "南京", "长沙",
    "重庆", "济南", "青岛", "沈阳", "厦门", "郑州", "昆明", "合肥", "石家庄", "宁波",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _AreaModel:
    """One area of a demo site. Tuples of three are dayparts: 10–18, 18–23 and 23–02 o'clock."""

    area: Area
    tables: int
    price_cny_per_hour: tuple[int, int, int]
    demand: tuple[float, float, float]
    session_hours: float
    party_size: float
    assisted_share: float
    goods_cny_per_guest: float
    other_share: float
    coupon_share: float


_AREAS = (
    _AreaModel(Area.HALL_A, 12, (32, 42, 38), (1.05, 1.05, 1.05), 1.7, 2.3, 0.18, 19, 0.004, 0.11),
    _AreaModel(Area.HALL_B, 10, (36, 48, 42), (1.00, 1.00, 0.98), 1.8, 2.3, 0.20, 21, 0.004, 0.10),
    _AreaModel(Area.HALL_C, 8, (42, 58, 52), (0.90, 0.95, 0.95), 1.9, 2.2, 0.24, 24, 0.005, 0.08),
    _AreaModel(Area.VIP, 4, (98, 128, 118), (0.70, 0.90, 0.92), 2.6, 3.1, 0.38, 42, 0.030, 0.04),
    _AreaModel(Area.SNOOKER, 3, (68, 88, 78), (0.85, 0.92, 0.60), 2.1, 2.0, 0.12, 20, 0.004, 0.05),
    _AreaModel(Area.MAHJONG, 6, (38, 48, 48), (1.50, 0.95, 0.80), 4.2, 4.0, 0.00, 16, 0.010, 0.12),
    _AreaModel(Area.KTV, 2, (88, 198, 178), (0.40, 1.00, 1.45), 3.4, 5.5, 0.25, 48, 0.040, 0.06),
)
_DAYPART_HOURS = (8, 5, 3)
# Share of the tables in use by daypart: Monday to Thursday, Friday, Saturday, Sunday, public holiday.
_UTILISATION = ((0.22, 0.58, 0.36), (0.26, 0.72, 0.56), (0.46, 0.82, 0.60), (0.44, 0.70, 0.40), (0.54, 0.85, 0.62))
_SEASON = (1.05, 0.95, 1.00, 0.97, 1.02, 0.96, 1.08, 1.10, 0.95, 1.00, 0.97, 1.02)


@dataclass(frozen=True, slots=True)
class DemoWarehouse:
    """What was filled: sites from `FIRST_SITE_ID` on, days from `first_day` to `last_day`, and the number of area rows written now."""

    sites: int
    first_day: date
    last_day: date
    rows: int


def fill(
    database_url: str, *, sites: int = 3, days: int = 400, members: int = 300, seed: int = 20260420, until: date | None = None
) -> DemoWarehouse:
    """Replace the demo warehouse by `sites` sites with `days` days up to `until` (default: yesterday), and put the sites into `biz.sites`.

    Each site has `members` active members; with 0 it has no members, visits, assistants, tasks or notes.

    One transaction. Raises InvalidRequest for sizes that cannot be meant, for a database whose `ai_source` views are not the demo's own, and
    for one that is not migrated.
    """
    if not 1 <= sites <= 500 or not 1 <= days <= 3660:
        raise InvalidRequest(f"演示数据:sites 必须在 1 到 500 之间、days 必须在 1 到 3660 之间,收到 {sites} 和 {days}")
    if not 0 <= members <= MOST_MEMBERS:
        raise InvalidRequest(f"演示数据:members 必须在 0 到 {MOST_MEMBERS} 之间,收到 {members}")
    if not 0 <= seed < 2**63:
        raise InvalidRequest(f"演示数据:seed 必须是 0 到 2^63-1 的整数,收到 {seed}")
    last_day = until or business_date_at(SystemClock().now()) - timedelta(days=1)
    first_day = last_day - timedelta(days=days - 1)
    queries = _queries()
    with psycopg.connect(database_url) as connection:
        connection.execute(queries["one_fill_at_a_time"])
        _refuse_foreign_views(connection)
        connection.execute(queries["create_schema"])
        connection.execute(queries["empty"])
        connection.execute(queries["drop_sites_from"], {"site_id": FIRST_SITE_ID + sites})
        rows = [_site_row(index) for index in range(sites)]
        with connection.cursor() as cursor:
            cursor.executemany(queries["upsert_known_site"], rows)
            cursor.executemany(queries["upsert_site"], rows)
        asked = _Filled(seed, sites, members, first_day, last_day)
        written = _append(connection, asked, first_day, last_day, finished_at=None)
        connection.execute(queries["note_fill"], asdict(asked))
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Fresh statistics: the first query after the fill shall not be planned for an empty table.
        connection.execute(queries["analyze"])
    return DemoWarehouse(sites, first_day, last_day, written)


def is_filled_until(database_url: str, day: date) -> bool:
    """Whether the database holds a demo warehouse whose data reach `day` or beyond."""
    with psycopg.connect(database_url) as connection:
        filled = None if _foreign_views(connection) else _filled(connection)
    return filled is not None and filled.last_day >= day


def advance(database_url: str, day: date, *, finished_at: datetime | None = None) -> DemoWarehouse:
    """Append the loads of the days after the last one up to `day`; nothing when they are there already.

    The rows are those that a fill up to `day` with the same seed would hold. `finished_at` (aware) moves the end of the last load from the
    night after `day` to that moment. Raises InvalidRequest when there is no demo warehouse.
    """
    with psycopg.connect(database_url) as connection:
        _refuse_foreign_views(connection)
        filled = _filled(connection)
        if filled is None:
            raise InvalidRequest("演示数据:没有可追加的演示仓库,请先运行 `zqyy-ai demo-data`")
        if day <= filled.last_day:
            return DemoWarehouse(filled.sites, filled.first_day, filled.last_day, 0)
        first_new_day = filled.last_day + timedelta(days=1)
        written = _append(connection, filled, first_new_day, day, finished_at=finished_at)
        connection.execute(_queries()["note_advance"], {"last_day": day})
    return DemoWarehouse(filled.sites, filled.first_day, day, written)


# The database.


@dataclass(frozen=True, slots=True)
class _Filled:
    seed: int
    sites: int
    members: int
    first_day: date
    last_day: date


def _queries() -> dict[str, bytes]:
    return named_queries("demo_warehouse", "zqyy_ai.devkit")


def _filled(connection: psycopg.Connection[Any]) -> _Filled | None:
    """What the last fill made, locked against another fill; None without a demo warehouse."""
    # A demo warehouse from before there were members is none any more.
    present = connection.execute("SELECT to_regclass('demo_dws.members') IS NOT NULL").fetchone()
    if present is None or not present[0]:
        return None
    with connection.cursor(row_factory=class_row(_Filled)) as cursor:
        return cursor.execute(_queries()["filled"]).fetchone()


def _foreign_views(connection: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in connection.execute(_queries()["foreign_views"]).fetchall()]


def _refuse_foreign_views(connection: psycopg.Connection[Any]) -> None:
    foreign = _foreign_views(connection)
    if foreign:
        raise InvalidRequest(
            f"演示数据:该数据库的 ai_source.{'、ai_source.'.join(foreign)} 不是演示仓库的视图,因此没有写入任何数据。"
            "请换一个数据库,或在确认不再需要后删除这些视图"
        )
    migrated = connection.execute("SELECT to_regclass('biz.sites') IS NOT NULL").fetchone()
    if migrated is None or not migrated[0]:
        raise InvalidRequest("演示数据:缺少表 biz.sites,因此没有写入任何数据。请先运行 `zqyy-ai migrate`")


def _site_row(index: int) -> dict[str, Any]:
    return {
        "site_id": FIRST_SITE_ID + index,
        "site_name": site_name(index),
        "city": _CITIES[index % len(_CITIES)],
        "opened_on": date(2022, 3 + index % 9, 18),
    }


def _append(connection: psycopg.Connection[Any], asked: _Filled, first_day: date, last_day: date, *, finished_at: datetime | None) -> int:
    """Writes all sites' rows and the loads of these days; returns the number of area rows."""
    rows = 0
    names = ", ".join(column.name for column in FINANCE_COLUMNS)
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY demo_dws.area_daily (site_id, business_date, area, {names}) FROM STDIN".encode()) as copy:
            for index in range(asked.sites):
                lines = _site_lines(asked.seed, index, first_day, last_day)
                rows += len(lines)
                copy.write("".join(lines))
        loads = _loads(asked.seed, asked.sites, first_day, last_day, finished_at)
        with cursor.copy(
            "COPY demo_dws.etl_runs (etl_run_id, site_id, status, started_at, finished_at, loaded_through) FROM STDIN"
        ) as copy:
            for load in loads:
                copy.write_row(load)
    for index in range(asked.sites):
        append_members(connection, asked.seed, FIRST_SITE_ID + index, areas_of_site(index), asked.members, first_day, last_day)
    connection.execute(_queries()["note_last_visits"], {"first_day": first_day})
    return rows


def _loads(seed: int, sites: int, first_day: date, last_day: date, finished_at: datetime | None) -> list[tuple[Any, ...]]:
    """One load of all sites in the night after each day. Once a month it fails at first, once a month a site is loaded again alone."""
    loads: list[tuple[Any, ...]] = []
    for offset in range((last_day - first_day).days + 1):
        day = first_day + timedelta(days=offset)
        midnight = datetime.combine(day + timedelta(days=1), time(0, 0), tzinfo=SHANGHAI)
        name = f"demo-{seed}-{day:%Y%m%d}"
        start = midnight + timedelta(minutes=2)
        month = _month_plan(seed, day.year, day.month)
        if day.day == month.failed_load_day:
            loads.append((f"{name}-1", None, "failed", start, start + timedelta(minutes=3), None))
            start += timedelta(minutes=20)
        end = finished_at if finished_at is not None and day == last_day else start + timedelta(minutes=4)
        loads.append((f"{name}-2" if day.day == month.failed_load_day else f"{name}-1", None, "success", min(start, end), end, day))
        if day.day == month.repeated_load_day:
            site_id = FIRST_SITE_ID + month.repeated_site_draw % sites
            loads.append((f"{name}-site{site_id}", site_id, "success", end, end + timedelta(minutes=1), day))
    return loads


# The model. Every draw comes from a generator of its own (seed, site, day or period), so that no day depends on where a fill began.


@dataclass(frozen=True, slots=True)
class _MonthPlan:
    failed_load_day: int
    repeated_load_day: int
    repeated_site_draw: int


@cache
def _month_plan(seed: int, year: int, month: int) -> _MonthPlan:
    draws = _draws(5, seed, year, month)
    return _MonthPlan(1 + int(draws[0] * 28), 1 + int(draws[1] * 28), int(draws[2] * 10_000))


def site_name(index: int) -> str:
    """The name of the demo's site number `index` (from 0)."""
    return _SITE_NAMES[index] if index < len(_SITE_NAMES) else f"门店{FIRST_SITE_ID + index}"


def areas_of_site(index: int) -> tuple[Area, ...]:
    """The measured areas of the demo's site number `index` (from 0): every third site has no KTV."""
    return tuple(model.area for model in _models(index))


def _models(index: int) -> tuple[_AreaModel, ...]:
    return _AREAS[:-1] if index % 3 == 2 else _AREAS


def _draws(stream: int, seed: int, *key: int) -> Floats:
    # Plain uniform draws: their sequence is the one that NumPy keeps stable.
    return np.random.default_rng([stream, seed, *key]).random(8)


@dataclass(frozen=True, slots=True)
class _DayPlan:
    """What is special about one site's day: `demand` multiplies guests, `promoted` and `missing` say so for each of the seven areas."""

    day_kind: int
    demand: float
    opening_share: float
    promoted: tuple[bool, ...]
    missing: tuple[bool, ...]


def _day_plan(seed: int, site_id: int, day: date) -> _DayPlan:
    holiday = is_public_holiday(day)
    weekday = day.weekday()
    demand = _SEASON[day.month - 1] * (1 + 0.04 * (day.toordinal() - date(2024, 1, 1).toordinal()) / 365)
    demand *= 0.85 + 0.30 * float(_site_draws(seed, site_id)[0])

    quarter_draws = _period_draws(1, seed, site_id, first_of_quarter(day))
    bad_monday = monday_of(first_of_quarter(day) + timedelta(days=14 + int(quarter_draws[0] * 60)))
    if monday_of(day) == bad_monday:
        demand *= 0.55
    gap_day = first_of_quarter(day) + timedelta(days=int(quarter_draws[1] * 88))

    month_draws = _period_draws(2, seed, site_id, first_of_month(day))
    promotion_start = 5 + int(month_draws[0] * 16)
    is_promotion = promotion_start <= day.day < promotion_start + 7
    promoted_halls, promoted_rooms = month_draws[1] < 0.75, month_draws[1] > 0.45
    gap_area, gap_start, gap_days = int(month_draws[2] * len(_AREAS)), 1 + int(month_draws[3] * 26), 1 + int(month_draws[4] * 3)
    lunar_new_year = is_lunar_new_year(day)
    return _DayPlan(
        day_kind=4 if holiday else max(0, weekday - 3),
        demand=demand * (0.45 if lunar_new_year else 1.0),
        opening_share=0.5 if lunar_new_year else 1.0,
        promoted=tuple(bool(is_promotion and (promoted_halls if position < 3 else promoted_rooms)) for position in range(len(_AREAS))),
        missing=tuple(
            day == gap_day or (position == gap_area and gap_start <= day.day < gap_start + gap_days) for position in range(len(_AREAS))
        ),
    )


@cache
def _site_draws(seed: int, site_id: int) -> Floats:
    return _draws(0, seed, site_id)


@cache
def _period_draws(stream: int, seed: int, site_id: int, first: date) -> Floats:
    return _draws(stream, seed, site_id, first.toordinal())


def _site_lines(seed: int, index: int, first_day: date, last_day: date) -> list[str]:
    """COPY lines of one site's area rows, by day and area."""
    site_id, models = FIRST_SITE_ID + index, _models(index)
    days = [first_day + timedelta(days=offset) for offset in range((last_day - first_day).days + 1)]
    plans = [_day_plan(seed, site_id, day) for day in days]
    noise = np.stack([np.random.default_rng([3, seed, site_id, day.toordinal()]).random((len(_AREAS), 16)) for day in days])
    figures = _figures(models, plans, noise[:, : len(models)])
    lines = []
    for day, plan, day_figures in zip(days, plans, figures.tolist(), strict=True):
        for model, missing, row in zip(models, plan.missing, day_figures, strict=False):
            if not missing:
                lines.append(f"{site_id}\t{day}\t{model.area}\t{_copy_text(row)}\n")
    return lines


def _copy_text(row: list[int]) -> str:
    return "\t".join(
        f"{value // 100}.{value % 100:02d}" if column.unit.scale == 100 else str(value)
        for column, value in zip(FINANCE_COLUMNS, row, strict=True)
    )


def _figures(models: tuple[_AreaModel, ...], plans: list[_DayPlan], noise: Floats) -> Integers:
    """Figures in the project's integers, shape (day, area, column in the order of FINANCE_COLUMNS)."""
    day_kind = np.array([plan.day_kind for plan in plans])
    day_demand = np.array([plan.demand for plan in plans])[:, None]
    opening = np.array([plan.opening_share for plan in plans])[:, None]
    promoted = np.array([plan.promoted[: len(models)] for plan in plans])
    weekend = (day_kind >= 2)[:, None]

    def of_area(values: list[float]) -> Floats:
        return np.array(values)[None, :]

    def around(draw: int, spread: float) -> Floats:
        return 1 + spread * (noise[:, :, draw] + noise[:, :, draw + 1] - 1)

    demand = day_demand * np.where(promoted, 1.14, 1.0)
    # Now and then a table is out of order.
    tables = of_area([model.tables for model in models]) - (noise[:, :, 0] < 0.03)
    centihours_by_part = []
    for part, hours in enumerate(_DAYPART_HOURS):
        usual = np.array([shares[part] for shares in _UTILISATION])[day_kind][:, None] * of_area([model.demand[part] for model in models])
        # An evening can't be fuller than full: demand beyond the tables goes home.
        used_share = np.minimum(0.97, usual * demand * around(1 + 2 * part, 0.30))
        centihours_by_part.append(np.rint(tables * hours * 100 * used_share * opening))
    used = sum(centihours_by_part, start=np.zeros_like(demand * tables))
    available = np.rint(tables * OPENING_HOURS * 100 * opening)

    # Hundredths of an hour times yuan an hour are fen.
    table_fee = sum(
        (centihours * of_area([model.price_cny_per_hour[part] for model in models]) for part, centihours in enumerate(centihours_by_part)),
        start=np.zeros_like(used),
    )
    orders = np.maximum(1, np.rint(used / 100 / of_area([model.session_hours for model in models]) * around(7, 0.2)))
    guests = np.maximum(orders, np.rint(orders * of_area([model.party_size for model in models]) * around(8, 0.2)))
    assistant_fee = np.rint(used * 118 * of_area([model.assisted_share for model in models]) * around(9, 0.4))
    goods = np.rint(guests * 100 * of_area([model.goods_cny_per_guest for model in models]) * around(10, 0.3))
    other = np.rint(table_fee * of_area([model.other_share for model in models]) * around(11, 0.8))
    gross = table_fee + assistant_fee + goods + other

    member = np.rint(table_fee * 0.07 * around(12, 0.5))
    coupon = np.rint(table_fee * of_area([model.coupon_share for model in models]) * np.where(weekend, 0.55, 1.0) * around(13, 0.5))
    promotion = np.where(promoted, np.rint(table_fee * 0.12 * around(14, 0.3)), 0)
    manual = np.where(noise[:, :, 14] < 0.2, np.rint(gross * 0.01 * noise[:, :, 15]), 0)
    rounding = np.rint(orders * 45 * noise[:, :, 13])
    discounts = member + coupon + promotion + manual + rounding
    refund = np.where(noise[:, :, 15] < 0.06, np.rint((gross - discounts) * 0.05 * noise[:, :, 11]), 0)
    net = gross - discounts - refund
    recharge = np.rint(orders * np.where(promoted, 0.10, 0.035) * noise[:, :, 12] * 2) * 50_000
    card_spending = np.rint(net * (0.33 + 0.14 * noise[:, :, 9]))

    columns = (
        gross, table_fee, assistant_fee, goods, other, member, coupon, promotion, manual, rounding, refund, net, recharge, card_spending,
        orders, guests, used, available,
    )  # fmt: skip
    return np.stack(columns, axis=-1).astype(np.int64)
