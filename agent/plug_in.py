"""Plug-ins: classes and functions of the user's own, found by class path and called with care."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.config import PlugIn


def load_plug_in(plug_in: PlugIn, what: str) -> Any:
    """Import a class and make an instance, or import a function.

    Args:
        plug_in: Class path and arguments; the current folder is searched first.
        what: What it is for, e.g. "reward".

    Raises:
        ValueError: It cannot be imported or made; the message names the class path.
    """
    where = f"{what}: class_path {plug_in.class_path!r}"
    module_name, _, name = plug_in.class_path.rpartition(".")
    if not module_name:
        raise ValueError(f"{where}: expected module.Name")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{where}: cannot import module {error.name!r} (searched from {Path.cwd()})") from None
    except AttributeError:
        raise ValueError(f"{where}: module {module_name!r} has no {name!r}") from None
    except (Exception, SystemExit) as error:  # a script may end the process when it is imported
        raise ValueError(f"{where}: importing it failed: {describe_failure(error)}") from error
    if not isinstance(found, type):
        if plug_in.init_args:
            raise ValueError(f"{where}: init_args given, but {name} is not a class")
        return found
    try:
        return found(**plug_in.init_args)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{where}: making it failed: {describe_failure(error)}") from error


def describe_failure(error: BaseException) -> str:
    """Return type, message and place of an exception in one line; the place is the innermost one in the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_installed(frame.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}{place}"


def _is_installed(filename: str) -> bool:
    """Whether a source file belongs to Python, to an installed package or to MatSmith itself."""
    here = Path(__file__).parent
    folders = [str(here), str(here.parent / "surrogates")]
    folders += [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return filename.startswith("<") or any(Path(filename).is_relative_to(folder) for folder in folders)
