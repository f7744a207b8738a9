"""The DashScope client, its errors, and how replies are read. No guards, no retries, no prompts.

Light to import: requests and the SDK come with the first client and the first call.
"""

from zqyy_ai.llm.client import DashScopeClient
from zqyy_ai.llm.errors import ModelCallError
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.llm.parsing import parse_reply
from zqyy_ai.llm.replies import Reply, Usage

__all__ = ["DashScopeClient", "ModelCallError", "Reply", "Usage", "estimate_tokens", "parse_reply"]
