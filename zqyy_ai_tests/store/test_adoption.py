"""A database of the original system, with tables that other services own, becomes ours without losing anything of theirs."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from zqyy_ai.domain.errors import SchemaConflict
from zqyy_ai.store import sites
from zqyy_ai.store.clues import ClueSource, StoredClue, replace_clues
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import migrate
from zqyy_ai_tests.conftest import fresh_database
from zqyy_ai_tests.store.schema_picture import rows_of, schema_of

# What the original's own statements use, in the types that its services chose, and columns of other owners.
ORIGINAL_TABLES = """
CREATE SCHEMA biz;
CREATE TABLE biz.sites (
    id serial PRIMARY KEY,
    site_id integer UNIQUE,
    site_name varchar(100) NOT NULL,
    tenant_code varchar(32) NOT NULL
);
INSERT INTO biz.sites (site_id, site_name, tenant_code) VALUES (1001, '朝阳店', 'T1'), (1002, '浦东店', 'T1');

CREATE TABLE biz.trigger_jobs (
    id serial PRIMARY KEY,
    job_name varchar(100) NOT NULL UNIQUE,
    job_type varchar(100) NOT NULL,
    trigger_condition varchar(20) NOT NULL CHECK (trigger_condition IN ('event', 'cron', 'interval')),
    trigger_config jsonb NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
    description text,
    last_run_at timestamptz,
    next_run_at timestamptz,
    last_error text,
    owner_team varchar(30) DEFAULT 'backend'
);
INSERT INTO biz.trigger_jobs (job_name, job_type, trigger_condition, trigger_config, status, next_run_at) VALUES
    ('task_generator', 'task_generator', 'cron', '{"cron_expression": "0 4 * * *"}', 'enabled', NULL),
    ('ai_note_created', 'ai_note_created', 'event', '{"event_name": "ai_note_created"}', 'disabled', NULL),
    ('ai_dws_prewarm_0830', 'ai_dws_prewarm', 'cron', '{"cron_expression": "15 10 * * *"}', 'enabled', '2026-04-21 10:15+08');

CREATE TABLE biz.ai_trigger_jobs (
    id serial PRIMARY KEY,
    event_type varchar(50) NOT NULL,
    site_id integer NOT NULL,
    status varchar(20) DEFAULT 'pending',
    error_message text,
    started_at timestamptz,
    finished_at timestamptz
);
INSERT INTO biz.ai_trigger_jobs (event_type, site_id, status) VALUES ('consumption', 1001, 'completed');

CREATE TABLE biz.ai_run_logs (
    id bigserial PRIMARY KEY,
    site_id bigint NOT NULL,
    app_type varchar(50) NOT NULL,
    trigger_type varchar(20) NOT NULL,
    member_id bigint,
    request_prompt text,
    response_text text,
    tokens_used integer DEFAULT 0,
    latency_ms integer,
    status varchar(20) NOT NULL DEFAULT 'pending',
    error_message text,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO biz.ai_run_logs (site_id, app_type, trigger_type, status) VALUES (1001, 'app8_consolidate', 'event', 'success');

CREATE TABLE biz.ai_cache (
    id serial PRIMARY KEY,
    cache_type varchar(50) NOT NULL,
    site_id integer NOT NULL,
    target_id varchar(100) NOT NULL,
    result_json jsonb NOT NULL,
    score smallint,
    triggered_by varchar(50),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    status varchar(20) DEFAULT 'valid'
        CONSTRAINT known_status CHECK (status IN ('valid', 'expired', 'invalidated', 'generating')),
    reviewed_by varchar(20)
);
INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, status, reviewed_by) VALUES
    ('app2_finance', 1001, 'this_month__all', '{"insights": []}', NULL, 'wang'),
    ('app3_clue', 1001, '42', '{"clues": []}', 'valid', NULL);
"""
TABLES = ("biz.sites", "biz.trigger_jobs", "biz.ai_trigger_jobs", "biz.ai_run_logs", "biz.ai_cache")


@pytest.fixture(scope="module")
def unmigrated_database_url(server_url: str) -> Iterator[str]:
    with fresh_database(server_url, "template0") as url:
        yield url


@pytest.fixture
def original_database_url(unmigrated_database_url: str) -> str:
    execute(
        unmigrated_database_url,
        f"DROP SCHEMA IF EXISTS biz CASCADE; DROP TABLE IF EXISTS {CLUES}; DROP TYPE IF EXISTS clue_source; {ORIGINAL_TABLES}",
    )
    return unmigrated_database_url


# What the back office has of its own: other types, a serial, an enumeration, columns that are not ours.
ORIGINAL_CLUES = """
CREATE TYPE clue_source AS ENUM ('manual', 'ai_consumption', 'ai_note');
CREATE TABLE public.member_retention_clue (
    id serial PRIMARY KEY,
    member_id integer NOT NULL,
    category varchar(20) NOT NULL,
    summary varchar(200) NOT NULL,
    detail text,
    site_id integer NOT NULL,
    source clue_source NOT NULL DEFAULT 'manual',
    recorded_by_name varchar(100),
    recorded_by_assistant_id integer,
    is_pinned boolean NOT NULL DEFAULT false,
    created_at timestamp DEFAULT now()
);
INSERT INTO public.member_retention_clue (member_id, category, summary, site_id, is_pinned) VALUES (7, '重要反馈', '人写的', 1001, true);
"""
CLUES = "public.member_retention_clue"


def execute(url: str, statements: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statements.encode())


def refused_migration(url: str, *changes: str) -> str:
    """Changes the original tables, migrates, and returns what the refusal says, having seen that nothing was changed."""
    execute(url, ";".join(changes))
    before = schema_of(url), [rows_of(url, table) for table in TABLES]
    with pytest.raises(SchemaConflict) as refused:
        migrate(url)
    assert (schema_of(url), [rows_of(url, table) for table in TABLES]) == before
    return str(refused.value)


def test_an_original_database_is_adopted_with_its_rows_and_its_other_owners_columns(original_database_url: str) -> None:
    before = {table: rows_of(original_database_url, table) for table in TABLES}
    assert migrate(original_database_url).is_current
    for table in TABLES:
        kept = rows_of(original_database_url, table)
        assert all(any(old.items() <= row.items() for row in kept) for old in before[table])
        assert len(kept) == len(before[table]) + (3 if table == "biz.trigger_jobs" else 0)


def test_an_edited_cron_and_a_disabled_trigger_stay_as_their_owner_left_them(original_database_url: str) -> None:
    migrate(original_database_url)
    triggers = {row["job_name"]: row for row in rows_of(original_database_url, "biz.trigger_jobs")}
    assert triggers["ai_dws_prewarm_0830"]["trigger_config"] == {"cron_expression": "15 10 * * *"}
    assert triggers["ai_dws_prewarm_0830"]["next_run_at"] is not None
    assert triggers["ai_note_created"]["status"] == "disabled"
    assert triggers["ai_dws_completed"]["status"] == "enabled"
    assert len(triggers) == 6


def test_adopting_twice_changes_nothing(original_database_url: str) -> None:
    migrate(original_database_url)
    before = schema_of(original_database_url)
    migrate(original_database_url)
    assert schema_of(original_database_url) == before


def test_types_that_hold_the_same_values_are_left_as_they_are(original_database_url: str) -> None:
    migrate(original_database_url)
    lines = "\n".join(schema_of(original_database_url))
    for column in (
        "biz.ai_cache.id integer",
        "biz.ai_cache.cache_type character varying(50)",
        "biz.ai_cache.score smallint",
        "biz.sites.site_id integer",
        "biz.ai_cache.input_hash text",
        "biz.sites.business_day_cutoff time without time zone not null",
    ):
        assert column in lines


def test_the_adopted_sites_are_active_and_their_day_turns_at_midnight(original_database_url: str) -> None:
    migrate(original_database_url)
    with Database(original_database_url) as database, database.autocommit() as connection:
        assert [(site.site_id, site.is_active, site.business_day_cutoff.hour) for site in sites.active_sites(connection)] == [
            (1001, True, 0),
            (1002, True, 0),
        ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE biz.ai_cache ALTER target_id TYPE integer USING 0", "biz.ai_cache.target_id has type integer, but text is needed"),
        (
            "ALTER TABLE biz.ai_cache ALTER result_json TYPE json",
            "biz.ai_cache.result_json has type json, but jsonb is needed",
        ),
        ("ALTER TABLE biz.ai_cache ALTER created_at DROP DEFAULT, ALTER created_at TYPE date", "biz.ai_cache.created_at has type date"),
        (
            "ALTER TABLE biz.ai_run_logs ALTER created_at TYPE timestamp",
            "biz.ai_run_logs.created_at has type timestamp without time zone",
        ),
        ("ALTER TABLE biz.sites ALTER site_id TYPE varchar(20)", "biz.sites.site_id has type character varying, but bigint is needed"),
    ],
)
def test_a_contradicting_type_stops_the_migration_and_names_the_column(original_database_url: str, change: str, said: str) -> None:
    assert said in refused_migration(original_database_url, change)


def test_a_check_that_refuses_one_of_our_states_stops_the_migration(original_database_url: str) -> None:
    said = refused_migration(
        original_database_url,
        "ALTER TABLE biz.ai_run_logs ADD CONSTRAINT narrow CHECK (status IN ('pending', 'running', 'success', 'failed'))",
    )
    assert "constraint narrow on biz.ai_run_logs" in said
    assert "timeout, reused" in said


def test_a_column_that_only_its_owner_can_fill_stops_the_migration(original_database_url: str) -> None:
    said = refused_migration(
        original_database_url,
        "ALTER TABLE biz.ai_run_logs ADD COLUMN tenant text NOT NULL DEFAULT 'T1'",
        "ALTER TABLE biz.ai_run_logs ALTER tenant DROP DEFAULT",
    )
    assert "biz.ai_run_logs requires columns that zqyy_ai does not know and that have no default: tenant." in said


def test_a_column_that_may_not_stay_empty_stops_the_migration(original_database_url: str) -> None:
    said = refused_migration(
        original_database_url,
        "UPDATE biz.ai_run_logs SET request_prompt = '', member_id = 1",
        "ALTER TABLE biz.ai_run_logs ALTER request_prompt SET NOT NULL, ALTER member_id SET NOT NULL",
    )
    assert "biz.ai_run_logs does not allow NULL in columns that zqyy_ai leaves empty in some rows: member_id, request_prompt." in said


def test_a_text_that_is_too_short_for_ours_stops_the_migration(original_database_url: str) -> None:
    said = refused_migration(original_database_url, "ALTER TABLE biz.ai_run_logs ALTER error_message TYPE varchar(200)")
    assert "column biz.ai_run_logs.error_message holds at most 200 characters, but 1000 are needed" in said


def test_an_id_that_does_not_fill_itself_stops_the_migration(original_database_url: str) -> None:
    said = refused_migration(original_database_url, "ALTER TABLE biz.ai_cache ALTER id DROP DEFAULT")
    assert "biz.ai_cache.id has no default" in said


def test_a_conflict_says_what_to_do(original_database_url: str) -> None:
    said = refused_migration(original_database_url, "ALTER TABLE biz.ai_cache ALTER target_id TYPE integer USING 0")
    assert "Nothing was changed" in said
    assert "run the migration again" in said


def test_what_stopped_the_migration_once_put_right_lets_it_through(original_database_url: str) -> None:
    refused_migration(original_database_url, "ALTER TABLE biz.ai_cache ALTER id DROP DEFAULT")
    execute(original_database_url, "ALTER TABLE biz.ai_cache ALTER id SET DEFAULT nextval('biz.ai_cache_id_seq')")
    assert migrate(original_database_url).is_current


def test_the_original_dispatchers_statement_still_ends_its_own_jobs(original_database_url: str) -> None:
    migrate(original_database_url)
    with psycopg.connect(original_database_url) as connection:
        parts: list[Any] = ["failed", "调用链超时", 1]
        ended = connection.execute(
            "UPDATE biz.ai_trigger_jobs SET status = %s, finished_at = NOW(), error_message = %s WHERE id = %s", parts
        )
        assert ended.rowcount == 1
        found = connection.execute("SELECT DISTINCT site_id FROM biz.sites WHERE site_id IS NOT NULL").fetchall()
        assert sorted(found) == [(1001,), (1002,)]


def refused_clues(url: str, *changes: str) -> str:
    """The same for the clues' table, which the back office owns."""
    execute(url, ORIGINAL_CLUES + ";".join(changes))
    before = schema_of(url), rows_of(url, CLUES)
    with pytest.raises(SchemaConflict) as refused:
        migrate(url)
    assert (schema_of(url), rows_of(url, CLUES)) == before
    return str(refused.value)


def test_the_back_offices_clues_are_kept_and_ours_fit_beside_them(original_database_url: str) -> None:
    execute(original_database_url, ORIGINAL_CLUES)
    [of_people] = rows_of(original_database_url, CLUES)
    assert migrate(original_database_url).is_current
    of_visits = StoredClue("消费习惯", "📅 偏好周末下午", "细节" * 100, "小王")
    with Database(original_database_url) as database:
        for clue in (of_visits, StoredClue("玩法偏好", "🎱 常打斯诺克", "", "系统")):
            with database.transaction() as connection:
                assert replace_clues(connection, 1001, 7, ClueSource.CONSUMPTION, [clue])
    kept = {row["source"]: row for row in rows_of(original_database_url, CLUES)}
    assert kept.keys() == {"manual", "ai_consumption"}
    assert kept["manual"] == of_people
    assert kept["ai_consumption"]["summary"] == "🎱 常打斯诺克"


def test_a_clues_table_that_lacks_a_column_gets_it(original_database_url: str) -> None:
    execute(original_database_url, f"{ORIGINAL_CLUES}; ALTER TABLE {CLUES} DROP recorded_by_name, DROP recorded_by_assistant_id")
    migrate(original_database_url)
    [row] = rows_of(original_database_url, CLUES)
    assert (row["recorded_by_name"], row["recorded_by_assistant_id"], row["summary"]) == (None, None, "人写的")


def test_without_a_clues_table_the_migration_makes_one(original_database_url: str) -> None:
    migrate(original_database_url)
    assert rows_of(original_database_url, CLUES) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER member_id TYPE text", "column member_id has type text"),
        ("ALTER source TYPE integer USING 0", "column source has type integer"),
        ("ALTER summary TYPE varchar(50)", "column summary holds at most 50 characters, but 70 are needed"),
        ("ALTER recorded_by_assistant_id SET NOT NULL", "column recorded_by_assistant_id does not allow NULL"),
        ("ADD COLUMN tenant text NOT NULL", "columns that zqyy_ai does not know and that have no default: tenant"),
    ],
)
def test_a_clues_table_that_ours_do_not_fit_stops_the_migration(original_database_url: str, change: str, said: str) -> None:
    prepare = f"DELETE FROM {CLUES}; ALTER TABLE {CLUES} ALTER source DROP DEFAULT"
    refused = refused_clues(original_database_url, prepare, f"ALTER TABLE {CLUES} {change}")
    assert said in refused
    assert "run the migration again" in refused
