"""The foundation: sites, triggers, inbox, jobs, cache, run logs, alerts, guards, live events."""

from zqyy_ai.store.migrations.sql_file import execute_beside

revision = "0001"
down_revision = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    raise NotImplementedError("tables with paid answers are not dropped; see docs/operations.md for taking back the trigger rows")
