"""The pause switch: who stopped all calls, when and why."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("a pause that somebody ordered is not dropped; run `zqyy-ai resume` and leave the table")
