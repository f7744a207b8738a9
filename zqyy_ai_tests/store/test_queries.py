import re
from importlib.resources import files
from pathlib import Path

import pytest

from zqyy_ai.store.queries import named_queries

ROOMS = ("store", "guards", "warehouse", "devkit")
NOUNS = [(f"zqyy_ai.{room}", path.stem) for room in ROOMS for path in Path(str(files(f"zqyy_ai.{room}"))).glob("sql/*.sql")]


@pytest.mark.parametrize(("package", "noun"), NOUNS, ids=[f"{package}/{noun}" for package, noun in NOUNS])
def test_every_statement_of_a_file_has_a_name_of_its_own(package: str, noun: str) -> None:
    text = files(package).joinpath("sql", f"{noun}.sql").read_text()
    names = re.findall(r"^-- name:\s*(\S+)", text, re.MULTILINE)
    assert list(named_queries(noun, package)) == names
    assert all(named_queries(noun, package).values())


@pytest.mark.parametrize("package", [f"zqyy_ai.{room}" for room in ROOMS])
def test_every_statement_has_a_user(package: str) -> None:
    """A statement that nobody asks for by its name is dead."""
    code = "".join(path.read_text() for path in Path(str(files(package))).glob("**/*.py"))
    asked_for = set(re.findall(r"[\"'](\w+)[\"']", code))
    unused = [name for room, noun in NOUNS if room == package for name in named_queries(noun, package) if name not in asked_for]
    assert unused == []


def test_a_noun_without_a_file_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        named_queries("no_such_noun")
