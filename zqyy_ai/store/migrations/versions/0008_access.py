"""Who may do what: API tokens, console sessions, the audit, and what each caller may see of a site."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("tokens and the audit would be lost; restore a backup instead")
