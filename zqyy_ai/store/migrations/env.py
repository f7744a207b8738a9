"""Alembic's environment: one transaction, one connection handed in by `migrate`, a version table of our own."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="zqyy_ai_version", version_table_schema="biz", transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
