"""Is DashScope there, and does it know the key? Asked with a request that is refused before anything is computed, so it costs nothing."""

from dataclasses import dataclass
from enum import StrEnum


class ProbeVerdict(StrEnum):
    OK = "ok"
    KEY_REFUSED = "key_refused"
    APP_REFUSED = "app_refused"
    UNREACHABLE = "unreachable"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Probe:
    """`detail` is DashScope's code or the network's error, without the key."""

    verdict: ProbeVerdict
    detail: str


def probe_application(api_key: str, base_url: str, app_id: str, *, workspace: str | None = None, timeout_seconds: float = 10.0) -> Probe:
    """Posts a call without a prompt. DashScope checks the key first, then the parameters: a complaint about the prompt is good news."""
    import requests  # 0.2 s that only the doctor and calls need

    url = f"{base_url.rstrip('/')}/apps/{app_id}/completion"
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(
                url,
                json={"model": "", "parameters": {}, "input": {}},
                headers={"Authorization": f"Bearer {api_key}"} | ({"X-DashScope-WorkSpace": workspace} if workspace else {}),
                timeout=timeout_seconds,
                allow_redirects=False,
            )
    except requests.RequestException as failure:
        return Probe(ProbeVerdict.UNREACHABLE, type(failure).__name__)
    try:
        code = str(answer.json().get("code", ""))
    except (ValueError, AttributeError):
        code = ""
    told = f"HTTP {answer.status_code} {code}".strip()
    if answer.status_code == 401 or code in ("InvalidApiKey", "Arrearage") or code == "AccessDenied":
        return Probe(ProbeVerdict.KEY_REFUSED, told)
    if answer.status_code in (403, 404):
        return Probe(ProbeVerdict.APP_REFUSED, told)
    if answer.status_code == 400:
        return Probe(ProbeVerdict.OK, told)
    return Probe(ProbeVerdict.UNCLEAR, told)
