"""Jobs: what sensors and the schedule ask runs of."""

import dagster as dg

from zqyy_ai.domain.events import MEMBER_APPS
from zqyy_ai.orchestration.tags import EVENTS_WORK, PREWARM_WORK, PRIORITY_TAG, WORK_TAG

# A site's 72 windows in bad weather, with retries and queueing; a run that hangs beyond it is ended, and its job goes back.
MAX_RUNTIME_SECONDS = 3600
# Far beyond the age at which an open run hands over, with the longest chain behind it.
MAX_EVENT_RUN_SECONDS = 10800

prewarm_site = dg.define_asset_job(
    "prewarm_site",
    selection=dg.AssetSelection.assets("app2_finance"),
    description="预热一个门店的 72 个财务窗口；由传感器和计划按门店发起。",
    tags={"dagster/max_runtime": MAX_RUNTIME_SECONDS, WORK_TAG: PREWARM_WORK},
)

member_events = dg.define_asset_job(
    "member_events",
    selection=dg.AssetSelection.assets(*(app.value for app in MEMBER_APPS)),
    description="处理会员任务（消费、备注、任务分配、单应用、补跑）：领取排队的任务，保持打开并随到随办，空闲一段时间后关闭；由传感器发起，不带分区。",
    # Ahead of prewarms in the queue: people wait for it, and it is one run.
    tags={"dagster/max_runtime": MAX_EVENT_RUN_SECONDS, WORK_TAG: EVENTS_WORK, PRIORITY_TAG: "10"},
)
