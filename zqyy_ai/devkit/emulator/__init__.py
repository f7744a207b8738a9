"""The DashScope emulator: speaks DashScope's application protocol, computes its answers from the prompt, and fails when told to.

It is no model and says so: `model_id` is `emulator`. docs/dashscope.md says how to steer it. Nothing but `cli` and tests imports it.
"""

from zqyy_ai.devkit.emulator.app import EmulatorConfig, create_app
from zqyy_ai.devkit.emulator.fault_plan import FaultPlan, Latency, load_fault_plan
from zqyy_ai.devkit.emulator.server import RunningEmulator, running_emulator, serve

__all__ = ["EmulatorConfig", "FaultPlan", "Latency", "RunningEmulator", "create_app", "load_fault_plan", "running_emulator", "serve"]
