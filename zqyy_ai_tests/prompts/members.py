"""Made-up members with everything the member prompts read."""

import random
from datetime import date, datetime, time, timedelta
from typing import Any

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.members import Assistant, Member, MemberData, Note, Task, Visit, VisitAssistant, VisitItem, VisitTable
from zqyy_ai.prompts.member_prompt import FormerAnswer

SITE_ID = 1001
MEMBER_ID = 70001
ASSISTANT_ID = 301
NEWEST = date(2026, 4, 20)

_TABLES = (("A12号台", "hallA"), ("B03号台", "hallB"), ("VIP2", "vip"), ("斯诺克1号", "snooker"))
_GOODS = ("东方树叶", "红牛", "中华(软)", "果盘", "可乐")
_NAMES = {301: "小雨", 302: "阿May", 303: "思思"}


def at(day: date, hour: int, minute: int = 0) -> datetime:
    """Hours from 24 on are those of the next calendar day."""
    return datetime.combine(day, time(minute=minute), tzinfo=SHANGHAI) + timedelta(hours=hour)


def visit(day: date, *, seed: int = 0, assistant_ids: tuple[int, ...] = (ASSISTANT_ID,), **changed: Any) -> Visit:
    draw = random.Random(f"{day} {seed}")
    start = draw.randrange(13, 22)
    tables = tuple(
        VisitTable(name, area, at(day, start), at(day, start + 2, 15), 225, 9000)
        for name, area in draw.sample(_TABLES, draw.choice((1, 1, 2)))
    )
    assistants = tuple(VisitAssistant(assistant_id, _NAMES[assistant_id], 150, 12000) for assistant_id in assistant_ids)
    goods = tuple(VisitItem(name, 1000 * (quantity := draw.randint(1, 3)), quantity) for name in draw.sample(_GOODS, draw.randint(1, 4)))
    gross = sum(table.fee_fen for table in tables) + sum(each.fee_fen for each in assistants) + sum(item.amount_fen for item in goods)
    discount = draw.choice((0, 0, 1850))
    values: dict[str, Any] = {
        "visit_id": day.toordinal() * 10 + seed,
        "business_date": day,
        "started_at": at(day, start),
        "ended_at": at(day, start + 3, 5),
        "guest_count": draw.choice((None, 2, 4)),
        "gross_fen": gross,
        "discount_fen": discount,
        "paid_fen": gross - discount,
        "tables": tables,
        "assistants": assistants,
        "goods": goods,
        "discounts": (VisitItem("会员折扣", discount),) if discount else (),
        "payments": (VisitItem("储值卡", gross - discount),),
    }
    return Visit(**(values | changed))


def visits(count: int, *, newest: date = NEWEST, every_days: int = 6) -> tuple[Visit, ...]:
    """Newest first; the assistants take turns, and each third visit has none."""
    served = ((301,), (), (301, 302))
    return tuple(visit(newest - timedelta(days=every_days * back), assistant_ids=served[back % 3]) for back in range(count))


def task(task_id: int = 1, *, assistant_id: int = ASSISTANT_ID, title: str = "回访老客", detail: str | None = None) -> Task:
    return Task(task_id, assistant_id, "回访", title, detail, at(date(2026, 4, 18), 10), date(2026, 4, 25))


def note(content: str = "客人说周末常带朋友来打斯诺克,喜欢靠窗的台。", *, noted_by_name: str | None = "王芳") -> Note:
    return Note(901, content, noted_by_name, at(date(2026, 4, 19), 21, 30))


def member_data(count: int = 12, **changed: Any) -> MemberData:
    values: dict[str, Any] = {
        "site_id": SITE_ID,
        "site_name": "朝阳店",
        "member_id": MEMBER_ID,
        "member": Member(
            SITE_ID, MEMBER_ID, "李建国", "男", "黄金会员", date(2024, 3, 1), date(1988, 5, 12), 128800, 3400, NEWEST if count else None
        ),
        "visits": visits(count),
        "assistants": {
            assistant_id: Assistant(assistant_id, name, "高级", date(2024, 1, 1), is_active=True) for assistant_id, name in _NAMES.items()
        },
        "open_tasks": (task(), task(2, assistant_id=302, title="生日关怀")),
        "newest_note": note(),
    }
    return MemberData(**(values | changed))


def former(result: dict[str, Any], *, hours_later: int = 0) -> FormerAnswer:
    return FormerAnswer(result, at(date(2026, 4, 20), 9 + hours_later))


def clue(summary: str = "偏好周末下午", category: str = "消费习惯", detail: str = "四次周末到店。", emoji: str = "📅") -> dict[str, Any]:
    return {"category": category, "summary": summary, "detail": detail, "emoji": emoji}


CLUES = {"clues": [clue(), clue("常点东方树叶"), clue("由小雨陪打", "社交关系", "", "👥")]}
NOTE_ANSWER = {
    "score": 7,
    "summary": "周末带朋友来。",
    "clues": [clue("周末带朋友打斯诺克", "社交关系"), clue("偏好周末下午")],
    "_references": {"note": {"note_id": 901, "noted_by_name": "王芳", "created_at": "2026-04-19T21:30:00+08:00"}},
}
ANALYSIS = {
    "task_description": "完成回访任务,了解近期打球计划。",
    "action_suggestions": ["到店前联系客户确认时间。"],
    "one_line_summary": "小雨与李建国关系稳定",
}
TACTICS = {"tactics": [{"scenario": "回访老客", "script": "李先生您好,周末想来打球的话我给您留台。"}]}
CUSTOMER = {"summary": "李建国是稳定的周末客人。", "strategies": [{"title": "预留台位", "content": "周末高峰前为客户预留常用的台。"}]}
CONSOLIDATED = {"clues": [clue() | {"providers": "系统、王芳"}, clue("周末带朋友打斯诺克", "社交关系") | {"providers": "王芳"}]}
