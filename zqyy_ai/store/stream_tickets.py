"""`biz.ai_stream_tickets`: what a browser opens a stream with, where it can't send a header. Good once, for a minute; its hash alone is stored."""

import hashlib
import secrets
from datetime import datetime, timedelta

from zqyy_ai.domain.access import Caller, Role, SiteScope
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


def issue(connection: Connection, caller: Caller, session_hash: bytes | None, *, lifetime: timedelta) -> tuple[str, datetime]:
    """The ticket, readable this one time, and when it expires. Those that are over are cleared away."""
    connection.execute(named_queries("stream_tickets")["clear"])
    ticket = secrets.token_urlsafe(32)
    row = connection.execute(
        named_queries("stream_tickets")["issue"],
        {"ticket_hash": _hash(ticket), "token_id": caller.token_id, "session_hash": session_hash, "lifetime": lifetime},
    ).fetchone()
    assert row is not None
    return ticket, row["expires_at"]


def redeem(connection: Connection, ticket: str) -> tuple[Caller, bytes | None] | None:
    """Whom the ticket stands for, and the hash of the session that it came from; None when it is unknown, used or over, or its token revoked."""
    row = connection.execute(named_queries("stream_tickets")["redeem"], {"ticket_hash": _hash(ticket)}).fetchone()
    if row is None:
        return None
    sites = row["site_ids"]
    caller = Caller(row["id"], row["name"], Role(row["role"]), SiteScope(None if sites is None else frozenset(sites)))
    return caller, row["session_hash"]


def _hash(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
