"""The Dagster entry point."""

from zqyy_ai.orchestration.build import build_definitions

defs = build_definitions()
