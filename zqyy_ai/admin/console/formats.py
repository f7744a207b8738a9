"""How values are written on the pages: times in Asia/Shanghai, numbers with thousands separators, money with ¥. None is always a dash."""

import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from markupsafe import Markup, escape

from zqyy_ai.domain.business_clock import SHANGHAI

NOTHING = "—"


def moment(value: datetime | None) -> str:
    """2026-04-20 10:00:00."""
    return NOTHING if value is None else f"{value.astimezone(SHANGHAI):%Y-%m-%d %H:%M:%S}"


def short_moment(value: datetime | None) -> str:
    """04-20 10:00."""
    return NOTHING if value is None else f"{value.astimezone(SHANGHAI):%m-%d %H:%M}"


def day(value: date | None) -> str:
    return NOTHING if value is None else value.isoformat()


def ago(value: datetime | None, now: datetime) -> str:
    """How long before `now`, in its largest unit; for what lies ahead, how long until then."""
    if value is None:
        return NOTHING
    seconds = (now - value).total_seconds()
    direction = "前" if seconds >= 0 else "后"
    seconds = abs(seconds)
    if seconds < 60:
        return "刚刚" if direction == "前" else "即将"
    for size, unit in ((86_400, "天"), (3_600, "小时"), (60, "分钟")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}{direction}"
    raise AssertionError


def number(value: float | None) -> str:
    """1,234,567; a fraction with at most two digits."""
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip(".")


def compact(value: float | None) -> str:
    """126 万; below ten thousand in full."""
    if value is None:
        return NOTHING
    for size, unit in ((100_000_000, "亿"), (10_000, "万")):
        if abs(value) >= size:
            return f"{number(round(value / size, 2))} {unit}"
    return number(value)


def yuan(value: float | None) -> str:
    """¥1,234.50; below a yuan with four digits, because a call costs a fraction of a fen."""
    if value is None:
        return NOTHING
    return f"¥{value:,.2f}" if abs(value) >= 1 or value == 0 else f"¥{value:.4f}"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}%"


def seconds(latency_ms: float | None) -> str:
    """Milliseconds as 8.3 秒."""
    return NOTHING if latency_ms is None else f"{latency_ms / 1000:,.1f} 秒"


def duration(value: float | None) -> str:
    """Seconds as 0.4 秒, 45 秒, 3 分 20 秒, 1 小时 5 分."""
    if value is None:
        return NOTHING
    if value < 9.95:
        return f"{max(0.0, value):.1f} 秒"
    whole = round(value)
    if whole < 60:
        return f"{whole} 秒"
    if whole < 3_600:
        return f"{whole // 60} 分 {whole % 60} 秒"
    return f"{whole // 3_600} 小时 {whole % 3_600 // 60} 分"


def between(begin: datetime | None, end: datetime | None) -> str:
    return NOTHING if begin is None or end is None else duration((end - begin).total_seconds())


def pretty_json(value: Any) -> str:
    """Indented, with Chinese as it is; text that is JSON is read first, other text stays."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, default=str)
    except (ValueError, RecursionError):
        return str(value)


def marked(text: str, places: Iterable[Mapping[str, Any]]) -> Markup:
    """`text`, escaped, with the characters from `start` to `end` of each place marked as a number that no fact explains."""
    parts, reached = [], 0
    known = [(place.get("start"), place.get("end")) for place in places]
    for start, end in sorted((start, end) for start, end in known if isinstance(start, int) and isinstance(end, int)):
        if not reached <= start < end <= len(text):
            continue
        parts.append(escape(text[reached:start]))
        parts.append(
            Markup('<mark title="数据中找不到依据，请核实">{}<span class="unseen">（找不到依据）</span></mark>').format(text[start:end])
        )
        reached = end
    parts.append(escape(text[reached:]))
    return Markup("").join(parts)
