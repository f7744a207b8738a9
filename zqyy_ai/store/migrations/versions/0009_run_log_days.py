"""The sums of the run logs by day, and since ever, so that nobody has to read millions of rows to say how today is."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("sums of run logs that retention has deleted would be lost; restore a backup instead")
