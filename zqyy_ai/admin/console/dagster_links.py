"""Addresses in Dagster's UI."""

from urllib.parse import quote

from fastapi import Request

from zqyy_ai.settings import Settings


def run_url(request: Request, settings: Settings, run_id: str | None) -> str | None:
    """None where there is no run."""
    if not run_id:
        return None
    base = settings.dagster_url or f"http://{request.url.hostname}:{settings.dagster_port}"
    return f"{base}/runs/{quote(run_id, safe='')}"
