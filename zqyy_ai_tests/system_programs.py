"""Programs of the system that some tests need: CI installs them (`.ci/system-packages`), and somebody who only tries the tests goes without."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Its path. Without it the test is skipped; where CI runs, it fails."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        told = f"没有 {name}：以 root 运行 .ci/system-packages 安装"
        assert not os.environ.get("CI"), told
        pytest.skip(told)
    return found
