"""Named queries: `store/sql/<noun>.sql` holds statements, each behind a line `-- name: <name>`."""

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(rb"^-- name: (\w+)\n", re.MULTILINE)


@cache
def named_queries(noun: str, package: str = "zqyy_ai.store") -> dict[str, bytes]:
    """Every query of a noun's file, by name. Raises FileNotFoundError for a noun without a file."""
    text = files(package).joinpath("sql", f"{noun}.sql").read_bytes()
    parts = _NAME.split(text)
    return {name.decode(): body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
