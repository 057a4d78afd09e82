"""What YAML can say is what the classes take."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import Any

import pytest
from smact.screening import ICSD24FilterConfig

from agent import Objective
from agent.config import DesignConfig, ICSD24FilterOptions, ObjectiveConfig, PlugIn, SpaceConfig
from envs import CompositionSpace


def defaults_of_fields(config: Any) -> dict[str, Any]:
    return {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(config)
    }


def defaults_of_arguments(made: Any) -> dict[str, Any]:
    parameters = inspect.signature(made).parameters.values()
    return {p.name: MISSING if p.default is inspect.Parameter.empty else p.default for p in parameters}


@pytest.mark.parametrize(
    ("config", "made"),
    [(SpaceConfig, CompositionSpace), (ObjectiveConfig, Objective), (ICSD24FilterOptions, ICSD24FilterConfig)],
)
def test_fields_and_defaults_mirror_the_arguments(config: Any, made: Any) -> None:
    expected = {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults_of_arguments(made).items()
    }
    assert list(defaults_of_fields(config)) == list(expected)
    assert defaults_of_fields(config) == expected


def test_every_option_is_documented() -> None:
    for config in (DesignConfig, SpaceConfig, ObjectiveConfig, PlugIn, ICSD24FilterOptions):
        source = inspect.getsource(config)
        for field in fields(config):
            assert f"    {field.name}: " in source
        assert source.count('    """') >= len(fields(config))


def test_reading_options_imports_nothing_heavy() -> None:
    code = "import sys, agent.config; print([m for m in ('torch', 'smact', 'pymatgen', 'gfn') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_plug_ins_are_read_from_a_path_or_a_mapping() -> None:
    assert PlugIn.read("a.B") == PlugIn("a.B")
    assert PlugIn.read({"class_path": "a.B"}) == PlugIn("a.B")
    whole = PlugIn("a.B", {"x": 1})
    assert PlugIn.read(whole.as_dict()) == whole
    for wrong in (3, ["a.B"], {}, {"class_path": 3}, {"class_path": "a.B", "init_args": [1]}):
        with pytest.raises(ValueError, match="expected a mapping of class_path and init_args"):
            PlugIn.read(wrong)
    with pytest.raises(ValueError, match="unknown key 'args'"):
        PlugIn.read({"class_path": "a.B", "args": {}})
