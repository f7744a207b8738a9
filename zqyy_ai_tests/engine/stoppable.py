"""One step in a process of its own, which a test stops in the middle and continues later: `python -m … <settings as JSON>`."""

import json
import os
import sys

from zqyy_ai.domain.business_clock import HandClock
from zqyy_ai.engine.assembly import build_engine
from zqyy_ai.settings import load_settings
from zqyy_ai_tests.engine.workbench import NOW, request


def main() -> None:
    with build_engine(load_settings(json.loads(sys.argv[1])), clock=HandClock(NOW)) as engine:
        result = engine.step.run(request(net_revenue_cny=os.getpid()))
    print(json.dumps({"status": result.status.value, "error_code": result.error_code, "calls": result.calls, "tokens": result.tokens}))


if __name__ == "__main__":
    main()
