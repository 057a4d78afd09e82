"""Ctrl-C that waits for the end of a training step, so that what is saved afterwards continues bit for bit."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NOTICE = b"\nstopping after this step; once more to stop at once\n"


class ForcedInterrupt(KeyboardInterrupt):
    """Asked for a second time while a step was still running; its state is not to be saved."""


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], None]]:
    """Hold back SIGINT and SIGTERM; the yielded function, called between two steps, raises KeyboardInterrupt if due.

    Outside the main thread, which alone receives signals, it does nothing.

    Raises:
        ForcedInterrupt: A second signal came before the function was called.
    """
    asked = False

    def hold_back(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise ForcedInterrupt
        asked = True
        os.write(2, _NOTICE)  # not print: the signal may have come in the middle of one

    def raise_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield raise_if_asked
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in previous:  # not the ignored ones, which a job in the background has
        signal.signal(number, hold_back)
    try:
        yield raise_if_asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
