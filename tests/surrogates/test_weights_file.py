from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from surrogates.weights_file import read_weights, write_weights


def test_round_trip_and_plain_safetensors(tmp_path):
    tensors = {"weight": torch.arange(6.0).reshape(2, 3).T, "seen": torch.tensor([True, False])}
    path = tmp_path / "model.safetensors"
    write_weights(path, "kind 1", tensors, {"sizes": [2, 3], "validation": None})
    found, settings = read_weights(path, "kind 1", "a model")
    assert settings == {"sizes": [2, 3], "validation": None}
    for name, tensor in load_file(str(path)).items():
        torch.testing.assert_close(found[name], tensors[name])
        torch.testing.assert_close(tensor, tensors[name])
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_another_kind_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, "kind 1", {"weight": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"model.safetensors: not a cat \(expected format 'cat', not 'kind 1'\)"):
        read_weights(path, "cat", "a cat")


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors: not a readable safetensors file"):
        read_weights(path, "kind 1", "a model")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, "kind 1", {"weight": torch.ones(1)}, {"n": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_weights(path, "kind 1", {"weight": torch.zeros(1)}, {"n": object()})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    assert read_weights(path, "kind 1", "a model")[1] == {"n": 1}
