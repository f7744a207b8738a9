"""What people are told of alerts: one message a target and delivery, a digest where several changed.

A message is short enough for every service: WeCom's robots take 2,048 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.store.alert_deliveries import AlertNews
from zqyy_ai.store.alerts import AlertChange, AlertStatus, AlertType, Severity, StoredAlert

LARGEST_MESSAGE_BYTES = 1900

ALERT_TITLES: dict[AlertType, str] = {
    AlertType.CIRCUIT_OPEN: "熔断器打开",
    AlertType.RATE_LIMITED: "调用受限流",
    AlertType.BUDGET_EXCEEDED: "Token 预算用尽",
    AlertType.TIMEOUT: "调用超时",
    AlertType.FAILED: "调用失败",
    AlertType.CONFIGURATION: "应用配置有误",
    AlertType.ACCOUNT_HELD: "账户调用被拒",
    AlertType.EVENT_REJECTED: "事件被拒绝",
    AlertType.JOB_DEAD: "任务多次中断,已放弃",
    AlertType.PAUSED: "调用已暂停",
    AlertType.LOG_UNWRITABLE: "运行日志无法写入",
    AlertType.RETENTION_FAILED: "每日清理失败",
}
SEVERITY_TITLES = {Severity.CRITICAL.value: "严重", Severity.WARNING.value: "警告"}
STATUS_TITLES = {
    AlertStatus.OPEN: "待处理",
    AlertStatus.ACKED: "已确认",
    AlertStatus.IGNORED: "已忽略",
    AlertStatus.RESOLVED: "已恢复",
}
CHANGE_TITLES = {
    AlertChange.OPENED: "新告警",
    AlertChange.REOPENED: "再次出现",
    AlertChange.ESCALATED: "升级为严重",
    AlertChange.RESOLVED: "已恢复",
}


class Tone(StrEnum):
    """For services that show a colour."""

    CRITICAL = "critical"
    WARNING = "warning"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Message:
    """`title` is one line; both together are at most `LARGEST_MESSAGE_BYTES` of UTF-8."""

    title: str
    text: str
    tone: Tone


def alert_title(alert: StoredAlert) -> str:
    if alert.alert_type == AlertType.FAILED and alert.app_type is None:
        return "任务失败"
    return ALERT_TITLES[AlertType(alert.alert_type)] if alert.alert_type in set(AlertType) else alert.alert_type


def app_title(app_type: str | None) -> str | None:
    return APPS[AppType(app_type)].title if app_type in set(AppType) else app_type


def compose(news: Sequence[AlertNews]) -> Message:
    """The message that tells `news`, which is not empty. Of an alert that changed several times, its last change is told."""
    by_alert = {item.alert.id: item for item in news}
    latest = sorted(by_alert.values(), key=lambda item: (item.change is AlertChange.RESOLVED, not _is_critical(item), item.delivery_id))
    return _message_of_one(latest[0]) if len(latest) == 1 else _digest(latest)


def _message_of_one(item: AlertNews) -> Message:
    alert = item.alert
    since = alert.opened_at or alert.created_at
    lines = [
        ("级别", SEVERITY_TITLES.get(alert.severity, alert.severity)),
        ("门店", _site(item)),
        ("应用", app_title(alert.app_type)),
        ("内容", alert.message),
        ("次数", f"累计 {alert.occurrences} 次" + (f",自 {since.astimezone(SHANGHAI):%m-%d %H:%M} 起" if since else "")),
        ("说明", alert.status_reason if item.change is AlertChange.RESOLVED else None),
        ("处理", None if item.change is AlertChange.RESOLVED else f"见 docs/operations.md 的 {alert.alert_type} 一节"),
        ("编号", f"{alert.id}(zqyy-ai alerts ack {alert.id} 表示已知悉)" if item.change is not AlertChange.RESOLVED else str(alert.id)),
    ]
    title = f"【{_mark(item)}】{CHANGE_TITLES[item.change]}:{alert_title(alert)}"
    text = "\n".join(f"{name}:{value}" for name, value in lines if value)
    return Message(title, _cut(text, LARGEST_MESSAGE_BYTES - len(title.encode()) - 2), _tone([item]))


def _digest(items: Sequence[AlertNews]) -> Message:
    counts = {change: sum(item.change is change for item in items) for change in AlertChange}
    told = "、".join(f"{CHANGE_TITLES[change]} {count}" for change, count in counts.items() if count)
    title = f"【{_mark(*items)}】{len(items)} 条:{told}"
    end = "处理:zqyy-ai alerts list,并见 docs/operations.md 的对应一节"
    left = LARGEST_MESSAGE_BYTES - len((title + end).encode()) - 64
    lines: list[str] = []
    for item in items:
        line = _cut(_line(item), 160)
        left -= len(line.encode()) + 1
        if left < 0:
            break
        lines.append(line)
    if len(lines) < len(items):
        lines.append(f"……另有 {len(items) - len(lines)} 条")
    return Message(title, "\n".join([*lines, end]), _tone(items))


def _line(item: AlertNews) -> str:
    alert = item.alert
    parts = (CHANGE_TITLES[item.change], alert.alert_type, _site(item), app_title(alert.app_type), f"{alert.occurrences} 次")
    return f"#{alert.id} {' '.join(part for part in parts if part)} {alert.message}"


def _site(item: AlertNews) -> str | None:
    return None if item.alert.site_id is None else f"{item.alert.site_id} {item.site_name or ''}".strip()


def _is_critical(item: AlertNews) -> bool:
    return item.alert.severity == Severity.CRITICAL


def _tone(items: Sequence[AlertNews]) -> Tone:
    bad = [item for item in items if item.change is not AlertChange.RESOLVED]
    if not bad:
        return Tone.GOOD
    return Tone.CRITICAL if any(_is_critical(item) for item in bad) else Tone.WARNING


def _mark(*items: AlertNews) -> str:
    """Each title has 告警, so that a DingTalk robot can be given it as its keyword."""
    match _tone(items):
        case Tone.CRITICAL:
            return "告警·严重"
        case Tone.WARNING:
            return "告警·警告"
        case Tone.GOOD:
            return "告警·恢复"


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= most_bytes else encoded[: most_bytes - 3].decode(errors="ignore") + "…"
