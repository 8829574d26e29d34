"""A run's heartbeat: while it works it tags itself with the time. A run whose process is gone falls
silent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dagster import DagsterInstance

_LOG = logging.getLogger(__name__)
HEARTBEAT_TAG: Final = ".dagster/tenantry_heartbeat"
"""The UI shows no tag that begins so."""
_EARLIER_TAG: Final = "tenantry/alive"  # of runs that an earlier release began
HEARTBEAT_SECONDS: Final = 5.0


def last_heartbeat(tags: Mapping[str, str]) -> float | None:
    """The last heartbeat of a run with these tags, in seconds since 1970; None for a run without
    one."""
    told = tags.get(HEARTBEAT_TAG) or tags.get(_EARLIER_TAG)
    return None if told is None else float(told)


@contextmanager
def run_heartbeat(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Tag the run with the time every few seconds while the block runs.

    Dagster's default launcher cannot tell a killed run from a slow one; the launcher sensor can, by
    this tag's age.
    """
    stopped = threading.Event()

    def tell() -> None:
        while not stopped.wait(HEARTBEAT_SECONDS):
            try:
                instance.add_run_tags(run_id, {HEARTBEAT_TAG: f"{time.time():.0f}"})
            # A database that is away for a moment must not make a run seem dead for ever.
            except Exception:  # noqa: BLE001
                _LOG.exception("run %s could not write its heartbeat; trying again", run_id)

    instance.add_run_tags(run_id, {HEARTBEAT_TAG: f"{time.time():.0f}"})
    thread = threading.Thread(target=tell, name="run-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
