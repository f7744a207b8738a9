"""The emulator's answers to the member applications: short Chinese sentences around what the prompt's facts hold.

The writers follow the keys of `zqyy_ai/prompts` and leave out what they do not find. Invariants: every number stands in the facts, written
the same way; the same prompt gets the same answer; a note is searched for words and never obeyed.
"""

import json
import re
from collections.abc import Callable, Iterator

from zqyy_ai.devkit.emulator.fact_reading import Facts, number_at, rows_at, text_at, value_at
from zqyy_ai.domain.apps import AppType

Clue = dict[str, str]

_SCHEMA_LINE = "JSON Schema:"
_LONGEST_QUOTE = 36
_NOTHING_KNOWN = "资料较少，建议先完善会员资料。"

# Words of a note -> (category, emoji, worth): the first kind that a sentence has a word of is its kind.
_NOTE_KINDS: tuple[tuple[str, str, str, int], ...] = (
    ("投诉|不满|生气|退卡|不来了|态度|差评|道歉|抱怨", "重要反馈", "⚠", 10),
    ("朋友|同事|老婆|女朋友|男朋友|孩子|带人|一起|球友|介绍", "社交关系", "👥", 7),
    ("优惠|团购|打折|折扣|充值|券|便宜|活动|嫌贵", "促销偏好", "🎁", 7),
    ("斯诺克|中八|黑八|九球|麻将|教练|比赛|球杆|陪练|包厢|台", "玩法偏好", "🎱", 8),
    ("周末|晚上|下午|中午|喜欢|习惯|喝|饮料|烟|咖啡|茶|常来", "消费习惯", "📅", 8),
    ("生日|工作|上班|住|老板|学生|搬家|出差|电话|微信", "客户基础", "👤", 6),
)


def member_app_of(prompt: str) -> AppType | None:
    """Told by the first schema line of the prompt; facts and history, which stand after it, are not looked at."""
    line = next((line for line in prompt.split("\n") if line.startswith(_SCHEMA_LINE)), None)
    if line is None:
        return None
    try:
        schema = json.loads(line.removeprefix(_SCHEMA_LINE))
    except ValueError:
        return None
    properties = value_at(schema, "properties")
    if not isinstance(properties, dict):
        return None
    if "providers" in (value_at(properties, "clues", "items", "properties") or ()):
        return AppType.CONSOLIDATION
    return next((app for field, app in _APP_OF_FIELD if field in properties), None)


def compose_member_answer(app: AppType, facts: Facts) -> str:
    return json.dumps(_WRITERS[app](facts), ensure_ascii=False)


def _clue(category: str, summary: str, detail: str, emoji: str) -> Clue:
    return {"category": category, "summary": summary[:60], "detail": detail[:300], "emoji": emoji}


def _clue_answer(facts: Facts) -> Facts:
    return {"clues": list(_visit_clues(facts))}


def _visit_clues(facts: Facts) -> Iterator[Clue]:
    overview, member = value_at(facts, "到店概况"), value_at(facts, "会员")
    count, paid = number_at(overview, "到店次数"), number_at(overview, "次均实付_元")
    span = f"{text_at(overview, '最早一次')} 至 {text_at(overview, '最近一次')} 到店 {count or '若干'} 次"
    level = text_at(member, "等级")
    yield _clue("客户基础", f"{level or '普通会员'}，最近到店 {text_at(member, '最近到店') or '未知'}", f"{span}。", "👤")
    if paid is not None:
        yield _clue("消费习惯", f"次均实付 {paid} 元", f"{span}，次均实付 {paid} 元。", "💰")
    newest = next(iter(rows_at(facts, "逐次到店")), None)
    if newest is None:
        return
    day = text_at(newest, "日期")
    if drink := text_at(next(iter(rows_at(newest, "商品")), None), "名称"):
        yield _clue("消费习惯", f"会点{drink}", f"{day} 到店时点过{drink}。", "🥤")
    if table := next(iter(rows_at(newest, "台")), None):
        area = text_at(table, "区域") or "大厅"
        yield _clue(
            "玩法偏好", f"常在{area}打球", f"{day} 在{area}的{text_at(table, '台名')}打球 {number_at(table, '小时') or '若干'} 小时。", "🎱"
        )
    if discount := text_at(next(iter(rows_at(newest, "优惠")), None), "名称"):
        yield _clue("促销偏好", f"用过{discount}", f"{day} 使用了{discount}。", "🎁")
    if served := text_at(next(iter(rows_at(newest, "助教")), None), "姓名"):
        yield _clue("社交关系", f"由{served}陪打", f"{day} 由{served}服务。", "👥")


def _analysis_answer(facts: Facts) -> Facts:
    member, assistant = _who(facts, "会员"), _who(facts, "助教")
    relation = value_at(facts, "服务关系")
    count, first, last = number_at(relation, "服务次数") or "0", text_at(relation, "最早服务"), text_at(relation, "最近服务")
    task = text_at(next(iter(rows_at(facts, "待办任务")), None), "标题")
    known = f"{first} 至 {last} 服务 {count} 次" if last else text_at(relation, "服务近况") or "没有服务记录"
    suggestions = [f"到店前提前联系{member}，确认到店时间并预留常用的台。", f"接待结束后由{assistant}记录客户反馈，更新备注。"]
    if task:
        suggestions.insert(0, f"先完成待办任务“{task}”，完成后及时登记结果。")
    return {
        "task_description": f"{assistant}对{member}：{known}。{f'当前需要处理“{task}”。' if task else '建议安排一次回访，了解近期打球计划。'}",
        "action_suggestions": suggestions,
        "one_line_summary": f"{assistant}与{member}：{known}"[:80],
    }


def _tactics_answer(facts: Facts) -> Facts:
    visit = next(iter(rows_at(facts, "近期到店")), None)
    address = {"男": "先生", "女": "女士"}.get(text_at(facts, "会员", "性别"), "您")
    day = text_at(visit, "日期")
    recalled = f"上次您 {day} 来打球，玩得还开心吗？" if day else "好久没有聊天了，最近还好吗？"
    hello = f"{text_at(facts, '会员', '姓名')[:1]}{address}您好" if address != "您" else "您好"
    tactics = [
        {
            "scenario": f"任务：{text_at(task, '标题')}"[:60],
            "script": f"{hello}，我是{_who(facts, '助教')}。{recalled}有什么需要我安排的，直接告诉我就好。",
        }
        for task in rows_at(facts, "待办任务")[:5]
    ]
    tactics.append({"scenario": "日常维护", "script": f"{hello}，这周末想来打球的话跟我说一声，我提前给您留好位置。"})
    return {"tactics": tactics}


def _note_answer(facts: Facts) -> Facts:
    note = value_at(facts, "备注")
    sentences = [part.strip() for part in re.split(r"[。！？!?；;\n，,]", text_at(note, "内容")) if len(part.strip()) >= 2]
    clues, worth = [], 2
    for sentence in sentences:
        for words, category, emoji, kind_worth in _NOTE_KINDS:
            if re.search(words, sentence):
                worth = max(worth, kind_worth)
                quote = sentence[:_LONGEST_QUOTE]
                clues.append(_clue(category, quote, f"{text_at(note, '记录人') or '店员'}的备注提到：{quote}。", emoji))
                break
    return {
        "score": worth,
        "clues": clues[:8],
        "summary": f"备注涉及{'、'.join(dict.fromkeys(c['category'] for c in clues)) or '的内容较少'}。",
    }


def _customer_answer(facts: Facts) -> Facts:
    overview = value_at(facts, "消费概况")
    count, paid = number_at(overview, "到店次数") or "0", number_at(overview, "实付_元")
    member = _who(facts, "会员")
    area, goods = (text_at(next(iter(rows_at(facts, key)), None), field) for key, field in (("区域", "区域"), ("常点商品", "名称")))
    span = f"{text_at(overview, '最早一次')} 至 {text_at(overview, '最近一次')}" if count != "0" else ""
    summary = f"{member}{span}到店 {count} 次" + (f"，实付 {paid} 元" if paid is not None else "")
    strategies = []
    if area:
        strategies.append({"title": f"预留{area}", "content": f"{member}常在{area}打球，到店高峰前由前台提前预留并通知客户。"})
    if goods:
        strategies.append({"title": "备好常点商品", "content": f"{member}常点{goods}，接待时主动询问是否照旧，缩短等待。"})
    strategies += [
        {"title": f"跟进{text_at(clue, 'category')}"[:40], "content": f"围绕线索“{text_at(clue, 'summary')}”安排一次有针对性的接待。"}
        for clue in rows_at(facts, "线索", "clues")[:3]
    ]
    strategies.append({"title": "定期回访", "content": f"由熟悉的助教定期联系，了解近况。{_NOTHING_KNOWN if count == '0' else ''}"})
    return {"summary": f"{summary}。{f'常在{area}打球。' if area else ''}可继续观察到店频次的变化。", "strategies": strategies}


def _consolidation_answer(facts: Facts) -> Facts:
    """Of the same category and summary one clue is kept, the newer source's, with both providers."""
    merged: dict[tuple[str, str], Clue] = {}
    for source in sorted(rows_at(facts, "来源"), key=lambda source: text_at(source, "生成时间"), reverse=True):
        for clue in rows_at(source, "线索"):
            key = text_at(clue, "category"), text_at(clue, "summary")
            provider = text_at(source, "提供者")
            if key in merged:
                if provider not in merged[key]["providers"].split("、"):
                    merged[key]["providers"] += f"、{provider}"
            else:
                merged[key] = _clue(*key, text_at(clue, "detail"), text_at(clue, "emoji")) | {"providers": provider}
    clues = sorted(merged.values(), key=lambda clue: clue["category"] != "重要反馈")
    return {"clues": clues[:20]}


_WRITERS: dict[AppType, Callable[[Facts], Facts]] = {
    AppType.CLUE: _clue_answer,
    AppType.ANALYSIS: _analysis_answer,
    AppType.TACTICS: _tactics_answer,
    AppType.NOTE: _note_answer,
    AppType.CUSTOMER: _customer_answer,
    AppType.CONSOLIDATION: _consolidation_answer,
}

# In this order: a note's answer has clues too.
_APP_OF_FIELD: tuple[tuple[str, AppType], ...] = (
    ("task_description", AppType.ANALYSIS),
    ("tactics", AppType.TACTICS),
    ("strategies", AppType.CUSTOMER),
    ("score", AppType.NOTE),
    ("clues", AppType.CLUE),
)


def _who(facts: Facts, key: str) -> str:
    return text_at(facts, key, "姓名") or f"该{key}"
