"""Progress bars with a time estimate on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(shown: bool, total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar until the block ends; the yielded function moves it on by so many units."""
    if not shown:
        yield lambda units: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit) as bar:

        def advance(units: int) -> None:
            bar.update(units)

        yield advance
