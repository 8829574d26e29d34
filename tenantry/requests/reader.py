"""Questions to the requests table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from tenantry.names import ids, table_keys
from tenantry.requests import history
from tenantry.requests.rows import (
    IN_A_PACK,
    INDEXED,
    OPEN,
    Request,
    Status,
    now,
    request_of,
    requests_of,
)

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LISTED_AT_ONCE: Final = 1000
# What a list needs of a row; what was prepared for it and its history are read where they are
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
    "postponed",
    "group",
    "apart",
    "quiet",
    "pack",
    "job",
    "reason",
    "reason_code",
    "content",
    "nth",
)


@dataclass(frozen=True)
class RequestReader:
    """The requests of all workloads, to be read."""

    deployment: Deployment

    def get(
        self, workload: ids.WorkloadName, tenant: ids.TenantId, request: ids.RequestId
    ) -> Request | None:
        """One request, read consistently."""
        answer = self.deployment.dynamodb.get_item(
            TableName=self.deployment.requests_table,
            Key={
                "tenant": {"S": table_keys.table_partition(tenant, workload)},
                "request": {"S": request},
            },
            ConsistentRead=True,
        )
        return request_of(answer["Item"]) if "Item" in answer else None

    def get_many(
        self, wanted: Sequence[tuple[ids.TenantId, ids.RequestId]], workload: ids.WorkloadName
    ) -> list[Request]:
        """Many requests, each once, a hundred to a call, read consistently, in no order."""
        table = self.deployment.requests_table
        found: list[Request] = []
        wanted = list(dict.fromkeys(wanted))  # DynamoDB refuses a call that names a row twice
        for start in range(0, len(wanted), 100):
            names = [
                {
                    "tenant": {"S": table_keys.table_partition(tenant, workload)},
                    "request": {"S": request},
                }
                for tenant, request in wanted[start : start + 100]
            ]
            pending: Any = {table: {"Keys": names, "ConsistentRead": True}}
            while pending:
                answer = self.deployment.dynamodb.batch_get_item(RequestItems=pending)
                found += requests_of(answer["Responses"].get(table, []))
                pending = answer.get("UnprocessedKeys")
        return found

    def of_tenant(self, workload: ids.WorkloadName, tenant: ids.TenantId) -> list[Request]:
        """All requests of a tenant, oldest first."""
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            KeyConditionExpression="tenant = :tenant",
            ExpressionAttributeValues={
                ":tenant": {"S": table_keys.table_partition(tenant, workload)}
            },
            ConsistentRead=True,
        )
        return sorted(
            (row for page in pages for row in requests_of(page["Items"])),
            key=lambda request: request.accepted,
        )

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
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            IndexName="queue",
            KeyConditionExpression="#queue = :queue",
            ExpressionAttributeNames={"#queue": "queue"},
            ExpressionAttributeValues={":queue": {"S": table_keys.queue_key(workload, status)}},
            Select="COUNT",
        )
        return sum(page["Count"] for page in pages)

    def _with_status(
        self, workload: ids.WorkloadName, status: Status, until: datetime | None = None
    ) -> Iterator[Request]:
        condition = "#queue = :queue"
        values: dict[str, Any] = {":queue": {"S": table_keys.queue_key(workload, status)}}
        names = {"#queue": "queue", **{f"#l{number}": name for number, name in enumerate(_LISTED)}}
        if until is not None:
            condition += " AND #due <= :until"
            values[":until"] = {"S": until.isoformat()}
            names["#due"] = "due"
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            IndexName="queue",
            KeyConditionExpression=condition,
            ProjectionExpression=", ".join(f"#l{number}" for number in range(len(_LISTED))),
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            PaginationConfig={"PageSize": _LISTED_AT_ONCE},
        )
        for page in pages:
            yield from requests_of(cast("Iterable[Mapping[str, Any]]", page["Items"]))

    def history_of(
        self, request: Request, since: datetime | None = None
    ) -> list[Mapping[str, Any]]:
        """All changes of a request that was read by itself or as one of its tenant's, the oldest
        first; those before ``since`` may be left out."""
        return history.history_of(self.deployment, request, since)


def _first(most: int, requests: Iterator[Request]) -> Iterator[Request]:
    for _, request in zip(range(most), requests, strict=False):
        yield request
