"""Labels from oracles that go wrong: every task gets one, with a reason when there is none."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.config import PlugIn
from agent.execution import open_executor
from agent.labelling import LabelOptions, Task, label_tasks
from agent.oracle_source import OracleError, OracleSource, cached_oracle
from surrogates.base import Label
from surrogates.oracle import FunctionOracle
from tests.agent.faulty_oracles import KINDS, MATERIALS, FaultyOracle, QuickOracle, ScriptedOracle, value_of

MODULE = "tests.agent.faulty_oracles"
LIMIT = 0.6


class Record:
    """What the callbacks got, in order."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.labels: dict[int, Label] = {}
        self.attempts: dict[int, int] = {}
        self.events: list[tuple[str, int]] = []

    def on_start(self, ids: Sequence[int]) -> None:
        self.started += ids
        self.events += [("start", number) for number in ids]

    def on_label(self, number: int, label: Label, seconds: float, attempts: int) -> None:
        assert number in self.started and number not in self.labels and seconds >= 0
        self.labels[number], self.attempts[number] = label, attempts
        self.events.append(("label", number))

    def failures(self) -> dict[str, str]:
        return {label.material: label.failure for label in self.labels.values() if label.failure is not None}


def run(
    executor: Executor,
    oracle: Any,
    materials: Sequence[str] = MATERIALS,
    options: LabelOptions | None = None,
    record: Record | None = None,
) -> Record:
    record = record or Record()
    tasks = [Task(100 + row, material) for row, material in enumerate(materials)]
    callbacks: dict[str, Any] = {"on_start": record.on_start, "on_label": record.on_label}
    label_tasks(tasks, OracleSource(oracle), executor, options, **callbacks)
    assert sorted(record.labels) == sorted(record.started) == [task.id for task in tasks]
    assert [record.labels[task.id].material for task in tasks] == list(materials)
    return record


def plug_in(name: str, **init_args: Any) -> PlugIn:
    return PlugIn(f"{MODULE}.{name}", init_args)


@pytest.fixture
def here() -> Iterator[Executor]:
    with open_executor("in-process") as executor:
        yield executor


def answers(executor: Executor, answer: Callable[[Sequence[str]], Any], *materials: str, **options: int) -> Record:
    return run(executor, ScriptedOracle(answer), materials, LabelOptions(**options))


# In this process


def test_labels_are_delivered_in_order_before_the_next_call(here: Executor) -> None:
    record = run(here, QuickOracle(), MATERIALS[:4], LabelOptions(task_size=2, in_flight=4))
    expected = [("start", 100), ("start", 101), ("label", 100), ("label", 101)]
    assert record.events == expected + [(kind, number + 2) for kind, number in expected]
    assert [label.values["energy"] for label in record.labels.values()] == [value_of(m) for m in MATERIALS[:4]]


def test_faulty_materials_stay_in_order_and_spare_the_others(here: Executor) -> None:
    oracle = FaultyOracle(0.3, kinds=("exception", "nan", "malformed"))
    record = run(here, oracle, options=LabelOptions(task_size=4))
    calls = [(number - 100) // 4 for number in record.labels]
    assert calls == sorted(calls)
    faulty = {material for material in MATERIALS if oracle.fault_of(material)}
    assert set(record.failures()) == faulty and len(faulty) > 10
    for material, reason in record.failures().items():
        kind = oracle.fault_of(material)
        expected = {"exception": f"RuntimeError: no luck with {material}", "nan": "malformed answer: energy is nan"}
        assert reason.startswith(expected.get(str(kind), "malformed answer: expected a Label, not dict"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda m: [], "malformed answer: 0 labels for 1 materials"),
        (lambda m: [Label(m[0], {"e": 1.0})] * 2, "malformed answer: 2 labels for 1 materials"),
        (lambda m: None, "malformed answer: expected a Label, not NoneType"),
        (lambda m: 5, "TypeError: 'int' object is not iterable"),
        (lambda m: "x", "malformed answer: expected a Label, not str"),
        (lambda m: [{"e": 1.0}], "malformed answer: expected a Label, not dict"),
        (lambda m: [Label("KCl", {"e": 1.0})], "malformed answer: a label of 'KCl' for 'NaCl'"),
        (lambda m: [Label(m[0])], "malformed answer: neither values nor a failure"),
        (lambda m: [Label(m[0], {"e": float("inf")})], "malformed answer: e is inf"),
        (lambda m: [Label(m[0], {"e": "1.0"})], "malformed answer: e is '1.0', not a number"),  # type: ignore[dict-item]
        (lambda m: [Label(m[0], {"e": None})], "malformed answer: e is None, not a number"),  # type: ignore[dict-item]
        (lambda m: [Label(m[0], {"e": 1j})], "malformed answer: e is 1j, not a number"),  # type: ignore[dict-item]
        (lambda m: [Label(m[0], {"e": 1.0}, structure="cif")], "malformed answer: structure: expected a pymatgen"),  # type: ignore[arg-type]
        (lambda m: [Label(m[0], failure="two\nlines")], "two lines"),
        (lambda m: [Label(m[0], failure=" ")], "failed without a reason"),
        (lambda m: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda m: exec("raise SystemExit(3)"), "SystemExit: 3"),
    ],
)
def test_malformed_answers_are_failures_that_say_what_was_wrong(
    here: Executor, answer: Callable[[Sequence[str]], Any], reason: str
) -> None:
    record = answers(here, answer, "NaCl")
    label = record.labels[100]
    assert label.failure is not None and label.failure.startswith(reason) and "\n" not in label.failure
    assert not label.values
    own_words = reason in ("two lines", "failed without a reason")
    assert record.attempts[100] == (1 if own_words else 2)
    assert answers(here, answer, "NaCl", retries=0).attempts[100] == 1


def test_values_become_plain_floats(here: Executor) -> None:
    import numpy as np
    import torch

    given = {"a": np.float32(0.5), "b": torch.tensor(2.0), "c": 3, "d": np.array([1.0])[0]}
    label = answers(here, lambda m: [Label(m[0], given)], "NaCl").labels[100]  # type: ignore[arg-type]
    assert label.values == {"a": 0.5, "b": 2.0, "c": 3.0, "d": 1.0}
    assert {type(value) for value in label.values.values()} == {float}


def test_what_goes_wrong_once_is_labelled_at_the_second_try(here: Executor, tmp_path: Path) -> None:
    oracle = FaultyOracle(1.0, kinds=("exception", "nan", "malformed"), once_in=str(tmp_path))
    record = run(here, oracle)
    assert not record.failures() and set(record.attempts.values()) == {2}


def test_ctrl_c_passes_through_and_delivered_labels_stay(here: Executor) -> None:
    def answer(materials: Sequence[str]) -> list[Label]:
        if materials[0] == MATERIALS[2]:
            raise KeyboardInterrupt
        return [Label(materials[0], {"energy": 1.0})]

    record = Record()
    with pytest.raises(KeyboardInterrupt):
        run(here, ScriptedOracle(answer), record=record)
    assert list(record.labels) == [100, 101] and record.started == [100, 101, 102]


@pytest.mark.parametrize(("name", "value"), [("task_size", 0), ("retries", -1), ("in_flight", 0)])
def test_options_are_checked(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: {value} is less than"):
        LabelOptions(**{name: value})


# Other executors


def test_threads_will_do() -> None:
    def label(material: str) -> dict[str, float]:  # cannot be pickled, and need not be
        time.sleep(0.001)
        return {"energy": value_of(material)}

    with ThreadPoolExecutor(4) as executor:
        record = run(executor, FunctionOracle(label), options=LabelOptions(task_size=3))
    assert not record.failures()


@pytest.mark.slow
def test_broken_executor_is_an_error_and_delivered_labels_stay() -> None:
    record = Record()
    materials = [*MATERIALS[:3], "boom"]
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(RuntimeError, match=r"the executor is broken.*kept") as caught,
    ):
        run(executor, plug_in("BoomOracle"), materials, LabelOptions(in_flight=1), record)
    assert list(record.labels) == [100, 101, 102] and "\n" not in str(caught.value)


def test_executor_that_is_shut_down_is_an_error() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="the executor is broken"):
        run(executor, QuickOracle())


# Sources


def test_oracle_is_made_once_by_a_process(here: Executor) -> None:
    source = pickle.loads(pickle.dumps(OracleSource(plug_in("QuickOracle"))))
    again = pickle.loads(pickle.dumps(source))
    assert cached_oracle(source) is cached_oracle(again)
    other = pickle.loads(pickle.dumps(OracleSource(plug_in("QuickOracle", pause=0.1))))
    assert cached_oracle(other) is not cached_oracle(source)
    oracle = QuickOracle()
    assert cached_oracle(OracleSource(oracle)) is oracle


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PlugIn("nowhere.Oracle"), "oracle: class_path 'nowhere.Oracle': cannot import module 'nowhere'"),
        (PlugIn("chgnets"), "oracle: class_path 'chgnets' is unknown .expected module.Name, or chgnet"),
        (
            PlugIn("chgnet", {"weight": 1}),
            "oracle: class_path 'surrogates.oracle.CHGNetOracle': making it failed: TypeE",
        ),
        (
            plug_in("function"),
            r"oracle: class_path '.*function': is no oracle, it has no name.*FunctionOracle makes one",
        ),
        (plug_in("QuickOracle", pauses=1), "oracle: class_path .* making it failed: TypeError"),
        (plug_in("VaguePrice"), "oracle: class_path .*: cost must be a number of core-seconds, not nan"),
    ],
)
def test_oracle_that_cannot_be_made_ends_it_all(here: Executor, given: PlugIn, message: str) -> None:
    record = Record()
    with pytest.raises(OracleError, match=message) as caught:
        run(here, given, record=record)
    assert not record.labels and "\n" not in str(caught.value)


def test_oracle_that_cannot_be_pickled_is_named() -> None:
    source = OracleSource(ScriptedOracle(lambda materials: []))
    with pytest.raises(OracleError, match=r"oracle: scripted \(ScriptedOracle\) cannot be pickled .*class path"):
        pickle.dumps(source)


def test_keys_are_in_no_message(here: Executor) -> None:
    source = OracleSource(plug_in("KeyedOracle", api_key="s3cr3t", refuses=True))
    assert "api_key" in repr(source) and "s3cr3t" not in repr(source)
    with pytest.raises(OracleError, match=r"the key \*\*\* is refused") as caught:
        source.make()
    assert caught.value.__cause__ is None and "s3cr3t" not in str(caught.value)
    record = run(here, plug_in("KeyedOracle", api_key="s3cr3t"), ["NaCl"])
    assert record.failures() == {"NaCl": "https://example.org?key=***: 403"}


# Worker processes


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with open_executor("process", 2, LIMIT) as executor:
        yield executor


def test_labels_come_back_with_structures(pool: Executor) -> None:
    label = run(pool, plug_in("StructureOracle"), ["MgO"]).labels[100]
    assert label.structure is not None and label.structure.composition.reduced_formula == "MgO"
    assert (label.steps, label.converged, label.prototype) == (7, True, "CsCl")


def test_module_of_the_current_folder_is_found_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_oracle_for_tests.py").write_text(
        f"from {MODULE} import QuickOracle\n\nclass Mine(QuickOracle):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    with open_executor("process", 1, 10) as executor:
        assert not run(executor, PlugIn("my_oracle_for_tests.Mine"), MATERIALS[:2]).failures()


def test_oracle_object_is_sent_and_used_by_both_workers(pool: Executor, tmp_path: Path) -> None:
    run(pool, QuickOracle(0.02, str(tmp_path)), options=LabelOptions(task_size=2))
    labelled = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert len(list(tmp_path.iterdir())) == 2 and sorted(labelled) == sorted(MATERIALS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["process", "dask"])
def test_every_task_gets_its_label_whatever_goes_wrong(name: str) -> None:
    oracle = FaultyOracle(seed=2)
    kinds = Counter(oracle.fault_of(material) for material in MATERIALS)
    assert all(kinds[kind] for kind in KINDS)
    with open_executor(name, 2, LIMIT) as executor:
        if name == "dask":
            executor.start_limit = 10.0  # type: ignore[attr-defined]
        record = run(
            executor, plug_in("FaultyOracle", seed=2), options=LabelOptions(task_size=4, retries=1, in_flight=3)
        )
    expected = {
        "exception": "RuntimeError: no luck with",
        "nan": "malformed answer: energy is nan",
        "malformed": "malformed answer: expected a Label",
        "hang": f"timed out after {LIMIT:g} s",
        "kill": "the worker process was lost (2 attempts)",
    }
    for number, label in record.labels.items():
        kind = oracle.fault_of(label.material)
        if kind is None:
            assert label.values == {"energy": value_of(label.material)}, label.failure
        else:
            assert label.failure is not None and label.failure.startswith(expected[kind])
            assert 2 <= record.attempts[number] <= 3  # 3: with a call that another one of it spoilt


@pytest.mark.slow
@pytest.mark.parametrize("name", ["process", "dask"])
def test_worker_killed_in_the_middle_of_a_batch_costs_no_label(name: str, tmp_path: Path) -> None:
    killed: list[str] = []

    class Killer(Record):
        def on_label(self, number: int, label: Label, seconds: float, attempts: int) -> None:
            super().on_label(number, label, seconds, attempts)
            if not killed:
                killed.append(next(tmp_path.iterdir()).name)
                os.kill(int(killed[0]), signal.SIGKILL)

    with open_executor(name, 2, 30) as executor:
        oracle = plug_in("QuickOracle", pause=0.1, log=str(tmp_path))
        record = run(executor, oracle, options=LabelOptions(task_size=3), record=Killer())
    assert killed and not record.failures()
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir()) <= 66
