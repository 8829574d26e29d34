"""One demo at a time in a folder: a second one would start another local cloud on the state of the
first."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PATIENCE_SECONDS: Final = 2.0  # for the process that has just taken the lock, to write its id


class AlreadyRunsError(RuntimeError):
    """Another process holds the folder; the message says which, and where its UI is."""


@contextmanager
def only_one(lock: Path) -> Iterator[Callable[[str], None]]:
    """Hold ``lock`` for the length of a ``with`` block. The kernel releases it when this process
    ends, however it ends.

    Args:
        lock: a file, made if it is not there; it tells a second process which one holds it, and its
            UI.

    Yields:
        A function that writes down where the UI is.

    Raises:
        AlreadyRunsError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunsError(
                f"Tenantry already runs here ({_holder(lock)}). Use its UI, or stop it with Ctrl-C."
            ) from error

        def write(text: str) -> None:
            file.truncate(0)
            file.write(text)
            file.flush()

        write(f"pid {os.getpid()}")
        try:
            yield lambda ui: write(f"pid {os.getpid()}, UI {ui}")
        finally:
            write("")


def _holder(lock: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while "UI" not in (text := lock.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return text or "its process has not written down its pid"
