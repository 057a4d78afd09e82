"""The wheel carries everything that an installation needs beside code."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_wheel_carries_tables_weights_and_type_markers(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    tracked = [
        str(file.relative_to(ROOT))
        for package in ("agent", "envs", "surrogates")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert [name for name in tracked if name not in names] == []
    assert {"agent/data/prior.safetensors", "surrogates/data/band_gap.safetensors", "envs/py.typed"} <= names


def test_packages_import_only_downwards() -> None:
    forbidden = {"envs": ("surrogates", "agent", "experiments"), "surrogates": ("agent", "experiments")}
    for package, above in forbidden.items():
        for file in (ROOT / package).glob("*.py"):
            lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
            imported = [words[1].split(".")[0] for words in lines if len(words) > 1 and words[0] in ("import", "from")]
            assert not set(imported) & set(above), f"{file} imports upwards"
