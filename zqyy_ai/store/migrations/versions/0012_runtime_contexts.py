"""The sandbox: each site's mode and date, answers apart from the live ones, and a budget of its own."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("sandbox answers would be taken for nothing; put the sites back to live and leave the tables")
