import subprocess
import sys

import pytest

ENERGY = ("matgl", "chgnet", "pyxtal", "ase", "lightning", "mp_api", "pymatgen.analysis")
HEAVY = (*ENERGY, "torch_geometric", "sklearn", "scipy.stats", "botorch", "gpytorch", "matcalc")
EVERY_NAME = "import agent; [getattr(agent, name) for name in agent.__all__]"
HELP = """
import agent.cli
try:
    agent.cli.main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
"""


def loaded_by(code: str, names: tuple[str, ...]) -> list[str]:
    """Return those of the modules that a fresh interpreter has loaded after running the code."""
    script = f"{code}\nimport sys\nprint('loaded:', *(name for name in {names!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()[1:]


def test_the_check_sees_a_loaded_module():
    assert loaded_by("import sqlite3", ("sqlite3", "chgnet")) == ["sqlite3"]


@pytest.mark.parametrize("package", ["envs", "surrogates", "agent"])
def test_importing_a_package_loads_no_heavy_package(package):
    assert loaded_by(f"import {package}", HEAVY) == []


def test_the_names_of_agent_load_nothing_that_only_energies_need():
    assert loaded_by(EVERY_NAME, ENERGY) == []


def test_help_loads_no_heavy_package():
    assert loaded_by(HELP, HEAVY) == []
