"""What things are called on the pages. Values that are not known are shown as they are: other systems write rows too."""

import re

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.events import EventName, EventType
from zqyy_ai.domain.windows import AREA_TITLES, TIME_DIMENSION_TITLES
from zqyy_ai.store.alerts import AlertType

# The text and the colour of a tag; the colours are classes in console.css.
Tag = tuple[str, str]

APP_TITLES: dict[str, str] = {app.app_type.value: app.title for app in APPS.values()}

ROLES: dict[str, str] = {Role.VIEWER.value: "查看", Role.OPERATOR.value: "运营", Role.ADMIN.value: "管理员"}

EVENT_TITLES: dict[str, str] = {
    EventType.CONSUMPTION.value: "消费结账",
    EventType.NOTE_CREATED.value: "新增备注",
    EventType.TASK_ASSIGNED.value: "分配任务",
    EventType.DWS_COMPLETED.value: "数据就绪（预热）",
    EventType.RUN_APP.value: "单应用执行",
    EventType.BATCH_RUN.value: "批量运行",
    EventType.BACKFILL.value: "回填",
}
EVENT_NAME_TITLES: dict[str, str] = {
    EventName.CONSUMPTION_SETTLED.value: "消费结账",
    EventName.NOTE_CREATED.value: "新增备注",
    EventName.TASK_ASSIGNED.value: "分配任务",
    EventName.DWS_COMPLETED.value: "数据就绪（预热）",
}
TRIGGER_TITLES: dict[str, str] = {"event": "事件", "cron": "定时", "manual": "手动"}

JOB_STATUS: dict[str, Tag] = {
    "pending": ("排队中", "grey"),
    "running": ("执行中", "blue"),
    "completed": ("已完成", "green"),
    "partial": ("部分完成", "orange"),
    "failed": ("失败", "red"),
    "dead": ("已放弃", "red"),
}
OUTCOMES: dict[str, Tag] = {
    "pending": ("准备中", "grey"),
    "running": ("调用中", "blue"),
    "success": ("成功", "green"),
    "reused": ("复用", "cyan"),
    "failed": ("失败", "red"),
    "timeout": ("超时", "red"),
    "refused": ("被拦下", "orange"),
}
ALERT_STATUS: dict[str, Tag] = {
    "open": ("待处理", "red"),
    "acked": ("已确认", "blue"),
    "ignored": ("已忽略", "grey"),
    "resolved": ("已恢复", "green"),
}
SEVERITY: dict[str, Tag] = {"critical": ("严重", "red"), "warning": ("警告", "orange")}
ALERT_TYPES: dict[str, str] = {
    AlertType.CIRCUIT_OPEN.value: "熔断",
    AlertType.RATE_LIMITED.value: "限流",
    AlertType.BUDGET_EXCEEDED.value: "预算超限",
    AlertType.TIMEOUT.value: "超时",
    AlertType.FAILED.value: "调用失败",
    AlertType.CONFIGURATION.value: "配置错误",
    AlertType.ACCOUNT_HELD.value: "账号受限",
    AlertType.EVENT_REJECTED.value: "事件被拒绝",
    AlertType.JOB_DEAD.value: "任务已放弃",
    AlertType.PAUSED.value: "已暂停",
    AlertType.LOG_UNWRITABLE.value: "记录无法写入",
    AlertType.RETENTION_FAILED.value: "清理失败",
}
CELL_STATES: dict[str, Tag] = {
    "fresh": ("有效", "green"),
    "stale": ("已过期", "orange"),
    "missing": ("缺失", "grey"),
    "failed": ("失败", "red"),
    "running": ("生成中", "blue"),
}
CACHE_STATUS: dict[str, Tag] = {
    "valid": ("有效", "green"),
    "expired": ("已过期", "orange"),
    "invalidated": ("已失效", "grey"),
    "generating": ("生成中", "blue"),
}
BATCH_STATUS: dict[str, Tag] = {
    "estimated": ("待确认", "grey"),
    "expired": ("估算已过期", "grey"),
    "waiting": ("排队中", "grey"),
    "running": ("执行中", "blue"),
    "completed": ("已完成", "green"),
    "partial": ("部分完成", "orange"),
    "failed": ("失败", "red"),
    "cancelling": ("取消中", "orange"),
    "cancelled": ("已取消", "grey"),
}
TRIGGER_STATUS: dict[str, Tag] = {"enabled": ("已启用", "green"), "disabled": ("已停用", "grey")}
DEDUP_POLICIES: dict[str, str] = {
    "business_day": "按营业日：同一对象每天一次",
    "coalesce": "合并：排队时并入，执行中再来的补做一次",
}
CLUE_SOURCES: dict[str, str] = {"ai_consumption": "AI · 消费", "ai_note": "AI · 备注", "manual": "人工"}

AREAS: dict[str, str] = {area.value: title for area, title in AREA_TITLES.items()}
TIME_DIMENSIONS: dict[str, str] = {dimension.value: title for dimension, title in TIME_DIMENSION_TITLES.items()}

# Why a call was not made, or came to nothing, and what to do about it.
ERROR_ADVICE: dict[str, str] = {
    "circuit_open": "该应用连续失败，熔断器已打开：冷却后自动试探，任务会自动继续",
    "rate_limited": "达到限流额度：稍后自动继续",
    "budget_exceeded": "Token 预算不足：当日（当月）结束后恢复，或在设置中提高上限",
    "paused": "全部调用已暂停：恢复之后自动继续",
    "timeout": "百炼没有在时限内回答：可重试",
    "chain_timeout": "整条链超过时限：可重试，已成功的步骤不再付费",
    "app_id": "应用编号缺失：请检查设置 ZQYY_APP_ID_*",
    "connect_failed": "连接不上百炼，未发送：检查网络，任务会自动继续",
    "connection_lost": "发送后连接中断，可能已计费：可重试",
    "outcome_unknown": "进程在等待回答时中断，可能已计费：可重试",
    "reply_unfinished": "模型的回答不完整，未写入缓存：可重试",
    "reply_empty": "模型的回答是空的，未写入缓存：可重试",
    "reply_not_json": "模型没有给出 JSON，未写入缓存：反复出现请检查百炼应用的提示词",
    "reply_invalid": "模型的回答不符合约定，未写入缓存：反复出现请检查百炼应用的提示词",
    "clues_unwritable": "回答已写入缓存，但线索表拒绝写入：检查 member_retention_clue",
    "database_lost": "数据库连接中断：自动继续",
    "DataInspectionFailed": "内容被百炼的审核拒绝：重试无用，检查相关备注或应用的提示词",
    "InvalidParameter": "百炼不接受该请求：检查百炼应用的设置，重试无用",
    "InvalidApiKey": "密钥无效：检查 DASHSCOPE_API_KEY",
    "Arrearage": "百炼账号欠费：充值后自动继续",
    "http_500": "百炼内部错误，没有计费：可重试",
    "http_502": "百炼的网关出错：可重试",
    "http_503": "百炼暂时不可用，没有计费：任务会自动继续",
    "http_504": "百炼的网关超时，可能已计费：可重试",
    "no_data": "没有可询问的数据，给出固定回答，未调用模型",
}


# What the API's words for a form's fields are on the pages.
_FIELD_TITLES: dict[str, str] = {
    "member_ids": "会员编号",
    "member_id": "会员编号",
    "assistant_id": "助教编号",
    "site_id": "门店编号",
    "note_content": "备注内容",
    "noted_by_name": "填写人",
    "target_id": "目标",
    "time_dimension": "时间维度",
    "area": "区域",
    "app_types": "应用",
    "app_type": "应用",
    "event_type": "事件",
    "cron_expression": "cron 表达式",
    "description": "说明",
    "reason": "原因",
    "batch_id": "批次编号",
    "date_from": "起始日",
    "date_to": "截止日",
}
_FIELD = re.compile(rf"\b(?:(?:body|query|path)(?:：|\.))?({'|'.join(_FIELD_TITLES)})\b")


def with_field_titles(detail: str) -> str:
    """`body.cron_expression：应为五段` as cron 表达式：应为五段."""
    return _FIELD.sub(lambda found: _FIELD_TITLES[found[1]], detail)


def app_title(app_type: str | None) -> str:
    return APP_TITLES.get(app_type or "", app_type or "—")


def window_title(target_id: str | None) -> str:
    """`this_month__hallA` as 本月 · 大厅A区; anything else as it is."""
    dimension, _, area = (target_id or "").partition("__")
    if dimension in TIME_DIMENSIONS and area in AREAS:
        return f"{TIME_DIMENSIONS[dimension]} · {AREAS[area]}"
    return target_id or "—"


def chain_titles(app_chain: str | None, event_type: str) -> str:
    """`app3→app8` as 客户线索 → 线索整合. A finished load is about all windows; every other job of that chain about one."""
    by_number = {app_type.partition("_")[0]: title for app_type, title in APP_TITLES.items()}
    if app_chain == "app2":
        return "财务洞察 72 个窗口" if event_type == EventType.DWS_COMPLETED else "财务洞察 1 个窗口"
    return " → ".join(by_number.get(part, APP_TITLES.get(part, part)) for part in (app_chain or "—").split("→"))


def advice_of(error_code: str | None) -> str | None:
    return ERROR_ADVICE.get((error_code or "").partition(":")[0])
