"""Retention: what its daily job looks up by age, and the mark of a run log whose texts were taken out."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("texts that were taken out don't come back")
