"""Ctrl-C, SIGTERM and SIGHUP: noted while a training can save itself, and obeyed when it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Noted:
    """The first signal that came.

    number: None as long as none came.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}  # what each signal did

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second signal is obeyed at once."""
        if self.number is not None:
            self.leave(number, frame)
        self.number = number

    def leave(self, number: int | None = None, frame: FrameType | None = None) -> NoReturn:
        """Do what the signal did before: KeyboardInterrupt after Ctrl-C; where that was the end, SystemExit(128 + number).

        Where none came to this process it leaves with another one that was told to, as after SIGTERM.
        """
        number = number or self.number or signal.SIGTERM
        handler = self.before.get(number)
        if callable(handler):
            handler(number, frame)
        raise SystemExit(128 + number)


@contextmanager
def noted(wanted: bool = True) -> Iterator[Noted]:
    """Inside, signals that would end the process are noted; those that are ignored, by nohup say, stay ignored.

    Args:
        wanted: False for no handlers at all. Outside of the main thread there are none either, as Python has none there.

    >>> with noted() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stop.number == signal.SIGINT
    True
    """
    stop = Noted()
    if wanted and threading.current_thread() is threading.main_thread():
        stop.before = {n: handler for n in STOPPING if (handler := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in stop.before:
        signal.signal(number, stop.note)
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            signal.signal(number, handler)
