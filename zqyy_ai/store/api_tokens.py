"""`biz.ai_api_tokens` and `biz.ai_sessions`: who may call the API, by a token or by a console's cookie.

A token reads `zqyy_<public id>_<secret>`. The public id finds its row; of the secret the row holds the SHA-256 alone, which is enough for 256
random bits. A session's cookie is kept the same way.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from zqyy_ai.domain.access import Caller, Role, SiteScope
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.queries import named_queries

_TOKEN = re.compile(r"zqyy_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NOBODYS_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class StoredToken:
    id: int
    name: str
    role: Role
    site_ids: list[int] | None
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """A console's login. `csrf_token` must come back with whatever changes something."""

    caller: Caller
    csrf_token: str
    expires_at: datetime


def create(connection: Connection, *, name: str, role: Role, site_ids: Sequence[int] | None) -> str:
    """Adds a token and returns it: the only time that it can be read. `site_ids` None: all sites."""
    public_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    connection.execute(
        named_queries("api_tokens")["create"],
        {
            "public_id": public_id,
            "secret_hash": _hash(secret),
            "name": name,
            "role": role.value,
            "site_ids": None if site_ids is None else sorted(set(site_ids)),
        },
    )
    return f"zqyy_{public_id}_{secret}"


def find_caller(database: Database, token: str) -> Caller | None:
    """Whom the token stands for; None for one that is malformed, unknown, wrong or revoked. Notes its use, once a minute at most."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    row = next(iter(database.read_at_once(named_queries("api_tokens")["by_public_id"], {"public_id": parts[1]})), None)
    # Compared for an unknown id too, so that the time tells nothing.
    matches = hmac.compare_digest(_hash(parts[2]), row["secret_hash"] if row else _NOBODYS_HASH)
    if row is None or not matches:
        return None
    if row["is_use_due"]:
        with database.transaction() as connection:
            connection.execute(named_queries("api_tokens")["used"], {"token_id": row["id"]})
    return _caller(row)


def list_tokens(connection: Connection) -> list[StoredToken]:
    """Newest first, revoked ones too."""
    return [StoredToken(**{**row, "role": Role(row["role"])}) for row in connection.execute(named_queries("api_tokens")["all"])]


def revoke(connection: Connection, token_id: int) -> bool:
    """The token and every session of it are of no use from the next request on. False where there is nothing to revoke."""
    return connection.execute(named_queries("api_tokens")["revoke"], {"token_id": token_id}).rowcount == 1


def open_session(connection: Connection, caller: Caller, *, lifetime: timedelta) -> tuple[str, Session]:
    """The cookie's value, readable this one time, and the session. Sessions that are over are cleared away."""
    connection.execute(named_queries("api_tokens")["clear_sessions"])
    cookie, csrf_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    row = connection.execute(
        named_queries("api_tokens")["open_session"],
        {"session_hash": _hash(cookie), "token_id": caller.token_id, "csrf_token": csrf_token, "lifetime": lifetime},
    ).fetchone()
    assert row is not None
    return cookie, Session(caller, csrf_token, row["expires_at"])


def find_session(connection: Connection, cookie: str) -> Session | None:
    """None for one that is unknown or over, and for one whose token was revoked."""
    row = connection.execute(named_queries("api_tokens")["session"], {"session_hash": _hash(cookie)}).fetchone()
    return None if row is None else Session(_caller(row), row["csrf_token"], row["expires_at"])


def session_hash(cookie: str) -> bytes:
    """By which a session's row is found."""
    return _hash(cookie)


def close_session(connection: Connection, cookie: str) -> None:
    connection.execute(named_queries("api_tokens")["close_session"], {"session_hash": _hash(cookie)})


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _caller(row: dict[str, Any]) -> Caller:
    site_ids = row["site_ids"]
    return Caller(row["id"], row["name"], Role(row["role"]), SiteScope(None if site_ids is None else frozenset(site_ids)))
