"""Live events by the transaction that wrote them, so that who watches reads exactly what became visible; tickets for streams."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("positions that clients hold would mean nothing any more; restore a backup instead")
