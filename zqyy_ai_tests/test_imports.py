"""Importing does nothing. One process imports every module, because each process of its own would cost seconds."""

import subprocess
import sys
from pathlib import Path

import zqyy_ai

PACKAGE_FOLDER = Path(zqyy_ai.__file__).parent

# Audit hooks see what Python itself cannot hide: files opened, sockets made, processes started. Reading the environment has no audit
# event, so `os.environ` is replaced by one that tells. Libraries may do as they like; what counts is who asked.
IMPORT_ALL = """
import importlib, os, pkgutil, sys

of_the_project = sys.argv[1]
touched = []

def asked_by_the_project():
    # The nearest frame that is not of the import system, of the standard library or of a probe decides.
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(of_the_project):
            return f"{name[len(of_the_project):]}:{frame.f_lineno} {frame.f_code.co_name}"
        if "site-packages" in name or name.startswith("<frozen importlib"):
            return None
        frame = frame.f_back
    return None

class ToldEnvironment(dict):
    def _tell(self, name):
        if (place := asked_by_the_project()) is not None:
            touched.append(f"{place}: environment variable {name}")
    def __getitem__(self, name):
        self._tell(name)
        return super().__getitem__(name)
    def get(self, name, default=None):
        self._tell(name)
        return super().get(name, default)
    def __contains__(self, name):
        self._tell(name)
        return super().__contains__(name)
    def __iter__(self):
        self._tell("*")
        return super().__iter__()

def hook(event, arguments):
    if event in ("open", "socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.mkdir", "sqlite3.connect"):
        if (place := asked_by_the_project()) is not None:
            touched.append(f"{place}: {event} {arguments[:1]}")

import zqyy_ai
names = ["zqyy_ai", *(module.name for module in pkgutil.walk_packages(zqyy_ai.__path__, "zqyy_ai."))]
# Alembic runs its environment and its versions as scripts, with a connection at hand; they are no modules to import.
names = [name for name in names if not name.startswith(("zqyy_ai.store.migrations.env", "zqyy_ai.store.migrations.versions"))]
os.environ = ToldEnvironment(os.environ)
sys.addaudithook(hook)
import threading
for name in names:
    importlib.import_module(name)
threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
print(len(names))
for line in touched:
    print(line)
print("threads:", [name for name in threads if "zqyy" in name])
"""


def test_every_module_imports_with_an_empty_environment_and_importing_touches_nothing(tmp_path: Path) -> None:
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, f"{PACKAGE_FOLDER}/"],
        env={},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr[-3000:]
    count, *touched, threads = imported.stdout.splitlines()
    assert int(count) > 50
    assert touched == []
    assert threads == "threads: []"
    assert list(tmp_path.iterdir()) == []


def test_a_light_import_brings_no_heavy_library_with_it() -> None:
    """`zqyy-ai env` and shell completion should not wait seconds for pandas, Dagster or the SDK."""
    code = "import sys, zqyy_ai.cli; print(sorted({'pandas', 'dagster', 'dashscope', 'numpy'} & set(sys.modules)))"
    imported = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "[]"


def test_what_dagster_and_the_command_line_load_at_their_start_has_no_library_for_webhooks() -> None:
    code = "import sys, zqyy_ai.definitions, zqyy_ai.cli; print('apprise' in sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "False"
