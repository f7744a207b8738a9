"""The assets of App3-App8: a member's answers, one partition for each member of a site.

One body, two ways to run it. With partitions, as people and backfills start it: a job of its own, red partitions where a step failed.
Without, as the sensor starts it: jobs as they come (`engine/event_run.py`), the partitions named in each materialisation; what fails there is
a job's status, an alert and a failed check of its partition, not a red run.

Thin: keys become a `MemberRun` or an `EventRun`, outcomes become materialisations and check evaluations.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import dagster as dg

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.events import MEMBER_APPS
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.event_run import EventRun
from zqyy_ai.engine.member_chain import StepOutcome
from zqyy_ai.engine.member_run import MemberRun
from zqyy_ai.engine.window_chain import WindowStepOutcome
from zqyy_ai.orchestration.answer_metadata import answer_metadata
from zqyy_ai.orchestration.app2_finance import told_of_window
from zqyy_ai.orchestration.cancellation import is_cancelled
from zqyy_ai.orchestration.known_members import KnownMembers
from zqyy_ai.orchestration.partitions import member_key, member_partitions, parse_member_key
from zqyy_ai.orchestration.resources import EngineResource

_MOST_FAILURES_TOLD = 72
_GROUP = "members"
CHECK_NAME = "answer_written"


def _view(name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(dg.AssetKey(["ai_source", name]), description=f"{description}字段见 docs/warehouse.md。", group_name="warehouse")


members_view = _view("members", "会员：姓名、等级、余额、最近到店。由 ETL 写入。")
visits_view = _view("visits", "到店账单：台桌、时间、区域、助教、商品、优惠、支付。由 ETL 写入。")
assistants_view = _view("assistants", "助教。由 ETL 写入。")
tasks_view = _view("tasks", "助教的会员任务。由后台写入。")
notes_view = _view("notes", "员工写的会员备注。由后台写入。")

retention_clues = dg.AssetSpec(
    dg.AssetKey("member_retention_clue"),
    description="维客线索表：App8 每次按（会员，门店，来源）整体替换；人工线索（source = manual）从不改动。",
    deps=[APPS[AppType.CONSOLIDATION].app_type.value],
    group_name=_GROUP,
)

_FAILURES = (
    "\n\n失败的原因：百炼调用失败或超时、回答不符合结构、熔断器打开、限流、Token 预算用完、ai_source 视图不可读。"
    "原因见 biz.ai_run_logs 与任务（biz.ai_trigger_jobs）；重试只会调用失败的步骤。"
)


def _spec(app_type: AppType, description: str, deps: list[Any]) -> dg.AssetSpec:
    return dg.AssetSpec(
        app_type.value,
        description=f"{description}写入 biz.ai_cache（{APPS[app_type].cache_type}），{APPS[app_type].expires_after_days} 天后过期。{_FAILURES}",
        deps=deps,
        skippable=True,
        group_name=_GROUP,
        kinds={"postgres", "ai"},
    )


SPECS = (
    _spec(AppType.CLUE, "客户线索：由会员完整的到店明细得出。", [members_view, visits_view]),
    _spec(AppType.NOTE, "备注分析：一条备注的重要程度（1–10 分）与其中的线索。", [members_view, notes_view]),
    _spec(
        AppType.CONSOLIDATION,
        "线索整合：合并、去重 App3 与 App6 的线索，并替换 member_retention_clue。",
        [AppType.CLUE.value, AppType.NOTE.value, members_view],
    ),
    _spec(AppType.CUSTOMER, "客户分析：整个客户，含整合后的线索。", [AppType.CONSOLIDATION.value, members_view, visits_view, tasks_view]),
    _spec(
        AppType.ANALYSIS,
        "助教关系：助教与会员的往来；每位相关助教一份回答。",
        [members_view, visits_view, assistants_view, tasks_view],
    ),
    _spec(AppType.TACTICS, "话术：为助教的任务写的话术，用到 App4 的结果。", [AppType.ANALYSIS.value, members_view, tasks_view]),
)

CHECKS = tuple(
    dg.AssetCheckSpec(
        CHECK_NAME,
        asset=app.value,
        description="最近一次执行写入了通过校验的回答；失败时附原因。",
        partitions_def=member_partitions,
    )
    for app in MEMBER_APPS
)


class MemberAnswersConfig(dg.Config):
    """`regenerate`：不复用已有回答，全部重新调用（会产生费用）。`only_missing`：仍有效的回答保持不动。"""

    regenerate: bool = False
    only_missing: bool = False


@dg.multi_asset(
    name="member_answers",
    specs=list(SPECS),
    check_specs=list(CHECKS),
    partitions_def=member_partitions,
    # A range is one run: the policy that Dagster's CLI demands for --partition-range. See docs/decisions/0002.
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=True,
)
def member_answers(context: dg.AssetExecutionContext, config: MemberAnswersConfig, engine: EngineResource) -> Iterator[object]:
    with engine.open() as opened:
        told = _Told(context, opened)
        if context.has_partition_key or context.has_partition_key_range:
            yield from _run_of_a_person(context, config, opened, told)
        else:
            outcomes = EventRun(opened, context.run.run_id).outcomes()
            for outcome in outcomes:
                try:
                    if isinstance(outcome, WindowStepOutcome):
                        yield from told_of_window(context, opened, outcome)
                    else:
                        yield from told.of(outcome)
                except Exception as failure:
                    outcomes.throw(failure)


def _run_of_a_person(context: dg.AssetExecutionContext, config: MemberAnswersConfig, engine: Engine, told: "_Told") -> Iterator[object]:
    """Each good step is a materialisation of its member; the run fails at its end when one was not good."""
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    apps = tuple(app for app in MEMBER_APPS if app.value in selected)
    keys = sorted(parse_member_key(key) for key in context.partition_keys)
    bad: dict[str, str] = {}
    for site_id, group in groupby(keys, key=lambda key: key[0]):
        try:
            run = MemberRun(
                engine,
                site_id,
                [member_id for _, member_id in group],
                apps,
                run_id=context.run.run_id,
                regenerate=config.regenerate,
                only_missing=config.only_missing,
                is_cancelled=lambda: is_cancelled(context),
            )
            with run:
                for outcome in run.outcomes():
                    yield from told.of(outcome)
                    if outcome.result.status.is_bad:
                        place = f"{outcome.step.name} {member_key(outcome.site_id, outcome.member_id)}"
                        bad[place] = f"{outcome.result.error_code}: {outcome.result.error_message}"
                        context.log.error("%s 失败：%s（run_log %s）", place, bad[place], outcome.result.run_log_id)
                bad |= {f"{site_id} #{number}": failure for number, failure in enumerate(run.failures, start=1)}
        except Exception as failure:
            # One site's trouble (closed, its data unreadable) is not the next one's.
            context.log.exception("门店 %s 的运行中断", site_id)
            bad[str(site_id)] = f"{type(failure).__name__}: {failure}"
    if bad:
        first, why = next(iter(bad.items()))
        raise dg.Failure(
            f"{len(bad)} 处失败，其余已更新；重新运行只会调用失败的步骤。首个 {first}：{why}",
            metadata=dict(list(bad.items())[:_MOST_FAILURES_TOLD]),
            allow_retries=False,
        )


class _Told:
    """Outcomes as Dagster's events."""

    def __init__(self, context: dg.AssetExecutionContext, engine: Engine) -> None:
        self._settings = engine.settings
        check_keys = {app: dg.AssetCheckKey(dg.AssetKey(app.value), CHECK_NAME) for app in MEMBER_APPS}
        self._members = KnownMembers(context.instance, check_keys)

    def of(self, outcome: StepOutcome) -> Iterator[object]:
        """A good step's materialisation; an evaluation of the check when the step failed, or was failing before. Of a sandbox nothing."""
        if outcome.is_sandbox:
            return
        result, app_type = outcome.result, outcome.step.app_type
        key = member_key(outcome.site_id, outcome.member_id)
        self._members.ensure_partition(key)
        if result.status.is_good:
            yield dg.AssetMaterialization(
                app_type.value, partition=key, metadata=answer_metadata(result, lambda: _preview(outcome), self._settings)
            )
        was_failing = self._members.is_failing(outcome.job_id, key, app_type)
        if result.status.is_bad or (result.status.is_good and was_failing):
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(app_type.value),
                check_name=CHECK_NAME,
                passed=result.status.is_good,
                metadata=_why(outcome) if result.status.is_bad else {},
                partition=key,
            )
            self._members.note(outcome.job_id, key, app_type, is_failing=result.status.is_bad)


def _why(outcome: StepOutcome) -> dict[str, dg.MetadataValue]:
    result = outcome.result
    why: dict[str, dg.MetadataValue] = {
        "原因": dg.MetadataValue.text(f"{result.error_code}: {result.error_message}"),
        "任务": dg.MetadataValue.int(outcome.job_id),
    }
    if result.run_log_id is not None:
        why["run_log_id"] = dg.MetadataValue.int(result.run_log_id)
    return why


def _preview(outcome: StepOutcome) -> str:
    app = APPS[outcome.step.app_type]
    assistant = f" · 助教 {outcome.step.assistant_id}" if outcome.step.assistant_id is not None else ""
    lines = [f"**{app.title} · 会员 {outcome.member_id}（门店 {outcome.site_id}）{assistant}**", ""]
    for name, value in (outcome.result.result or {}).items():
        if name.startswith("_"):
            continue
        if isinstance(value, list):
            lines += [f"- {_line(entry)}" for entry in value]
        elif value not in ("", None):
            lines.append(f"{value}" if isinstance(value, str) else f"{name}：{value}")
    return "\n".join(lines)


def _line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    return "　".join(str(part) for part in entry.values() if part not in ("", None))
