"""What is old enough goes, and nothing else: counted before, deleted in small batches, without anybody waiting for it."""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from zqyy_ai.domain.errors import RetentionBusy
from zqyy_ai.engine.retention import Outcome, carry_out, plan, rules
from zqyy_ai.settings import Settings, load_settings
from zqyy_ai.store import cache, retention
from zqyy_ai.store.alerts import Alert, AlertStatus, AlertType, raise_alert, set_status_by_hand
from zqyy_ai.store.database import Connection, Database

NOW = datetime(2026, 11, 24, 4, 40, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SITE = 1001
SETTINGS = load_settings({})


def days(number: float) -> timedelta:
    return timedelta(days=number)


def ended(steps: Iterable[Outcome]) -> dict[str, Outcome]:
    return {outcome.rule.name: outcome for outcome in steps if outcome.is_finished}


def clean(database: Database, settings: Settings = SETTINGS, *, batch_rows: int = 1000) -> dict[str, Outcome]:
    return ended(carry_out(database, settings, now=NOW, batch_rows=batch_rows))


def counted(database: Database, settings: Settings = SETTINGS) -> dict[str, int | None]:
    return {outcome.rule.name: outcome.due for outcome in plan(database, settings, now=NOW)}


def ids(connection: Connection, table: str) -> list[int]:
    return [row["id"] for row in connection.execute(f"SELECT id FROM biz.{table} ORDER BY id".encode()).fetchall()]


def add(connection: Connection, table: str, **columns: object) -> int:
    names = ", ".join(columns)
    row = connection.execute(
        f"INSERT INTO biz.{table} ({names}) VALUES ({', '.join(['%s'] * len(columns))}) RETURNING id".encode(), list(columns.values())
    ).fetchone()
    assert row is not None
    return int(row["id"])


def add_log(connection: Connection, age: timedelta, **columns: object) -> int:
    return add(connection, "ai_run_logs", site_id=SITE, request_prompt="问", response_text="答", created_at=NOW - age, **columns)


def add_job(connection: Connection, age: timedelta | None, status: str = "completed", **columns: object) -> int:
    finished_at = None if age is None else NOW - age
    return add(
        connection, "ai_trigger_jobs", **{"site_id": SITE, "status": status, "finished_at": finished_at, "dedup_key": "k", **columns}
    )


def add_event(connection: Connection, age: timedelta | None, job_id: int | None) -> int:
    handled_at = None if age is None else NOW - age
    return add(connection, "ai_events", event_name="ai_dws_completed", handled_at=handled_at, trigger_job_id=job_id)


def add_answer(
    connection: Connection, target_id: str, age: timedelta, status: str | None = "valid", cache_type: str = "app2_finance"
) -> int:
    return add(
        connection,
        "ai_cache",
        cache_type=cache_type,
        site_id=SITE,
        target_id=target_id,
        result_json="{}",
        status=status,
        created_at=NOW - age,
    )


# Cache


def test_the_two_newest_of_each_target_stay_and_are_not_counted(database: Database, connection: Connection) -> None:
    rare = [add_answer(connection, "rare", days(1000 - number)) for number in range(3)]
    often = [add_answer(connection, "often", days(100 - number)) for number in range(6)]
    other_type = [add_answer(connection, "often", days(2000 + number), cache_type="app3_clue") for number in range(4)]

    done = clean(database, load_settings({"ZQYY_CACHE_ROWS_PER_TYPE_AND_SITE": "3"}))

    # Of the nine, rare's and often's two newest are set aside; of the five others the three newest stay.
    assert ids(connection, "ai_cache") == [*rare[1:], *often[1:], *other_type]
    assert done["cache"].done == 2


def test_expired_invalidated_and_statusless_rows_count_like_valid_ones(database: Database, connection: Connection) -> None:
    rows = [
        add_answer(connection, "t", days(10 - place), status)
        for place, status in enumerate([None, "valid", "invalidated", None, "invalidated"])
    ]
    connection.execute("UPDATE biz.ai_cache SET expires_at = created_at")

    clean(database, load_settings({"ZQYY_CACHE_ROWS_PER_TYPE_AND_SITE": "1"}))

    assert ids(connection, "ai_cache") == rows[2:]


def test_many_targets_with_two_rows_each_are_no_surplus_however_many(database: Database, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, created_at)"
        " SELECT 'app3_clue', 1001, g / 2, '{}', %s - g * interval '1 minute' FROM generate_series(2, 50001) g",
        [NOW],
    )

    assert counted(database)["cache"] == 0
    assert clean(database)["cache"].done == 0


def test_of_fifty_thousand_rows_of_a_target_the_limit_and_its_two_newest_stay(database: Database, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, created_at)"
        " SELECT 'app3_clue', 1001, 'm', '{}', %s - g * interval '1 minute' FROM generate_series(1, 50000) g",
        [NOW],
    )

    assert counted(database)["cache"] == 29_998
    assert clean(database)["cache"].done == 29_998
    row = connection.execute("SELECT count(*) AS rows, min(created_at) AS oldest FROM biz.ai_cache").fetchone()
    assert row == {"rows": 20_002, "oldest": NOW - timedelta(minutes=20_002)}


def test_other_writers_placeholders_go_after_an_hour_and_protect_nothing(database: Database, connection: Connection) -> None:
    answers = [add_answer(connection, "t", days(3 - place)) for place in range(3)]
    young = [add_answer(connection, "t", timedelta(hours=1), "generating") for _ in range(2)]
    add_answer(connection, "t", timedelta(hours=1) + SECOND, "generating")

    done = clean(database, load_settings({"ZQYY_CACHE_ROWS_PER_TYPE_AND_SITE": "1"}))

    assert ids(connection, "ai_cache") == [*answers, *young]
    assert (done["cache_generating"].done, done["cache"].done) == (1, 0)


def test_a_row_that_has_become_one_of_the_two_newest_since_it_was_picked_stays(database: Database, connection: Connection) -> None:
    """Another writer deletes rows of its own at any time."""
    old, *newer = [add_answer(connection, "t", days(9 - place)) for place in range(3)]
    connection.execute("DELETE FROM biz.ai_cache WHERE id = %s", [newer[0]])

    with database.transaction() as transaction:
        gone = retention.remove(transaction, retention.CACHE_SURPLUS, {}, [old])

    assert gone == 0
    assert cache.get_history(connection, "app2_finance", SITE, "t", limit=9)[-1].id == old


# Run logs


def test_prompts_and_replies_go_after_ninety_days_to_the_second_and_rows_after_four_hundred(
    database: Database, connection: Connection
) -> None:
    young = add_log(connection, days(90))
    old = add_log(connection, days(90) + SECOND)
    very_old = add_log(connection, days(400), status="running")
    add_log(connection, days(400) + SECOND)

    done = clean(database)

    rows = connection.execute("SELECT id, request_prompt, response_text, redacted_at IS NOT NULL AS told FROM biz.ai_run_logs ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [(young, "问", "答", False), (old, None, None, True), (very_old, None, None, True)]
    assert (done["run_logs"].done, done["run_log_texts"].done) == (1, 2)
    assert clean(database)["run_log_texts"].done == 0


def test_a_redacted_row_keeps_what_it_cost(database: Database, connection: Connection) -> None:
    add_log(connection, days(100), tokens_used=2300, latency_ms=900, input_hash="h", status="success")

    clean(database)

    row = connection.execute("SELECT tokens_used, latency_ms, input_hash, status FROM biz.ai_run_logs").fetchone()
    assert row == {"tokens_used": 2300, "latency_ms": 900, "input_hash": "h", "status": "success"}


# Jobs and events


def test_finished_jobs_go_with_their_events_and_unfinished_ones_never(database: Database, connection: Connection) -> None:
    stays = [add_job(connection, None, "pending"), add_job(connection, None, "running"), add_job(connection, days(180))]
    goes = [add_job(connection, days(180) + SECOND, status) for status in ("completed", "partial", "failed", "dead")]
    events_stay = [
        add_event(connection, days(500), stays[1]),
        add_event(connection, days(180), stays[2]),
        add_event(connection, None, None),
    ]
    for job_id in [*goes, None]:
        add_event(connection, days(181), job_id)

    done = clean(database)

    assert ids(connection, "ai_trigger_jobs") == stays
    assert ids(connection, "ai_events") == events_stay
    assert (done["trigger_jobs"].done, done["events"].done) == (4, 5)


def test_what_a_younger_or_unfinished_retry_names_stays_with_what_it_retried(database: Database, connection: Connection) -> None:
    first = add_job(connection, days(300), "failed")
    second = add_job(connection, days(290), "failed", retry_of=first)
    third = add_job(connection, None, "pending", retry_of=second)
    all_old = add_job(connection, days(300), "failed")
    add_job(connection, days(250), "completed", retry_of=all_old)
    first_event = add_event(connection, days(300), first)

    clean(database)

    assert ids(connection, "ai_trigger_jobs") == [first, second, third]
    assert ids(connection, "ai_events") == [first_event]


def test_a_job_that_a_younger_event_merged_into_stays(database: Database, connection: Connection) -> None:
    job_id = add_job(connection, days(181))
    add_event(connection, days(179), job_id)

    clean(database)

    assert ids(connection, "ai_trigger_jobs") == [job_id]


def test_jobs_of_the_old_dispatcher_are_left_to_it(database: Database, connection: Connection) -> None:
    theirs = add_job(connection, days(900), dedup_key=None)

    clean(database)

    assert ids(connection, "ai_trigger_jobs") == [theirs]


# The rest


def test_live_events_go_after_a_week_to_the_second(database: Database, connection: Connection) -> None:
    stays = add(connection, "ai_live_events", event_type="cache_updated", created_at=NOW - days(7))
    add(connection, "ai_live_events", event_type="cache_updated", created_at=NOW - days(7) - SECOND)

    assert clean(database)["live_events"].done == 1
    assert ids(connection, "ai_live_events") == [stays]


def test_only_alerts_resolved_long_ago_go(database: Database, connection: Connection) -> None:
    found = {}
    for name, status in [("open", None), ("acked", AlertStatus.ACKED), ("old", AlertStatus.RESOLVED), ("young", AlertStatus.RESOLVED)]:
        found[name] = raise_alert(connection, Alert(AlertType.FAILED, name, SITE, detail=name))
        if status is not None:
            set_status_by_hand(connection, found[name], status, by="test")
    connection.execute("UPDATE biz.ai_alerts SET last_seen_at = %s, resolved_at = resolved_at - interval '1 year'", [NOW - days(365)])
    connection.execute("UPDATE biz.ai_alerts SET resolved_at = %s WHERE id = %s", [NOW - days(180), found["young"]])
    connection.execute(
        "UPDATE biz.ai_alert_deliveries SET sent_at = %s WHERE id = (SELECT min(id) FROM biz.ai_alert_deliveries)", [NOW - days(181)]
    )
    deliveries = ids(connection, "ai_alert_deliveries")

    clean(database)

    assert ids(connection, "ai_alerts") == [found["open"], found["acked"], found["young"]]
    assert ids(connection, "ai_alert_deliveries") == deliveries[1:]


def test_accounts_of_budgets_stay_four_hundred_days_and_while_something_is_reserved(database: Database, connection: Connection) -> None:
    today = NOW.date()
    for scope, age_days, reserved in [("chain", 0, 0), ("chain", 400, 0), ("chain", 401, 0), ("site:1001", 401, 5)]:
        connection.execute(
            "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, used_tokens, reserved_tokens) VALUES (%s, 'day', %s, 7, %s)",
            [scope, today - timedelta(days=age_days), reserved],
        )

    assert clean(database)["budget_windows"].done == 1
    rows = connection.execute("SELECT scope, starts_on FROM biz.ai_budget_windows ORDER BY starts_on DESC, scope").fetchall()
    assert [(row["scope"], (today - row["starts_on"]).days) for row in rows] == [("chain", 0), ("chain", 400), ("site:1001", 401)]


def test_loads_are_remembered_for_longer_than_they_are_looked_for(database: Database, connection: Connection) -> None:
    settings = load_settings({"ZQYY_ETL_LOOKBACK_DAYS": "30"})
    for name, age in [("young", days(430)), ("old", days(430) + SECOND)]:
        connection.execute("INSERT INTO biz.ai_seen_etl_runs VALUES (%s, 1001, 1, %s)", [name, NOW - age])

    assert clean(database, settings)["seen_etl_runs"].done == 1
    assert [row["etl_run_id"] for row in connection.execute("SELECT etl_run_id FROM biz.ai_seen_etl_runs")] == ["young"]


def test_rates_that_are_booked_ahead_stay(database: Database, connection: Connection) -> None:
    for key, arrival_at in [("site:1", NOW + SECOND), ("site:2", NOW - days(1)), ("site:3", NOW - days(1) - SECOND)]:
        connection.execute("INSERT INTO biz.ai_rate_limits VALUES (%s, %s)", [key, arrival_at])

    clean(database)

    assert [row["rate_key"] for row in connection.execute("SELECT rate_key FROM biz.ai_rate_limits ORDER BY 1")] == ["site:1", "site:2"]


# How it goes about it


def test_batches_go_when_they_are_old_and_none_of_their_jobs_is_left(database: Database, connection: Connection) -> None:
    for days, has_job in ((200, False), (200, True), (10, False)):
        row = connection.execute(
            "INSERT INTO biz.ai_batches (id, site_id, selection, digest, calls_by_app, estimated_tokens, estimated_cny, estimated_minutes,"
            " created_by, created_at, expires_at) VALUES (gen_random_uuid(), 1001, '{}', '', '{}', 0, 0, 0, '值班',"
            " now() - make_interval(days => %s), now()) RETURNING id",
            [days],
        ).fetchone()
        assert row is not None
        if has_job:
            connection.execute(
                "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, status, batch_id) VALUES ('batch_run', 1001, 'pending', %s)",
                [row["id"]],
            )
    assert clean(database)["batches"].done == 1
    assert len(connection.execute("SELECT FROM biz.ai_batches").fetchall()) == 2


def test_event_runs_go_when_they_are_old_and_over_closed_or_not(database: Database, connection: Connection) -> None:
    for run_id, age, lease_age, closed in (
        ("closed", days(181), days(181), True),
        ("dead", days(181), days(181), False),
        ("still at work", days(181), days(0), False),
        ("young", days(179), days(179), True),
    ):
        connection.execute(
            "INSERT INTO biz.ai_event_runs VALUES (%s, gen_random_uuid(), %s, %s, %s)",
            [run_id, NOW - age, NOW - lease_age, NOW - age if closed else None],
        )
    assert clean(database)["event_runs"].done == 2
    assert [row["run_id"] for row in connection.execute("SELECT run_id FROM biz.ai_event_runs ORDER BY 1")] == ["still at work", "young"]


def fill(connection: Connection) -> None:
    """Something of everything, old and young, with retries and events."""
    connection.execute(
        "INSERT INTO biz.ai_run_logs (site_id, request_prompt, created_at) SELECT 1001, 'p', %s - g * interval '1 day' FROM generate_series(0, 999) g",
        [NOW],
    )
    connection.execute(
        "INSERT INTO biz.ai_live_events (event_type, created_at) SELECT 'x', %s - g * interval '1 hour' FROM generate_series(0, 499) g",
        [NOW],
    )
    connection.execute(
        "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, status, created_at)"
        " SELECT 'app3_clue', 1001 + g %% 2, g %% 7, '{}', (ARRAY['valid', NULL, 'generating'])[1 + g %% 3], %s - g * interval '1 hour'"
        " FROM generate_series(0, 399) g",
        [NOW],
    )
    connection.execute(
        "INSERT INTO biz.ai_trigger_jobs (site_id, status, dedup_key, finished_at)"
        " SELECT 1001, 'completed', 'k', %s - g * interval '1 day' FROM generate_series(0, 399) g",
        [NOW],
    )
    connection.execute("UPDATE biz.ai_trigger_jobs SET retry_of = id + 37 WHERE id %% 5 = 0".replace("%%", "%").encode())
    connection.execute(
        "INSERT INTO biz.ai_events (event_name, handled_at, trigger_job_id) SELECT 'e', finished_at - interval '1 minute', id FROM biz.ai_trigger_jobs"
    )
    connection.execute(
        "INSERT INTO biz.ai_seen_etl_runs SELECT g::text, 1001, g, %s - g * interval '10 days' FROM generate_series(0, 99) g", [NOW]
    )
    connection.execute(
        "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on) SELECT 'chain', 'day', %s::date - g * 10 FROM generate_series(0, 99) g",
        [NOW],
    )
    connection.execute(
        "INSERT INTO biz.ai_run_log_days SELECT %s::date - g * 10, CASE WHEN g %% 3 > 0 THEN 1001 END, 'app3_clue', 'event', 'success', '', 1, 2, 1, 1, 3"
        " FROM generate_series(0, 99) g",
        [NOW],
    )
    connection.execute(
        "INSERT INTO biz.ai_sandbox_answers (cache_type, site_id, target_id, sandbox_date, result_json, created_at)"
        " SELECT 'app3_clue', 1001, g, '2025-01-31', '{}', %s - g * interval '5 days' FROM generate_series(0, 99) g",
        [NOW],
    )
    connection.execute("INSERT INTO biz.ai_rate_limits SELECT g::text, %s - g * interval '1 hour' FROM generate_series(0, 99) g", [NOW])
    connection.execute(
        "INSERT INTO biz.ai_event_runs SELECT g::text, gen_random_uuid(), opened_at, opened_at + interval '1 minute',"
        " CASE WHEN g %% 3 > 0 THEN opened_at + interval '1 hour' END"
        " FROM generate_series(0, 99) g CROSS JOIN LATERAL (SELECT %s - g * interval '5 days' AS opened_at) AS run",
        [NOW],
    )


FEW = load_settings({"ZQYY_CACHE_ROWS_PER_TYPE_AND_SITE": "50"})


def content(connection: Connection) -> dict[str, int]:
    tables = (
        "cache",
        "run_logs",
        "run_log_days",
        "live_events",
        "trigger_jobs",
        "events",
        "seen_etl_runs",
        "budget_windows",
        "rate_limits",
        "event_runs",
        "sandbox_answers",
    )
    return {
        table: connection.execute(f"SELECT sum(hashtext(t::text)::bigint) AS picture FROM biz.ai_{table} t".encode()).fetchone()["picture"]  # type: ignore[index]
        for table in tables
    }


def test_a_dry_run_changes_nothing_and_counts_what_a_run_then_does(database: Database, connection: Connection) -> None:
    fill(connection)
    before = content(connection)

    announced = counted(database, FEW)
    assert content(connection) == before
    done = clean(database, FEW, batch_rows=7)

    assert {name: outcome.done for name, outcome in done.items()} == announced
    assert all(announced[name] for name in announced if name not in {"alerts", "alert_deliveries", "batches"})
    assert set(counted(database, FEW).values()) == {0}


def test_no_batch_is_larger_than_it_may_be(database: Database, connection: Connection) -> None:
    fill(connection)
    largest: dict[str, int] = {}
    done = 0
    for outcome in carry_out(database, FEW, now=NOW, batch_rows=10):
        rule = outcome.rule.name
        largest[rule] = max(largest.get(rule, 0), outcome.done - (done if rule in largest else 0))
        done = outcome.done

    assert max(largest.values()) == 10


def test_each_batch_is_committed_before_the_next_one_begins(database: Database, connection: Connection) -> None:
    """Whoever looks meanwhile sees it gone, and nobody waits for the end of the whole."""
    for _ in range(5):
        add(connection, "ai_live_events", event_type="x", created_at=NOW - days(30))

    seen = [
        len(ids(connection, "ai_live_events"))
        for step in carry_out(database, SETTINGS, now=NOW, batch_rows=2)
        if step.rule.name == "live_events"
    ]

    assert seen == [3, 1, 0, 0]


def test_an_interrupted_run_is_finished_by_the_next_one(database: Database, connection: Connection) -> None:
    fill(connection)
    announced = counted(database, FEW)
    first: dict[str, int] = {}
    steps = carry_out(database, FEW, now=NOW, batch_rows=10)
    for outcome in steps:
        first[outcome.rule.name] = outcome.done
        if outcome.rule.name == "run_logs" and outcome.done >= 200:
            break
    steps.close()  # type: ignore[attr-defined]  # a generator

    second = clean(database, FEW)

    assert {name: first.get(name, 0) + outcome.done for name, outcome in second.items()} == announced
    assert first["run_logs"] == 200


def test_a_killed_session_leaves_committed_batches_and_no_lock(database: Database, connection: Connection) -> None:
    for _ in range(50):
        add(connection, "ai_live_events", event_type="x", created_at=NOW - days(30))
    steps = carry_out(database, SETTINGS, now=NOW, batch_rows=10)
    with pytest.raises(psycopg.OperationalError):
        for outcome in steps:
            if outcome.rule.name == "live_events":
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )

    assert len(ids(connection, "ai_live_events")) == 40
    assert clean(database)["live_events"].done == 40


def test_of_two_at_once_the_second_says_so_and_does_nothing(database: Database, connection: Connection) -> None:
    add(connection, "ai_live_events", event_type="x", created_at=NOW - days(30))
    first = carry_out(database, SETTINGS, now=NOW)
    next(first)

    with pytest.raises(RetentionBusy, match="正在清理"):
        list(carry_out(database, SETTINGS, now=NOW))
    list(first)

    assert clean(database)["live_events"].done == 0


def test_a_row_that_somebody_is_writing_is_passed_over_and_goes_next_time(database: Database, connection: Connection) -> None:
    locked, free = add_log(connection, days(500)), add_log(connection, days(500))

    with database.transaction() as writer:
        writer.execute("UPDATE biz.ai_run_logs SET status = 'failed' WHERE id = %s", [locked])
        done = clean(database)["run_logs"]

    assert (done.done, done.passed_over) == (1, 1)
    assert ids(connection, "ai_run_logs") == [locked] != [free]
    assert clean(database)["run_logs"].done == 1


def test_writers_commit_while_a_batch_is_open(database: Database, connection: Connection) -> None:
    """Inserts, and updates of rows that stay, wait for nothing."""
    for _ in range(3):
        add_log(connection, days(500))
    young = add_log(connection, days(1), status="running")
    written = threading.Event()

    def write() -> None:
        with database.autocommit() as writer:
            writer.execute("SET lock_timeout = '10s'")
            add_log(writer, days(0))
            writer.execute("UPDATE biz.ai_run_logs SET status = 'success' WHERE id = %s", [young])
        written.set()

    rule = next(rule for rule in rules(SETTINGS, NOW) if rule.name == "run_logs")
    with database.transaction() as batch:
        keys = [row.key for row in retention.pick(batch, rule.disposal, rule.parameters, after=None, rows=1000)]
        assert retention.remove(batch, rule.disposal, rule.parameters, keys) == 3
        writer = threading.Thread(target=write)
        writer.start()
        assert written.wait(20)
    writer.join(20)

    assert len(ids(connection, "ai_run_logs")) == 2


def test_a_foreign_key_holds_its_row_and_not_the_others(database_url: str) -> None:
    with Database(database_url) as database, database.autocommit() as connection:
        logs = [add_log(connection, days(500)) for _ in range(100)]
        connection.execute("CREATE TABLE biz.audit (log_id bigint CONSTRAINT audit_of_log REFERENCES biz.ai_run_logs (id))")
        connection.execute("INSERT INTO biz.audit SELECT unnest(%s::bigint[])", [logs[10:13]])
        add(connection, "ai_live_events", event_type="x", created_at=NOW - days(30))

        done = clean(database, batch_rows=40)

        assert ids(connection, "ai_run_logs") == logs[10:13]
        assert (done["run_logs"].done, done["run_logs"].held, done["run_logs"].error) == (97, {"audit_of_log": 3}, None)
        assert done["run_log_texts"].done == 3
        assert done["live_events"].done == 1


def test_a_right_that_is_missing_fails_its_rule_alone(database_url: str) -> None:
    with Database(database_url) as database, database.autocommit() as connection:
        add_log(connection, days(500))
        add(connection, "ai_live_events", event_type="x", created_at=NOW - days(30))
        connection.execute(
            "CREATE FUNCTION biz.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END';"
            "CREATE TRIGGER refuse BEFORE DELETE ON biz.ai_live_events EXECUTE FUNCTION biz.refuse()"
        )

        done = clean(database)

        assert done["live_events"].error == "insufficient_privilege"
        assert (done["live_events"].done, done["run_logs"].done) == (0, 1)


def test_without_time_it_stops_between_batches_and_says_so(database: Database, connection: Connection) -> None:
    add_log(connection, days(500))

    done = ended(carry_out(database, SETTINGS, now=NOW, most_seconds=0))

    assert done["run_logs"].is_out_of_time
    assert len(ids(connection, "ai_run_logs")) == 1


def test_old_rows_are_found_by_an_index(database: Database, connection: Connection) -> None:
    """Reading the whole table each day for the few rows that are old would cost more the longer it runs."""
    for table, columns, values in [
        ("ai_run_logs", "site_id, request_prompt, created_at", "1, 'p', %(now)s - g * interval '1 minute'"),
        ("ai_live_events", "event_type, created_at", "'x', %(now)s - g * interval '10 seconds'"),
        ("ai_trigger_jobs", "status, dedup_key, finished_at", "'completed', 'k', %(now)s - g * interval '10 minutes'"),
        ("ai_events", "handled_at, trigger_job_id", "%(now)s - g * interval '10 minutes', g"),
        (
            "ai_cache",
            "cache_type, site_id, target_id, result_json, created_at",
            "'t', g / 900, g, '{}', %(now)s - g * interval '1 minute'",
        ),
        (
            "ai_sandbox_answers",
            "cache_type, site_id, target_id, sandbox_date, result_json, created_at",
            "'t', g / 900, g, '2025-01-31', '{}', %(now)s - g * interval '10 minutes'",
        ),
    ]:
        connection.execute(f"INSERT INTO biz.{table} ({columns}) SELECT {values} FROM generate_series(0, 29999) g".encode(), {"now": NOW})
        connection.execute(f"ANALYZE biz.{table}".encode())
    plans = {}
    small = {"rate_limits", "alerts", "alert_deliveries", "seen_etl_runs", "budget_windows", "event_runs", "batches"}
    for rule in rules(SETTINGS, NOW):
        if rule.name in small:
            continue
        parameters = {**rule.parameters, "after_at": "-infinity", "after_key": "0", "rows": 1000, "cache_type": "t", "site_id": 1}
        statement = b"EXPLAIN " + rule.disposal.statement(rule.disposal.pick)
        plans[rule.name] = "\n".join(row["QUERY PLAN"] for row in connection.execute(statement, parameters))

    assert len(plans) == 9
    read_through = {
        name: plan
        for name, plan in plans.items()
        if any(f"Seq Scan on ai_{table}" in plan for table in ("cache", "run_logs", "live_events", "sandbox_answers"))
    }
    assert read_through == {}
    assert "ai_trigger_jobs_finished_idx" in plans["trigger_jobs"]
    assert "ai_events_handled_idx" in plans["events"]
