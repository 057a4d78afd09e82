"""A campaign's store keeps what was acknowledged, moves trials by the rules, and refuses what it should not touch."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

import agent.store_file
from agent.store import CampaignStore
from agent.store_records import Proposal
from surrogates.base import Label

SETTINGS = {"oracle": "chgnet", "seed": 0, "space": {"elements": ["Cl", "Na"], "max_atoms": 20}}
ORACLE = ("chgnet", "0.3.0")
MATERIALS = ["NaCl", "MgO", "SrTiO3", "NaN"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "campaign.db"


@pytest.fixture
def store(path):
    with CampaignStore(path, SETTINGS) as opened:
        opened.begin_round(0, seed=7)
        yield opened


def propose(store, materials=MATERIALS, round_number=0, oracle=ORACLE):
    proposals = [Proposal(material, "ehvi", {"band_gap": (n, 0.5)}, 0.1 * n) for n, material in enumerate(materials)]
    return store.propose(round_number, proposals, *oracle)


def states(store):
    return [trial.state for trial in store.trials()]


def contents(path):
    """Everything that a store holds, read without it."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        tables = ("materials", "trials", "trial_values", "rounds", "events")
        return {table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}


HEAD = """
import os, signal, sys, time
from pathlib import Path
from agent.store import CampaignStore
from agent.store_records import Proposal
from surrogates.base import Label
path = Path(sys.argv[1])
"""


@pytest.fixture
def start():
    """Start a program of the store in a process of its own; what still runs at the end is killed."""
    started = []

    def start_program(code, path, head=HEAD):
        arguments = [sys.executable, "-c", head + code, str(path)]
        started.append(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start_program
    for process in started:
        process.kill()
        process.communicate()


def test_trial_goes_from_proposed_over_running_to_its_label(store):
    first, second, third, fourth = propose(store)
    assert (
        [trial.id for trial in store.trials()]
        == [first, second, third, fourth]
        == sorted({first, second, third, fourth})
    )
    before = time.time()
    store.lease([first, second], "worker 1", 60.0)
    assert states(store) == ["running", "running", "proposed", "proposed"]
    leased = store.trials()[0]
    assert leased.owner == "worker 1" and before + 60 <= leased.lease_until <= time.time() + 60
    store.finish(first, Label("NaCl", {"band_gap": 5.0}), 12.5, attempts=2)
    store.finish(third, Label("SrTiO3", failure="did not converge"), 3.0)
    store.abandon([second, fourth], "the oracle was withdrawn")
    assert states(store) == ["done", "abandoned", "failed", "abandoned"]
    done, abandoned, failed, _ = store.trials()
    assert (done.label, done.seconds, done.attempts) == (Label("NaCl", {"band_gap": 5.0}), 12.5, 2)
    assert (done.predicted, done.training_distance, done.picked_by) == ({"band_gap": (0.0, 0.5)}, 0.0, "ehvi")
    assert failed.label == Label("SrTiO3", failure="did not converge")
    assert abandoned.label is None and abandoned.seconds is None and abandoned.attempts == 0
    assert all(trial.owner is None and trial.lease_until is None for trial in store.trials())


@pytest.mark.parametrize("state", ["done", "failed", "abandoned"])
def test_trial_that_has_ended_stays_as_it_is(store, state):
    (trial,) = propose(store, ["NaCl"])
    end = {
        "done": lambda: store.finish(trial, Label("NaCl", {"band_gap": 5.0}), 1.0),
        "failed": lambda: store.finish(trial, Label("NaCl", failure="no"), 1.0),
        "abandoned": lambda: store.abandon([trial], "no"),
    }
    end[state]()
    before = store.trials()
    for again in (*end.values(), lambda: store.lease([trial], "me", 1.0)):
        with pytest.raises(ValueError, match=rf"campaign.db: trial {trial} of NaCl is {state} and cannot be \w+$"):
            again()
    assert store.release() == 0
    assert store.trials() == before


def test_running_trial_cannot_be_leased_and_one_bad_trial_spoils_the_lease(store):
    first, second, _, _ = propose(store)
    store.lease([second], "me", 1.0)
    with pytest.raises(ValueError, match="is running and cannot be leased"):
        store.lease([first, second], "you", 1.0)
    with pytest.raises(ValueError, match="there is no trial 99"):
        store.abandon([first, 99], "no")
    assert states(store) == ["proposed", "running", "proposed", "proposed"]


def test_only_leases_that_are_over_are_released(store):
    first, second, third, _ = propose(store)
    store.lease([first], "me", 10.0)
    store.lease([second, third], "you", 1000.0)
    assert store.release(now=time.time()) == 0
    assert store.release(now=time.time() + 100.0) == 1
    assert states(store) == ["proposed", "running", "running", "proposed"]
    assert store.release() == 2
    assert states(store) == ["proposed"] * 4
    assert all(trial.owner is None for trial in store.trials())


def test_material_is_proposed_once_for_an_oracle_and_version(store):
    propose(store, ["NaCl"])
    with pytest.raises(ValueError, match=r"chgnet 0.3.0 has NaCl already \(trial 1 of round 0, proposed\)$"):
        propose(store, ["MgO", "NaCl"])
    with pytest.raises(ValueError, match="has MgO already"):
        propose(store, ["MgO", "MgO"])
    assert store.known() == {"NaCl"}
    propose(store, ["NaCl", "MgO"], oracle=("chgnet", "0.4.0"))
    propose(store, ["NaCl"], oracle=("m3gnet", "0.3.0"))
    assert store.known("chgnet", "0.3.0") == store.known("m3gnet") == {"NaCl"}
    assert store.known("chgnet") == store.known(version="0.4.0") == {"NaCl", "MgO"}
    with closing(sqlite3.connect(store.path)) as database, pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        database.execute("UPDATE trials SET version = '0.3.0', oracle = 'chgnet' WHERE id = 4")


class Stop(BaseException):
    pass


class Torn(dict):
    def items(self):
        yield "band_gap", (1.0, 0.1)
        raise Stop


@pytest.mark.parametrize(
    ("predicted", "error"),
    [(Torn(), Stop), ({"band_gap": (float("nan"), 0.1)}, ValueError), ({"round": (1.0, 0.0)}, ValueError)],
)
def test_proposals_that_break_in_the_middle_leave_nothing(store, predicted, error):
    propose(store, ["NaCl"])
    before = contents(store.path)
    with pytest.raises(error):
        store.propose(0, [Proposal("MgO", "ehvi"), Proposal("SrTiO3", "ehvi", predicted)], *ORACLE)
    assert contents(store.path) == before
    assert propose(store, ["MgO"]) == [2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_label_that_is_not_finite_is_refused_whole(store, value):
    (trial,) = propose(store, ["NaCl"])
    before = contents(store.path)
    with pytest.raises(ValueError, match=r"energy of NaCl is -?(nan|inf), expected finite numbers$"):
        store.finish(trial, Label("NaCl", {"band_gap": 5.0, "energy": value}), 1.0)
    broken = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [np.nan, 0.5, 0.5]])
    with pytest.raises(ValueError, match="structure of NaCl has coordinates that are not finite"):
        store.finish(trial, Label("NaCl", {"band_gap": 5.0}, structure=broken), 1.0)
    assert contents(store.path) == before
    store.finish(trial, Label("NaCl", {"energy": value}, failure="exploded", structure=broken), 1.0)
    assert store.trials()[0].label == Label("NaCl", failure="exploded")


def test_label_of_another_material_or_of_nothing_is_refused(store):
    first, second, _, _ = propose(store)
    with pytest.raises(ValueError, match="trial 1 is of NaCl, its label of MgO"):
        store.finish(first, Label("MgO", {"band_gap": 5.0}), 1.0)
    with pytest.raises(ValueError, match="neither values nor a failure"):
        store.finish(first, Label("NaCl"), 1.0)
    store.finish(first, Label("Cl2Na2", {"band_gap": 5.0}), 1.0)
    assert states(store)[:2] == ["done", "proposed"] and second == 2


def test_label_with_a_structure_comes_back(store):
    (trial,) = propose(store, ["SrTiO3"])
    lattice = Lattice([[3.9051, 0.0, 0.0], [0.1, 3.91, 0.0], [0.0, -0.25, 3.8949]])
    positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.01234], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    structure = Structure(lattice, ["Sr", "Ti", "O", "O", "O"], positions)
    label = Label(
        "SrTiO3", {"energy": -7.123456789012345, "e_above_hull": 1e-17}, None, structure, 42, True, "perovskite"
    )
    store.finish(trial, label, 1.0)
    assert store.trials()[0].label == label


def test_rounds_begin_once_and_end_once(store):
    store.begin_round(0, seed=7)
    with pytest.raises(ValueError, match="round 0 was started with seed 7, not 8"):
        store.begin_round(0, seed=8)
    with pytest.raises(ValueError, match="64 bits"):
        store.begin_round(1, seed=2**64)
    for call in (lambda: propose(store, round_number=3), lambda: store.finish_round(3, {})):
        with pytest.raises(ValueError, match="round 3 was not begun"):
            call()
    propose(store, ["NaCl"])
    store.finish_round(0, {"hypervolume": np.float64(0.5), "r2": float("nan"), "n": np.int64(3), "front": np.ones(2)})
    store.begin_round(0, seed=7)
    store.begin_round(1, seed=8)
    for call in (lambda: propose(store, ["MgO"]), lambda: store.finish_round(0, {})):
        with pytest.raises(ValueError, match="round 0 is done"):
            call()
    propose(store, ["MgO"], round_number=1)
    done, under_way = store.rounds()
    assert (done.number, done.seed, done.state) == (0, 7, "done") and done.started <= done.finished
    assert done.metrics == {"hypervolume": 0.5, "r2": None, "n": 3, "front": [1.0, 1.0]}
    assert (under_way.number, under_way.state, under_way.metrics, under_way.finished) == (1, "open", {}, None)
    assert [trial.material for trial in store.trials(round=1)] == ["MgO"]
    assert store.trials(round=0, states=["done", "failed"]) == store.trials(states=[]) == []
    with pytest.raises(ValueError, match="states: expected some of proposed"):
        store.trials(states=["finished"])


def test_events_are_kept_in_order(store):
    store.add_event("start", "β; DROP TABLE trials")
    store.add_event("end", "")
    assert [(event.kind, event.detail) for event in store.events()] == [("start", "β; DROP TABLE trials"), ("end", "")]
    assert all(event.time.endswith("+00:00") for event in store.events())


def test_labels_are_one_row_a_trial(store):
    first, second, _, _ = propose(store)
    store.finish(first, Label("NaCl", {"band_gap": 5.0, "energy": -3.5}), 2.0)
    store.finish(second, Label("MgO", failure="no"), 1.0)
    frame = store.labels()
    assert list(frame) == [
        "material", "round", "state", "picked_by", "oracle", "version", "training_distance", "seconds", "failure",
        "band_gap", "band_gap_predicted", "band_gap_predicted_std",
        "energy", "energy_predicted", "energy_predicted_std",
    ]  # fmt: skip
    assert list(frame["material"]) == MATERIALS and list(frame["failure"]) == [None, "no", None, None]
    assert frame["band_gap"].tolist()[0] == 5.0 and frame["band_gap"].count() == frame["energy"].count() == 1
    assert list(frame["band_gap_predicted"]) == [0.0, 1.0, 2.0, 3.0] and frame["energy_predicted"].count() == 0
    assert frame["round"].dtype == np.int64 and frame["seconds"].dtype == frame["energy"].dtype == np.float64


def test_labels_of_an_empty_store_have_all_columns(store):
    assert store.labels().shape == (0, 9)


def test_view_is_read_by_plain_sql_and_pandas_while_a_writer_is_open(store):
    first, second, _, _ = propose(store)
    store.finish(first, Label("NaCl", {"band_gap": 5.0, "energy": -3.5}), 2.0)
    store.finish(second, Label("MgO", failure="no"), 1.0)
    store.propose(0, [Proposal("KCl", "random")], *ORACLE)
    with closing(sqlite3.connect(store.path)) as database:
        frame = pd.read_sql("SELECT * FROM labels", database)
        query = "SELECT material, property, value, failure FROM labels WHERE state <> 'proposed'"
        rows = database.execute(query).fetchall()
    assert list(frame) == [
        "trial", "material", "round", "state", "oracle", "version", "picked_by", "property", "predicted_mean",
        "predicted_std", "value", "failure",
    ]  # fmt: skip
    assert rows == [("NaCl", "band_gap", 5.0, None), ("NaCl", "energy", -3.5, None), ("MgO", "band_gap", None, "no")]
    assert list(frame["trial"]) == [1, 1, 2, 3, 4, 5] and frame["property"].isna().tolist() == [False] * 5 + [True]


MANY_FINISHES = """
with CampaignStore(path, {"seed": 0}) as store:
    store.begin_round(0, seed=1)
    trials = store.propose(0, [Proposal(f"Na{n}Cl", "random", {"gap": (n, 1.0)}) for n in range(2, 2002)], "table", "1")
    store.lease(trials, "child", 1000.0)
    for trial, n in zip(trials, range(2, 2002)):
        store.finish(trial, Label(f"Na{n}Cl", {"gap": float(n)}), 1.0)
        print(trial, flush=True)
"""


def test_acknowledged_labels_survive_a_kill(path, start):
    process = start(MANY_FINISHES, path)
    acknowledged = [int(process.stdout.readline()) for _ in range(100)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout]
    assert process.wait() == -signal.SIGKILL
    assert 100 <= len(acknowledged) < 2000
    contents(path)
    with CampaignStore(path, {"seed": 0}) as store:
        done = {trial.id: trial.label for trial in store.trials(states=["done"])}
        assert set(acknowledged) <= set(done) and len(done) <= len(acknowledged) + 1
        assert all(label == Label(label.material, {"gap": number + 1.0}) for number, label in done.items())
        assert store.release() == 2000 - len(done)
        for trial in store.trials(states=["proposed"]):
            assert trial.predicted == {"gap": (trial.id + 1.0, 1.0)}
        store.finish(2000, Label("Na2001Cl", {"gap": 2001.0}), 1.0)


KILLED_PROPOSAL = """
class Torn(dict):
    def items(self):
        yield "gap", (1.0, 1.0)
        os.kill(os.getpid(), signal.SIGKILL)
store = CampaignStore(path, {"seed": 0})
store.begin_round(0, seed=1)
store.propose(0, [Proposal("NaCl", "random")], "table", "1")
proposals = [Proposal(f"Na{n}Cl", "random" * 200, {"gap": (n, 1.0)}) for n in range(2, 5000)]
store.propose(0, [*proposals, Proposal("MgO", "random", Torn())], "table", "1")
"""


def test_proposals_of_a_process_that_is_killed_leave_nothing(path, start):
    assert start(KILLED_PROPOSAL, path).wait() == -signal.SIGKILL
    assert [row[0] for row in contents(path)["materials"]] == ["NaCl"]
    with CampaignStore(path, {"seed": 0}) as store:
        assert store.known() == {"NaCl"}


HOLD = """
store = CampaignStore(path, {"seed": 0})
store.begin_round(0, seed=1)
forked = os.fork()
if forked == 0:
    time.sleep(60)
    os._exit(0)
print(forked, flush=True)
sys.stdin.read()
"""


def test_second_process_is_refused_or_waits_until_the_first_is_gone(path, start):
    process = start(HOLD, path)
    forked = int(process.stdout.readline())
    try:
        begun = time.monotonic()
        for wait in (0.0, 0.3):
            message = (
                rf"campaign.db: process {process.pid} on \S+ has held it since \S+; wait for its end, stop it, or .*$"
            )
            with pytest.raises(ValueError, match=message) as caught:
                CampaignStore(path, {"seed": 0}, wait=wait)
            assert "\n" not in str(caught.value)
        assert 0.3 <= time.monotonic() - begun < 10.0
        with CampaignStore.read(path) as reader:
            assert [entry.number for entry in reader.rounds()] == [0]
        timer = threading.Timer(0.5, process.kill)
        timer.start()
        with CampaignStore(path, {"seed": 0}, wait=60.0) as store:  # though a worker of the killed one still lives
            assert [entry.number for entry in store.rounds()] == [0]
            os.kill(forked, 0)
        timer.join()
    finally:
        os.kill(forked, signal.SIGKILL)


def test_reader_sees_what_is_committed_and_writes_nothing(store):
    with CampaignStore.read(store.path) as reader:
        assert reader.trials() == [] and reader.settings == SETTINGS
        propose(store)
        assert reader.trials() == store.trials() and reader.labels().equals(store.labels())
        writes = [
            lambda: reader.begin_round(1, 0),
            lambda: propose(reader, ["KCl"]),
            lambda: reader.lease([1], "me", 1.0),
            lambda: reader.finish(1, Label("NaCl", {"band_gap": 5.0}), 1.0),
            lambda: reader.release(),
            lambda: reader.abandon([1], "no"),
            lambda: reader.finish_round(0, {}),
            lambda: reader.add_event("a", "b"),
        ]
        for write in writes:
            with pytest.raises(ValueError, match=r"campaign.db: is open for reading only$"):
                write()
    with pytest.raises(ValueError, match=r"campaign.db: is closed$"):
        reader.trials()


def test_looking_at_a_store_leaves_the_writers_hold_on_it(store, path, start):
    with pytest.raises(ValueError, match="has held it since"):
        CampaignStore(path, SETTINGS)
    CampaignStore.read(path).close()
    propose(store, ["NaCl"])
    code = "c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM labels').fetchall(); c.close()"
    assert start(code, path, head="import sqlite3, sys\n").wait() == 0
    assert path.with_name("campaign.db-wal").exists()  # gone if the other one took itself for the last
    propose(store, ["MgO"])
    assert [row[0] for row in contents(path)["materials"]] == ["MgO", "NaCl"]


AS_A_GUEST = """
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
with CampaignStore.read(path) as reader:
    print([trial.material for trial in reader.trials()])
"""


def test_store_is_read_in_a_folder_where_nothing_can_be_written(start):
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which is closed to others than its owner
        folder = Path(name)
        with CampaignStore(folder / "campaign.db", SETTINGS) as store:
            store.begin_round(0, seed=7)
            propose(store)
        before = sorted(folder.iterdir())
        folder.chmod(0o555)
        output, _ = start(AS_A_GUEST, folder / "campaign.db").communicate(timeout=60)
        folder.chmod(0o700)
        assert output == f"{MATERIALS}\n"
        assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"another seed \(there 0, now 1\); choose another output folder$"),
        ({"seed": 1, "oracle": "m3gnet"}, r"another oracle \(there 'chgnet', now 'm3gnet'\)"),
        ({"space": {"elements": ["Cl", "K"], "max_atoms": 20}}, r"another space.elements \(there \['Cl', 'Na'\], now "),
        ({"further": "x" * 60}, r"another further \(there None, now 'x{36}\.\.\.\)"),
    ],
)
def test_other_settings_are_refused_by_name(store, path, changes, message):
    store.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"campaign.db: was started with {message}"):
        CampaignStore(path, SETTINGS | changes)
    assert path.read_bytes() == before
    CampaignStore(path, dict(reversed(SETTINGS.items()))).close()


def test_settings_that_are_no_json_are_refused(path):
    with pytest.raises(ValueError, match="settings: cannot be kept as JSON"):
        CampaignStore(path, {"path": path})
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"formula,energy\nNaCl,-3.1\n" * 50, b"\x00\x01" * 4096, b"SQLite format 3\x00junk"]
)
def test_file_that_is_no_database_is_refused_and_left_alone(path, content):
    path.write_bytes(content)
    for attempt in (lambda: CampaignStore(path, SETTINGS), lambda: CampaignStore.read(path)):
        with pytest.raises(ValueError, match=r"campaign.db: not a campaign store \(.*\)$") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]


def test_database_of_something_else_is_refused_and_left_alone(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE meta AS SELECT 'schema_version' AS key, '1' AS value")
    before = path.read_bytes()
    for attempt in (lambda: CampaignStore(path, SETTINGS), lambda: CampaignStore.read(path)):
        with pytest.raises(ValueError, match=r"campaign.db: not a campaign store \(a database of something else\)$"):
            attempt()
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_place_where_no_file_can_be_is_an_error_of_the_file(path):
    for attempt in (lambda: CampaignStore(path / "nowhere.db", SETTINGS), lambda: CampaignStore.read(path)):
        with pytest.raises(FileNotFoundError, match=r"\.db: "):
            attempt()
    assert not path.exists()
    path.mkdir()
    with pytest.raises(OSError, match=r"campaign.db: is not a file$"):
        CampaignStore(path, SETTINGS)


@pytest.mark.parametrize("first_damaged", [4096, 8192, -4096])
def test_damaged_file_is_an_error_of_the_file(store, path, first_damaged):
    propose(store, [f"Na{n}Cl" for n in range(2, 500)])
    store.close()
    damaged = bytearray(path.read_bytes())
    damaged[first_damaged:] = b"\xff" * len(damaged[first_damaged:])
    path.write_bytes(damaged)
    attempts = [lambda: CampaignStore(path, SETTINGS)]  # looks at every page, a reader only where it reads
    if first_damaged > 0:
        attempts.append(lambda: CampaignStore.read(path).trials())
    for attempt in attempts:
        with pytest.raises(OSError, match=r"campaign.db: (is damaged|cannot be read or written) \(.*\)$") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_older_store_is_converted_in_one_transaction_a_version(store, path, monkeypatch):
    propose(store)
    expected = store.trials()
    store.close()
    steps = [
        ("ALTER TABLE rounds ADD COLUMN note TEXT", "UPDATE rounds SET note = 'old'"),
        ("CREATE TABLE further (x)",),
    ]
    broken = [steps[0], ("CREATE TABLE further (x)", "INSERT INTO nowhere VALUES (1)")]
    original = agent.store_file._MIGRATIONS
    monkeypatch.setattr(agent.store_file, "_MIGRATIONS", [*original, *steps])
    with pytest.raises(ValueError, match="is of version 1, this program reads version 3; resume the campaign once"):
        CampaignStore.read(path)
    monkeypatch.setattr(agent.store_file, "_MIGRATIONS", [*original, *broken])
    with pytest.raises(OSError, match="no such table: nowhere"):
        CampaignStore(path, SETTINGS)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall() == [("2",)]
        assert database.execute("SELECT name FROM sqlite_master WHERE name = 'further'").fetchall() == []
    monkeypatch.setattr(agent.store_file, "_MIGRATIONS", [*original, *steps])
    with CampaignStore(path, SETTINGS) as converted:
        assert converted.trials() == expected
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT note FROM rounds").fetchall() == [("old",)]
        assert database.execute("SELECT count(*) FROM further").fetchall() == [(0,)]
    monkeypatch.setattr(agent.store_file, "_MIGRATIONS", original)
    before = path.read_bytes()
    for attempt in (lambda: CampaignStore(path, SETTINGS), lambda: CampaignStore.read(path)):
        with pytest.raises(
            ValueError, match=r"campaign.db: is of version 3, this program knows versions up to 1; use .*$"
        ):
            attempt()
    assert path.read_bytes() == before


def test_full_disk_leaves_the_store_as_it_was(store, path):
    propose(store)
    before = contents(path)
    ((pages,),) = store._connection.execute("PRAGMA page_count").fetchall()
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OSError, match=r"campaign.db: cannot be read or written \(database or disk is full\)$"):
        propose(store, [f"Na{n}Cl" for n in range(2, 2000)])
    assert contents(path) == before
    store._connection.execute("PRAGMA max_page_count=1000000")
    assert propose(store, ["KCl"]) == [5]


FULL = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = CampaignStore(path, {"seed": 0})
store.begin_round(0, seed=1)
log = path.with_name(path.name + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 50_000,) * 2)
kept = 0
try:
    for n in range(2, 2000):
        store.propose(0, [Proposal(f"Na{n}Cl", "random", {"gap": (n, 1.0)})], "table", "1")
        kept += 1
except OSError as error:
    print(kept, len(store.known()), error, flush=True)
"""


def test_file_that_cannot_grow_keeps_what_was_acknowledged(path, start):
    output, _ = start(FULL, path).communicate(timeout=60)
    kept, known, message = output.strip().split(" ", 2)
    assert int(kept) == int(known) > 0
    assert message.startswith(f"{path}: cannot be read or written (")
    assert len(contents(path)["trials"]) == int(kept)
    with CampaignStore(path, {"seed": 0}) as store:
        assert propose(store, ["MgO"]) == [int(kept) + 1]
