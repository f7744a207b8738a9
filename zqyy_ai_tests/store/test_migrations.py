from concurrent.futures import ThreadPoolExecutor

import psycopg

from zqyy_ai.store.migrations import TRIGGER_ROWS, migrate, remove_trigger_rows, schema_version
from zqyy_ai_tests.store.schema_picture import rows_of, schema_of

# The three verification queries of the original manual, and what it says they give.
COUNT_OF_AI_JOBS = "SELECT count(*) AS ai_job_count FROM biz.trigger_jobs WHERE job_type LIKE 'ai_%'"
EVENT_BINDINGS = """
SELECT job_name, trigger_config->>'event_name' AS event_name
FROM biz.trigger_jobs
WHERE trigger_condition = 'event' AND trigger_config->>'event_name' LIKE 'ai_%'
ORDER BY job_name
"""
CRON_EXPRESSIONS = """
SELECT job_name, trigger_config->>'cron_expression' AS cron_expr
FROM biz.trigger_jobs
WHERE job_type = 'ai_dws_prewarm'
"""
# The manual's rollback.
ROLLBACK = """
DELETE FROM biz.trigger_jobs WHERE job_name IN (
  'ai_consumption_settled', 'ai_note_created', 'ai_task_assigned', 'ai_dws_completed', 'ai_dws_prewarm_0830'
)
"""


def test_the_original_manuals_verification_queries_give_what_it_says(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute(COUNT_OF_AI_JOBS).fetchall() == [(5,)]
        assert connection.execute(EVENT_BINDINGS).fetchall() == [
            (name, name) for name in ("ai_consumption_settled", "ai_dws_completed", "ai_note_created", "ai_task_assigned")
        ]
        assert connection.execute(CRON_EXPRESSIONS).fetchall() == [("ai_dws_prewarm_0830", "30 8 * * *")]


def test_a_second_migration_changes_nothing(empty_database_url: str) -> None:
    first = migrate(empty_database_url)
    before = schema_of(empty_database_url), rows_of(empty_database_url, "biz.trigger_jobs")
    assert migrate(empty_database_url) == first
    assert (schema_of(empty_database_url), rows_of(empty_database_url, "biz.trigger_jobs")) == before
    assert first.is_current


def test_two_migrations_at_once_end_in_one_schema(empty_database_url: str, database_url: str) -> None:
    with ThreadPoolExecutor(3) as threads:
        versions = list(threads.map(migrate, [empty_database_url] * 3))
    assert all(version.is_current for version in versions)
    assert schema_of(empty_database_url) == schema_of(database_url)
    assert len(rows_of(empty_database_url, "biz.trigger_jobs")) == 5


def test_a_migration_leaves_nothing_of_its_staging_behind(database_url: str) -> None:
    assert not [line for line in schema_of(database_url) if "staging" in line]


def test_a_database_that_was_never_migrated_says_so_and_is_not_touched(empty_database_url: str) -> None:
    before = schema_of(empty_database_url)
    version = schema_version(empty_database_url)
    assert version.current is None
    assert not version.is_current
    assert schema_of(empty_database_url) == before


def test_the_trigger_rows_can_be_taken_back_and_stay_away(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO biz.trigger_jobs (job_name, job_type) VALUES ('nightly_report', 'report')")
    assert remove_trigger_rows(database_url) == len(TRIGGER_ROWS) == 5
    assert remove_trigger_rows(database_url) == 0
    migrate(database_url)
    assert [row["job_name"] for row in rows_of(database_url, "biz.trigger_jobs")] == ["nightly_report"]


def test_the_manuals_own_rollback_works_too(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute(ROLLBACK).rowcount == 5


def test_a_password_with_strange_characters_reaches_the_server_unharmed(database_url: str) -> None:
    """Alembic's configuration takes `%` for its own, and SQLAlchemy's URLs hide passwords when printed."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE odd_one LOGIN PASSWORD 'a%b@c:d/e' SUPERUSER")
        connection.commit()
        host, port, name = connection.info.host, connection.info.port, connection.info.dbname
        try:
            assert migrate(f"postgresql://odd_one:a%25b%40c%3Ad%2Fe@{host}:{port}/{name}").is_current
        finally:
            connection.execute("DROP ROLE odd_one")
