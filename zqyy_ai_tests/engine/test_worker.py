from datetime import timedelta

import pytest

from zqyy_ai.domain.errors import SettingError
from zqyy_ai.engine.assembly import build_engine
from zqyy_ai.settings import load_settings
from zqyy_ai.store import step_claims
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import EngineMaker


def test_each_process_is_a_worker_of_its_own(make_engine: EngineMaker) -> None:
    assert make_engine().worker.id != make_engine().worker.id


def test_a_process_that_ended_lets_its_leases_run_out(make_engine: EngineMaker, database: Database, connection: Connection) -> None:
    engine = make_engine(ZQYY_LEASE_SECONDS="1")
    engine.worker.__exit__()
    assert engine.worker.stopping.is_set()
    claim = step_claims.take(
        connection, "app2_finance", 1001, "this_month__all", worker_id=engine.worker.id, lease=timedelta(seconds=-1)
    )
    assert claim is not None
    other = make_engine().worker.id
    assert (
        step_claims.take(connection, "app2_finance", 1001, "this_month__all", worker_id=other, lease=timedelta(seconds=1)) is not None
    )


def test_a_heartbeat_that_fails_is_tried_again(make_engine: EngineMaker, connection: Connection) -> None:
    """A database that is gone for a moment must not cost a process all that it holds."""
    connection.execute("ALTER TABLE biz.ai_step_claims RENAME TO gone_for_a_moment")
    engine = make_engine(ZQYY_LEASE_SECONDS="1")
    engine.worker._ended.wait(0.5)
    connection.execute("ALTER TABLE biz.gone_for_a_moment RENAME TO ai_step_claims")
    assert engine.worker._heartbeat.is_alive()


def test_an_engine_without_database_or_key_names_the_setting() -> None:
    with pytest.raises(SettingError, match="ZQYY_DATABASE_URL"):
        build_engine(load_settings({"DASHSCOPE_API_KEY": "sk-test"}))
    with pytest.raises(SettingError, match="DASHSCOPE_API_KEY"):
        build_engine(load_settings({"ZQYY_DATABASE_URL": "postgresql://127.0.0.1:1/x"}))
