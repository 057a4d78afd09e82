"""Results survive what happens to the process that writes them; a file of something else is refused."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import surrogates.reference_store
from surrogates.reference_store import ReferenceStore, StoredResult

SETTINGS = {"elements": ["Cl", "Na"], "weights": "0.3.0", "fmax": 0.08, "seed": 0}


def result(stage="scan", formula="NaCl", prototype="rock salt", **changes):
    values = {"energy": -3.1, "volume": 22.5, "steps": 0, "failure": None, "structure": None, "space_group": 225}
    return StoredResult(stage, formula, prototype, **(values | changes))


@pytest.fixture
def store(tmp_path):
    opened = ReferenceStore(tmp_path / "results.db", SETTINGS)
    yield opened
    opened.close()


results = st.builds(
    StoredResult,
    stage=st.sampled_from(["scan", "relaxation"]),
    formula=st.sampled_from(["Na", "NaCl", "NaN", "Na2Cl", "No"]),
    prototype=st.sampled_from(["AB_cF8_225_a_b NaCl", "it's; DROP TABLE results", "β-Sn"]),
    energy=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    volume=st.none() | st.floats(1e-3, 1e3),
    steps=st.integers(0, 500),
    failure=st.none() | st.text(max_size=20),
    structure=st.none() | st.just('{"lattice":[[1,0,0]]}'),
    space_group=st.none() | st.integers(1, 230),
)


@given(st.lists(results, unique_by=lambda entry: (entry.stage, entry.formula, entry.prototype)))
def test_results_come_back_to_the_bit_and_sorted(entries):
    opened = ReferenceStore(Path(":memory:"), SETTINGS)
    try:
        opened.add(entries)
        for stage in ("scan", "relaxation"):
            expected = sorted((e for e in entries if e.stage == stage), key=lambda e: (e.formula, e.prototype))
            assert opened.results(stage) == expected
            assert opened.done(stage) == {(e.formula, e.prototype) for e in expected}
        assert opened.results("element_scan") == [] and opened.done("element_scan") == set()
    finally:
        opened.close()


def test_reopened_store_holds_everything(store, tmp_path):
    store.add([result(), result(formula="Na", energy=None, failure="no minimum")])
    store.close()
    again = ReferenceStore(tmp_path / "results.db", dict(reversed(SETTINGS.items())))
    assert again.results("scan") == [result(formula="Na", energy=None, failure="no minimum"), result()]
    again.close()


def test_second_result_of_a_task_replaces_the_first(store):
    store.add([result()])
    store.add([result(energy=-3.2)])
    assert [entry.energy for entry in store.results("scan")] == [-3.2]


def test_batch_that_fails_in_the_middle_leaves_nothing(store, tmp_path):
    store.add([result(formula="Na")])

    def batch():
        yield result(formula="Cl")
        yield result(formula="Na", energy=-9.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add(batch())
    with pytest.raises(OSError, match=r"^.*results.db: cannot be read or written \(.*\)$"):
        store.add([result(formula="Cl"), result(formula="NaCl", energy=object())])
    with pytest.raises(OSError, match=r"results\.steps"):
        store.add([result(formula="Cl"), result(formula="NaCl", steps=None)])
    assert store.results("scan") == [result(formula="Na")]
    store.add([result(formula="Cl")])
    assert len(store.done("scan")) == 2


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("reference_store", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["reference_store"] = module
spec.loader.exec_module(module)
from pathlib import Path
store = module.ReferenceStore(Path(sys.argv[2]), {"seed": 0})
values = -3.1, 22.5, 0, None, None, 225
store.add([module.StoredResult("scan", f"Na{n}Cl", "x", *values) for n in range(2, 26)])
def batch():
    for n in range(2, 5000):
        yield module.StoredResult("scan", f"NaCl{n}", "x" * 500, *values)
    os.kill(os.getpid(), signal.SIGKILL)
store.add(batch())
"""


def test_batch_of_a_process_that_is_killed_leaves_nothing(tmp_path):
    path = tmp_path / "results.db"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, surrogates.reference_store.__file__, str(path)], check=False
    )
    assert process.returncode == -signal.SIGKILL
    opened = ReferenceStore(path, {"seed": 0})
    assert {formula for formula, _ in opened.done("scan")} == {f"Na{n}Cl" for n in range(2, 26)}
    opened.add([result()])
    assert len(opened.done("scan")) == 25
    opened.close()


def test_two_processes_may_look_at_one_file(store, tmp_path):
    other = ReferenceStore(tmp_path / "results.db", SETTINGS)
    store.add([result()])
    assert other.results("scan") == [result()]
    other.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fmax": 0.05}, r"another fmax \(there 0.08, now 0.05\); choose another output folder$"),
        ({"weights": "0.2.0"}, r"another weights \(there '0.3.0', now '0.2.0'\)"),
        ({"elements": ["Cl", "K"]}, r"another elements \(there \['Cl', 'Na'\], now \['Cl', 'K'\]\)"),
        ({"elements": ["Na"] * 60}, r"another elements \(there \['Cl', 'Na'\], now \['Na', .{,40}\.\.\.\)"),
        ({"further": 1}, r"another further \(there None, now 1\)"),
    ],
)
def test_other_settings_are_refused_by_name(store, tmp_path, changes, message):
    store.add([result()])
    with pytest.raises(ValueError, match=f"results.db: was started with {message}") as caught:
        ReferenceStore(tmp_path / "results.db", SETTINGS | changes)
    assert "\n" not in str(caught.value)
    assert store.results("scan") == [result()]


def test_setting_that_is_gone_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match="another seed"):
        ReferenceStore(tmp_path / "results.db", {name: SETTINGS[name] for name in SETTINGS if name != "seed"})


@pytest.mark.parametrize(
    "content", [b"formula,energy\nNaCl,-3.1\n" * 50, b"\x00\x01" * 4096, b"SQLite format 3\x00junk"]
)
def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "results.db"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"results.db: not a file of reference results \(.*\)$") as caught:
        ReferenceStore(path, SETTINGS)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE meta (name TEXT)", "CREATE TABLE meta AS SELECT 'settings' AS key, 'no JSON' AS value"],
)
def test_database_of_something_else_is_refused(tmp_path, statement):
    connection = sqlite3.connect(tmp_path / "results.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match=r"results.db: not a file of reference results \(.*\)$"):
        ReferenceStore(tmp_path / "results.db", SETTINGS)


def test_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "results.db").mkdir()
    with pytest.raises(ValueError, match=r"results.db: not a file of reference results \(unable to open.*\)$"):
        ReferenceStore(tmp_path / "results.db", SETTINGS)
    with pytest.raises(ValueError, match="not a file of reference results"):
        ReferenceStore(tmp_path / "nowhere" / "results.db", SETTINGS)


def test_damaged_file_is_an_error_of_the_file(store, tmp_path):
    store.add([result(prototype=f"{number:0500}") for number in range(200)])
    store.close()
    path = tmp_path / "results.db"
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r"results.db: .*\(.*\)$") as caught:
        ReferenceStore(path, SETTINGS).results("scan")
    assert "\n" not in str(caught.value)


def test_settings_are_kept_as_json(store, tmp_path):
    connection = sqlite3.connect(tmp_path / "results.db")
    ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'settings'")
    connection.close()
    assert json.loads(text) == SETTINGS
