import logging
import sys
import traceback
import types

import pytest

from surrogates.hull import ReferenceHull
from surrogates.materials_project import load_materials_project

KEY = "abcdefghijklmnopqrstuvwxyz012345"
TOTALS = {"Li": -1.9, "Fe": -8.3, "O2": -4.95, "Li2O": -4.8, "Fe2O3": -6.7, "LiFeO2": -6.1, "Li4Fe4O8": -5.9}


class FakeDocument:
    """Like a ThermoDoc: has what was asked for and nothing else."""

    def __init__(self, fields):
        self.__dict__.update(fields)


class FakeThermoRester:
    """The call of mp-api 0.46's `client.materials.thermo.search`."""

    def __init__(self, calls, failure=None, totals=TOTALS):
        self.calls, self.failure, self.totals = calls, failure, totals

    def search(self, material_ids=None, chemsys=None, thermo_types=None, all_fields=True, fields=None):
        self.calls.append(
            {"chemsys": chemsys, "thermo_types": thermo_types, "all_fields": all_fields, "fields": fields}
        )
        if self.failure:
            raise self.failure
        assert isinstance(chemsys, list) and len(",".join(chemsys)) < 2000
        systems = set(chemsys)
        return [
            FakeDocument({"formula_pretty": formula, "energy_per_atom": energy})
            for formula, energy in self.totals.items()
            if "-".join(sorted({"Li", "Fe", "O"} & set(split(formula)))) in systems
        ]


def split(formula):
    import re

    return re.findall("[A-Z][a-z]?", formula)


@pytest.fixture
def install(monkeypatch):
    """Puts a fake mp_api in place, and the key into the environment."""

    def put(failure=None, constructor_failure=None, totals=TOTALS):
        calls = []

        class MPRester:
            def __init__(self, api_key=None, endpoint=None, mute_progress_bars=False, **options):
                calls.append({"api_key": api_key, "mute_progress_bars": mute_progress_bars, "options": options})
                if constructor_failure:
                    raise constructor_failure
                self.materials = types.SimpleNamespace(thermo=FakeThermoRester(calls, failure, totals))

            def __enter__(self):
                return self

            def __exit__(self, *exc):
                calls.append("closed")

        package, client = types.ModuleType("mp_api"), types.ModuleType("mp_api.client")
        client.MPRester = MPRester
        package.client = client
        monkeypatch.setitem(sys.modules, "mp_api", package)
        monkeypatch.setitem(sys.modules, "mp_api.client", client)
        monkeypatch.setenv("MP_API_KEY", KEY)
        return calls

    return put


def test_phases_of_all_subsystems_are_fetched(install):
    calls = install()
    table = load_materials_project(["O", "Li", "Fe"])
    assert calls[0] == {"api_key": KEY, "mute_progress_bars": True, "options": {}}
    assert calls[1] == {
        "chemsys": ["Fe", "Li", "O", "Fe-Li", "Fe-O", "Li-O", "Fe-Li-O"],
        "thermo_types": ["GGA_GGA+U"],
        "all_fields": False,
        "fields": ["formula_pretty", "energy_per_atom"],
    }
    assert calls[2:] == ["closed"]
    assert list(table.materials) == ["Li", "Fe", "O", "Li2O", "Fe2O3", "LiFeO2"]
    assert table.energies.tolist() == [-1.9, -8.3, -4.95, -4.8, -6.7, -6.1]
    assert table.source == "within the Materials Project (GGA_GGA+U), 7 entries of Fe-Li-O"
    hull = ReferenceHull(table)
    expected = -6.1 - (3 * -4.8 + 5 * -6.7) / 8  # LiFeO2 x 2 = Li2O + Fe2O3
    assert hull.e_above_hull(["LiFeO2"]).item() == pytest.approx(max(expected, 0), abs=1e-9)
    assert KEY not in repr(table) + str(table.notes) + table.source


def test_many_systems_are_asked_for_in_parts(install):
    calls = install()
    load_materials_project(["Li", "Fe", "O", "S", "P", "Na", "Mg", "Al"], 3)
    asked = [system for call in calls if isinstance(call, dict) and "chemsys" in call for system in call["chemsys"]]
    assert len(asked) == len(set(asked)) == 8 + 28 + 56


def test_documents_may_be_dictionaries(install, monkeypatch):
    install()
    monkeypatch.setattr(sys.modules[__name__], "FakeDocument", dict)
    assert len(load_materials_project(["Li", "Fe", "O"])) == 6


@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_key_is_one_line(install, monkeypatch, value):
    calls = install()
    monkeypatch.delenv("MP_API_KEY") if value is None else monkeypatch.setenv("MP_API_KEY", value)
    with pytest.raises(
        ValueError, match=r"the environment variable MP_API_KEY is not set \(expected an API key"
    ) as error:
        load_materials_project(["Li"])
    assert "\n" not in str(error.value) and not calls


@pytest.mark.parametrize("where", ["failure", "constructor_failure"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"REST query returned with error status code 401 on URL https://x/?key={KEY}\nDetails",
            "MP_API_KEY was refused",
        ),
        (f"API key {KEY} is not valid", r"MP_API_KEY was refused \(API key \*\*\* is not valid\)"),
        ("Connection timed out", r"the request failed \(Connection timed out\)"),
        ("", r"the request failed \(RuntimeError\)"),
    ],
)
def test_failures_are_one_line_without_the_key(install, caplog, capsys, where, text, message):
    install(**{where: RuntimeError(text)})
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=message) as error:
        load_materials_project(["Li", "O"])
    assert "\n" not in str(error.value)
    captured = capsys.readouterr()
    shown = "".join(traceback.format_exception(error.value)) + caplog.text + captured.out + captured.err
    assert KEY not in shown
    assert error.value.__context__ is None and error.value.__cause__ is None


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mp_api", None)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    monkeypatch.setenv("MP_API_KEY", KEY)
    with pytest.raises(ImportError, match=r"pip install 'matsmith\[materials-project\]'") as error:
        load_materials_project(["Li"])
    assert KEY not in str(error.value)


def test_bad_requests_are_refused_before_anything_is_sent(install):
    calls = install()
    with pytest.raises(ValueError, match="'Xx' is not a chemical element"):
        load_materials_project(["Li", "Xx"])
    with pytest.raises(ValueError, match="chemical systems of up to 20 elements"):
        load_materials_project([*"HBCNOFPSKVYIW", "Li", "Be", "Na", "Mg", "Al", "Si", "Cl"])
    with pytest.raises(ValueError, match="max_elements: expected 1 to the 2 given elements, not 3"):
        load_materials_project(["Li", "O"], 3)
    with pytest.raises(ValueError, match="max_elements: expected"):
        load_materials_project([])
    assert not calls


def test_missing_elements_in_the_answer_are_named(install):
    install(totals={"Li": -1.9, "Li2O": -4.8})
    with pytest.raises(ValueError, match=r"Materials Project, Li-O: no hull without end members: .* elements O"):
        load_materials_project(["Li", "O"])
    install(totals={})
    with pytest.raises(ValueError, match="there are no entries of the kind GGA_GGA"):
        load_materials_project(["Li", "O"])
