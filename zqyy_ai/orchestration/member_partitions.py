"""Keeps the `member` partitions in step with the active members: visited in the last 180 days, or with an event in that time.

New members get their partition from the run that takes their first event; this finds the others, and removes who has become stale. A hundred
thousand members are a few ticks: each does what it can within its time, and the next one goes on.
"""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from dagster import DagsterInstance

from zqyy_ai.domain.business_clock import business_date_at
from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.orchestration.partitions import MEMBER_PARTITIONS_NAME, member_key
from zqyy_ai.store import sites, trigger_jobs
from zqyy_ai.store.database import Database
from zqyy_ai.warehouse.members import active_members

# Of a tick that shall take less than 5 s, reading both sides included.
_MOST_SECONDS = 3.5
_ADDED_TOGETHER = 5_000
_REMOVED_TOGETHER = 100
_FEW = 100


@dataclass(frozen=True, slots=True)
class MembersSynced:
    """What one look changed. `left_added` and `left_removed` are for the next ones."""

    added: int = 0
    removed: int = 0
    left_added: int = 0
    left_removed: int = 0
    kept: int = 0
    problem: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left for a next look at once."""
        return not (self.left_added or self.left_removed)

    def __str__(self) -> str:
        if self.problem:
            return f"会员分区未更新：{self.problem}"
        if self.kept:
            return f"新增 {self.added} 个会员分区；{self.kept} 个会员一下子都不再活跃，超过一半，未移除：请检查 ai_source.members"
        left = f"；余下 {self.left_added} 个新增、{self.left_removed} 个移除，下次继续" if self.left_added or self.left_removed else ""
        return f"新增 {self.added} 个会员分区，移除 {self.removed} 个{left}"


def sync_members(database: Database, instance: DagsterInstance, *, now: datetime, active_days: int) -> MembersSynced:
    """One look. A deployment without the members' views keeps the partitions that it has; and so does one whose members are suddenly gone."""
    deadline = time.monotonic() + _MOST_SECONDS
    # Before the jobs: a run makes the partition of a new member after its job is there.
    present = set(instance.get_dynamic_partitions(MEMBER_PARTITIONS_NAME))
    since = now - timedelta(days=active_days)
    with database.autocommit() as connection:
        try:
            active = active_members(connection, since=business_date_at(since))
        except SourceContractError as problem:
            return MembersSynced(problem=str(problem)[:300])
        active |= trigger_jobs.members_with_jobs(connection, since)
        open_sites = {site.site_id for site in sites.active_sites(connection)}
    wanted = {member_key(site_id, member_id) for site_id, member_id in active if site_id in open_sites}
    of_closed_sites = {member_key(site_id, member_id) for site_id, member_id in active if site_id not in open_sites}
    new, stale = sorted(wanted - present, key=_by_number), sorted(present - wanted, key=_by_number)
    added = removed = 0
    while added < len(new) and time.monotonic() < deadline:
        instance.add_dynamic_partitions(MEMBER_PARTITIONS_NAME, new[added : added + _ADDED_TOGETHER])
        added = min(len(new), added + _ADDED_TOGETHER)
    # Whoever closes a site means it.
    if len(set(stale) - of_closed_sites) > max(len(present) / 2, _FEW):
        return MembersSynced(added, left_added=len(new) - added, kept=len(stale))
    while removed < len(stale) and time.monotonic() < deadline:
        for key in stale[removed : removed + _REMOVED_TOGETHER]:
            instance.delete_dynamic_partition(MEMBER_PARTITIONS_NAME, key)
        removed = min(len(stale), removed + _REMOVED_TOGETHER)
    return MembersSynced(added, removed, len(new) - added, len(stale) - removed)


def _by_number(key: str) -> tuple[int, ...]:
    """Sites and members in the order of their numbers: a range of partitions follows the order of insertion."""
    return tuple(int(part) for part in key.split("|") if part.isdecimal())
