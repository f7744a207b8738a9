"""What PostgreSQL says when an `ai_source` view is not there or not as agreed, as the one error of that meaning."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from zqyy_ai.domain.errors import SourceContractError

# Classes of SQLSTATE: a figure that is no number or too large; no such schema; no such view, column or cast, or no permission.
_CONTRACT_CLASSES = ("22", "3F", "42")


@contextmanager
def source_errors() -> Iterator[None]:
    """Raises SourceContractError in place of errors that a rerun cannot cure; a lost connection stays what it is."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None or not error.sqlstate.startswith(_CONTRACT_CLASSES):
            raise
        said = error.diag.message_primary or str(error)
        raise SourceContractError(
            f"reading business data from ai_source failed: {said}: a rerun does not help; run zqyy-ai doctor and see docs/warehouse.md"
        ) from error
