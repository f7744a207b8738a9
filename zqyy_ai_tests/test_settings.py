from pathlib import Path

import pytest

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.errors import SettingError
from zqyy_ai.settings import Settings, load_settings

SECRET = "sk-0123456789abcdef"


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = load_settings({})
    assert settings.database_url is None
    assert settings.dashscope_api_key is None
    assert (settings.step_timeout_seconds, settings.chain_timeout_seconds, settings.reuse_max_age_days) == (180, 900, 35)
    assert (settings.event_run_idle_seconds, settings.event_run_max_age_seconds) == (300, 1800)
    assert (settings.job_stuck_seconds, settings.active_member_days) == (600, 180)
    assert (settings.site_calls_per_minute, settings.site_calls_burst, settings.app_calls_per_second) == (240, 72, 100)
    assert (settings.llm_concurrency, settings.breaker_failures, settings.breaker_cooldown_seconds) == (64, 5, 60)
    assert (settings.daily_token_limit, settings.monthly_token_limit) == (20_000_000, 400_000_000)
    assert (settings.site_daily_token_limit, settings.site_monthly_token_limit) == (4_000_000, 80_000_000)
    assert (settings.host, settings.port, settings.dagster_port) == ("127.0.0.1", 8000, 3000)


def test_an_empty_value_counts_as_unset() -> None:
    assert load_settings({"ZQYY_DATABASE_URL": "", "ZQYY_PORT": ""}) == load_settings({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ZQYY_PORT", "http"),
        ("ZQYY_PORT", "0"),
        ("ZQYY_DAGSTER_PORT", "65536"),
        ("ZQYY_DATABASE_URL", "mysql://localhost/x"),
        ("ZQYY_DAGSTER_DATABASE_URL", "localhost"),
        ("DASHSCOPE_HTTP_BASE_URL", "dashscope.aliyuncs.com"),
        ("ZQYY_LLM_CONCURRENCY", "0"),
        ("ZQYY_STEP_TIMEOUT_SECONDS", "-1"),
        ("ZQYY_STEP_TIMEOUT_SECONDS", "nan"),
        ("ZQYY_GUARD_WAIT_SECONDS", "inf"),
        ("ZQYY_CHAIN_TIMEOUT_SECONDS", "0"),
        ("ZQYY_JOB_STUCK_SECONDS", "59"),
        ("ZQYY_EVENT_RUN_IDLE_SECONDS", "0"),
        ("ZQYY_EVENT_RUN_MAX_AGE_SECONDS", "inf"),
        ("ZQYY_ACTIVE_MEMBER_DAYS", "0"),
        ("ZQYY_DAILY_TOKEN_LIMIT", "1.5"),
        ("ZQYY_LEASE_SECONDS", "0.5"),
        ("ZQYY_LEASE_SECONDS", "inf"),
        ("ZQYY_CACHE_ROWS_PER_TYPE_AND_SITE", "0"),
        ("ZQYY_RUN_LOG_RETENTION_DAYS", "31"),
        ("ZQYY_LIVE_EVENT_RETENTION_DAYS", "0"),
        ("ZQYY_JOB_RETENTION_DAYS", "3651"),
        ("ZQYY_DAGSTER_RUN_RETENTION_DAYS", "1.5"),
        ("ZQYY_APP_REVISIONS", "app2_finance"),
        ("ZQYY_APP_REVISIONS", "app9_chat=2"),
        ("ZQYY_ALERT_WEBHOOKS", "oapi.dingtalk.com/robot/send?access_token=1"),
    ],
)
def test_a_malformed_setting_is_one_line_that_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingError) as refused:
        load_settings({variable: value})
    assert str(refused.value).startswith(f"{variable}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("variable", ["ZQYY_DATABASE_URL", "ZQYY_DAGSTER_DATABASE_URL"])
def test_a_malformed_secret_is_not_repeated(variable: str) -> None:
    with pytest.raises(SettingError) as refused:
        load_settings({variable: f"mysql://root:{SECRET}@db/x"})
    assert SECRET not in str(refused.value)


def test_webhooks_are_separated_by_spaces_commas_or_lines_and_may_hold_commas() -> None:
    urls = ["https://hooks.slack.com/services/a/b/c", f"dingtalk://{SECRET}@token/138,139", "json://host/x?to=1,2"]
    for separator in (" ", ",", ", ", "\n", "\n  "):
        settings = load_settings({"ZQYY_ALERT_WEBHOOKS": f" {separator.join(urls)},\n"})
        assert [webhook.get_secret_value() for webhook in settings.alert_webhooks] == urls
        assert SECRET not in f"{settings!r} {settings.model_dump_json()}"
    with pytest.raises(SettingError) as refused:
        load_settings({"ZQYY_ALERT_WEBHOOKS": f"{urls[0]} {SECRET}"})
    assert SECRET not in str(refused.value)


def test_secrets_appear_in_no_text_form() -> None:
    settings = load_settings({"DASHSCOPE_API_KEY": SECRET, "ZQYY_DATABASE_URL": f"postgresql://root:{SECRET}@db/x"})
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.required_api_key() == SECRET


def test_what_is_needed_and_not_set_is_named() -> None:
    settings = load_settings({})
    with pytest.raises(SettingError, match="ZQYY_DATABASE_URL is not set"):
        settings.required_database_url()
    with pytest.raises(SettingError, match="DASHSCOPE_API_KEY is not set"):
        settings.required_api_key()
    with pytest.raises(SettingError, match="ZQYY_APP_ID_2A_FINANCE_AREA is not set"):
        settings.app_id(AppType.FINANCE_AREA)


def test_application_ids_and_revisions_are_found_by_application() -> None:
    settings = load_settings({"ZQYY_APP_ID_2_FINANCE": "id-2", "ZQYY_APP_REVISIONS": "app2_finance=3, app3_clue=b"})
    assert settings.app_ids == {AppType.FINANCE: "id-2"}
    assert settings.app_id(AppType.FINANCE) == "id-2"
    assert [settings.app_revision(app) for app in (AppType.FINANCE, AppType.CLUE, AppType.NOTE)] == ["3", "b", "1"]


def test_a_base_url_loses_its_last_slash_and_the_home_folder_is_absolute() -> None:
    settings = load_settings({"DASHSCOPE_HTTP_BASE_URL": "http://127.0.0.1:8089/api/v1/", "ZQYY_HOME": "state"})
    assert settings.dashscope_base_url == "http://127.0.0.1:8089/api/v1"
    assert settings.home == Path.cwd() / "state"


def test_every_setting_has_a_variable_and_no_two_share_one() -> None:
    names = [field.alias for field in Settings.model_fields.values()]
    assert len(set(names)) == len(names)
    assert all(name and name.startswith(("ZQYY_", "DASHSCOPE_")) for name in names)


def test_texts_that_would_outlive_their_rows_are_refused_by_both_names() -> None:
    assert load_settings({"ZQYY_RUN_LOG_TEXT_RETENTION_DAYS": "60", "ZQYY_RUN_LOG_RETENTION_DAYS": "60"}).run_log_retention_days == 60
    with pytest.raises(
        SettingError, match=r"ZQYY_RUN_LOG_TEXT_RETENTION_DAYS \(401\) must not be larger than ZQYY_RUN_LOG_RETENTION_DAYS \(400\)"
    ):
        load_settings({"ZQYY_RUN_LOG_TEXT_RETENTION_DAYS": "401"})
    with pytest.raises(SettingError, match="must not be larger"):
        load_settings({"ZQYY_RUN_LOG_RETENTION_DAYS": "40"})
