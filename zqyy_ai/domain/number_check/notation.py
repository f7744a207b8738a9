"""Reading a Chinese sentence about money: its numbers, its dates, and the words that say what they are.

What a word means for a number is not decided here (`parts.py`, `beside.py`). Invariant: tokens come in the text's order, don't overlap, and their
offsets are those of the text as it was given.
"""

import re
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cache
from typing import Any

from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.domain.windows import AREA_TITLES, Area


class Unit(StrEnum):
    """What a written number counts. `TENTHS` is 成 (and 一半, 三分之一): a percentage told roughly; `NONE`: no unit is written."""

    CNY = "元"
    PERCENT = "%"
    POINTS = "百分点"
    TENTHS = "成"
    TIMES = "倍"
    ORDERS = "单"
    GUESTS = "人"
    HOURS = "小时"
    DAYS = "天"
    MONTHS = "个月"
    OTHER = "其他"
    NONE = ""


class Bound(StrEnum):
    """How a number is told: 约, 超过, 近; or plainly."""

    PLAIN = ""
    ABOUT = "约"
    ABOVE = "超过"
    BELOW = "近"


class Kind(StrEnum):
    """What a token is. See `_WORDS` for the words of each."""

    NUMBER = "number"
    DATE = "date"
    METRIC = "metric"
    AREA = "area"
    DAYS_OF_WEEK = "days_of_week"
    ROLE = "role"
    MOVE = "move"
    MOVE_TO = "move_to"
    SHARE = "share"
    AVERAGE = "average"
    EXTREME = "extreme"
    THAN = "than"
    FROM = "from"
    TO = "to"
    SUM = "sum"
    RATIO = "ratio"
    GAP = "gap"
    UNTIL = "until"
    RESPECTIVELY = "respectively"
    ADVICE = "advice"
    TARGET = "target"
    PACE = "pace"
    SINGLE_DAY = "single_day"
    NEUTRAL = "neutral"
    BREAK = "break"


@dataclass(frozen=True, slots=True)
class Token:
    """`payload`: a `Written`, a `WrittenDate`, a metric's title, an area's title, a sign (1, -1, 0), or a break's depth (1 comma, 2 semicolon, 3 full stop)."""

    kind: Kind
    start: int
    end: int
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Written:
    """A number as it stands in the text: `value` in `unit` with 万 already multiplied, `half_step` half a unit of its last written digit.

    `is_signed`: a plus or minus is written, and `value` has it. `is_scaled`: in 万 or the like. `is_plain_count`: it counts things in the
    sentence (两点建议) and is no figure. `counted`: the unit's own word.
    """

    value: float
    half_step: float
    unit: Unit
    bound: Bound = Bound.PLAIN
    is_signed: bool = False
    is_scaled: bool = False
    is_plain_count: bool = False
    counted: str = ""


@dataclass(frozen=True, slots=True)
class WrittenDate:
    """A day, month, quarter or year, each part as far as it is written."""

    year: int | None = None
    month: int | None = None
    day: int | None = None
    quarter: int | None = None
    last_month: int | None = None


COMPARISON, CURRENT = "对比期", "本期"
WEEKDAYS, WEEKEND = "周一至周五", "周六周日"
REVENUE = "收入"

_METRIC_NAMES: dict[str, tuple[str, ...]] = {
    "净收入": ("净收入", "净营收", "实收", "净营业收入", "净额"),
    REVENUE: ("收入", "营收", "营业收入", "总收入", "业绩"),
    "毛收入": ("毛收入", "毛营收", "流水", "总流水"),
    "台费": ("台费", "台费收入", "球台费"),
    "助教费": ("助教费", "助教收入", "助教费收入", "助教"),
    "商品": ("商品", "商品收入", "商品销售", "商品销售额", "酒水"),
    "其他收入": ("其他收入",),
    "会员优惠": ("会员优惠", "会员折扣"),
    "团购券优惠": ("团购券优惠", "团购优惠", "团购券", "团购"),
    "活动优惠": ("活动优惠", "活动折扣"),
    "手动优惠": ("手动优惠", "手工优惠", "手动折扣"),
    "抹零": ("抹零",),
    "退款": ("退款", "退款额", "退款金额"),
    "充值": ("充值", "充值额", "充值金额", "储值充值", "会员充值"),
    "储值卡消费": ("储值卡消费", "储值消费", "储值卡支付", "储值卡", "卡消费", "储值卡核销"),
    "订单数": ("订单数", "订单", "订单量", "单量", "总订单", "订单总数"),
    "客人数": ("客人数", "客人", "客流", "客流量", "到店人数", "到店客人", "人次", "顾客", "客人总数", "人数"),
    "台时使用": (
        "台时使用",
        "使用台时",
        "台时使用量",
        "使用时长",
        "开台时长",
        "台时消耗",
        "实际使用",
        "已使用",
        "使用了",
        "实际开台",
        "用了",
    ),
    "台时可用": ("台时可用", "可用", "可用台时", "可用时长"),
    "优惠合计": ("优惠合计", "优惠总额", "优惠金额", "总优惠", "优惠", "优惠支出", "折扣总额", "合计优惠", "优惠力度", "让利"),
    "优惠率": ("优惠率", "折扣率", "优惠比例", "整体优惠率"),
    "台时利用率": ("台时利用率", "利用率", "台桌利用率", "开台率", "球台利用率"),
    "单均净收入": ("单均净收入", "单均", "客单价", "单均收入", "每单净收入", "单均消费", "每单", "单均额"),
    "日均净收入": ("日均净收入", "日均收入", "日均营收", "每日净收入", "日均实收"),
    "日均订单数": ("日均订单数", "日均订单", "日均单量", "日均订单量"),
    "缺数天数": ("缺数天数",),
    "有数据天数": ("有数据天数", "数据天数"),
}
_AREA_NAMES: dict[Area, tuple[str, ...]] = {
    Area.ALL: ("全店", "全门店", "整店", "门店整体", "店内整体"),
    Area.HALL: ("大厅", "大厅区域", "大厅三区", "大厅整体", "大厅三个区", "大厅三个区域"),
    Area.HALL_A: ("大厅A区", "大厅A", "A区"),
    Area.HALL_B: ("大厅B区", "大厅B", "B区"),
    Area.HALL_C: ("大厅C区", "大厅C", "C区"),
    Area.VIP: ("贵宾包厢", "包厢", "贵宾", "VIP", "VIP包厢", "贵宾包间"),
    Area.SNOOKER: ("斯诺克区", "斯诺克"),
    Area.MAHJONG: ("麻将房", "麻将", "麻将区", "棋牌房"),
    Area.KTV: ("KTV", "KTV区", "KTV包房"),
}


def _several(words: str) -> list[str]:
    return words.split()


_UP = _several(
    "增长 上升 提升 增加 上涨 提高 扩大 回升 走高 攀升 增幅 涨幅 升幅 上浮 增 涨 升 多 多出 高 高出 上扬 增收 同比增长 环比增长 领先 增多 上行 抬升 改善 拉升 多收 快 多了 多用 多用了 正增长 走强 增加了 提升了 增长了 上升了 多卖 增收"
)
_DOWN = _several(
    "下降 减少 下滑 降低 回落 缩减 走低 下跌 降幅 跌幅 减幅 下行 降 减 跌 少 低 慢 低了 少用 少用了 负增长 走弱 滑坡 回调 少了 少收 少卖 萎缩 收窄 落后 下调 滑落 减少了 下降了 下滑了 降低了 偏低 缩水 减收"
)
_UP_THAN = _several("超过 超出 领先于 跑赢 快于 强于 高于 多于 优于 高过 大于 高出于")
_DOWN_THAN = _several("落后于 低于 跑输 慢于 逊于 少于 弱于 小于 不及 不如")
_UP_TO = _several(
    "升至 增至 涨至 升到 增到 涨到 增加至 增加到 增长至 增长到 上升至 上升到 提升至 提升到 提高至 提高到 回升至 回升到 扩大至 上涨至 上涨到 攀升至 走高至 抬升至"
)
_DOWN_TO = _several(
    "降至 降到 减至 减到 跌至 跌到 减少至 减少到 下降至 下降到 下滑至 下滑到 降低至 降低到 回落至 回落到 滑落至 缩减至 缩至 收窄至 走低至 下跌至 下跌到"
)


def _word_list() -> dict[str, tuple[Kind, Any]]:
    words: dict[str, tuple[Kind, Any]] = {}

    def add(kind: Kind, payload: Any, names: "list[str] | tuple[str, ...]") -> None:
        words.update(dict.fromkeys(names, (kind, payload)))

    for column in FINANCE_COLUMNS:
        add(Kind.METRIC, column.title, [column.title])
    for title, names in _METRIC_NAMES.items():
        add(Kind.METRIC, title, names)
    for area, names in _AREA_NAMES.items():
        add(Kind.AREA, AREA_TITLES[area], (*names, AREA_TITLES[area]))
    add(Kind.DAYS_OF_WEEK, WEEKDAYS, _several("周一至周五 周一到周五 工作日 平日 平时 周中 周一至五 周一~周五 周一-周五"))
    add(Kind.DAYS_OF_WEEK, WEEKEND, _several("周六周日 周末 双休日 周六、周日 周六和周日 周六日 双休"))
    add(
        Kind.ROLE,
        COMPARISON,
        _several(
            "对比期 对比期间 上期 同期 上月同期 上周同期 上季度同期 上季同期 比较期 前期 上一期 上个周期 对照期 去年同期 前一周期 上一周期"
        ),
    )
    add(Kind.ROLE, CURRENT, _several("本期 当期 本周期 数据期间 数据期"))
    add(Kind.ROLE, "名义期间", _several("名义期间 全月 整月 全季 整周"))
    for name in _several("本月 上月 上个月 上上月 本周 上周 上上周 本季度 本季 上季度 上季 上上季度"):
        add(Kind.ROLE, name, [name])
    add(Kind.MOVE, 1, _UP)
    add(Kind.MOVE, -1, _DOWN)
    add(
        Kind.MOVE,
        0,
        _several("变化 变动 波动 差距 相差 差 差额 之差 变幅 持平 差异 幅度 增速差 利用率差 增减"),
    )
    add(Kind.THAN, 1, _UP_THAN)
    add(Kind.THAN, -1, _DOWN_THAN)
    add(Kind.THAN, 0, _several("比 较 相比 相较 对比 相较于 相比于 较之 与 同比 环比 和 跟"))
    add(Kind.MOVE_TO, 1, _UP_TO)
    add(Kind.MOVE_TO, -1, _DOWN_TO)
    add(Kind.SHARE, None, _several("占比 占 占到 占了 比重 份额 贡献 贡献了 来自 构成 占有 占据 撑起 贡献率"))
    add(Kind.AVERAGE, None, _several("日均 均值 平均每天 每天平均 平均每日 每日平均 每天 每日 日平均 天均"))
    add(
        Kind.EXTREME,
        1,
        _several("峰谷 前三 前三名 前两名 前两 最高 峰值 最多 最好 高点 最大 顶峰 最旺 单日最高 高峰 榜首 冠军 最忙 居首"),
    )
    add(
        Kind.EXTREME,
        -1,
        _several("后三 后三名 倒数 最低 谷值 最少 最差 低点 最小 谷底 最淡 单日最低 垫底 末位 最弱 低谷 最冷清 最闲"),
    )
    add(Kind.FROM, None, ["从", "由"])
    add(Kind.TO, None, _several("至 到 为 达 高达 多达 低至 达到 是 仅 共 有 录得 实现 完成"))
    add(Kind.SUM, None, _several("合计 总计 共计 加起来 三项 两项 之和 合起来 相加 一共"))
    add(Kind.RATIO, None, ["相当于", "等于"])
    add(
        Kind.GAP,
        None,
        _several("缺数 缺失 缺口 缺少 没有数据 无数据 未加载 缺了 缺 没有加载 数据缺口 数据缺失 漏载 未入库"),
    )
    add(Kind.UNTIL, None, _several("截至 截止 截止到 截至到 更新至 更新到 加载到 加载至 统计到 统计至 数据到 止于"))
    add(Kind.SINGLE_DAY, None, ["单日", "每日间", "日间"])
    add(
        Kind.NEUTRAL,
        None,
        _several("收入来源 收入构成 收入结构 营收结构 收入贡献 订单结构 收入承压 客流高峰 优惠结构 优惠构成 收入质量 优惠力度 团购平台"),
    )
    add(Kind.RESPECTIVELY, None, _several("分别 依次 二者 两者 三者"))
    add(Kind.PACE, None, ["增速", "增长率", "变化率"])
    add(
        Kind.ADVICE,
        None,
        _several(
            "建议 可考虑 不妨 可以考虑 可将 可把 可在 应将 应把 可设 可试 可以 可先 可尝试 宜 下一步 下期 后续 接下来 考虑 推荐 若能 若把 如能 如果 若 计划 尝试 试行 试点 应 需 可 争取 力争 目标 有望"
        ),
    )
    add(
        Kind.TARGET,
        None,
        _several(
            "控制在 以内 以上 不超过 不低于 不高于 不少于 设为 设定 设在 目标 争取 力争 推出 赠送 赠 送 满 立减 打折 折 限时 每 之内 以下 压到 压至 拉到 做到 预算 定在 提到 提至 先把 再 门槛 上限 下限 起步 优惠券 套餐价 奖励 补贴 投入 试行 加推 为期 连续 未来 前后 内 目标值 让 保持在 回到 恢复到 看 特价 调整 抽 发放 每人 每周 每月 轮班"
        ),
    )
    return words


_WORDS = _word_list()


def _alternation(words: "list[str]") -> str:
    """One branch for each first character, longest words first: a branch is left after one comparison."""
    branches: dict[str, list[str]] = {}
    for word in words:
        branches.setdefault(word[0], []).append(word[1:])
    return "|".join(
        f"{re.escape(first)}(?:{'|'.join(re.escape(rest) for rest in sorted(rests, key=len, reverse=True))})"
        for first, rests in branches.items()
    )


_DIGIT = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_UNIT_NAMES: dict[str, Unit] = {
    "个百分点": Unit.POINTS, "百分点": Unit.POINTS, "pct": Unit.POINTS, "pp": Unit.POINTS,
    "%": Unit.PERCENT, "％": Unit.PERCENT,
    "元": Unit.CNY, "块钱": Unit.CNY, "块": Unit.CNY, "圆": Unit.CNY,
    "倍": Unit.TIMES, "成": Unit.TENTHS,
    "单": Unit.ORDERS, "笔": Unit.ORDERS, "个订单": Unit.ORDERS, "张订单": Unit.ORDERS, "订单": Unit.ORDERS,
    "人次": Unit.GUESTS, "人": Unit.GUESTS, "位": Unit.GUESTS, "名": Unit.OTHER, "个客人": Unit.GUESTS,
    "台时": Unit.HOURS, "个小时": Unit.HOURS, "小时": Unit.HOURS, "个台时": Unit.HOURS,
    "天": Unit.DAYS, "个月": Unit.MONTHS, "日内": Unit.OTHER,
    "个季度": Unit.OTHER, "周": Unit.OTHER, "分钟": Unit.OTHER, "折": Unit.OTHER, "点": Unit.OTHER, "时": Unit.OTHER, "个": Unit.OTHER,
    "条": Unit.OTHER, "项": Unit.OTHER, "种": Unit.OTHER, "类": Unit.OTHER, "次": Unit.OTHER, "张": Unit.OTHER, "台": Unit.OTHER,
    "步": Unit.OTHER, "套": Unit.OTHER, "档": Unit.OTHER, "轮": Unit.OTHER, "岁": Unit.OTHER, "款": Unit.OTHER, "区": Unit.OTHER,
    "大": Unit.OTHER, "方面": Unit.OTHER, "家": Unit.OTHER, "季度": Unit.OTHER, "年": Unit.OTHER, "‰": Unit.OTHER, "桌": Unit.OTHER,
}  # fmt: skip
_COUNTED = frozenset(_several("个 条 项 种 类 步 套 档 轮 款 区 大 方面 家 次 张 台 桌"))
_UNIT = "|".join("位(?![列居于])" if name == "位" else re.escape(name) for name in sorted(_UNIT_NAMES, key=len, reverse=True))
_CHINESE_UNIT = "个百分点|百分点|倍|成[一二三四五六七八九半]?|天|万元|元|单|人|小时|个月|个|条|项|种|类|点|步|方面|大|周|家|次|折"
_YEAR = r"(?:(?P<y{0}>20\d\d)\s*[-/.年]\s*)"


@cache
def _pattern() -> re.Pattern[str]:
    day = (
        r"(?<![\d.])(?:(?P<y1>20\d\d)\s*年\s*)?(?P<m1>1[0-2]|0?[1-9])\s*月\s*(?:(?P<d1>3[01]|[12]\d|0?[1-9])(?:\s*[日号]|(?=\s*[-~至到—–]\s*\d+\s*[日号])))"
        r"|(?<![\d.])(?P<y2>20\d\d)[-/.](?P<m2>1[0-2]|0?[1-9])[-/.](?P<d2>3[01]|[12]\d|0?[1-9])(?!\d)"
        r"|(?<![\d.])(?P<y3>20\d\d)[-/](?P<m3>1[0-2]|0[1-9])(?![-/\d])"
        r"|(?<![\d./-])(?P<m4>1[0-2]|0?[1-9])/(?P<d4>3[01]|[12]\d|0?[1-9])(?![\d/%])"
        r"|(?<![\d.])(?P<m5>1[0-2]|[1-9])\s*(?:[-~至到—–])\s*(?P<n5>1[0-2]|[1-9])\s*月(?:份)?"
        r"|(?<![\d.])(?:(?P<y6>20\d\d)\s*年\s*)?(?P<m6>1[0-2]|0?[1-9])\s*月(?:份)?"
        r"|(?<![\d.])(?:(?P<y7>20\d\d)\s*年\s*)?(?:第(?P<q7>[一二三四1-4])季度|(?P<q8>[一二三四])季度|Q(?P<q9>[1-4])(?!\d))"
        r"|(?<![\d.])(?P<d10>3[01]|[12]\d|0?[1-9])\s*[日号](?!均|内)"
        r"|(?<![\d.])(?P<y11>20\d\d)\s*年"
    )
    number = (
        r"(?P<ordinal>第\s*(?:\d+|[一二三四五六七八九十]+)|TOP\s*\d+|[(（]\d[)）]|(?:^|(?<=[。;；\n:：,，、]))\s*\d{1,2}[.、)）](?=\D)|[①-⑩])"
        r"|(?P<clock>(?<!\d)(?:[01]?\d|2[0-4])[:：][0-5]\d(?!\d))"
        r"|(?P<sign>(?<![\d.%年月日号元单人天])[-+−－＋±]|[负正](?=\s*\d))?(?P<currency>[¥￥]\s*)?(?<![A-Za-z\d.])(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?![A-VX-Za-jl-vx-z\d])"
        rf"(?:\s*(?P<scale>万|亿|千|[wWkK](?![a-zA-Z])))?(?:\s*(?P<unit>{_UNIT}))?(?P<tenth>(?<=成)[一二三四五六七八九半](?!个|天))?"
        r"|百分之(?P<hundredths>[一二三四五六七八九十百零]+(?:点[零一二三四五六七八九]+)?)"
        r"|(?P<denominator>[二两三四五六七八九十])分之(?P<numerator>[一二两三四五六七八九])"
        r"|(?P<rough>过半数|过半|超半数|超半|近半数|近半|半数|一半|翻倍|翻番|翻了一番|翻了一倍|翻一番|腰斩)"
        rf"|(?P<chinese>[一二两三四五六七八九十][一二三四五六七八九十百千零]*)(?P<cunit>{_CHINESE_UNIT})"
    )
    breaks = r"(?P<stop>[。!！?？\n])|(?P<semicolon>[;；])|(?P<comma>[,，、:：()（）])"
    words = _alternation(list(_WORDS))
    # Most characters begin nothing: one look at the first one saves the many branches.
    first = "".join(sorted({re.escape(word[0]) for word in _WORDS}))
    numeric = r"\d第TQ(（①-⑩+\-−＋－±负正¥￥百过超近半翻腰一二两三四五六七八九十\s"
    return re.compile(
        rf"(?=[{numeric}{first}。!！?？;；,，、:：)）])(?:(?=[\d第一二三四Q])(?P<date>{day})|(?=[{numeric}])(?:{number})|(?P<word>{words})|{breaks})"
    )


_FULL_WIDTH = str.maketrans("0123456789．", "0123456789.")
_ABOUT_WORDS = ("约", "大约", "大概", "约为", "约占", "约合")
_ABOVE_WORDS = ("超过", "超", "突破", "逾", "不止", "超出", "跨过", "越过")
_BELOW_WORDS = ("近", "接近", "不足", "不到", "将近", "未满", "未到", "逼近", "不满", "未达", "近乎")


def tokens_of(text: str, names: tuple[str, ...] = ()) -> list[Token]:
    """`names`: what may hold digits and is no figure, as the site's name."""
    plain = text.translate(_FULL_WIDTH)
    for name in names:
        if name and name in plain:
            plain = plain.replace(name, "\0" * len(name))
    found: list[Token] = []
    for match in _pattern().finditer(plain):
        start, end = match.span()
        if match["word"] is not None:
            kind, payload = _WORDS[match["word"]]
            found.append(Token(kind, start, end, payload))
        elif match["stop"] or match["semicolon"] or match["comma"]:
            found.append(Token(Kind.BREAK, start, end, 3 if match["stop"] else 2 if match["semicolon"] else 1))
        elif match["date"] is not None:
            found.append(Token(Kind.DATE, start, end, _date_of(match)))
        else:
            number = _number_of(match, plain)
            if number is not None:
                start += len(match[0]) - len(match[0].lstrip())
                found.append(Token(Kind.NUMBER, start, end, number))
    return _with_shared_units(found, plain)


def _date_of(match: re.Match[str]) -> WrittenDate:
    def first(*names: str) -> int | None:
        return next((int(match[name]) for name in names if match[name] is not None), None)

    quarter = match["q7"] or match["q8"] or match["q9"]
    return WrittenDate(
        first("y1", "y2", "y3", "y6", "y7", "y11"),
        first("m1", "m2", "m3", "m4", "m5", "m6"),
        first("d1", "d2", "d4", "d10"),
        None if quarter is None else int(quarter) if quarter.isdigit() else _DIGIT[quarter],
        first("n5"),
    )


def _number_of(match: re.Match[str], text: str) -> Written | None:
    """None where it is no number: 第2条, 一成不变."""
    start, end = match.span()
    if match["ordinal"] is not None:
        return None
    if match["clock"] is not None:
        return Written(0, 0, Unit.OTHER)
    bound = _bound(text, start, end)
    if match["digits"] is not None:
        return _in_digits(match, bound)
    if match["hundredths"] is not None:
        whole, _, fraction = match["hundredths"].partition("点")
        number = _chinese(whole) + sum(_DIGIT[digit] / 10**place for place, digit in enumerate(fraction, 1))
        return Written(number, 0.5 * 10.0 ** -len(fraction), Unit.PERCENT, bound)
    if match["denominator"] is not None:
        return Written(100 * _DIGIT[match["numerator"]] / _chinese(match["denominator"]), 2, Unit.TENTHS, bound)
    if match["rough"] is not None:
        return _roughly(match["rough"], bound)
    if match["chinese"] == "一" and match["cunit"] == "成" and text[end : end + 1] in "不为本":
        return None
    return _in_chinese(match["chinese"], match["cunit"], bound)


def _in_digits(match: re.Match[str], bound: Bound) -> Written:
    """`-1,234.5 万元`, `¥18`, `6成`."""
    digits = match["digits"].replace(",", "")
    scale = {"万": 1e4, "w": 1e4, "W": 1e4, "千": 1e3, "k": 1e3, "K": 1e3, "亿": 1e8, None: 1.0}[match["scale"]]
    unit_name = match["unit"]
    unit = Unit.CNY if unit_name is None and match["currency"] else _UNIT_NAMES.get(unit_name or "", Unit.NONE)
    value, decimals = float(digits), len(digits.partition(".")[2])
    step = 10.0**-decimals * scale
    value *= scale
    if unit is Unit.TENTHS:
        if match["tenth"]:
            value += _tenth(match["tenth"])
        value, step = value * 10, step * 10
    sign = match["sign"]
    if unit is Unit.OTHER and scale == 1 and unit_name in _COUNTED and not decimals:
        return Written(value, step / 2, unit, bound, is_plain_count=True, counted=unit_name or "")
    return Written(
        -value if sign in {"-", "−", "－", "负"} else value,
        step / 2,
        unit,
        bound,
        sign is not None,
        scale != 1,
        counted=unit_name or "",
    )


def _roughly(word: str, bound: Bound) -> Written:
    """`翻倍`, `腰斩`, `过半`."""
    if word.startswith("翻"):
        return Written(100, 5, Unit.TENTHS, bound, counted="翻倍")
    if word == "腰斩":
        return Written(50, 5, Unit.TENTHS, bound, counted="腰斩")
    bound = Bound.ABOVE if word[0] in "过超" else Bound.BELOW if word[0] == "近" else bound
    return Written(50, 2, Unit.TENTHS, bound)


def _in_chinese(figures: str, unit_name: str, bound: Bound) -> Written:
    """`十八` in `万元`, `六` in `成五`, `两` in `点`."""
    value = float(_chinese(figures))
    if unit_name.startswith("成"):
        tenth = unit_name[1:]
        return Written((value + (_tenth(tenth) if tenth else 0)) * 10, 5, Unit.TENTHS, bound)
    if unit_name == "万元":
        return Written(value * 1e4, 5e3, Unit.CNY, bound, is_scaled=True)
    unit = _UNIT_NAMES.get(unit_name, Unit.OTHER)
    if (unit in (Unit.OTHER, Unit.DAYS, Unit.MONTHS, Unit.ORDERS, Unit.GUESTS, Unit.CNY) and value <= 3) or unit is Unit.OTHER:
        # 两点建议, 一天, 三个区域: counts of things in the sentence, or idioms.
        return Written(value, 0.5, unit, bound, is_plain_count=True, counted=unit_name)
    return Written(value, 0.5, unit, bound)


def _tenth(digit: str) -> float:
    """五 of 六成五, 半 of 六成半."""
    return 0.5 if digit == "半" else _DIGIT[digit] / 10


def _chinese(text: str) -> int:
    total, current = 0, 0
    for character in text:
        if character in _DIGIT:
            current = _DIGIT[character]
        else:
            total += (current or 1) * {"十": 10, "百": 100, "千": 1000}[character]
            current = 0
    return total + current


def _bound(text: str, start: int, end: int) -> Bound:
    before, after = text[max(0, start - 4) : start].rstrip(" ¥￥了"), text[end : end + 3].lstrip()
    if before.endswith(_ABOVE_WORDS) or after.startswith(("多", "有余", "以上", "开外")):
        return Bound.ABOVE
    if before.endswith(_BELOW_WORDS) or after.startswith("不到"):
        return Bound.BELOW
    if before.endswith(_ABOUT_WORDS) or after.startswith(("左右", "上下", "出头")):
        return Bound.ABOUT
    return Bound.PLAIN


def _with_shared_units(tokens: list[Token], text: str) -> list[Token]:
    """`3-5%`, `10 至 15 元`, `12、15 和 18 元`: who has no unit takes the next one's."""
    for index in range(len(tokens) - 2, -1, -1):
        token = tokens[index]
        if token.kind is not Kind.NUMBER or token.payload.unit is not Unit.NONE:
            continue
        following = next((later for later in tokens[index + 1 :] if later.kind is Kind.NUMBER), None)
        if following is None or not re.fullmatch(r"\s*[-~～—–至到、和]\s*", text[token.end : following.start]):
            continue
        mine, theirs = token.payload, following.payload
        scale = 1e4 if theirs.is_scaled and text[following.start : following.end].find("万") >= 0 and not mine.is_scaled else 1.0
        tokens[index] = Token(
            Kind.NUMBER,
            token.start,
            token.end,
            Written(
                mine.value * scale,
                mine.half_step * scale,
                theirs.unit,
                mine.bound,
                mine.is_signed,
                scale != 1,
                theirs.is_plain_count,
                theirs.counted,
            ),
        )
    return tokens


def day_of(written: WrittenDate, year: int, month: int | None) -> date | None:
    """The day, with the year and month of the context where they are not written; None for no day of the calendar."""
    if written.day is None:
        return None
    try:
        return date(written.year or year, written.month or month or 0, written.day)
    except ValueError:
        return None
