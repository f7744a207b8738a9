"""The same commands over a PostgreSQL and a DashScope that are somebody else's."""

import contextlib
from collections.abc import Callable

import pytest

from zqyy_ai.devkit.emulator import running_emulator
from zqyy_ai.domain.apps import APPS
from zqyy_ai_tests.journeys.stack import Home, Stack

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

SITE = 1001


def test_with_external_services_named_the_stack_uses_them_and_starts_none_of_its_own(home: Home, make_database: Callable[[], str]) -> None:
    application_url, dagster_url = make_database(), make_database()
    with contextlib.ExitStack() as parts:
        emulator = contextlib.ExitStack()
        dashscope = parts.enter_context(emulator).enter_context(running_emulator())
        home.environment.update(
            ZQYY_DATABASE_URL=application_url,
            ZQYY_DAGSTER_DATABASE_URL=dagster_url,
            DASHSCOPE_API_KEY="sk-somebody-elses",
            DASHSCOPE_HTTP_BASE_URL=dashscope.base_url,
            **{app.app_id_setting: f"id-of-{app.app_type.value}" for app in APPS.values()},
        )
        assert home.run("migrate").returncode == 0
        assert home.run("demo-data", "--sites", "1").returncode == 0
        stack = parts.enter_context(Stack(home))

        prewarmed = stack.run("prewarm", "--site", str(SITE))

        assert prewarmed.returncode == 0, prewarmed.stdout + prewarmed.stderr
        assert stack.environment["ZQYY_DATABASE_URL"] == application_url
        assert stack.emulator_counts()["answered"] == stack.answers_written(SITE) > 0
        assert stack.wait_for_run(SITE, "SUCCESS")
        assert not (home.folder / "postgres").exists()
        assert not any("emulator" in process for process in home.processes())

        well = stack.run("doctor")
        emulator.close()
        ill = stack.run("doctor")

        assert well.returncode == 0, well.stdout
        assert ill.returncode == 1
        assert dashscope.base_url in ill.stdout


@pytest.mark.parametrize("missing", ["ZQYY_DAGSTER_DATABASE_URL", "DASHSCOPE_API_KEY", "ZQYY_APP_ID_2_FINANCE"])
def test_a_missing_setting_is_one_line_that_names_it_and_nothing_is_started(home: Home, missing: str) -> None:
    home.environment.update(
        ZQYY_DATABASE_URL="postgresql://somebody@127.0.0.1:1/application",
        ZQYY_DAGSTER_DATABASE_URL="postgresql://somebody@127.0.0.1:1/dagster",
        DASHSCOPE_API_KEY="sk-somebody-elses",
        **{app.app_id_setting: f"id-of-{app.app_type.value}" for app in APPS.values()},
    )
    del home.environment[missing]

    refused = home.run("dev")

    assert refused.returncode == 2
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert missing in line
    assert home.processes() == []
    assert not (home.folder / "logs").exists()
