"""What an action may cost at most, for the question before it."""

from collections.abc import Mapping

from zqyy_ai.admin.access import Access
from zqyy_ai.domain.apps import AppType
from zqyy_ai.engine.member_requests import HISTORY, expected_cost
from zqyy_ai.store import run_logs
from zqyy_ai.store.run_logs import UsualCall


class Costs:
    """As calls of the last weeks usually were; where there were none, as the catalogue guesses."""

    def __init__(self, access: Access) -> None:
        self._settings = access.services.settings
        with access.database.transaction() as connection:
            self._usual: Mapping[str, UsualCall] = run_logs.usual_calls(connection, since=access.services.clock.now() - HISTORY)

    def at_most(self, calls_by_app: Mapping[AppType, int]) -> str:
        """最多 9 次调用，约 21,000 Token、¥0.02."""
        tokens, cny = expected_cost(self._settings, calls_by_app, self._usual)
        return f"最多 {sum(calls_by_app.values()):,} 次调用，约 {round(tokens):,} Token、¥{cny:.2f}"
