"""A lease: the right of one process to change something, until it ends or dies."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from boto3.dynamodb.conditions import Attr
from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.tables import MISSING, ConditionNotMetError
from tenantry.errors import TenantryError
from tenantry.names.table_keys import lease_item

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

LEASE_SECONDS: Final = 90.0
"""How long after its death a process's lease keeps others waiting."""
_RENEWED_EVERY: Final = LEASE_SECONDS / 3


class LeaseTakenError(TenantryError, RuntimeError):
    """Another process had the lease all the time."""


@contextmanager
def lease(deployment: Deployment, what: str, *, wait_seconds: float) -> Iterator[None]:
    """Hold the lease of a resource in the block. A thread renews it, so the block may take long.

    Args:
        deployment: the table.
        what: the resource's name.
        wait_seconds: how long to wait for another process.

    Raises:
        LeaseTakenError: another process still had it after ``wait_seconds``.
    """
    holder, deadline, pause = uuid.uuid4().hex, time.monotonic() + wait_seconds, 0.1
    while not _take(deployment, what, holder):
        if time.monotonic() > deadline:
            raise LeaseTakenError(
                f"another process has been changing {what} for {wait_seconds:.0f} s; try again"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 5.0)
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(deployment, what, holder, ended), name=f"lease {what}", daemon=True
    )
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(ConditionNotMetError, ClientError, BotoCoreError):  # it ends by itself
            deployment.requests.update(
                lease_item(what), {"until": _now()}, only_if=Attr("holder").eq(holder)
            )


def _take(deployment: Deployment, what: str, holder: str) -> bool:
    row = {"holder": holder, "until": _until()}
    try:
        deployment.requests.put(lease_item(what), row, only_if=MISSING | Attr("until").lte(_now()))
    except ConditionNotMetError:
        return False
    return True


def _renew(deployment: Deployment, what: str, holder: str, ended: threading.Event) -> None:
    while not ended.wait(_RENEWED_EVERY):
        # Two more tries come before the lease ends.
        with suppress(ClientError, BotoCoreError):
            try:
                deployment.requests.update(
                    lease_item(what), {"until": _until()}, only_if=Attr("holder").eq(holder)
                )
            except ConditionNotMetError:
                return


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _until() -> str:
    end = datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)
    return end.isoformat(timespec="milliseconds")
