"""`zqyy-ai serve`: the admin application under uvicorn, until a signal."""

import uvicorn

from zqyy_ai.admin.app import create_app
from zqyy_ai.admin.services import Services, open_database
from zqyy_ai.settings import Settings


def serve(settings: Settings) -> None:
    """Raises SettingError without a database. Streams are cut at a stop: a browser comes back by itself."""
    with open_database(settings) as database:
        uvicorn.run(
            create_app(Services(settings, database)),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            timeout_graceful_shutdown=3,
            server_header=False,
            forwarded_allow_ips=settings.trusted_proxies,
            h11_max_incomplete_event_size=64 * 1024,
        )
