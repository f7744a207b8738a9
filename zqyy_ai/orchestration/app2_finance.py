"""The asset `app2_finance`: a site's finance insights, one partition for each window.

Thin: partition keys become a `PrewarmRun`, its outcomes become materialisations and check evaluations.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import dagster as dg

# Not exported, though `AssetCheckEvaluation` takes it: dagster's version is pinned.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from zqyy_ai.domain.number_check import NUMBER_CHECK
from zqyy_ai.domain.windows import AREA_TITLES, TIME_DIMENSION_TITLES, WindowKey
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.prewarm import PrewarmRun, WindowOutcome
from zqyy_ai.engine.step import StepResult
from zqyy_ai.engine.window_chain import WindowStepOutcome
from zqyy_ai.orchestration.answer_metadata import answer_metadata
from zqyy_ai.orchestration.cancellation import is_cancelled
from zqyy_ai.orchestration.partitions import finance_key, finance_partitions, parse_finance_key
from zqyy_ai.orchestration.resources import EngineResource
from zqyy_ai.orchestration.tags import ASKED_BY_TAG, SENSOR
from zqyy_ai.store.sites import Site

_ASSET_KEY = dg.AssetKey("app2_finance")
_MOST_FAILURES_TOLD = 72
_JUDGED_TOGETHER = 12

finance_view = dg.AssetSpec(
    dg.AssetKey(["ai_source", "finance_daily"]),
    description="门店 × 营业日 × 区域 的财务日报视图，由 ETL 写入。字段见 docs/warehouse.md。",
    group_name="warehouse",
)

answer_validates = dg.AssetCheckSpec(
    "answer_validates",
    asset="app2_finance",
    description="模型的回答通过输出结构校验（3–7 条洞察，编号连续，长度在界内）。",
    partitions_def=finance_partitions,
)
not_stale = dg.AssetCheckSpec(
    "not_stale",
    asset="app2_finance",
    description="缓存里有一份在营业日结束前有效的回答。",
    partitions_def=finance_partitions,
)

numbers_explained = dg.AssetCheckSpec(
    "numbers_explained",
    asset="app2_finance",
    description=(
        "洞察里引用的每个数字都是提示词中的事实，或能由事实按规则推出（四舍五入、换算单位、环比、占比等）。"
        "未能解释的数字只作提示，回答照常写入；规则见 docs/number_check.md。"
    ),
    blocking=False,
    partitions_def=finance_partitions,
)


class PrewarmConfig(dg.Config):
    """`regenerate`：不复用已有回答，全部重新调用（会产生费用）。`only_missing`：仍有效的窗口保持不动。"""

    regenerate: bool = False
    only_missing: bool = False


@dg.multi_asset(
    name="app2_finance",
    specs=[
        dg.AssetSpec(
            "app2_finance",
            description=(
                "财务洞察：每个门店 8 个时间维度 × 9 个区域，共 72 个窗口；area=all 由 App2 回答，其余由 App2a 回答。"
                "写入 biz.ai_cache，当个营业日结束时过期；数据没有变化的窗口复用上次的回答，不调用模型。\n\n"
                "失败的原因：百炼调用失败或超时、回答不符合结构、熔断器打开、限流、Token 预算用完、ai_source 视图不可读。"
                "失败的窗口显示为红色，其余照常更新；原因见本次运行的日志与 biz.ai_run_logs。重新运行只会调用失败的窗口。"
            ),
            deps=[finance_view],
            skippable=True,
            group_name="finance",
            kinds={"postgres", "ai"},
        )
    ],
    check_specs=[answer_validates, not_stale, numbers_explained],
    partitions_def=finance_partitions,
    # A range is one run: the policy that Dagster's CLI demands for --partition-range. See docs/decisions/0002.
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=True,
)
def app2_finance(context: dg.AssetExecutionContext, config: PrewarmConfig, engine: EngineResource) -> Iterator[object]:
    """A site's windows side by side; each good one is its own materialisation, and the run fails at its end when one was not good."""
    keys = sorted((parse_finance_key(key) for key in context.partition_keys), key=lambda key: key[0])
    bad: dict[str, str] = {}
    with engine.open() as opened:
        for site_id, group in groupby(keys, key=lambda key: key[0]):
            try:
                yield from _prewarm_site(context, config, opened, site_id, [window for _, window in group], bad)
            except Exception as failure:
                # One site's trouble (closed, its data unreadable) is not the next one's.
                context.log.exception("门店 %s 的预热中断", site_id)
                bad[str(site_id)] = f"{type(failure).__name__}: {failure}"
    if bad:
        first, why = next(iter(bad.items()))
        raise dg.Failure(
            f"{len(bad)} 处失败，其余已更新；重新运行只会调用失败的窗口。首个 {first}：{why}",
            metadata=dict(list(bad.items())[:_MOST_FAILURES_TOLD]),
            allow_retries=False,
        )


def _prewarm_site(
    context: dg.AssetExecutionContext,
    config: PrewarmConfig,
    engine: Engine,
    site_id: int,
    windows: list[WindowKey],
    bad: dict[str, str],
) -> Iterator[object]:
    prewarm = PrewarmRun(
        engine,
        site_id,
        windows,
        run_id=context.run.run_id,
        # A re-execution inherits its parent's tags, but a person asked for it.
        asked_by_sensor=context.run.tags.get(ASKED_BY_TAG) == SENSOR and "dagster/parent_run_id" not in context.run.tags,
        regenerate=config.regenerate,
        only_missing=config.only_missing,
        is_cancelled=lambda: is_cancelled(context),
    )
    with prewarm:
        if prewarm.job is None:
            context.log.info("门店 %s：任务已由另一个运行领取，本次没有要做的事", site_id)
            return
        context.log.info("门店 %s：任务 %s，%s 个窗口", site_id, prewarm.job.id, len(windows))
        judged: list[_Judged] = []
        for outcome in prewarm.outcomes():
            key = finance_key(site_id, outcome.window)
            result = outcome.result
            if result.status.is_good and not prewarm.is_sandbox:
                yield dg.AssetMaterialization(
                    "app2_finance",
                    partition=key,
                    metadata=answer_metadata(result, partial(_preview, outcome, prewarm.site), engine.settings),
                )
            elif not result.status.is_good:
                bad[key] = f"{result.error_code}: {result.error_message}"
                context.log.error("%s 失败：%s: %s（run_log %s）", key, result.error_code, result.error_message, result.run_log_id)
            if prewarm.is_sandbox:
                continue  # the checks are about the cache
            has_answer = result.status.is_good or prewarm.has_valid_answer(outcome.window)
            judged.append(_Judged(key, result, has_answer))
            if len(judged) == _JUDGED_TOGETHER:
                yield from _check_evaluations(context, judged)
                judged.clear()
        yield from _check_evaluations(context, judged)


def told_of_window(context: dg.AssetExecutionContext, engine: Engine, outcome: WindowStepOutcome) -> Iterator[object]:
    """A window that a job asked for, done by the run that takes jobs: the same events as a prewarm's. Of a sandbox nothing."""
    if outcome.is_sandbox:
        return
    window, result = outcome.step.window, outcome.result
    key = finance_key(outcome.site.site_id, window)
    if result.status.is_good:
        shown = WindowOutcome(window, result)
        metadata = answer_metadata(result, lambda: _preview(shown, outcome.site), engine.settings)
        yield dg.AssetMaterialization("app2_finance", partition=key, metadata=metadata)
    yield from _check_evaluations(context, [_Judged(key, result, outcome.has_answer)])


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the checks say of one window, when its events are written."""

    key: str
    result: StepResult
    has_answer: bool


def _check_evaluations(context: dg.AssetExecutionContext, judged: list[_Judged]) -> Iterator[dg.AssetCheckEvaluation]:
    targets = _targets(context, judged)
    for window in judged:
        result = window.result
        about: dict[str, Any] = {"partition": window.key, "target_materialization_data": targets.get(window.key)}
        # A refusal or a failed connection says nothing about an answer: only an answer that came is judged.
        if result.status.is_good or (result.error_code or "").startswith("reply_"):
            yield dg.AssetCheckEvaluation(
                _ASSET_KEY,
                answer_validates.name,
                passed=result.status.is_good,
                metadata={} if result.status.is_good else {"原因": result.error_message or ""},
                **about,
            )
        numbers = (result.result or {}).get(NUMBER_CHECK)
        if numbers is not None:
            yield dg.AssetCheckEvaluation(
                _ASSET_KEY,
                numbers_explained.name,
                passed=not numbers["unexplained"],
                severity=dg.AssetCheckSeverity.WARN,
                metadata=_numbers_metadata(result.result or {}, numbers),
                **about,
            )
        yield dg.AssetCheckEvaluation(
            _ASSET_KEY,
            not_stale.name,
            passed=window.has_answer,
            metadata={"过期时间": dg.MetadataValue.timestamp(result.expires_at)}
            if result.expires_at
            else {"原因": result.error_code or ""},
            **about,
        )


def _numbers_metadata(answer: dict[str, Any], numbers: dict[str, Any]) -> dict[str, dg.MetadataValue]:
    """How many numbers, and each unexplained one, marked in its sentence."""
    metadata: dict[str, dg.MetadataValue] = {"已核对数字": dg.MetadataValue.int(numbers["checked"])}
    if numbers["unexplained"]:
        texts = {insight["seq"]: insight for insight in answer.get("insights", [])}
        lines = [_marked(texts[number["seq"]][number["field"]], number) for number in numbers["unexplained"] if number["seq"] in texts]
        metadata["未能解释"] = dg.MetadataValue.md("\n".join(lines))
    return metadata


def _marked(text: str, number: dict[str, Any]) -> str:
    start, end = number["start"], number["end"]
    first = max((text.rfind(stop, 0, start) + 1 for stop in "。！？\n"), default=0)
    last = min((place + 1 for stop in "。！？\n" if (place := text.find(stop, end)) >= 0), default=len(text))
    return f"- {number['seq']}. {text[first:start]}**{text[start:end]}**{text[end:last]}"


def _targets(context: dg.AssetExecutionContext, judged: list[_Judged]) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    """The materialisations that the evaluations are about, by partition key.

    Without them Dagster takes an evaluation for one of an older materialisation, and shows none. Those of this run are asked for together:
    that costs as much as for one of them.
    """
    instance, targets = context.instance, {}
    good = {window.key for window in judged if window.result.status.is_good}
    if good:
        written = instance.get_latest_storage_id_by_partition(_ASSET_KEY, dg.DagsterEventType.ASSET_MATERIALIZATION, good)
        for key, storage_id in written.items():
            targets[key] = AssetCheckEvaluationTargetMaterializationData(
                storage_id=storage_id, run_id=context.run.run_id, timestamp=time.time()
            )
    for window in judged:
        if window.key in good:
            continue
        older = instance.fetch_materializations(dg.AssetRecordsFilter(_ASSET_KEY, asset_partitions=[window.key]), limit=1).records
        if older:
            targets[window.key] = AssetCheckEvaluationTargetMaterializationData(
                storage_id=older[0].storage_id, run_id=older[0].run_id, timestamp=older[0].timestamp
            )
    return targets


def _preview(outcome: WindowOutcome, site: Site) -> str:
    window = outcome.window
    insights = (outcome.result.result or {}).get("insights", [])
    heading = f"**{site.site_name}（{site.site_id}）· {TIME_DIMENSION_TITLES[window.time_dimension]} · {AREA_TITLES[window.area]}**"
    return "\n".join([heading, "", *(f"{insight['seq']}. **{insight['title']}**:{insight['body']}" for insight in insights)])
