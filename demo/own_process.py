"""Calls whose libraries must not stay in the process that waits for Ctrl-C.

pandas and Arrow, which make the tenants' files, would take 200 MiB there. The files are the user's
own, so these calls have no limits, unlike those of ``tenantry.uploads.bounded_calls``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ProcessKilledError(RuntimeError):
    """Something killed the process that did the work."""


def _end_with_the_demo() -> None:
    """An interrupt ends this process, and so does the end of the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    demo = multiprocessing.parent_process()

    def follow() -> None:
        if demo is not None:
            demo.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def call_in_own_process(make: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call ``make`` in a process that ends with the call. Its result or its error comes back.
    Raises ``ProcessKilledError``."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _end_with_the_demo) as pool:
        try:
            return pool.submit(make, *arguments, **named).result()
        except BrokenProcessPool as error:
            raise ProcessKilledError(
                "the process that reads the data was killed, perhaps for the memory it took; free "
                "some, or take fewer customers with TENANTS=…"
            ) from error
