"""Alerts: one row a fingerprint, who changed its state and why, and the outbox of what is to be told."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("alerts that were merged are not told apart again")
