"""From a run log to its answer."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("an index harms nobody; drop it by hand if need be")
