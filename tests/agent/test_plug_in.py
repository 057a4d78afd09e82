"""Plug-ins named by class path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import PlugIn
from agent.plug_in import describe_failure, load_plug_in

SOURCE = """
import math

class Sized:
    def __init__(self, size):
        self.size = int(size)
        if self.size < 0:
            raise RuntimeError("negative\\nsize")
    def __call__(self, materials):
        return [self.size] * len(materials)

def ones(materials):
    return [1.0] * len(materials)

THREE = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules of the user's."""
    (tmp_path / "mine_for_tests.py").write_text(SOURCE)
    (tmp_path / "needs_for_tests.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "broken_for_tests.py").write_text("x = [1, 2\n")
    (tmp_path / "raises_for_tests.py").write_text("\n\n{}['a']\n")
    (tmp_path / "exits_for_tests.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith("_for_tests")]:
        del sys.modules[name]


@pytest.mark.usefixtures("folder")
def test_classes_are_made_and_functions_returned() -> None:
    assert load_plug_in(PlugIn("mine_for_tests.Sized", {"size": 2}), "reward")(["NaCl"]) == [2]
    assert load_plug_in(PlugIn("mine_for_tests.ones"), "reward")(["NaCl"]) == [1.0]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("plug_in", "message"),
    [
        (PlugIn("ones"), "expected module.Name"),
        (PlugIn(""), "expected module.Name"),
        (PlugIn("nowhere_for_tests.Reward"), r"cannot import module 'nowhere_for_tests' \(searched from"),
        (PlugIn("mine_for_tests.deeper.Reward"), "cannot import module 'mine_for_tests.deeper'"),
        (PlugIn("needs_for_tests.Reward"), "cannot import module 'nowhere_to_be_found'"),
        (PlugIn("mine_for_tests.Missing"), "module 'mine_for_tests' has no 'Missing'"),
        (PlugIn("broken_for_tests.Reward"), r"importing it failed: SyntaxError: .*\(broken_for_tests.py, line 1\)"),
        (PlugIn("raises_for_tests.Reward"), r"importing it failed: KeyError: 'a' \(raises_for_tests.py, line 3\)"),
        (PlugIn("exits_for_tests.Reward"), "importing it failed: SystemExit: 0"),
        (PlugIn("mine_for_tests.Sized"), "making it failed: TypeError: .*missing 1 required .*'size'"),
        (PlugIn("mine_for_tests.Sized", {"sice": 2}), "making it failed: TypeError: .*'sice'"),
        (
            PlugIn("mine_for_tests.Sized", {"size": -2}),
            r"making it failed: RuntimeError: negative size \(mine_for_tests.py",
        ),
        (PlugIn("mine_for_tests.ones", {"n": 2}), "init_args given, but ones is not a class"),
        (PlugIn(".Reward"), "expected module.Name"),
        (PlugIn("..Reward"), "importing it failed"),
    ],
    ids=lambda value: value.class_path if isinstance(value, PlugIn) else "",
)
def test_what_cannot_be_loaded_is_named(plug_in: PlugIn, message: str) -> None:
    with pytest.raises(ValueError, match=f"^reward: class_path '{plug_in.class_path}': {message}") as caught:
        load_plug_in(plug_in, "reward")
    assert "\n" not in str(caught.value)


def test_a_failure_is_described_by_the_innermost_place_outside_libraries() -> None:
    import json

    try:
        json.loads("nonsense")
    except ValueError as error:
        assert describe_failure(error).startswith("JSONDecodeError: Expecting value")
        assert "(test_plug_in.py, line" in describe_failure(error)
    assert describe_failure(KeyError("a")) == "KeyError: 'a'"
