"""The pages, in the order of the menu."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    title: str


ENTRIES = (
    Entry("/", "运营总览"),
    Entry("/prewarm", "预热矩阵"),
    Entry("/jobs", "触发任务"),
    Entry("/logs", "调用日志"),
    Entry("/alerts", "告警中心"),
    Entry("/members", "会员视图"),
    Entry("/batches", "批量运行"),
    Entry("/triggers", "触发器管理"),
    Entry("/cache", "缓存与预算"),
)
