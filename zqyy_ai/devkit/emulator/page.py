"""The emulator's page for people: what it has been asked, in Chinese. Read-only; it renews itself every two seconds."""

import json
from html import escape

from zqyy_ai.devkit.emulator.fault_plan import FaultPlan
from zqyy_ai.devkit.emulator.ledger import Counts, Ledger

_SHOWN_PROMPTS = 10

_PAGE = """<!doctype html><html lang="zh-CN"><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>百炼模拟器</title>
<style>body{{font:14px/1.6 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222}}table{{border-collapse:collapse}}
td,th{{border:1px solid #ccc;padding:.2rem .6rem;text-align:right}}td:first-child,th:first-child{{text-align:left}}
pre{{background:#f6f6f6;padding:.6rem;white-space:pre-wrap;word-break:break-all}}</style>
<h1>百炼(DashScope)模拟器</h1>
<p>这里的回答由程序根据提示词中的事实拼写，<b>不是模型的回答</b>。随机种子 {seed}，连接数 {connections}。</p>
<h2>调用</h2><table><tr><th>应用 ID</th><th>应用</th><th>收到</th><th>已回答</th><th>重复回答</th><th>拒绝</th><th>中断</th><th>放弃</th>
<th>进行中</th><th>最高并发</th><th>令牌</th></tr>{rows}</table>
<h2>故障计划</h2><pre>{plan}</pre><p>已发生:{faults}</p>
<p>更改：<code>curl -X PUT …/control/plan -d '{{"faults":[{{"kind":"http_error","status":429,"rate":0.2}}]}}'</code>;
清零并恢复初始计划:<code>curl -X POST …/control/reset</code></p>
<h2>最近的提示词</h2>{prompts}</html>"""


def control_page(ledger: Ledger, plan: FaultPlan, seed: int) -> str:
    rows = [_row("合计", "", ledger.total)]
    rows += [_row(app_id, "、".join(sorted(ledger.apps.get(app_id, ()))), counts) for app_id, counts in sorted(ledger.by_app_id.items())]
    prompts = "".join(
        f"<details><summary>#{entry.number} {escape(entry.app_id)} 第 {entry.attempt} 次 {escape(entry.outcome or '进行中')}"
        f" {'' if entry.seconds is None else f'{entry.seconds} 秒'}</summary><pre>{escape(entry.prompt)}</pre></details>"
        for entry in list(ledger.entries)[: -_SHOWN_PROMPTS - 1 : -1]
    )
    return _PAGE.format(
        seed=seed,
        connections=len(ledger.connections),
        rows="".join(rows),
        plan=escape(json.dumps(plan.model_dump(mode="json", exclude_unset=True), ensure_ascii=False, indent=1)),
        faults=escape("、".join(f"{kind} {count}" for kind, count in sorted(ledger.faults.items()))) or "无",
        prompts=prompts or "<p>还没有调用。</p>",
    )


def _row(app_id: str, apps: str, counts: Counts) -> str:
    cells = (
        counts.posts,
        counts.answered,
        counts.answered_again,
        counts.refused,
        counts.broken,
        counts.abandoned,
        counts.in_flight,
        counts.max_in_flight,
        counts.tokens,
    )
    return f"<tr><td>{escape(app_id)}</td><td>{escape(apps)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
