"""The figures and rows about one member that the prompts of App3–App7 share, computed from `MemberData`.

No rules and no tasks for a model here. Invariants: sums are whole fen and hundredths of an hour until they are shown; every text of the
till goes through `untrusted`; a fact depends on the member's data alone and on no clock, so recency is told against the newest visit.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import groupby, islice
from typing import Any

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.members import MOST_VISITS, VISIT_DAYS, MemberData, Task, Visit, VisitItem
from zqyy_ai.domain.windows import AREA_TITLES, add_months, first_of_month
from zqyy_ai.prompts.finance_facts import percentage, rounded_ratio, shown
from zqyy_ai.prompts.member_prompt import Facts, moment_text, with_rest
from zqyy_ai.prompts.untrusted_text import untrusted

LONGEST_NAME = 40
_LONGEST_TITLE = 80
_LONGEST_TASK_DETAIL = 200
_MOST_MONTHS = 13  # the calendar months that `VISIT_DAYS` before the newest visit touch
_MOST_TASKS = 8
_MOST_VISITS_IN_SHORT = 5
_MOST_FAVOURITES = 3
# What one visit lists, at most: one bill of a whole evening's company is not to push the other visits out.
_MOST_TABLES = 8
_MOST_ASSISTANTS = 6
_MOST_GOODS = 12
_MOST_ITEMS = 6

_AREA_TITLES = {area.value: title for area, title in AREA_TITLES.items()}


def name(text: str | None) -> str | None:
    """None for one that nobody can read: the till's blanks are no name."""
    return None if text is None else untrusted(text, LONGEST_NAME) or None


def yuan(fen: int | None) -> int | float | None:
    return None if fen is None else shown(fen, 100)


def hours(centihours: int) -> int | float:
    return shown(centihours, 100)


def iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def references(data: MemberData, *views: str, **details: Any) -> dict[str, Any]:
    """What the result's `_references` say: the views that were read, the member's visits, and since when those were looked for."""
    visits, told = data.visits, data.visit_range()
    return {
        "source": [f"ai_source.{view}" for view in views],
        "site_id": data.site_id,
        "member_id": data.member_id,
        "visits": {
            "rows": len(visits),
            "first": iso(visits[-1].business_date if visits else None),
            "last": iso(visits[0].business_date if visits else None),
            "since": iso(told[0] if told else None),
        },
        **details,
    }


def basics(data: MemberData) -> Facts:
    """Who the member is. The year of birth stays here: a birthday greeting does not need it."""
    member = data.member
    facts: Facts = {"门店": name(data.site_name), "最近到店": iso(_newest(data)), "到店数据范围": _visit_range(data)}
    if member is None:
        return facts | {"会员资料": None}
    return facts | {
        "姓名": name(member.member_name),
        "性别": name(member.gender),
        "等级": name(member.level),
        "入会日期": iso(member.joined_on),
        "生日_月日": None if member.birthday is None else member.birthday.strftime("%m-%d"),
        "储值余额_元": yuan(member.balance_fen),
        "积分": member.points,
    }


def _visit_range(data: MemberData) -> Facts | None:
    """Which days the member's visits are of, and why no others: nothing told of them holds for all time."""
    told = data.visit_range()
    if told is None:
        return None
    why = f"最近 {MOST_VISITS} 次到店" if len(data.visits) >= MOST_VISITS else f"最近一次到店及之前 {VISIT_DAYS} 天"
    return {"自": iso(told[0]), "至": iso(told[1]), "依据": why}


def assistant_basics(data: MemberData, assistant_id: int) -> Facts:
    assistant = data.assistants.get(assistant_id)
    if assistant is None:
        served = (served for visit in data.visits for served in visit.assistants if served.assistant_id == assistant_id)
        named = next(served, None)
        return {"姓名": None if named is None else name(named.assistant_name), "助教资料": None}
    return {
        "姓名": name(assistant.assistant_name),
        "级别": name(assistant.level),
        "入职日期": iso(assistant.joined_on),
        "在职": assistant.is_active,
    }


def open_tasks(data: MemberData, assistant_id: int | None = None) -> list[Any]:
    """The open tasks, newest first: those of one assistant, or, without one, of all with the assistant's name."""
    tasks = _open_tasks(data, assistant_id)
    return with_rest([_task(data, task, with_assistant=assistant_id is None) for task in tasks[:_MOST_TASKS]], len(tasks))


def open_task_counts(data: MemberData, assistant_id: int | None = None) -> dict[str, int]:
    """For `_references`: how many open tasks `open_tasks` tells of, and how many it leaves out."""
    count = len(_open_tasks(data, assistant_id))
    return {"open_tasks": min(count, _MOST_TASKS), "open_tasks_left_out": max(count - _MOST_TASKS, 0)}


def _open_tasks(data: MemberData, assistant_id: int | None) -> list[Task]:
    return [task for task in data.open_tasks if assistant_id in (None, task.assistant_id)]


def _task(data: MemberData, task: Task, *, with_assistant: bool) -> Facts:
    facts: Facts = {
        "类型": name(task.task_type),
        "标题": untrusted(task.title, _LONGEST_TITLE),
        "说明": None if task.detail is None else untrusted(task.detail, _LONGEST_TASK_DETAIL),
        "建立时间": moment_text(task.created_at),
        "截止日期": iso(task.due_on),
    }
    if with_assistant:
        facts["助教"] = assistant_basics(data, task.assistant_id)["姓名"]
    return facts


def visit_in_full(visit: Visit) -> Facts:
    day = visit.business_date
    return {
        "日期": day.isoformat(),
        "到店": _time_of_day(visit.started_at, day),
        "离店": _time_of_day(visit.ended_at, day),
        "人数": visit.guest_count,
        "台": with_rest(
            [
                {
                    "台名": name(table.table_name),
                    "区域": area_title(table.area),
                    "起": _time_of_day(table.started_at, day),
                    "止": _time_of_day(table.ended_at, day),
                    "小时": hours(table.centihours),
                    "台费_元": yuan(table.fee_fen),
                }
                for table in visit.tables[:_MOST_TABLES]
            ],
            len(visit.tables),
        ),
        "助教": with_rest(
            [
                {"姓名": name(served.assistant_name), "小时": hours(served.centihours), "助教费_元": yuan(served.fee_fen)}
                for served in visit.assistants[:_MOST_ASSISTANTS]
            ],
            len(visit.assistants),
        ),
        "商品": _items(visit.goods, _MOST_GOODS),
        "优惠": _items(visit.discounts, _MOST_ITEMS),
        "支付": _items(visit.payments, _MOST_ITEMS),
        "毛额_元": yuan(visit.gross_fen),
        "优惠合计_元": yuan(visit.discount_fen),
        "实付_元": yuan(visit.paid_fen),
    }


def visits_in_short(data: MemberData) -> list[Any]:
    """The newest visits, a line each."""
    rows = [
        {
            "日期": visit.business_date.isoformat(),
            "到店": _time_of_day(visit.started_at, visit.business_date),
            "区域": _distinct((area_title(table.area) for table in visit.tables), _MOST_FAVOURITES),
            "台时_小时": hours(_table_centihours(visit)),
            "助教": _distinct((name(served.assistant_name) for served in visit.assistants), _MOST_FAVOURITES),
            "商品": _distinct((name(item.name) for item in visit.goods), _MOST_FAVOURITES),
            "实付_元": yuan(visit.paid_fen),
        }
        for visit in data.visits[:_MOST_VISITS_IN_SHORT]
    ]
    return with_rest(rows, len(data.visits))


def spending(visits: Sequence[Visit]) -> Facts:
    """Sums over visits, newest first, with the days that they span."""
    paid = sum(visit.paid_fen for visit in visits)
    return {
        "最早一次": iso(visits[-1].business_date if visits else None),
        "最近一次": iso(visits[0].business_date if visits else None),
        "到店次数": len(visits),
        "台时_小时": hours(sum(map(_table_centihours, visits))),
        "毛额_元": yuan(sum(visit.gross_fen for visit in visits)),
        "优惠合计_元": yuan(sum(visit.discount_fen for visit in visits)),
        "实付_元": yuan(paid),
        "次均实付_元": shown(rounded_ratio(paid, len(visits), 1), 100) if visits else None,
    }


def months(visits: Sequence[Visit], *, first: date, last: date, with_favourites: bool) -> list[Facts]:
    """The visits by calendar month of their business date, newest first; they are those of the days from `first` to `last`."""
    rows = []
    for month, of_month in islice(groupby(visits, key=lambda visit: month_of(visit.business_date)), _MOST_MONTHS):
        month_visits = list(of_month)
        row: Facts = {"月份": month} | part_of_month(month, first, last) | spending(month_visits)
        if with_favourites:
            row["常用区域"] = [area_title(area) for area, _ in ranked(table_hours_by_area(month_visits), _MOST_FAVOURITES)]
            row["常点商品"] = [name(item) for item, _ in ranked(quantity_by_goods(month_visits), _MOST_FAVOURITES)]
        rows.append(row)
    return rows


def table_hours_by_area(visits: Iterable[Visit]) -> Counter[str]:
    """Hundredths of an hour."""
    counted: Counter[str] = Counter()
    for visit in visits:
        for table in visit.tables:
            counted[table.area] += table.centihours
    return counted


def quantity_by_goods(visits: Iterable[Visit]) -> Counter[str]:
    """Pieces; goods without a quantity count as one."""
    counted: Counter[str] = Counter()
    for visit in visits:
        for item in visit.goods:
            counted[item.name] += 1 if item.quantity is None else item.quantity
    return counted


def ranked(counted: Counter[str], most: int) -> list[tuple[str, int]]:
    """The largest first; names decide between equals, so that equal data are ranked equally."""
    return sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))[:most]


def assistant_shares(visits: Sequence[Visit], most: int) -> list[Facts]:
    """Who serves the member, by hours. Keyed by id: two people may share a name."""
    centihours: Counter[int] = Counter()
    sessions: Counter[int] = Counter()
    names: dict[int, str] = {}
    for visit in visits:
        for served in visit.assistants:
            centihours[served.assistant_id] += served.centihours
            names.setdefault(served.assistant_id, served.assistant_name)
        sessions.update({served.assistant_id for served in visit.assistants})
    total = centihours.total()
    best = sorted(names, key=lambda assistant_id: (-centihours[assistant_id], assistant_id))[:most]
    return [
        {
            "助教": name(names[assistant_id]),
            "服务次数": sessions[assistant_id],
            "小时": hours(centihours[assistant_id]),
            "小时占比_%": percentage(centihours[assistant_id], total),
        }
        for assistant_id in best
    ]


def month_of(day: date) -> str:
    return day.isoformat()[:7]


def last_months(first: date, last: date, count: int) -> list[str]:
    """Names of the calendar months from the one of `first` to the one of `last`, newest first, `count` at most."""
    names = (month_of(add_months(first_of_month(last), -back)) for back in range(count))
    return [month for month in names if month >= month_of(first)]


def part_of_month(month: str, first: date, last: date) -> Facts:
    """From and to which day the figures of a month are, where days from `first` to `last` do not hold the whole of it."""
    part: Facts = {}
    if month == month_of(first) and first.day > 1:
        part["自"] = iso(first)
    if month == month_of(last) == month_of(last + timedelta(days=1)):
        part["截至"] = iso(last)
    return part


def area_title(area: str) -> str:
    return _AREA_TITLES.get(area) or untrusted(area, LONGEST_NAME)


def _newest(data: MemberData) -> date | None:
    if data.visits:
        return data.visits[0].business_date
    return None if data.member is None else data.member.last_visit_on


def _time_of_day(moment: datetime, day: date) -> str:
    """Only the time where it is of the visit's own date: after midnight, or before a late cut-off, the date is said with it."""
    local = moment.astimezone(SHANGHAI)
    time_of_day = f"{local.hour:02}:{local.minute:02}"
    return time_of_day if local.date() == day else f"{local.date().isoformat()} {time_of_day}"


def _table_centihours(visit: Visit) -> int:
    return sum(table.centihours for table in visit.tables)


def _items(items: Sequence[VisitItem], most: int) -> list[Any]:
    rows = []
    for item in items[:most]:
        row: Facts = {"名称": name(item.name)}
        if item.quantity is not None:
            row["数量"] = item.quantity
        row["金额_元"] = yuan(item.amount_fen)
        rows.append(row)
    return with_rest(rows, len(items))


def _distinct(texts: Iterable[str | None], most: int) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))[:most]
