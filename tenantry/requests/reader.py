"""Questions to the requests table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from boto3.dynamodb.conditions import ConditionBase, Key

from tenantry.names import ids, table_keys
from tenantry.names.purposes import Purpose
from tenantry.requests import history
from tenantry.requests.rows import (
    IN_A_PACK,
    INDEXED,
    OPEN,
    Request,
    RequestKey,
    Status,
    now,
    request_of,
    requests_of,
)

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

# The attributes that a list needs. Facts, hyperparameters and history are read where they are
# needed.
_LISTED: Final = (
    "tenant",
    "request",
    "status",
    "manifest_key",
    "version",
    "tier",
    "accepted",
    "uploaded",
    "due",
    "first",
    "attempt",
    "postponements",
    "postponed",  # in rows of earlier releases: postponements
    "group",
    "apart",
    "notify_owner",
    "quiet",  # in rows of earlier releases: the opposite of notify_owner
    "pack",
    "job",
    "reason",
    "reason_code",
    "content",
    "nth",
    "traceparent",
    "purpose",
)


@dataclass(frozen=True)
class RequestReader:
    """The requests of all workloads, to be read."""

    deployment: Deployment

    def get(
        self,
        workload: ids.WorkloadName,
        tenant: ids.ModelId,
        request: ids.RequestId,
        purpose: Purpose = "training",
    ) -> Request | None:
        """One request, read consistently."""
        key = table_keys.request_item(tenant, workload, request, purpose)
        row = self.deployment.requests.get(key)
        return None if row is None else request_of(row)

    def get_many(self, wanted: Sequence[RequestKey], workload: ids.WorkloadName) -> list[Request]:
        """Many requests, each once, a hundred to a call, read consistently, in no order."""
        keys = (
            table_keys.request_item(tenant, workload, request, purpose)
            for tenant, request, purpose in wanted
        )
        return list(requests_of(self.deployment.requests.get_many(keys)))

    def of_tenant(
        self, workload: ids.WorkloadName, tenant: ids.ModelId, purpose: Purpose = "training"
    ) -> list[Request]:
        """All requests for a model, oldest first: those that make one, or with the purpose
        ``inference`` those that bring it new data."""
        partition = table_keys.requests_partition(tenant, workload, purpose)
        rows = self.deployment.requests.query(partition)
        return sorted(requests_of(rows), key=lambda request: request.accepted)

    def due(self, workload: ids.WorkloadName, *, most: int = 20_000) -> list[Request]:
        """Pending requests whose time has come, the longest waiting first."""
        return list(_first(most, self._with_status(workload, "pending", until=now())))

    def in_packs(self, workload: ids.WorkloadName) -> list[Request]:
        """Requests that some pack has claimed and not finished."""
        return [request for status in IN_A_PACK for request in self._with_status(workload, status)]

    def open(self, workload: ids.WorkloadName) -> list[Request]:
        """All requests that are not finished."""
        return [request for status in OPEN for request in self._with_status(workload, status)]

    def with_status(self, workload: ids.WorkloadName, status: Status) -> list[Request]:
        """All requests of a status that can be listed (``INDEXED``), the first due first. Raises
        ``ValueError`` for another."""
        if status not in INDEXED:
            raise ValueError(
                f"requests that are {status} are not listed; those that are: {', '.join(INDEXED)}"
            )
        return list(self._with_status(workload, status))

    def counts(self, workload: ids.WorkloadName) -> dict[Status, int]:
        """How many requests have each status that can be listed (``INDEXED``)."""
        return {status: self._count(workload, status) for status in INDEXED}

    def _count(self, workload: ids.WorkloadName, status: Status) -> int:
        in_queue = Key("queue").eq(table_keys.queue_key(workload, status))
        return self.deployment.requests.count("queue", in_queue)

    def _with_status(
        self, workload: ids.WorkloadName, status: Status, until: datetime | None = None
    ) -> Iterator[Request]:
        wanted: ConditionBase = Key("queue").eq(table_keys.queue_key(workload, status))
        if until is not None:
            wanted &= Key("due").lte(until.isoformat())
        return requests_of(self.deployment.requests.query_index("queue", wanted, _LISTED))

    def history_of(
        self, request: Request, since: datetime | None = None
    ) -> list[Mapping[str, Any]]:
        """All changes of a request, the oldest first; those before ``since`` may be left out. The
        request was read by itself or with all of its tenant's."""
        return history.history_of(self.deployment, request, since)


def _first(most: int, requests: Iterator[Request]) -> Iterator[Request]:
    for _, request in zip(range(most), requests, strict=False):
        yield request
