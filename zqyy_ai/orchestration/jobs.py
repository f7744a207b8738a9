"""Jobs: what sensors and the schedule ask runs of."""

import dagster as dg

# A site's 72 windows in bad weather, with retries and queueing; a run that hangs beyond it is ended, and its job goes back.
MAX_RUNTIME_SECONDS = 3600

prewarm_site = dg.define_asset_job(
    "prewarm_site",
    selection=dg.AssetSelection.assets("app2_finance"),
    description="预热一个门店的 72 个财务窗口；由传感器和计划按门店发起。",
    tags={"dagster/max_runtime": MAX_RUNTIME_SECONDS},
)
