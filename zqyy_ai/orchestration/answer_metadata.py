"""What an operator sees of an answer at its materialisation: a preview, what it cost, how long it holds, where its run log is."""

import logging
from collections.abc import Callable

import dagster as dg

from zqyy_ai.domain.number_check import NUMBER_CHECK
from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.settings import Settings

logger = logging.getLogger(__name__)

STATUS_TITLES = {
    StepStatus.ANSWERED: "新回答",
    StepStatus.REUSED: "数据未变，复用",
    StepStatus.FIXED: "没有数据，固定回答",
}


def answer_metadata(result: StepResult, preview: Callable[[], str], settings: Settings) -> dict[str, dg.MetadataValue]:
    """`preview` makes Markdown. Nothing where the answer can't be shown: it is in the cache all the same, and the next one must be told too."""
    try:
        return _metadata(result, preview(), settings)
    except Exception:
        logger.exception("answer_metadata.not_shown cache_id=%s run_log_id=%s", result.cache_id, result.run_log_id)
        return {}


def _metadata(result: StepResult, preview: str, settings: Settings) -> dict[str, dg.MetadataValue]:
    cost_cny = (
        result.input_tokens * settings.input_price_cny_per_million_tokens
        + result.output_tokens * settings.output_price_cny_per_million_tokens
    ) / 1_000_000
    metadata: dict[str, dg.MetadataValue] = {
        "预览": dg.MetadataValue.md(preview),
        "结果": dg.MetadataValue.text(STATUS_TITLES[result.status]),
        "tokens": dg.MetadataValue.int(result.tokens),
        "耗时_ms": dg.MetadataValue.int(result.latency_ms),
        "费用_元": dg.MetadataValue.float(round(cost_cny, 6)),
    }
    if result.model_ids:
        metadata["模型"] = dg.MetadataValue.text(", ".join(result.model_ids))
    numbers = (result.result or {}).get(NUMBER_CHECK)
    if numbers is not None:
        metadata["数字核对"] = dg.MetadataValue.text(f"{numbers['checked']} 个数字，{len(numbers['unexplained'])} 个未能解释")
    if result.expires_at is not None:
        metadata["过期时间"] = dg.MetadataValue.timestamp(result.expires_at)
    if result.run_log_id is not None:
        metadata["run_log_id"] = dg.MetadataValue.int(result.run_log_id)
    return metadata
