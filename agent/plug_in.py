"""Plug-ins: classes and functions of the user's own, found by class path and called with care."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.config import PlugIn

_SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password|passwd|passphrase|credentials?|auth)$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def check_no_secret(plug_in: PlugIn, what: str) -> None:
    """Refuse a key among the arguments, which would be written into the run's folder.

    Raises:
        ValueError: There is one that does not come from an environment variable; the message says how it can.
    """
    for name, value in _secrets(plug_in.init_args):
        if not _VARIABLE.fullmatch(value):
            raise ValueError(
                f"{what}: init_args.{name}: keys are not written into files; put it into an environment variable and "
                "name that, e.g. ${MY_KEY}"
            )


def secrets_of(plug_in: PlugIn) -> list[str]:
    """Return the values of arguments whose names look like those of keys, which must not be shown."""
    found = (os.environ.get(m[1], "") if (m := _VARIABLE.fullmatch(v)) else v for _, v in _secrets(plug_in.init_args))
    return [value for value in found if len(value) > 3]


def _secrets(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and text of what looks secret by its name, or by that of what it lies in."""
    if isinstance(value, dict):
        for inner_name, inner in value.items():
            yield from _secrets(inner, name or (str(inner_name) if _SECRET.search(str(inner_name)) else ""))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner, name)
    elif name and isinstance(value, str) and value:
        yield name, value


def _with_environment(value: Any, where: str) -> Any:
    """Return arguments with ${NAME} replaced by the environment variable of that name."""
    if isinstance(value, dict):
        return {name: _with_environment(inner, where) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_environment(inner, where) for inner in value]
    found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    if found[1] not in os.environ:
        raise ValueError(f"{where}: the environment variable {found[1]} is not set")
    return os.environ[found[1]]


def load_plug_in(plug_in: PlugIn, what: str) -> Any:
    """Import a class and make an instance, or import a function.

    Args:
        plug_in: Class path and arguments, of which ${NAME} stands for an environment variable; the current folder is
            searched first.
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
    arguments = _with_environment(plug_in.init_args, where)
    try:
        return found(**arguments)
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
