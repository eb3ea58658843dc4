"""docs/pains.md names tests that exist, for each of its twenty rows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = [line for line in (ROOT / "docs" / "pains.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`(tests/[^`]+)`", row)})


def test_there_are_twenty_and_each_names_a_test():
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 21))
    assert all("`tests/" in row.split("|")[4] for row in ROWS)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name):
    path, *inner = name.split("::")
    nodes = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for wanted in inner:
        found = [node for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == wanted]
        assert found, f"{path} has no {wanted}"
        nodes = found[0].body
    assert inner
    assert inner[-1].startswith("test_")
