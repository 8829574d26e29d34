"""A process that predicts, and is killed at one of its writes to AWS.

    python -m tests.tenantry.batch.dies_predicting CADENCE DAY SALT TENANTS WRITE

``WRITE`` is the number of the write, from 1. An even one is answered before the process dies; an
odd one is never sent. The exit status is 0 if there are fewer writes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import date
from threading import Lock
from typing import Any

from tenantry.aws.deployment import Deployment
from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.names import ids
from tenantry.workloads.schema import Workload
from tests.tenantry.batch.test_transform import Heard
from tests.tenantry.serving.tiny_family import tiny_workload

_READS = ("Describe", "Get", "Head", "List", "Query", "BatchGet")


def with_batch(workload: Workload, cadence: str, **changed: Any) -> Workload:
    """The workload with one batch, of this name."""
    given = {"name": cadence, "request": {"add": 1}, **changed}
    return workload.model_copy(update={"batches": (workload.batches[0].model_copy(update=given),)})


class _Writes:
    """Counts the writes of a session, and kills the process at one of them."""

    def __init__(self, deployment: Deployment, last: int) -> None:
        self._last, self._done, self._lock = last, 0, Lock()
        for client in (
            deployment.s3,
            deployment.sagemaker,
            deployment.glue,
            deployment.iam,
            deployment.dynamodb,
        ):
            client.meta.events.register("before-send", self._send)
            client.meta.events.register("after-call", self._answered)

    def _send(self, event_name: str, **_: Any) -> None:
        if self._is_read(event_name):
            return
        with self._lock:
            self._done += 1
            if self._done == self._last and self._last % 2:
                self._die()

    def _answered(self, event_name: str, **_: Any) -> None:
        with self._lock:
            if not self._is_read(event_name) and self._done >= self._last:
                self._die()

    @staticmethod
    def _is_read(event_name: str) -> bool:
        return event_name.rpartition(".")[2].startswith(_READS)

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Predict, up to the write."""
    cadence, day, salt, tenants, write = arguments
    workload = with_batch(tiny_workload(), cadence)
    deployment = Deployment.from_stack()
    _Writes(deployment, int(write))
    period = Period(workload.batches[0], date.fromisoformat(day))
    named = [ids.tenant_id(tenant) for tenant in tenants.split(",")]
    predict(deployment, workload, named, period, salt, Heard(), poll=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
