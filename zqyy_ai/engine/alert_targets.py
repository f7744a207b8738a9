"""Where alerts are delivered: the URLs of `ZQYY_ALERT_WEBHOOKS`, as apprise reads them. The one module that imports apprise.

Import it where it is needed, not at the top of another module: apprise costs half a second.

apprise reads the URLs, and its plugins post to Slack and to all other services. Its plugins for the robots of DingTalk and WeCom are
extended here, because both services answer a message that they refuse (a wrong signature, a missing keyword, too many messages) with HTTP
200 and an `errcode`, which apprise 2.3 takes for delivered; and it encodes DingTalk's signature twice, which DingTalk refuses.
"""

import base64
import hashlib
import hmac
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import requests
from apprise import Apprise, NotifyType
from apprise.plugins.base import NotifyBase
from apprise.plugins.dingtalk import NotifyDingTalk
from apprise.plugins.slack import NotifySlack
from apprise.plugins.wecombot import NotifyWeComBot
from pydantic import SecretStr

from zqyy_ai.domain.errors import SettingError, TransientError
from zqyy_ai.engine.alert_messages import Message, Tone

_NATIVE_DINGTALK = re.compile(r"https?://oapi\.dingtalk\.com/robot/send/?\?(?P<query>.+)", re.IGNORECASE)
_NOTIFY_TYPES = {Tone.CRITICAL: NotifyType.FAILURE, Tone.WARNING: NotifyType.WARNING, Tone.GOOD: NotifyType.SUCCESS}
_LONGEST_ERROR = 300
_apprise_logger = logging.getLogger("apprise")


class NotDelivered(TransientError):
    """A target did not take a message; says why, without the target's secrets."""


@dataclass(frozen=True, slots=True)
class AlertTarget:
    """One target. `name` is the service and a digest of the URL: `dingtalk-1f0c9a3e`; nothing that is shown says more of the URL."""

    name: str
    _url: str = field(repr=False)

    def send(self, message: Message) -> None:
        """Posts and returns when the service has accepted. Raises NotDelivered. Blocks for some seconds at most, unless bytes drip."""
        # A plugin of its own for each message: apprise's remember what they have sent.
        plugin = _plugin_of(self._url)
        with _TellTales() as tales:
            try:
                is_sent = plugin.notify(body=message.text, title=message.title, notify_type=_NOTIFY_TYPES[message.tone])
            except NotDelivered as refused:
                raise NotDelivered(_redacted(str(refused), self._url)) from None
            except Exception as failure:  # a plugin's own defect must not end the delivery to others; its text may hold the URL
                raise NotDelivered(f"发送失败({type(failure).__name__})") from None
        if not is_sent:
            raise NotDelivered(_redacted(tales.told or "发送失败", self._url))


def alert_targets(webhooks: Sequence[SecretStr]) -> list[AlertTarget]:
    """The targets, without repetitions. Raises SettingError that says which URL cannot be used, and never the URL."""
    targets: dict[str, AlertTarget] = {}
    # What apprise logs may hold tokens; what is wrong is told by us.
    _apprise_logger.propagate = False
    if not _apprise_logger.handlers:
        _apprise_logger.addHandler(logging.NullHandler())
    for number, webhook in enumerate(webhooks, start=1):
        url = webhook.get_secret_value()
        scheme = urlsplit(url).scheme.lower()
        with _TellTales():
            try:
                plugin = _plugin_of(url)
            except Exception:  # TypeError of many kinds; its text holds the token
                raise SettingError(
                    f"ZQYY_ALERT_WEBHOOKS: URL {number} ({scheme}://…) is no webhook that can be used: give a DingTalk robot's (with "
                    "&secret=SEC… if it signs), a WeCom robot's or a Slack hook's https:// URL, or one of apprise's"
                ) from None
        name = f"{_service(plugin)}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        targets[name] = AlertTarget(name, url)
    return list(targets.values())


class _DingTalkRobot(NotifyDingTalk):
    def send(self, body: str, title: str = "", *_: Any, **__: Any) -> bool:
        content = {"content": f"{title}\n{body}" if title else body}
        payload = {"msgtype": "text", "text": content, "at": {"atMobiles": self.targets, "isAtAll": False}}
        return _post_to_robot(
            self, self.notify_url.format(token=self.token), payload, params=_signature(self.secret) if self.secret else {}
        )


class _WeComRobot(NotifyWeComBot):
    def send(self, body: str, title: str = "", *_: Any, **__: Any) -> bool:
        return _post_to_robot(self, self.api_url, {"msgtype": "text", "text": {"content": f"{title}\n{body}" if title else body}})


def _post_to_robot(plugin: NotifyBase, url: str, payload: dict[str, Any], params: dict[str, str] | None = None) -> bool:
    """True, or NotDelivered: delivered is what the service answers with HTTP 200 and errcode 0."""
    try:
        answer = requests.post(
            url, json=payload, params=params, timeout=plugin.request_timeout, verify=plugin.verify_certificate, allow_redirects=False
        )
    except requests.RequestException as failure:
        raise NotDelivered(f"连接失败({type(failure).__name__})") from None
    if answer.status_code != requests.codes.ok:
        raise NotDelivered(f"HTTP {answer.status_code}")
    try:
        said = answer.json()
        code, reason = said["errcode"], str(said.get("errmsg", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotDelivered("回应无法识别:不是机器人接口?") from None
    if code != 0:
        raise NotDelivered(f"被拒绝(errcode {code}):{reason}")
    return True


def _signature(secret: str) -> dict[str, str]:
    """DingTalk's 加签: milliseconds, and the HMAC-SHA256 of them and the secret, keyed with the secret."""
    timestamp = str(round(time.time() * 1000))
    digest = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
    return {"timestamp": timestamp, "sign": base64.b64encode(digest).decode()}


def _plugin_of(url: str) -> NotifyBase:
    """apprise's plugin for a URL. Raises ValueError, or what the plugin raises, where the URL cannot be meant."""
    native = _NATIVE_DINGTALK.fullmatch(url)
    if native:
        url = _apprises_dingtalk_url(native["query"])
    known: tuple[tuple[Any, str], ...] = ((_DingTalkRobot, "dingtalk"), (_WeComRobot, "wecombot"), (NotifySlack, "slack"))
    for plugin, scheme in known:
        parsed = plugin.parse_url(url) if url.lower().startswith(f"{scheme}://") else plugin.parse_native_url(url)
        if parsed:
            made: NotifyBase = plugin(**parsed)
            return made
    found = Apprise.instantiate(url, suppress_exceptions=False)
    if found is None:
        raise ValueError("no service of apprise's")
    return found


def _service(plugin: NotifyBase) -> str:
    # A text or several, whatever the annotations say.
    scheme: Any = getattr(plugin, "secure_protocol", None) or getattr(plugin, "protocol", None)
    return str(scheme if isinstance(scheme, str) else scheme[0])


def _apprises_dingtalk_url(query: str) -> str:
    fields = dict(parse_qsl(query))
    token, secret = (quote(fields.pop(name, ""), safe="") for name in ("access_token", "secret"))
    url = f"dingtalk://{secret}@{token}/" if secret else f"dingtalk://{token}/"
    return f"{url}?{urlencode(fields)}" if fields else url


class _TellTales(logging.Handler):
    """What apprise logs in this thread inside the block, which is all that it says of a failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told = ""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.told = record.getMessage()

    def __enter__(self) -> Self:
        _apprise_logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _apprise_logger.removeHandler(self)


def _redacted(text: str, url: str) -> str:
    """Without any part of the URL that could be a secret: whatever it has of six characters or more, but the host of an https:// one."""
    parts = urlsplit(url)
    words = {*re.split(r"[/@:?&=#]", url), *re.split(r"[/@:?&=#]", unquote(url))} - {parts.scheme}
    if parts.hostname and "." in parts.hostname:
        words.discard(parts.hostname)
    for word in sorted((word for word in words if len(word) >= 6), key=len, reverse=True):
        text = text.replace(word, "***")
    return text[:_LONGEST_ERROR]
