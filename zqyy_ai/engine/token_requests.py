"""Making and revoking API tokens, by who has the database's own account: the API itself can do neither."""

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.engine.prewarm_requests import wanted_sites
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database
from zqyy_ai.store.sites import get_site

_LONGEST_NAME = 80


def create_token(database: Database, *, name: str, role: Role, sites: str) -> str:
    """`sites` is `all` (later ones too) or ids separated by commas. Returns the token. Raises InvalidRequest for what can't be meant."""
    name = name.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(f"名称应为 1 至 {_LONGEST_NAME} 个可显示的字符")
    site_ids = None if sites.strip() == "all" else _known_sites(database, sites)
    with database.transaction() as connection:
        return api_tokens.create(connection, name=name, role=role, site_ids=site_ids)


def revoke_token(database: Database, token_id: int) -> None:
    """Raises InvalidRequest where there is nothing to revoke."""
    with database.transaction() as connection:
        if not api_tokens.revoke(connection, token_id):
            raise InvalidRequest(f"令牌 {token_id} 不存在，或已经撤销；zqyy-ai token list 列出全部令牌")


def _known_sites(database: Database, text: str) -> list[int]:
    found = wanted_sites(database, [part.strip() for part in text.split(",") if part.strip()])
    if not found:
        raise InvalidRequest("请写出门店编号（如 1001,1002）或 all")
    with database.autocommit() as connection:
        for site_id in found:
            get_site(connection, site_id)
    return found
