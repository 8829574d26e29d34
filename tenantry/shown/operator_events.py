"""Operators' actions on the command line, kept until Dagster has shown them.

The command line reaches AWS, but not Dagster, which may run anywhere. So it leaves a row, and a
sensor brings it into the event log. Show first, delete second: a sensor that dies in between shows
a row twice, which is harmless, and never loses it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from tenantry.errors import TenantryError
from tenantry.names import ids, table_keys
from tenantry.requests.rows import now

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

Kind = Literal["materialization", "observation"]
_KINDS: Final[Mapping[str, Kind]] = {
    "materialization": "materialization",
    "observation": "observation",
}


class MalformedEventError(TenantryError, ValueError):
    """A row that is no operator's event; the message names its sort key."""


@dataclass(frozen=True)
class OperatorEvent:
    """Something to show on a workload's asset, or on a tenant's partition of it (``tenant``).

    ``metadata`` are plain values for people; ``data_version`` belongs to a materialisation.
    """

    kind: Kind
    workload: ids.WorkloadName
    asset: str
    tenant: ids.ModelId | None
    metadata: Mapping[str, Any]
    data_version: str = ""


def leave(deployment: Deployment, event: OperatorEvent) -> None:
    """Leave an event for Dagster to show."""
    document = {
        "kind": event.kind,
        "workload": event.workload,
        "tenant": event.tenant,
        "asset": event.asset,
        "metadata": dict(event.metadata),
        "data_version": event.data_version,
    }
    deployment.requests.put(
        table_keys.operator_event_item(now().isoformat(), uuid.uuid4().hex[:8]),
        {"document": json.dumps(document)},
    )


@dataclass(frozen=True)
class LeftEvent:
    """An event that waits, and the key of its row."""

    key: table_keys.ItemKey
    document: str

    @property
    def left(self) -> datetime:
        """When the command line left it. Raises ``MalformedEventError``."""
        try:
            return datetime.fromisoformat(
                self.key.sort.removeprefix(table_keys.OPERATOR_EVENTS).partition("#")[0]
            )
        except ValueError as error:
            raise MalformedEventError(f"{self.key.sort[:80]} names no moment") from error

    @property
    def event(self) -> OperatorEvent:
        """The event itself. Raises ``MalformedEventError``."""
        try:
            found = json.loads(self.document)
            return OperatorEvent(
                _KINDS[found["kind"]],
                ids.workload_name(found["workload"]),
                str(found["asset"]),
                None if found["tenant"] is None else ids.model_id(found["tenant"]),
                dict(found["metadata"]),
                str(found["data_version"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedEventError(f"{self.key.sort[:80]} is no operator's event") from error


def waiting(deployment: Deployment, most: int) -> Iterator[LeftEvent]:
    """The events that wait to be shown, oldest first, at most ``most``; one call finds whether
    there are any."""
    rows = deployment.requests.query(
        table_keys.ACCOUNT_PARTITION, beginning=table_keys.OPERATOR_EVENTS, most=most
    )
    for row in rows:
        key = table_keys.ItemKey(table_keys.ACCOUNT_PARTITION, row["request"])
        yield LeftEvent(key, str(row.get("document", "")))


def forget(deployment: Deployment, event: LeftEvent) -> None:
    """Delete an event that was shown."""
    deployment.requests.delete(event.key)
