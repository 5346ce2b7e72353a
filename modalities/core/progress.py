"""How long work tells its caller where it stands, and how it is asked to stop, without printing anything."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """What long work reports to. The command line draws bars from it; a library user may ignore it."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` steps (0: nobody knows), `done` of which an earlier run has finished."""
        ...

    def advance(self, steps: int = 1, **values: float) -> None:
        """Count `steps` more steps of the current stage; `values` are shown beside the bar."""
        ...

    def note(self, text: str) -> None:
        """Say one line that the user may want to know."""
        ...

    def warn(self, text: str) -> None:
        """Say one line that the user should know."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def start(self, stage: str, total: int, done: int = 0) -> None: ...

    def advance(self, steps: int = 1, **values: float) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


class StopRequest:
    """True once the user asked to stop; long loops look at it between two steps, never inside one."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals() -> Generator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a `StopRequest`; a second one interrupts at once.

    Outside the main thread signals cannot be caught: the request then stays False.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def ask(_number: int, _frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    for name in previous:
        signal.signal(name, ask)
    try:
        yield stop
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
