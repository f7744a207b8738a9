"""What each alert means, where to look and what to do: the short form, for the console, of docs/operations.md."""

from dataclasses import dataclass

from zqyy_ai.store.alerts import AlertType


@dataclass(frozen=True, slots=True)
class RunbookEntry:
    meaning: str
    look_at: str
    deed: str


RUNBOOK: dict[AlertType, RunbookEntry] = {
    AlertType.CIRCUIT_OPEN: RunbookEntry(
        "一个应用连续失败，熔断器已打开：冷却时间内不再调用，之后先试探一次，成功即恢复。一次故障只有一条告警，其余应用计数。",
        "「调用日志」中该应用最近的失败与错误码（connect_failed、http_5xx、timeout）；百炼的服务状态；网络。",
        "百炼故障时无需处理：恢复后任务自动继续。否则修复网络或接口地址。",
    ),
    AlertType.RATE_LIMITED: RunbookEntry(
        "没有门店和应用的：百炼持续限流，调用被压低到试探的频率，安静五分钟后自动恢复。有的：本系统的限流或并发额度不够，等待过久。",
        "告警内容写明是门店、应用还是并发；「触发任务」中同时执行的任务数。",
        "通常无需处理，任务会自动继续。反复出现时：减少同时运行的批次，或在设置中提高额度（不要超过百炼的限额）。",
    ),
    AlertType.BUDGET_EXCEEDED: RunbookEntry(
        "一次调用会超过 Token 上限（全店群或单店，日或月），没有调用、没有费用。指纹以 overshoot 结尾的：已完成的调用比预留的多。",
        "「缓存与预算」中各门店、各应用的用量：是反复重新生成，还是业务增长。",
        "停止原因，或在设置中提高上限并重启；之后在「预热矩阵」补齐缺失。会员任务在次日（次月）自动继续。",
    ),
    AlertType.TIMEOUT: RunbookEntry(
        "百炼没有在步骤的时限内回答。可能已经计算，按预估计费；剩余时间足够时才会再试一次。",
        "「调用日志」中的耗时；百炼应用的模型与系统提示词长度。",
        "重新预热或重试任务。反复出现时：换更快的模型、缩短系统提示词，或提高 ZQYY_STEP_TIMEOUT_SECONDS。",
    ),
    AlertType.FAILED: RunbookEntry(
        "一次调用以其他方式失败；没有应用的：整个任务失败。缓存中原有的回答不受影响。",
        "关联的调用记录：reply_* 是模型的回答不符合约定；DataInspectionFailed 是内容被百炼拒绝；http_5xx、connect_failed 是网络或百炼。",
        "排除原因后，在「触发任务」重试，或在「预热矩阵」补齐。clues_unwritable：回答已付费并写入，修复线索表的约束或权限后重试，不会再次付费。",
    ),
    AlertType.CONFIGURATION: RunbookEntry(
        "百炼不认识这个应用、应用未发布，或密钥无权使用它。不会自动重试。",
        "运行 zqyy-ai doctor；百炼控制台中的应用编号与状态；DASHSCOPE_HTTP_BASE_URL；密钥所属的业务空间。",
        "改正设置并重启，然后重新预热门店、重试会员任务。",
    ),
    AlertType.ACCOUNT_HELD: RunbookEntry(
        "百炼拒绝整个账号：密钥错误、欠费或额度用完。全部应用暂停，每个冷却周期试探一次（不计费）。",
        "百炼控制台中的账号余额与密钥。",
        "充值，或改正密钥并重启。下一次试探成功后，等待中的任务自动继续；期间以失败结束的任务需要重试。",
    ),
    AlertType.EVENT_REJECTED: RunbookEntry(
        "收到的事件不能成为任务：名称未知、字段缺失或类型不对、门店未知、内容过大，或会员事件超过 7 天无人处理。",
        "「触发任务」的「被拒绝的事件」，每条都有原因。",
        "改正发送方并重新发送，或在「触发任务」手动触发。未知门店：先在 biz.sites 登记。",
    ),
    AlertType.JOB_DEAD: RunbookEntry(
        "任务的进程反复中断或卡住，达到 ZQYY_JOB_MAX_ATTEMPTS 次后放弃。同类任务之后完成时自动恢复。",
        "任务详情中的 Dagster 运行；code server 日志的末尾；内存（OOM）；重启记录。",
        "排除原因后重试任务或重新预热：已写入的保留，只补其余部分。",
    ),
    AlertType.PAUSED: RunbookEntry(
        "有人暂停了全部模型调用；告警内容写明谁、何时、为什么。",
        "「缓存与预算」中的暂停开关。",
        "原因消除后在「缓存与预算」恢复。等待中的任务自动继续。",
    ),
    AlertType.LOG_UNWRITABLE: RunbookEntry(
        "PostgreSQL 没有空间写调用记录；没有记录就不会调用。进行中的回答会写入并计费。",
        "数据库主机的磁盘（df -h）；biz.ai_run_logs 的大小与表空间。",
        "腾出空间。等待中的任务会在几分钟内自动继续，不需要重做。",
    ),
    AlertType.RETENTION_FAILED: RunbookEntry(
        "每日清理失败，全部或部分；没有删除不该删除的内容。下一次成功时自动恢复。",
        "告警内容提到的运行：失败信息写明哪一类与原因。",
        "permission denied：补授权限；statement timeout：为引用表的外键加索引。然后运行 zqyy-ai retention。",
    ),
}
