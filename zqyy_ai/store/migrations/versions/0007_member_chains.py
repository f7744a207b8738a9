"""The member chains: their jobs, the runs that take them, and the clues."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("what the chains wrote would be lost; restore a backup instead")
