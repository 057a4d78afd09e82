"""What an oracle is made from, in any process: a class path with arguments, or an oracle that is sent pickled."""

from __future__ import annotations

import math
import pickle
import sys
import threading
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config import PlugIn
from agent.execution import start_up
from agent.plug_in import describe_failure, load_plug_in, secrets_of

if TYPE_CHECKING:
    from surrogates.base import Oracle

SHORT_NAMES = {
    "chgnet": "surrogates.oracle.CHGNetOracle",
    "volume-scan": "surrogates.volume_scan_oracle.VolumeScanOracle",
}
"""Class paths of the embedded oracles."""

_KEPT = 4


class OracleError(ValueError):
    """The oracle cannot be made or sent: no material is to blame."""


@dataclass(frozen=True, eq=False, repr=False)
class OracleSource:
    """What an oracle is made from.

    Pickling one never imports the oracle at the receiver: that happens in `make`.

    Args:
        given: A plug-in, whose class path may be a short name (chgnet, volume-scan); or an oracle, which is used as it
            is in this process and pickled for others.
    """

    given: PlugIn | Oracle | _Pickled

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process gets it.

        Raises:
            OracleError: The oracle cannot be pickled.
        """
        return OracleSource, (self._pickled,)

    def __repr__(self) -> str:
        """Name the oracle and its arguments; their values may be secret."""
        given = self.given
        if isinstance(given, PlugIn):
            return f"OracleSource({given.class_path}: {', '.join(given.init_args) or 'no arguments'})"
        return f"OracleSource({given.name})"

    @property
    def key(self) -> Hashable:
        """What a process keeps the oracle under; the same for every copy that is received."""
        return self.given.content if isinstance(self.given, _Pickled) else id(self.given)

    def make(self) -> Oracle:
        """Make the oracle and check that it has what an oracle needs.

        Raises:
            OracleError: It cannot be made, or lacks something; one line that names it.
        """
        try:
            found, where = self._make()
            problem = _problem(found)
        except ValueError as error:
            raise OracleError(self.redact(str(error))) from None  # the cause may hold what was redacted
        if problem is not None:
            raise OracleError(f"{where}: {problem}")
        return found  # type: ignore[no-any-return]  # it has been checked

    def redact(self, text: str) -> str:
        """Return a text without the values of arguments whose names look like those of keys and tokens."""
        given = self._received
        for value in secrets_of(given) if isinstance(given, PlugIn) else ():
            text = text.replace(value, "***")
        return text

    def _make(self) -> tuple[Any, str]:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        given = self._received
        if not isinstance(given, PlugIn):
            return given, f"oracle: {getattr(given, 'name', type(given).__name__)}"
        if "." not in given.class_path and given.class_path not in SHORT_NAMES:
            known = ", ".join(SHORT_NAMES)
            raise ValueError(f"oracle: class_path {given.class_path!r} is unknown (expected module.Name, or {known})")
        plug_in = replace(given, class_path=SHORT_NAMES.get(given.class_path, given.class_path))
        return load_plug_in(plug_in, "oracle"), f"oracle: class_path {plug_in.class_path!r}"

    @cached_property
    def _received(self) -> Any:
        if not isinstance(self.given, _Pickled):
            return self.given
        try:
            return pickle.loads(self.given.content)
        except Exception as error:  # whatever importing its module raises
            raise OracleError(f"oracle: {self.given.name} cannot be read here: {describe_failure(error)}") from error

    @cached_property
    def _pickled(self) -> _Pickled:
        if isinstance(self.given, _Pickled):
            return self.given
        name = self.given.class_path if isinstance(self.given, PlugIn) else _name(self.given)
        try:
            return _Pickled(name, pickle.dumps(self.given))
        except Exception as error:
            reason = self.redact(describe_failure(error))
            raise OracleError(
                f"oracle: {name} cannot be pickled for another process ({reason}); "
                "name it by class path, or use the executor in-process"
            ) from None


@dataclass(frozen=True)
class _Pickled:
    """A plug-in or an oracle on its way to another process."""

    name: str
    content: bytes


def cached_oracle(source: OracleSource) -> Oracle:
    """Return the oracle of a source; a process makes it once and keeps the last few.

    Making it does not count towards the time limit of the call.

    Raises:
        OracleError: It cannot be made.
    """
    with _lock:
        if source.key not in _kept:
            with start_up():
                made = source.make()
            while len(_kept) >= _KEPT:
                del _kept[next(iter(_kept))]
            _kept[source.key] = (source, made)  # the source as well: its key is no one else's while it lives
        return _kept[source.key][1]


_kept: dict[Hashable, tuple[OracleSource, Oracle]] = {}
_lock = threading.RLock()


def _problem(found: Any) -> str | None:
    """Return what keeps something from being an oracle."""
    missing = [name for name in ("name", "version", "cost", "label") if not hasattr(found, name)]
    if missing:
        hint = "; surrogates.oracle.FunctionOracle makes one from a function" if callable(found) else ""
        return f"is no oracle, it has no {', '.join(missing)}{hint}"
    if not isinstance(found.name, str) or not isinstance(found.version, str):
        return f"name and version must be texts, not {type(found.name).__name__} and {type(found.version).__name__}"
    if isinstance(found.cost, bool) or not isinstance(found.cost, int | float) or not 0 <= found.cost < math.inf:
        return f"cost must be a number of core-seconds, not {found.cost!r}"
    return None if callable(found.label) else "label must be a method"


def _name(oracle: Oracle) -> str:
    return f"{oracle.name} ({type(oracle).__name__})" if hasattr(oracle, "name") else type(oracle).__name__
