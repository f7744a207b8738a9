"""What a run knows of the members whose outcomes it tells Dagster: whether their partition is there, and whether their checks are failing."""

import dagster as dg
from dagster import DagsterInstance

# Not exported, though the storage's public methods take and give them: dagster's version is pinned.
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from zqyy_ai.domain.apps import AppType
from zqyy_ai.orchestration.partitions import MEMBER_PARTITIONS_NAME

# More than a run has under way.
_MOST_REMEMBERED = 2000


class KnownMembers:
    """For one thread. `check_keys`: the check of each application."""

    def __init__(self, instance: DagsterInstance, check_keys: dict[AppType, dg.AssetCheckKey]) -> None:
        self._instance = instance
        self._check_keys = check_keys
        self._present: set[str] = set()
        self._failing: dict[tuple[int, str], set[AppType]] = {}

    def ensure_partition(self, key: str) -> None:
        """Makes the member a partition, should it be a new one: on its first event."""
        if key not in self._present:
            self._instance.add_dynamic_partitions(MEMBER_PARTITIONS_NAME, [key])
            self._present.add(key)

    def is_failing(self, job_id: int, key: str, app_type: AppType) -> bool:
        """Whether the newest evaluation of the member's check failed, or was planned by a run that did not come to it.

        Looked up once for all steps of a job.
        """
        if (job_id, key) not in self._failing:
            if len(self._failing) >= _MOST_REMEMBERED:
                self._failing.clear()
            newest = self._instance.event_log_storage.get_latest_asset_check_execution_by_key(
                list(self._check_keys.values()), partition_filter=PartitionKeyFilter(key=key)
            )
            self._failing[job_id, key] = {
                app
                for app, check_key in self._check_keys.items()
                if (record := newest.get(check_key)) is not None and record.status is not AssetCheckExecutionRecordStatus.SUCCEEDED
            }
        return app_type in self._failing[job_id, key]

    def note(self, job_id: int, key: str, app_type: AppType, *, is_failing: bool) -> None:
        """What was told just now."""
        if is_failing:
            self._failing[job_id, key].add(app_type)
        else:
            self._failing[job_id, key].discard(app_type)
