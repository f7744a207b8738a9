"""The budget says more: which log a reservation's call has, when a refused call may come again, and what overshot."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("processes that run hold reservations with the new column; leave it, it hurts nobody")
