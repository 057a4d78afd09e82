"""Text files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file by way of a temporary one beside it.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
