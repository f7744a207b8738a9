"""An event run in a process of its own, for a test to kill: `python -m … <settings as JSON> <run id>`."""

import json
import sys

from zqyy_ai.engine.assembly import build_engine
from zqyy_ai.engine.event_run import EventRun
from zqyy_ai.settings import load_settings


def main() -> None:
    with build_engine(load_settings(json.loads(sys.argv[1]))) as engine:
        for outcome in EventRun(engine, sys.argv[2]).outcomes():
            print(outcome.step.name, flush=True)


if __name__ == "__main__":
    main()
