"""Batches: estimates, confirmations and cancellations of many jobs at once."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("who asked for what would be lost; restore a backup instead")
