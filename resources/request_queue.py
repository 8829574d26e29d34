"""The requests table: what is owed to whom, and its history. The queue is the source of truth for what is not finished.

A request goes pending → claimed → training → trained → registered. It may instead be refused (its data cannot become a
model), superseded (the tenant uploaded again before it was claimed), or dead-lettered (it failed too often). Every change
is one conditional write: whoever comes second finds that it is no longer theirs to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from resources import keys
from resources.storage import error_code

if TYPE_CHECKING:
    from resources.deployment import Deployment

Status = Literal["pending", "claimed", "training", "trained", "registered", "refused", "superseded", "dead_lettered"]
OPEN: Final[tuple[Status, ...]] = ("pending", "claimed", "training", "trained")
IN_A_PACK: Final[tuple[Status, ...]] = ("claimed", "training", "trained")
_NEXT: Final[Mapping[Status, tuple[Status, ...]]] = {
    "pending": ("claimed", "superseded", "refused"),
    "claimed": ("training", "trained", "refused", "pending", "dead_lettered"),
    "training": ("trained", "refused", "pending", "dead_lettered"),
    "trained": ("registered", "refused", "pending", "dead_lettered"),
    "registered": (),
    "refused": (),
    "superseded": (),
    "dead_lettered": (),
}
FIRST_RETRY: Final = timedelta(seconds=20)  # doubles with each attempt
_MOST_REASON: Final = 1000  # characters kept of a reason
_MOST_HISTORY: Final = 100  # changes kept in a row; its item must stay far below DynamoDB's 400 KB

_serialize: Final = TypeSerializer().serialize
_deserialize: Final = TypeDeserializer().deserialize


class NotTheirTurn(RuntimeError):  # noqa: N818 - reads as the sentence it is: "not their turn"
    """The request is not in a state this change may be made from; somebody else was there first."""


@dataclass(frozen=True)
class Request:
    """A row of the queue: make a model for this tenant from this upload."""

    request: keys.RequestId
    tenant: keys.TenantId
    workload: keys.WorkloadName
    status: Status
    manifest_key: str
    version: keys.Version | None
    tier: keys.Tier
    accepted: datetime
    due: datetime
    first: bool = False
    attempt: int = 1
    pack: keys.PackId | None = None
    job: str | None = None
    reason: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def key(self) -> tuple[keys.TenantId, keys.RequestId]:
        """What tells it from every other request of the workload."""
        return self.tenant, self.request


def now() -> datetime:
    """This moment, in UTC, to the microsecond."""
    return datetime.now(UTC)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _request(item: Mapping[str, Any]) -> Request:
    row = {name: _deserialize(value) for name, value in item.items()}
    tenant, _, workload = row["tenant"].partition("#")
    return Request(
        request=keys.RequestId(row["request"]),
        tenant=keys.TenantId(tenant),
        workload=keys.WorkloadName(workload),
        status=row["status"],
        manifest_key=row["manifest_key"],
        version=row.get("version"),
        tier=row.get("tier", "bridge"),
        accepted=_time(row["accepted"]),
        due=_time(row["due"]),
        first=bool(row.get("first", False)),
        attempt=int(row.get("attempt", 1)),
        pack=row.get("pack"),
        job=row.get("job"),
        reason=row.get("reason"),
        facts=row.get("facts", {}),
        history=row.get("history", ()),
    )


@dataclass(frozen=True)
class RequestQueue:
    """The requests of all workloads."""

    deployment: Deployment

    # ---- in -----------------------------------------------------------------------------------------------------------

    def accept(
        self, workload: keys.WorkloadName, tenant: keys.TenantId, request: keys.RequestId, manifest_key: str, tier: keys.Tier,
        *, first: bool,
    ) -> bool:  # fmt: skip
        """Add a request, once; an earlier one of the tenant that nobody claimed yet is superseded.

        Returns:
            Whether it is new. False for a repeated event, in whatever state the request is by now.
        """
        at = now()
        row = {
            "manifest_key": manifest_key,
            "version": keys.version_of(request, at),
            "tier": tier,
            "first": first,
            "attempt": 1,
            "queue": keys.queue_key(workload, "pending"),
        }
        if not self._put(workload, tenant, request, "pending", at, row, why="uploaded"):
            return False
        for other in self.of_tenant(workload, tenant):
            if other.status == "pending" and other.request != request and other.accepted <= at:
                self.try_move(other, "superseded", why=f"a newer upload is request {request}")
        return True

    def refuse_at_the_door(
        self,
        workload: keys.WorkloadName,
        tenant: keys.TenantId,
        request: keys.RequestId,
        manifest_key: str,
        reason: str,
    ) -> bool:
        """Record an upload that was refused before it became a request. Returns whether that is new."""
        return self._put(
            workload,
            tenant,
            request,
            "refused",
            now(),
            {"manifest_key": manifest_key, "reason": reason[:_MOST_REASON]},
            why=reason,
        )

    def _put(
        self, workload: keys.WorkloadName, tenant: keys.TenantId, request: keys.RequestId, status: Status, at: datetime,
        row: Mapping[str, Any], why: str,
    ) -> bool:  # fmt: skip
        item = {
            "tenant": keys.table_partition(tenant, workload),
            "request": request,
            "status": status,
            "accepted": at.isoformat(),
            "due": at.isoformat(),
            "history": [_change(status, why, at)],
            **row,
        }
        try:
            self.deployment.dynamodb.put_item(
                TableName=self.deployment.requests_table,
                Item={name: _serialize(value) for name, value in item.items()},
                ConditionExpression="attribute_not_exists(#request)",
                ExpressionAttributeNames={"#request": "request"},
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    # ---- changes --------------------------------------------------------------------------------------------------------

    def move(self, request: Request, to: Status, *, why: str, changes: Mapping[str, Any] | None = None) -> Request:
        """Change a request's status, if it still has the status, the pack and the due time that ``request`` shows.

        The due time tells a row that went back to the queue from what it was before.

        Args:
            request: the row as it was read.
            to: the new status.
            why: a sentence for the history.
            changes: further attributes to set; None removes one.

        Raises:
            NotTheirTurn: it has moved on since it was read, or the change is not one a request can make.
        """
        if to not in _NEXT[request.status]:
            raise NotTheirTurn(
                f"request {request.request} of {request.tenant} is {request.status}; it cannot become {to}"
            )
        at = now()
        values: dict[str, Any] = {"status": to, **(changes or {})}
        values["queue"] = keys.queue_key(request.workload, to) if to in OPEN else None
        names = {"#history": "history", "#status": "status"}
        sets, removes, expression_values = [], [], {}
        for number, (name, value) in enumerate(values.items()):
            names[f"#n{number}"] = name
            if value is None:
                removes.append(f"#n{number}")
            else:
                sets.append(f"#n{number} = :v{number}")
                expression_values[f":v{number}"] = _serialize(value)
        history = [*request.history[-(_MOST_HISTORY - 1) :], _change(to, why, at)]
        sets.append("#history = :history")
        expression_values[":history"] = _serialize(history)
        expression_values[":was"] = _serialize(request.status)
        expression_values[":due"] = _serialize(request.due.isoformat())
        condition = "#status = :was AND #due = :due"
        if request.pack is None:
            condition += " AND attribute_not_exists(#pack)"
        else:
            condition += " AND #pack = :pack"
            expression_values[":pack"] = _serialize(request.pack)
        names |= {"#pack": "pack", "#due": "due"}
        update = "SET " + ", ".join(sets) + (" REMOVE " + ", ".join(removes) if removes else "")
        try:
            answer = self.deployment.dynamodb.update_item(
                TableName=self.deployment.requests_table,
                Key=_key(request),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=expression_values,
                ReturnValues="ALL_NEW",
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                raise NotTheirTurn(
                    f"request {request.request} of {request.tenant} is no longer {request.status}"
                ) from error
            raise
        return _request(answer["Attributes"])

    def try_move(
        self, request: Request, to: Status, *, why: str, changes: Mapping[str, Any] | None = None
    ) -> Request | None:
        """``move``, or None when it was no longer this caller's to move."""
        try:
            return self.move(request, to, why=why, changes=changes)
        except NotTheirTurn:
            return None

    def claim(self, requests: Iterable[Request], pack: keys.PackId) -> list[Request]:
        """Take requests for a pack. Returns those that were still free."""
        claimed = (self.try_move(r, "claimed", why=f"pack {pack}", changes={"pack": pack}) for r in requests)
        return [request for request in claimed if request is not None]

    def fail(self, request: Request, reason: str, *, attempts: int, retryable: bool = True) -> Request:
        """Give a request back to the queue for another try, later; or dead-letter it when its tries are spent.

        Args:
            request: the row as it was read.
            reason: why it failed, as a sentence.
            attempts: how many tries the workload gives.
            retryable: whether trying the same data again can help; when it cannot, the request is refused.

        Raises:
            NotTheirTurn: it has moved on since it was read.
        """
        reason = reason[:_MOST_REASON]
        if not retryable:
            return self.move(request, "refused", why=reason, changes={"reason": reason, "pack": None})
        if request.attempt >= attempts:
            return self.move(request, "dead_lettered", why=reason, changes={"reason": reason, "pack": None})
        due = now() + FIRST_RETRY * 2 ** (request.attempt - 1)
        changes = {"reason": reason, "attempt": request.attempt + 1, "due": due.isoformat(), "pack": None, "job": None}
        return self.move(request, "pending", why=reason, changes=changes)

    def postpone(self, request: Request, why: str) -> None:
        """Put a request back for a later moment without counting a try: nothing was wrong with it.

        It may have moved on within its pack since it was read; another pack's it is left to that pack.
        """
        changes = {"due": (now() + FIRST_RETRY).isoformat(), "pack": None, "job": None}
        for row in self.get_many([request.key], request.workload):
            if row.pack == request.pack:
                self.try_move(row, "pending", why=why, changes=changes)

    # ---- questions ----------------------------------------------------------------------------------------------------------

    def get(self, workload: keys.WorkloadName, tenant: keys.TenantId, request: keys.RequestId) -> Request | None:
        """One request, read consistently."""
        answer = self.deployment.dynamodb.get_item(
            TableName=self.deployment.requests_table,
            Key={"tenant": {"S": keys.table_partition(tenant, workload)}, "request": {"S": request}},
            ConsistentRead=True,
        )
        return _request(answer["Item"]) if "Item" in answer else None

    def get_many(
        self, wanted: Sequence[tuple[keys.TenantId, keys.RequestId]], workload: keys.WorkloadName
    ) -> list[Request]:
        """Many requests, each once, a hundred to a call, read consistently, in no order."""
        table, found = self.deployment.requests_table, []
        wanted = list(dict.fromkeys(wanted))  # DynamoDB refuses a call that names a row twice
        for start in range(0, len(wanted), 100):
            names = [
                {"tenant": {"S": keys.table_partition(tenant, workload)}, "request": {"S": request}}
                for tenant, request in wanted[start : start + 100]
            ]
            pending: Any = {table: {"Keys": names, "ConsistentRead": True}}
            while pending:
                answer = self.deployment.dynamodb.batch_get_item(RequestItems=pending)
                found += [_request(item) for item in answer["Responses"].get(table, [])]
                pending = answer.get("UnprocessedKeys")
        return found

    def of_tenant(self, workload: keys.WorkloadName, tenant: keys.TenantId) -> list[Request]:
        """All requests of a tenant, oldest first."""
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            KeyConditionExpression="tenant = :tenant",
            ExpressionAttributeValues={":tenant": {"S": keys.table_partition(tenant, workload)}},
            ConsistentRead=True,
        )
        return sorted(
            (_request(item) for page in pages for item in page["Items"]), key=lambda request: request.accepted
        )

    def due(self, workload: keys.WorkloadName, *, most: int = 10_000) -> list[Request]:
        """Pending requests whose time has come, the longest waiting first."""
        return list(_first(most, self._with_status(workload, "pending", until=now())))

    def in_packs(self, workload: keys.WorkloadName) -> list[Request]:
        """Requests that some pack has claimed and not finished."""
        return [request for status in IN_A_PACK for request in self._with_status(workload, status)]

    def open(self, workload: keys.WorkloadName) -> list[Request]:
        """All requests that are not finished."""
        return [request for status in OPEN for request in self._with_status(workload, status)]

    def _with_status(
        self, workload: keys.WorkloadName, status: Status, until: datetime | None = None
    ) -> Iterator[Request]:
        condition = "#queue = :queue"
        values: dict[str, Any] = {":queue": {"S": keys.queue_key(workload, status)}}
        names = {"#queue": "queue"}
        if until is not None:
            condition += " AND #due <= :until"
            values[":until"] = {"S": until.isoformat()}
            names["#due"] = "due"
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            IndexName="queue",
            KeyConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
        )
        for page in pages:
            for item in page["Items"]:
                yield _request(cast("Mapping[str, Any]", item))


def _key(request: Request) -> dict[str, Any]:
    return {"tenant": {"S": keys.table_partition(request.tenant, request.workload)}, "request": {"S": request.request}}


def _change(status: Status, why: str, at: datetime) -> dict[str, str]:
    return {"at": at.isoformat(), "status": status, "why": why[:300]}


def _first(most: int, requests: Iterator[Request]) -> Iterator[Request]:
    for _, request in zip(range(most), requests, strict=False):
        yield request
