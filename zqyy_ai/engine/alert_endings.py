"""The end of alerts about calls: they are resolved when their cause is over, so that what is open is what needs a person.

The account's alert ends with its hold; the step that ends it says so at once, this pass finds what was missed. Those of breakers and of
throttling end when all is closed and stayed so for some minutes: half-ill, DashScope lets a breaker close and open again each minute. An
alert about failed or refused calls ends when calls of its site and application succeed again and it did not happen for half an hour.
Sooner would tell people of every swing.
"""

import logging
from datetime import timedelta

from zqyy_ai.engine.call_alerts import THROTTLED
from zqyy_ai.store import alerts
from zqyy_ai.store.database import Database

logger = logging.getLogger(__name__)

_QUIET = timedelta(minutes=30)
_BREAKER_QUIET = timedelta(minutes=5)


def resolve_what_is_over(database: Database) -> int:
    """Returns how many alerts it resolved."""
    with database.transaction() as connection:
        over = alerts.over(connection, quiet=_QUIET, breaker_quiet=_BREAKER_QUIET, throttled=THROTTLED.fingerprint)
        resolved = sum(alerts.resolve(connection, fingerprint, "原因已消除") for fingerprint in over)
    if resolved:
        logger.info("alerts.resolved count=%s", resolved)
    return resolved
