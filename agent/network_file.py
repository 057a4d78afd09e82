"""Networks on disk: tensors as safetensors, everything else as JSON in the same file's metadata. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-compatible description; the file appears whole or not at all.

    Raises:
        OSError: It cannot be written; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        save_file(
            {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()},
            temporary,
            metadata={"description": json.dumps(description)},
        )
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Args:
        path: The file.
        kind: What the description must name as its "kind", e.g. "prior".

    Raises:
        ValueError: No such file, cut short, not safetensors, or of another kind; the message names the file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file (expected {_with_article(kind)} written by MatSmith)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a readable safetensors file, or cut short ({reason})") from None
    try:
        description: dict[str, Any] = json.loads(metadata["description"])
    except (KeyError, ValueError):
        raise ValueError(f"{path}: a safetensors file, but not one written by MatSmith") from None
    found = description.get("kind") if isinstance(description, dict) else None
    if found != kind:
        holds = _with_article(found) if isinstance(found, str) else "something else"
        raise ValueError(f"{path}: holds {holds}, expected {_with_article(kind)}")
    return tensors, description


def _with_article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
