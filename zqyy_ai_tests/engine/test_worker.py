import threading
from datetime import timedelta
from uuid import UUID

import pytest

from zqyy_ai.domain.errors import SettingError
from zqyy_ai.engine.assembly import build_engine
from zqyy_ai.settings import load_settings
from zqyy_ai.store import step_claims
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.engine.workbench import EngineMaker, wait_until


def claim_whose_lease_ran_out(connection: Connection, worker_id: UUID) -> None:
    over = timedelta(seconds=-1)
    assert step_claims.take(connection, "app2_finance", 1001, "this_month__all", worker_id=worker_id, lease=over) is not None


def is_renewed(connection: Connection) -> bool:
    row = connection.execute("SELECT lease_expires_at > clock_timestamp() AS lives FROM biz.ai_step_claims").fetchone()
    return row == {"lives": True}


def test_a_process_keeps_what_it_holds_until_it_ends(make_engine: EngineMaker, connection: Connection) -> None:
    engine = make_engine(ZQYY_LEASE_SECONDS="1")
    claim_whose_lease_ran_out(connection, engine.worker.id)
    wait_until(lambda: is_renewed(connection))
    engine.worker.__exit__()
    assert engine.worker.stopping.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "zqyy-ai heartbeat"]


def test_a_heartbeat_that_failed_beats_again(make_engine: EngineMaker, connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """A database that is gone for a moment must not cost a process all that it holds."""
    engine = make_engine(ZQYY_LEASE_SECONDS="1")
    claim_whose_lease_ran_out(connection, engine.worker.id)
    connection.execute("ALTER TABLE biz.ai_call_slots RENAME TO gone_for_a_moment")
    try:
        wait_until(lambda: "worker.heartbeat_failed" in caplog.text)
    finally:
        connection.execute("ALTER TABLE biz.gone_for_a_moment RENAME TO ai_call_slots")
    wait_until(lambda: is_renewed(connection))


def test_each_process_is_a_worker_of_its_own(make_engine: EngineMaker) -> None:
    assert make_engine().worker.id != make_engine().worker.id


def test_an_engine_without_database_or_key_names_the_setting() -> None:
    with pytest.raises(SettingError, match="ZQYY_DATABASE_URL"):
        build_engine(load_settings({"DASHSCOPE_API_KEY": "sk-test"}))
    with pytest.raises(SettingError, match="DASHSCOPE_API_KEY"):
        build_engine(load_settings({"ZQYY_DATABASE_URL": "postgresql://127.0.0.1:1/x"}))
