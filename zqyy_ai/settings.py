"""Every environment variable that the project reads: typed, with unit, range and default. Nothing else reads the environment.

`load_settings()` raises `SettingError` with one line that names the variable. Secrets are `SecretStr`: they never appear in a repr, a
log or an error.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.errors import SettingError

DASHSCOPE_BASE_URL = "https://dashscope.aliyuncs.com/api/v1"

Port = Annotated[int, Field(ge=1, le=65535)]
PositiveInt = Annotated[int, Field(ge=1)]
RetentionDays = Annotated[int, Field(ge=1, le=3650)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """The project's settings; the alias of each field is its environment variable."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore", hide_input_in_errors=True)

    # Databases. Unset: the embedded PostgreSQL, whose addresses the stack puts into the environment of what it starts.
    database_url: SecretStr | None = Field(None, alias="ZQYY_DATABASE_URL")
    dagster_database_url: SecretStr | None = Field(None, alias="ZQYY_DAGSTER_DATABASE_URL")
    db_pool_connections: Annotated[int, Field(ge=2, le=200)] = Field(6, alias="ZQYY_DB_POOL_CONNECTIONS")

    # The API's own account, a member of zqyy_api that owns nothing; unset, the application's database is used and the role put on. Behind a
    # pooler in transaction mode, what listens needs a direct URL.
    api_database_url: SecretStr | None = Field(None, alias="ZQYY_API_DATABASE_URL")
    api_listen_database_url: SecretStr | None = Field(None, alias="ZQYY_API_LISTEN_DATABASE_URL")
    api_pool_connections: Annotated[int, Field(ge=2, le=200)] = Field(10, alias="ZQYY_API_POOL_CONNECTIONS")

    # DashScope. An unset key means the emulator in `make demo` and `make dev`.
    dashscope_api_key: SecretStr | None = Field(None, alias="DASHSCOPE_API_KEY")
    dashscope_base_url: str | None = Field(None, alias="DASHSCOPE_HTTP_BASE_URL")
    dashscope_workspace: str | None = Field(None, alias="DASHSCOPE_WORKSPACE_ID")
    app_id_2_finance: str | None = Field(None, alias="ZQYY_APP_ID_2_FINANCE")
    app_id_2a_finance_area: str | None = Field(None, alias="ZQYY_APP_ID_2A_FINANCE_AREA")
    app_id_3_clue: str | None = Field(None, alias="ZQYY_APP_ID_3_CLUE")
    app_id_4_analysis: str | None = Field(None, alias="ZQYY_APP_ID_4_ANALYSIS")
    app_id_5_tactics: str | None = Field(None, alias="ZQYY_APP_ID_5_TACTICS")
    app_id_6_note: str | None = Field(None, alias="ZQYY_APP_ID_6_NOTE")
    app_id_7_customer: str | None = Field(None, alias="ZQYY_APP_ID_7_CUSTOMER")
    app_id_8_consolidation: str | None = Field(None, alias="ZQYY_APP_ID_8_CONSOLIDATION")
    # `app2_finance=3,app3_clue=2`: raise an application's number after changing its system prompt in DashScope's console, so that
    # answers made with the old one are not reused.
    app_revisions: dict[str, str] = Field(default_factory=dict, alias="ZQYY_APP_REVISIONS")

    # The step.
    step_timeout_seconds: PositiveFloat = Field(180.0, alias="ZQYY_STEP_TIMEOUT_SECONDS")
    chain_timeout_seconds: PositiveFloat = Field(900.0, alias="ZQYY_CHAIN_TIMEOUT_SECONDS")
    guard_wait_seconds: PositiveFloat = Field(600.0, alias="ZQYY_GUARD_WAIT_SECONDS")
    lease_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(10.0, alias="ZQYY_LEASE_SECONDS")
    reuse_max_age_days: PositiveInt = Field(35, alias="ZQYY_REUSE_MAX_AGE_DAYS")
    job_max_attempts: PositiveInt = Field(3, alias="ZQYY_JOB_MAX_ATTEMPTS")
    # Without progress and without a call under way for so long, a job is taken from the process that holds it.
    job_stuck_seconds: Annotated[float, Field(ge=60, allow_inf_nan=False)] = Field(600.0, alias="ZQYY_JOB_STUCK_SECONDS")
    # A run that takes events stays open for so long after the last one, and hands over to a fresh one at that age.
    event_run_idle_seconds: PositiveFloat = Field(300.0, alias="ZQYY_EVENT_RUN_IDLE_SECONDS")
    event_run_max_age_seconds: PositiveFloat = Field(1800.0, alias="ZQYY_EVENT_RUN_MAX_AGE_SECONDS")
    # A member counts as active for so long after the last visit or event.
    active_member_days: PositiveInt = Field(180, alias="ZQYY_ACTIVE_MEMBER_DAYS")
    etl_lookback_days: PositiveInt = Field(3, alias="ZQYY_ETL_LOOKBACK_DAYS")

    # Guards.
    llm_concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(64, alias="ZQYY_LLM_CONCURRENCY")
    site_calls_per_minute: PositiveInt = Field(240, alias="ZQYY_SITE_CALLS_PER_MINUTE")
    site_calls_burst: PositiveInt = Field(72, alias="ZQYY_SITE_CALLS_BURST")
    app_calls_per_second: PositiveInt = Field(100, alias="ZQYY_APP_CALLS_PER_SECOND")
    breaker_failures: PositiveInt = Field(5, alias="ZQYY_BREAKER_FAILURES")
    breaker_cooldown_seconds: PositiveFloat = Field(60.0, alias="ZQYY_BREAKER_COOLDOWN_SECONDS")
    throttle_cooldown_seconds: PositiveFloat = Field(30.0, alias="ZQYY_THROTTLE_COOLDOWN_SECONDS")
    daily_token_limit: PositiveInt = Field(20_000_000, alias="ZQYY_DAILY_TOKEN_LIMIT")
    monthly_token_limit: PositiveInt = Field(400_000_000, alias="ZQYY_MONTHLY_TOKEN_LIMIT")
    site_daily_token_limit: PositiveInt = Field(4_000_000, alias="ZQYY_SITE_DAILY_TOKEN_LIMIT")
    site_monthly_token_limit: PositiveInt = Field(80_000_000, alias="ZQYY_SITE_MONTHLY_TOKEN_LIMIT")
    # Of all sites' sandboxes together; counts apart from the limits above.
    sandbox_daily_token_limit: PositiveInt = Field(1_000_000, alias="ZQYY_SANDBOX_DAILY_TOKEN_LIMIT")

    # Retention.
    cache_rows_per_type_and_site: PositiveInt = Field(20_000, alias="ZQYY_CACHE_ROWS_PER_TYPE_AND_SITE")
    run_log_text_retention_days: RetentionDays = Field(90, alias="ZQYY_RUN_LOG_TEXT_RETENTION_DAYS")
    # Costs are summed from these rows: never fewer days than a month has.
    run_log_retention_days: Annotated[int, Field(ge=32, le=3650)] = Field(400, alias="ZQYY_RUN_LOG_RETENTION_DAYS")
    live_event_retention_days: RetentionDays = Field(7, alias="ZQYY_LIVE_EVENT_RETENTION_DAYS")
    job_retention_days: RetentionDays = Field(180, alias="ZQYY_JOB_RETENTION_DAYS")
    dagster_run_retention_days: RetentionDays = Field(30, alias="ZQYY_DAGSTER_RUN_RETENTION_DAYS")

    # Prices of the model behind the applications, yuan a million tokens; only for the cost that is shown.
    input_price_cny_per_million_tokens: Annotated[float, Field(ge=0)] = Field(0.8, alias="ZQYY_INPUT_PRICE_CNY_PER_MILLION_TOKENS")
    output_price_cny_per_million_tokens: Annotated[float, Field(ge=0)] = Field(2.0, alias="ZQYY_OUTPUT_PRICE_CNY_PER_MILLION_TOKENS")

    # Where alerts are delivered, separated by spaces, commas or line breaks.
    alert_webhooks: tuple[SecretStr, ...] = Field((), alias="ZQYY_ALERT_WEBHOOKS")

    # The stack.
    home: Path = Field(Path(".zqyy"), alias="ZQYY_HOME")
    host: str = Field("127.0.0.1", alias="ZQYY_HOST")
    port: Port = Field(8000, alias="ZQYY_PORT")
    # Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, separated by commas.
    trusted_proxies: str = Field("127.0.0.1", alias="ZQYY_TRUSTED_PROXIES")
    dagster_port: Port = Field(3000, alias="ZQYY_DAGSTER_PORT")
    # Where people reach Dagster's UI, for the console's links; None: on the console's own host, at the port above.
    dagster_url: str | None = Field(None, alias="ZQYY_DAGSTER_URL")
    code_server_port: Port = Field(4266, alias="ZQYY_CODE_SERVER_PORT")
    emulator_port: Port = Field(8089, alias="ZQYY_EMULATOR_PORT")
    postgres_port: Port = Field(54329, alias="ZQYY_POSTGRES_PORT")
    postgres_os_user: str = Field("nobody", alias="ZQYY_POSTGRES_OS_USER")

    @field_validator("database_url", "dagster_database_url", "api_database_url", "api_listen_database_url")
    @classmethod
    def _is_a_postgresql_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return url

    @field_validator("dashscope_base_url", "dagster_url")
    @classmethod
    def _is_an_http_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return url.rstrip("/") if url else url

    @field_validator("app_revisions", mode="before")
    @classmethod
    def _parse_revisions(cls, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
        known = {app.value for app in AppType}
        for name, separator, revision in pairs:
            if not separator or not revision or name not in known:
                raise ValueError(f"must look like app2_finance=2,app3_clue=1 with names out of {', '.join(sorted(known))}")
        return {name: revision for name, _, revision in pairs}

    @field_validator("alert_webhooks", mode="before")
    @classmethod
    def _parse_webhooks(cls, text: Any) -> Any:
        """Whether a service knows them is for those who deliver to say: that costs the import of its library."""
        if not isinstance(text, str):
            return text
        # A URL may hold commas itself.
        urls = [url for url in re.split(r"[\s,]+(?=[a-zA-Z][a-zA-Z0-9+.-]*://)", text.strip().rstrip(",")) if url]
        for number, url in enumerate(urls, start=1):
            if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+", url):
                raise ValueError(f"URL {number} must look like https://… or dingtalk://…, without spaces")
        return urls

    @model_validator(mode="after")
    def _texts_go_before_their_rows(self) -> "Settings":
        if self.run_log_text_retention_days > self.run_log_retention_days:
            raise ValueError(
                f"ZQYY_RUN_LOG_TEXT_RETENTION_DAYS ({self.run_log_text_retention_days}) must not be larger than"
                f" ZQYY_RUN_LOG_RETENTION_DAYS ({self.run_log_retention_days}): a run log's texts can't outlive its row"
            )
        return self

    @model_validator(mode="after")
    def _home_is_absolute(self) -> "Settings":
        object.__setattr__(self, "home", self.home.expanduser().absolute())
        return self

    def app_id(self, app: AppType) -> str:
        """The application's id in DashScope. Raises SettingError that names the variable when it is not set."""
        value = self.app_ids.get(app)
        if value is None:
            raise SettingError(
                f"{APPS[app].app_id_setting} is not set: put the id of the DashScope application for {APPS[app].title} there"
            )
        return value

    @property
    def app_ids(self) -> dict[AppType, str]:
        """Ids of the applications that are set."""
        by_alias = self.model_dump(by_alias=True, include={name for name in type(self).model_fields if name.startswith("app_id_")})
        return {app: by_alias[row.app_id_setting] for app, row in APPS.items() if by_alias[row.app_id_setting]}

    def app_revision(self, app: AppType) -> str:
        return self.app_revisions.get(app.value, "1")

    def required_database_url(self) -> str:
        """The application database's URL. Raises SettingError when it is not set."""
        if self.database_url is None:
            raise SettingError(
                'ZQYY_DATABASE_URL is not set: start the stack with `make dev` and run `eval "$(zqyy-ai env)"`, or set it to a postgresql:// URL'
            )
        return self.database_url.get_secret_value()

    def required_api_key(self) -> str:
        if self.dashscope_api_key is None:
            raise SettingError('DASHSCOPE_API_KEY is not set: set it, or join a running stack with `eval "$(zqyy-ai env)"`')
        return self.dashscope_api_key.get_secret_value()


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment (empty values count as unset). Raises SettingError, one line that names the variable."""
    source = os.environ if environment is None else environment
    names = [field.alias for field in Settings.model_fields.values() if field.alias]
    try:
        return Settings.model_validate({name: source[name] for name in names if source.get(name)})
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        # What contradicts another setting names both itself.
        raise SettingError(f"{first['loc'][0]}: {said}" if first["loc"] else said) from None
