"""`RunFolder` and its metrics: nothing of others is touched, interrupted metrics go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.run_folder import RunFolder, describe_environment
from agent.trainer import StepReport


def report(step: int) -> StepReport:
    return StepReport(step, 1.0, 0.5, 0.25, -1.0, 0.9, 1.0, 10 * step, 0.5)


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_steps(folder: Path, steps: range, start: int = 0) -> None:
    with RunFolder(folder).open_metrics(start) as metrics:
        for step in steps:
            metrics.write(report(step))


def test_metrics_are_cut_at_the_resumed_step(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 26))
    write_steps(tmp_path, range(21, 31), start=20)
    assert steps_in(tmp_path) == list(range(1, 31))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {*StepReport.__annotations__, "seconds"}
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert any((tmp_path / "tb").iterdir())


def test_a_new_run_starts_afresh(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 5))
    write_steps(tmp_path, range(1, 3))
    assert steps_in(tmp_path) == [1, 2]


@pytest.mark.parametrize("tail", ['{"step": 5, "be', '{"step": 5', "\x00\x00\x00", "[", '"text"\n', "12"])
def test_what_a_kill_cut_short_is_dropped(tmp_path: Path, tail: str) -> None:
    write_steps(tmp_path, range(1, 5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    write_steps(tmp_path, range(5, 7), start=4)
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_metrics_lost_by_a_kill_leave_a_gap_and_no_error(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 3))
    write_steps(tmp_path, range(8, 10), start=7)
    assert steps_in(tmp_path) == [1, 2, 8, 9]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("a.txt", "first")
    with pytest.raises(UnicodeEncodeError):
        folder.write_text("a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    folder.write_json("b.json", {"a": [1, None]})
    assert json.loads((tmp_path / "b.json").read_text()) == {"a": [1, None]}


def test_only_an_empty_folder_or_a_former_run_is_used(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new" / "deep").check_free(False)
    assert not (tmp_path / "new").exists()
    RunFolder(tmp_path).check_free(False)
    (tmp_path / "thesis.tex").write_text("")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"^output: .* holds other files .thesis.tex"):
            RunFolder(tmp_path).check_free(overwrite)
    (tmp_path / "config.yaml").write_text("")  # which may be the user's own
    with pytest.raises(ValueError, match=r"holds other files"):
        RunFolder(tmp_path).check_free(True)
    (tmp_path / "environment.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^output: .* holds another run; add --overwrite true"):
        RunFolder(tmp_path).check_free(False)
    RunFolder(tmp_path).check_free(True)


def test_overwriting_removes_the_former_run_and_nothing_else(tmp_path: Path) -> None:
    names = ["config.yaml", "metrics.jsonl", "coverage.json", "report.html", "candidates.csv", "thesis.tex"]
    for name in names:
        (tmp_path / name).write_text("old")
    (tmp_path / "tb").mkdir()
    RunFolder(tmp_path).write_text("environment.json", "{}")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "agent.safetensors").write_text("old")
    RunFolder(tmp_path).create()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^output: .*file is a file, expected a folder"):
        RunFolder(tmp_path / "file").check_free(True)
    with pytest.raises(ValueError, match=r"^output: cannot make .*, because .*file is a file"):
        RunFolder(tmp_path / "file" / "x" / "y").check_free(True)
    with pytest.raises(ValueError, match=r"^output: cannot make .* \(File name too long\)"):
        RunFolder(tmp_path / ("x" * 300)).create()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ValueError, match=r"^output: cannot write into"):
        RunFolder(tmp_path / "new").check_free(False)


def test_the_environment_names_versions_and_seed() -> None:
    found = describe_environment(7)
    assert found["seed"] == 7
    assert {"torch", "torchgfn", "smact", "numpy"} <= set(found["packages"])
    json.dumps(found)
