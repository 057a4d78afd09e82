"""Files of weights: safetensors with settings as JSON in the header; nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def write_weights(path: str | Path, kind: str, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write tensors and settings (JSON-compatible) into a file that appears whole or not at all.

    Args:
        path: The file.
        kind: What the weights are of, with the version of their layout; `read_weights` asks for the same.
        tensors: By name.
        settings: What else is needed to read them.
    """
    from safetensors.torch import save_file

    target = Path(path)
    temporary = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, str(temporary), metadata={"format": kind, "settings": json.dumps(settings)})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_weights(path: str | Path, kind: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and settings that `write_weights` wrote.

    Args:
        path: The file.
        kind: As for `write_weights`.
        what: What errors call the expected content, e.g. "a band-gap model".

    Raises:
        ValueError: The file is missing, cut short or holds something else; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if metadata.get("format") != kind:
        raise ValueError(f"{path}: not {what} (expected format {kind!r}, not {metadata.get('format')!r})")
    return tensors, json.loads(metadata["settings"])
