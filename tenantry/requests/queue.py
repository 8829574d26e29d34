"""The requests table: what is owed to whom, and its history. The queue is the source of truth for
what is not finished.

A request goes pending → claimed → training → trained → registered. What goes wrong with it once
makes it failed: it waits for its next try and is pending again, until its tries are spent and it is
dead-lettered. It may instead be refused (its data cannot become a model), superseded (the tenant
uploaded again before it was claimed) or cancelled (an operator said so). Every change of status is
one conditional write that also appends to the row's history who made it, when and why: whoever
comes second finds that it is no longer theirs to make. ``docs/concepts.md`` has the picture.

A row keeps the latest of its history; older changes move to items of their own
(``RequestQueue.history_of``), so that no row grows to the 400 KB that DynamoDB allows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.notices import Notice, tell_tenant
from tenantry.aws.objects import error_code
from tenantry.names import keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

Status = Literal[
    "pending",
    "claimed",
    "training",
    "trained",
    "registered",
    "failed",
    "refused",
    "superseded",
    "cancelled",
    "dead_lettered",
]
OPEN: Final[tuple[Status, ...]] = ("pending", "claimed", "training", "trained", "failed")
IN_A_PACK: Final[tuple[Status, ...]] = ("claimed", "training", "trained")
CAME_TO_NOTHING: Final[tuple[Status, ...]] = ("refused", "superseded", "cancelled", "dead_lettered")
INDEXED: Final[tuple[Status, ...]] = (*OPEN, "dead_lettered")
"""The statuses whose requests can be listed: the open ones, and what waits for an operator."""
_LEAVES_A_PACK: Final[tuple[Status, ...]] = ("failed", "refused", "cancelled", "dead_lettered")
NEXT: Final[Mapping[Status, tuple[Status, ...]]] = {
    "pending": ("claimed", "pending", "refused", "superseded", "cancelled", "dead_lettered"),
    "claimed": ("training", "trained", "pending", *_LEAVES_A_PACK),
    "training": ("trained", "pending", *_LEAVES_A_PACK),
    "trained": ("registered", "pending", *_LEAVES_A_PACK),
    "failed": ("pending", "superseded", "cancelled"),
    "registered": (),
    # It was uploaded again, or what superseded it was refused.
    "superseded": ("pending",),
    # What an operator, or another upload of the same, may send back to the queue.
    "refused": ("pending",),
    "cancelled": ("pending",),
    "dead_lettered": ("pending",),
}
"""Which status may follow which. pending → pending is a later moment for one that waits."""
FIRST_RETRY: Final = timedelta(seconds=20)  # doubles with each attempt
# between two looks whether SageMaker takes a job again
LONGEST_PAUSE: Final = timedelta(minutes=10)
# about 16 hours; a row's history, and so its item, stays far below DynamoDB's 400 KB
MOST_POSTPONEMENTS: Final = 100
TOO_MANY_UPLOADS: Final = "too_many_uploads"
"""The code of what a tenant is told that uploads more than may be made of it in a day."""
_MOST_UPLOADS_COUNTED: Final = 2000  # of a tenant and a day; their ids lie in one item
LONGEST_HISTORY: Final = 60  # changes in a row; each has a kilobyte or two at most
_HISTORY_KEPT: Final = 20  # the latest, when the others move out of the row
_MOST_REASON: Final = 1000  # characters kept of a reason
_CLAIMED_AT_ONCE: Final = 8
_MOST_LOOKS: Final = 10  # at a row that others change meanwhile
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

_LOG = logging.getLogger(__name__)
_serialize: Final = TypeSerializer().serialize
_deserialize: Final = TypeDeserializer().deserialize


class NotTheirTurn(RuntimeError):  # noqa: N818 - reads as the sentence it is: "not their turn"
    """The request is not in a state this change may be made from; somebody else was there first."""


@dataclass(frozen=True)
class Request:
    """A row of the queue: make a model for this tenant from this upload.

    ``uploaded`` is when S3 took its manifest, which says which of two uploads is the newer one, in
    whatever order their events came; of several uploads of the same content it is the latest's.
    ``content`` is the id of the request that was the first of this content: its own, unless the
    tenant came back to it after another upload. ``due`` is when it may be claimed. ``group`` tells
    apart requests that must not share a pack. ``quiet`` ones were not asked for by the tenant,
    whose owner hears nothing of them. ``apart`` is set by ``RequestQueue.set_apart``: requests that
    differ in it share no pack. ``nth`` says which upload of its tenant on its day it was at least,
    where that is limited. ``reason_code`` names the kind of ``reason`` for programs, where there is
    one. ``hyperparameters`` are those of the job it went to training with last. ``facts``,
    ``hyperparameters`` and ``history`` are empty on rows of a list (``due``, ``in_packs``,
    ``with_status``, ``open``); ``moved_out`` counts the changes that came before those in
    ``history``.
    """

    request: keys.RequestId
    tenant: keys.TenantId
    workload: keys.WorkloadName
    status: Status
    manifest_key: str
    version: keys.Version | None
    tier: keys.Tier
    accepted: datetime
    uploaded: datetime
    due: datetime
    content: keys.RequestId
    first: bool = False
    attempt: int = 1
    postponed: int = 0
    group: str = ""
    apart: str = ""
    nth: int = 1
    quiet: bool = False
    pack: keys.PackId | None = None
    job: str | None = None
    reason: str | None = None
    reason_code: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    moved_out: int = 0

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
        uploaded=_time(row.get("uploaded", row["accepted"])),
        due=_time(row["due"]),
        first=bool(row.get("first", False)),
        attempt=int(row.get("attempt", 1)),
        postponed=int(row.get("postponed", 0)),
        group=row.get("group", ""),
        quiet=bool(row.get("quiet", False)),
        pack=row.get("pack"),
        job=row.get("job"),
        reason=row.get("reason"),
        reason_code=row.get("reason_code"),
        apart=row.get("apart", ""),
        nth=int(row.get("nth", 1)),
        moved_out=int(row.get("moved_out", 0)),
        content=keys.RequestId(row.get("content", row["request"])),
        facts=row.get("facts", {}),
        hyperparameters=row.get("hyperparameters", {}),
        history=row.get("history", ()),
    )


def _requests(items: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
    """The rows of a list. One that cannot be read is told to the log and left out: it is no reason
    to lose the others."""
    for item in items:
        try:
            yield _request(item)
        except (KeyError, ValueError, TypeError, AttributeError):
            _LOG.exception("the row %s, %s cannot be read", item.get("tenant"), item.get("request"))


@dataclass(frozen=True)
class RequestQueue:
    """The requests of all workloads.

    ``by`` is who makes the changes, for their history: ``sensor fine_tuning_launcher``, ``run
    3f2a…``, ``operator ann``.
    """

    deployment: Deployment
    by: str = "tenantry"

    # ---- in --------------------------------------------------------------------------------------

    def accept(
        self,
        workload: keys.WorkloadName,
        tenant: keys.TenantId,
        request: keys.RequestId,
        manifest_key: str,
        tier: keys.Tier,
        *,
        first: bool,
        why: str = "uploaded",
        uploaded: datetime | None = None,
        group: str = "",
        quiet: bool = False,
        nth: int = 1,
    ) -> bool:
        """Add a request, once.

        Args:
            workload: which.
            tenant: whose.
            request: its id.
            manifest_key: of the upload it is made from.
            tier: where its model will be made and served.
            first: whether the tenant has no model yet.
            why: for the history.
            uploaded: when S3 took the manifest; now, if it is not given. The version is named after
                it.
            group: requests of different groups never share a pack.
            quiet: whether the tenant's owner is told nothing of what becomes of it.
            nth: which of the tenant's uploads of its day it is (``count_upload``).

        Returns:
            Whether there is something new to do. False for a repeated event, in whatever state the
            request is by now, and for a later upload of the same content; True for one where the
            request had come to nothing, or where the tenant had uploaded something else in between
            that is made or on its way.
        """
        at = now()
        row = {
            "manifest_key": manifest_key,
            "version": keys.version_of(request, uploaded or at),
            "uploaded": (uploaded or at).isoformat(),
            "tier": tier,
            "first": first,
            "attempt": 1,
            "queue": keys.queue_key(workload, "pending"),
            **({"group": group} if group else {}),
            **({"quiet": True} if quiet else {}),
            **({"nth": nth} if nth > 1 else {}),
        }
        if self._put(workload, tenant, request, "pending", at, row, why=why):
            return True
        if uploaded is None or quiet:
            return False
        return self._uploaded_again(workload, tenant, request, row, uploaded)

    def _uploaded_again(
        self,
        workload: keys.WorkloadName,
        tenant: keys.TenantId,
        content: keys.RequestId,
        row: Mapping[str, Any],
        uploaded: datetime,
    ) -> bool:
        """What a tenant uploads last is made last, also when that is what it had uploaded before
        something else.

        The request of that content becomes as new as its latest upload. If it is being made or is
        made, of an older upload, and something else came after that, there is one request more.

        Args:
            workload: which.
            tenant: whose.
            content: the id of the first request of this content.
            row: the attributes a new request would have.
            uploaded: when S3 took the manifest.

        Returns:
            Whether there is something new to do.

        Raises:
            NotTheirTurn: the row changed each time it was read.
        """
        first = self.get(workload, tenant, content)
        if (
            first is None
            or first.version is None
            or keys.moment_of(uploaded) <= keys.upload_moment(first.version)
        ):
            return False  # an event that came again
        for _ in range(_MOST_LOOKS):
            known = self._newest_of(content, self.of_tenant(workload, tenant))
            if known is None or known.version is None or uploaded < known.uploaded:
                return False
            newer = uploaded > known.uploaded
            if known.status in CAME_TO_NOTHING:
                if not newer:
                    return False
                # The version that was given up may be known by its name.
                again: dict[str, Any] = {
                    **_afresh(known, now()),
                    "manifest_key": row["manifest_key"],
                    "uploaded": uploaded.isoformat(),
                    "nth": row.get("nth"),
                    "version": keys.version_of(f"{known.request}/{uploaded.isoformat()}", uploaded),
                }
                if self.try_move(known, "pending", why="uploaded again", changes=again):
                    return True
                continue
            if newer and not self._note_uploaded(known, uploaded, str(row["manifest_key"])):
                continue
            if known.status in {"pending", "failed"}:
                return False
            # Looked at only now: whoever claims what is not here yet finds the new moment. A
            # repeated event comes by again.
            made_of = keys.upload_moment(known.version)
            # As long as it is only claimed, the earlier upload may turn out to lack a file that
            # this one has.
            if known.status == "claimed" or any(
                made_of <= keys.moment_of(other.uploaded) and other.uploaded <= uploaded
                for other in self.of_tenant(workload, tenant)
                if other.content != content
                and not other.quiet
                and other.status not in CAME_TO_NOTHING
            ):
                request = keys.request_id_of(
                    workload, tenant, f"{content} again at {uploaded.isoformat()}"
                )
                more = {**row, "content": content, "version": keys.version_of(request, uploaded)}
                return self._put(
                    workload, tenant, request, "pending", now(), more, why="uploaded again"
                )
            return False
        raise NotTheirTurn(
            f"request {content} of {tenant} changed {_MOST_LOOKS} times while it was looked at"
        )

    @staticmethod
    def _newest_of(content: keys.RequestId, rows: Iterable[Request]) -> Request | None:
        same = (row for row in rows if row.content == content)
        return max(same, key=lambda row: (row.uploaded, row.accepted), default=None)

    def _note_uploaded(self, request: Request, uploaded: datetime, manifest_key: str) -> bool:
        """Make a row as new as a later upload of the same content. Returns False when it has moved
        on since it was read.

        One that waits is made from that upload then, as the earlier one may lack a file; and it is
        due a little later: whoever read it before finds it changed, and does not supersede it.
        """
        due = request.due
        if request.status in {"pending", "failed"}:
            due += timedelta(microseconds=1)
        else:
            manifest_key = request.manifest_key
        try:
            self.deployment.dynamodb.update_item(
                TableName=self.deployment.requests_table,
                Key=_key(request),
                UpdateExpression="SET #uploaded = :uploaded, #due = :due, #manifest_key = "
                ":manifest_key",
                ConditionExpression="#status = :status AND #due = :was_due"
                " AND (attribute_not_exists(#uploaded) OR #uploaded = :was_uploaded)",
                ExpressionAttributeNames={
                    "#status": "status",
                    "#due": "due",
                    "#uploaded": "uploaded",
                    "#manifest_key": "manifest_key",
                },
                ExpressionAttributeValues={
                    ":uploaded": _serialize(uploaded.isoformat()),
                    ":due": _serialize(due.isoformat()),
                    ":manifest_key": _serialize(manifest_key),
                    ":status": _serialize(request.status),
                    ":was_due": _serialize(request.due.isoformat()),
                    ":was_uploaded": _serialize(request.uploaded.isoformat()),
                },
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def refuse_at_the_door(
        self,
        workload: keys.WorkloadName,
        tenant: keys.TenantId,
        request: keys.RequestId,
        manifest_key: str,
        reason: str,
        code: str,
    ) -> bool:
        """Record an upload that was refused before it became a request, with the code of the
        refusal. Returns whether that is new."""
        return self._put(
            workload,
            tenant,
            request,
            "refused",
            now(),
            {"manifest_key": manifest_key, "reason": reason[:_MOST_REASON], "reason_code": code},
            why=reason,
        )

    def count_upload(
        self,
        workload: keys.WorkloadName,
        tenant: keys.TenantId,
        upload: keys.UploadId,
        uploaded: datetime,
        most: int,
    ) -> int | None:
        """Count an upload among those of its tenant and its day (UTC). The same one is counted
        once, however often its event comes.

        Args:
            workload: which.
            tenant: whose.
            upload: its id.
            uploaded: when S3 took it.
            most: how many are counted.

        Returns:
            How many there were with it; None when it is one too many. For one of an earlier day
            than the last that was counted, 1.
        """
        day, most = f"{uploaded.astimezone(UTC):%Y-%m-%d}", min(most, _MOST_UPLOADS_COUNTED)
        key = {"tenant": keys.upload_counts_partition(tenant, workload), "request": "latest"}
        table = self.deployment.requests_table
        try:
            self.deployment.dynamodb.put_item(
                TableName=table,
                Item={
                    name: _serialize(value)
                    for name, value in {**key, "day": day, "uploads": {upload}}.items()
                },
                ConditionExpression="attribute_not_exists(#day) OR #day < :day",
                ExpressionAttributeNames={"#day": "day"},
                ExpressionAttributeValues={":day": _serialize(day)},
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
        else:
            return 1
        try:
            answer = self.deployment.dynamodb.update_item(
                TableName=table,
                Key={name: _serialize(value) for name, value in key.items()},
                UpdateExpression="ADD #uploads :uploads",
                ConditionExpression="#day = :day AND (contains(#uploads, :upload) OR "
                "size(#uploads) < :most)",
                ExpressionAttributeNames={"#day": "day", "#uploads": "uploads"},
                ExpressionAttributeValues={
                    ":day": _serialize(day),
                    ":uploads": _serialize({upload}),
                    ":upload": _serialize(upload),
                    ":most": _serialize(most),
                },
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            found = cast("Mapping[str, Any]", error.response.get("Item") or {})
            return None if found.get("day", {}).get("S") == day else 1
        return len(_deserialize(answer["Attributes"]["uploads"]))

    def _put(
        self,
        workload: keys.WorkloadName,
        tenant: keys.TenantId,
        request: keys.RequestId,
        status: Status,
        at: datetime,
        row: Mapping[str, Any],
        why: str,
    ) -> bool:
        item = {
            "tenant": keys.table_partition(tenant, workload),
            "request": request,
            "status": status,
            "accepted": at.isoformat(),
            "due": at.isoformat(),
            "history": [self._change(status, why, at, row.get("reason_code"))],
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

    # ---- changes ---------------------------------------------------------------------------------

    def move(
        self,
        request: Request,
        to: Status,
        *,
        why: str,
        changes: Mapping[str, Any] | None = None,
        code: str | None = None,
    ) -> Request:
        """Change a request's status, if it still has the status, the pack and the due time that
        ``request`` shows.

        The due time tells a row that went back to the queue from what it was before.

        Args:
            request: the row as it was read.
            to: the new status.
            why: a sentence for the history.
            changes: further attributes to set; None removes one.
            code: names the kind of ``why`` for programs, in the history; ``reason_code`` among the
                changes, if not given.

        Raises:
            NotTheirTurn: it has moved on since it was read, or the change is not one a request can
                make.
        """
        if to not in NEXT[request.status]:
            raise NotTheirTurn(
                f"request {request.request} of {request.tenant} is {request.status}; it cannot "
                f"become {to}"
            )
        change = self._change(to, why, now(), code or (changes or {}).get("reason_code"))
        try:
            moved = self._write_move(request, to, change, changes or {})
        except ClientError as error:
            if error_code(error) != "ValidationException" or "size" not in str(error):
                raise
            # The row has reached what DynamoDB takes: its history moves out, and it goes on.
            row = self.get(request.workload, request.tenant, request.request)
            if row is None or not self._move_history_out(row):
                raise
            moved = self._write_move(request, to, change, changes or {})
        if len(moved.history) > LONGEST_HISTORY:
            with suppress(ClientError, BotoCoreError):  # the next change does it
                self._move_history_out(moved)
        return moved

    def _write_move(
        self, request: Request, to: Status, change: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> Request:
        values: dict[str, Any] = {"status": to, **changes}
        if "reason" in values:
            values.setdefault("reason_code", None)  # a code is of the reason it came with
        values["queue"] = keys.queue_key(request.workload, to) if to in INDEXED else None
        names = {"#history": "history", "#status": "status"}
        sets, removes, expression_values = [], [], {}
        for number, (name, value) in enumerate(values.items()):
            names[f"#n{number}"] = name
            if value is None:
                removes.append(f"#n{number}")
            else:
                sets.append(f"#n{number} = :v{number}")
                expression_values[f":v{number}"] = _serialize(value)
        sets.append("#history = list_append(#history, :change)")
        expression_values[":change"] = _serialize([change])
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
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            # An answer can be lost, and the call be made again: then the row has this very change
            # already.
            found = error.response.get("Item")
            if (
                found
                and (row := _request(cast("Mapping[str, Any]", found))).status == to
                and row.history[-1] == change
            ):
                return row
            raise NotTheirTurn(
                f"request {request.request} of {request.tenant} is no longer {request.status}"
            ) from error
        return _request(answer["Attributes"])

    def _move_history_out(self, row: Request) -> bool:
        """Move all but the latest changes of a row's history to items of their own. Returns whether
        there were any to move.

        An item is written first, under the name of its oldest change: whoever dies in between
        writes the same again. It lies in a partition beside the tenant's, where who asks for the
        tenant's requests does not read it.
        """
        older, latest = list(row.history[:-_HISTORY_KEPT]), list(row.history[-_HISTORY_KEPT:])
        if not older:
            return False
        table, partition = (
            self.deployment.requests_table,
            keys.history_partition(row.tenant, row.workload),
        )
        for start in range(0, len(older), LONGEST_HISTORY):
            some = older[start : start + LONGEST_HISTORY]
            item = {
                "tenant": partition,
                "request": keys.history_item(row.request, some[0]["at"]),
                "history": some,
            }
            self.deployment.dynamodb.put_item(
                TableName=table, Item={name: _serialize(value) for name, value in item.items()}
            )
        try:
            self.deployment.dynamodb.update_item(
                TableName=table,
                Key=_key(row),
                UpdateExpression="SET #history = :latest, #moved_out = :moved_out",
                # Nothing was added since, and nothing moved out.
                ConditionExpression="#history[0] = :first AND size(#history) = :length",
                ExpressionAttributeNames={"#history": "history", "#moved_out": "moved_out"},
                ExpressionAttributeValues={
                    ":latest": _serialize(latest),
                    ":moved_out": _serialize(row.moved_out + len(older)),
                    ":first": _serialize(row.history[0]),
                    ":length": _serialize(len(row.history)),
                },
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
        return True

    def history_of(
        self, request: Request, since: datetime | None = None
    ) -> list[Mapping[str, Any]]:
        """All changes of a request that was read by itself or as one of its tenant's, the oldest
        first.

        Args:
            request: as it was read.
            since: changes before this moment may be left out, which saves a call where the row
                itself reaches back as far.
        """
        latest = list(request.history)
        if not request.moved_out or (
            since is not None and latest and _time(latest[0]["at"]) <= since
        ):
            return latest
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            KeyConditionExpression="tenant = :partition AND begins_with(#request, :request)",
            ExpressionAttributeNames={"#request": "request"},
            ExpressionAttributeValues={
                ":partition": {"S": keys.history_partition(request.tenant, request.workload)},
                ":request": {"S": keys.history_item(request.request, "")},
            },
            ConsistentRead=True,
        )
        items = (item for page in pages for item in page["Items"])
        moved_out = [
            change for item in items for change in _deserialize(cast("Any", item["history"]))
        ]
        # What was being moved out when it was read is in both.
        return [change for change in moved_out if change not in latest] + latest

    def try_move(
        self,
        request: Request,
        to: Status,
        *,
        why: str,
        changes: Mapping[str, Any] | None = None,
        code: str | None = None,
    ) -> Request | None:
        """``move``, or None when it was no longer this caller's to move."""
        try:
            return self.move(request, to, why=why, changes=changes, code=code)
        except NotTheirTurn:
            return None

    def _alone(
        self, request: Request, to: Status, *, why: str, changes: Mapping[str, Any] | None = None
    ) -> Request | None:
        """``try_move`` for one of many: an error is told to the log, and is this request's
        alone."""
        try:
            return self.try_move(request, to, why=why, changes=changes)
        except (ClientError, BotoCoreError):
            _LOG.exception(
                "request %s of %s could not become %s", request.request, request.tenant, to
            )
            return None

    def claim(self, requests: Sequence[Request], pack: keys.PackId) -> list[Request]:
        """Take requests for a pack. Returns those that were still free, in the order given; one
        that cannot be changed is left out."""

        def take(request: Request) -> Request | None:
            changes: dict[str, str] = {"pack": pack}
            if request.version and keys.upload_moment(request.version) < keys.moment_of(
                request.uploaded
            ):
                # It was uploaded again since, and a version is as new as its upload.
                changes["version"] = keys.version_of(f"{request.request}/{pack}", request.uploaded)
            return self._alone(request, "claimed", why=f"pack {pack}", changes=changes)

        if len(requests) == 1:
            claimed: Iterable[Request | None] = [take(requests[0])]
        else:
            with ThreadPoolExecutor(_CLAIMED_AT_ONCE) as pool:
                claimed = list(pool.map(take, requests))
        return [request for request in claimed if request is not None]

    def fail(
        self,
        request: Request,
        reason: str,
        *,
        attempts: int,
        retryable: bool = True,
        new_version: bool = False,
        first_retry: timedelta = FIRST_RETRY,
        code: str | None = None,
    ) -> Request:
        """Note that a try failed: the request waits for its next one, or is dead-lettered when its
        tries are spent, of which its tenant is told.

        Args:
            request: the row as it was read.
            reason: why it failed, as a sentence.
            attempts: how many tries the workload gives.
            retryable: whether trying the same data again can help; when it cannot, the request is
                refused.
            new_version: whether the next try makes another version, because this one's archive is
                of no use: an endpoint may have loaded it, and knows it by its name.
            first_retry: how long it waits after its first try; twice as long after each further
                one.
            code: names the kind of ``reason`` for programs.

        Raises:
            NotTheirTurn: it has moved on since it was read.
        """
        reason = reason[:_MOST_REASON]
        if not retryable:
            refused = {"reason": reason, "reason_code": code, "pack": None}
            return self.move(request, "refused", why=reason, changes=refused)
        if request.attempt >= attempts:
            return self._dead_letter(request, reason, code)
        due, attempt = now() + first_retry * 2 ** (request.attempt - 1), request.attempt + 1
        changes = {
            "reason": reason,
            "reason_code": code,
            "attempt": attempt,
            "due": due.isoformat(),
            "pack": None,
            "job": None,
        }
        if new_version:
            changes["version"] = keys.version_of(f"{request.version}/{attempt}", request.uploaded)
        return self.move(request, "failed", why=reason, changes=changes)

    def _dead_letter(self, request: Request, reason: str, code: str | None = None) -> Request:
        """Give a request up. Its tenant is told first: whoever dies between the two tells twice
        rather than never."""
        if not request.quiet:
            said = f"No model could be made from your upload: {reason}"
            tell_tenant(
                self.deployment,
                Notice(
                    "model_not_made",
                    request.workload,
                    request.tenant,
                    said,
                    request=request.request,
                    code=code,
                ),
            )
        changes = {"reason": reason, "reason_code": code, "pack": None}
        return self.move(request, "dead_lettered", why=reason, changes=changes)

    def wake(self, workload: keys.WorkloadName) -> list[Request]:
        """Make failed requests whose next try has come pending again. Returns them."""
        rows = [
            self._alone(row, "pending", why=f"try {row.attempt}")
            for row in self._with_status(workload, "failed", until=now())
        ]
        return [row for row in rows if row is not None]

    def postpone(
        self, request: Request, why: str, until: datetime | None = None, *, code: str | None = None
    ) -> None:
        """Put a request back for a later moment without counting a try: nothing was wrong with it.

        It may have moved on within its pack since it was read; another pack's it is left to that
        pack. Without ``until`` it waits longer each time, up to ten minutes; after a hundred times
        it is dead-lettered, of which its tenant is told. ``code`` names the kind of ``why``, in the
        history.
        """
        for row in self.get_many([request.key], request.workload):
            if row.pack != request.pack:
                continue
            if row.postponed >= MOST_POSTPONEMENTS:
                reason = f"put off {row.postponed} times, at last because: {why}"[:_MOST_REASON]
                with suppress(NotTheirTurn):
                    self._dead_letter(row, reason, "put_off_too_often")
                continue
            due = until or now() + min(FIRST_RETRY * 2 ** min(row.postponed, 10), LONGEST_PAUSE)
            postponed = row.postponed + (until is None)
            changes = {"due": due.isoformat(), "pack": None, "job": None, "postponed": postponed}
            self.try_move(row, "pending", why=why, changes=changes, code=code)

    def set_apart(self, request: Request, apart: str, *, why: str, due: datetime) -> Request | None:
        """Put a request of a pack that keeps killing its runs back, to meet from now on only those
        with the same ``apart``.

        No try is counted: it may be innocent. None when it has moved on since it was read, or
        cannot be changed.
        """
        changes = {
            "due": due.isoformat(),
            "pack": None,
            "job": None,
            "apart": apart,
            "postponed": request.postponed + 1,
        }
        return self._alone(request, "pending", why=why, changes=changes)

    def supersede(self, request: Request, newer: Request) -> Request | None:
        """Leave a request that nobody claimed to a newer one of its tenant. None when it has moved
        on, or cannot be changed."""
        return self._alone(request, "superseded", why=f"a newer upload is request {newer.request}")

    def cancel(self, request: Request, *, why: str) -> Request:
        """Take a request out of the queue, or out of its pack, whose other requests go on.

        Raises:
            NotTheirTurn: it is finished, or has moved on since it was read.
        """
        return self.move(
            request, "cancelled", why=why, changes={"reason": why[:_MOST_REASON], "pack": None}
        )

    def retry(self, request: Request, *, why: str) -> Request:
        """Give a request that is out of the queue, or waits for its next try, all its tries again,
        from now on.

        Its next version has a name of its own.

        Raises:
            NotTheirTurn: it is open or done already, has moved on since it was read, or was refused
                before it ever was a request: then only another upload helps.
        """
        if request.version is None:
            raise NotTheirTurn(
                f"request {request.request} of {request.tenant} was refused when it came in "
                f"({request.reason}); upload again"
            )
        if request.status not in {"failed", "refused", "cancelled", "dead_lettered"}:
            raise NotTheirTurn(
                f"request {request.request} of {request.tenant} is {request.status}; there is "
                f"nothing to retry"
            )
        return self.move(request, "pending", why=why, changes=_afresh(request, now()))

    def bring_back_superseded(self, refused: Request) -> Request | None:
        """As a tenant's newest upload is refused, the one it superseded is worth making after all.

        Returns:
            The request that is pending again; None when there is none, or the tenant has a model
            from a later upload.
        """
        rows = [
            row
            for row in self.of_tenant(refused.workload, refused.tenant)
            if row.request != refused.request
        ]
        superseded = [
            row for row in rows if row.status == "superseded" and row.uploaded <= refused.uploaded
        ]
        if not superseded:
            return None
        newest = max(superseded, key=lambda row: (row.uploaded, row.accepted))
        # What is registered is as new as the upload it was made of, whenever it was uploaded again.
        made = [
            row.version for row in rows if row.status == "registered" and row.version is not None
        ]
        if any(keys.upload_moment(version) >= keys.moment_of(newest.uploaded) for version in made):
            return None
        if any(row.status in OPEN and row.uploaded >= newest.uploaded for row in rows):
            return None
        why = f"request {refused.request}, which superseded it, was refused"
        return self.try_move(newest, "pending", why=why, changes=_afresh(newest, now()))

    # ---- questions -------------------------------------------------------------------------------

    def get(
        self, workload: keys.WorkloadName, tenant: keys.TenantId, request: keys.RequestId
    ) -> Request | None:
        """One request, read consistently."""
        answer = self.deployment.dynamodb.get_item(
            TableName=self.deployment.requests_table,
            Key={
                "tenant": {"S": keys.table_partition(tenant, workload)},
                "request": {"S": request},
            },
            ConsistentRead=True,
        )
        return _request(answer["Item"]) if "Item" in answer else None

    def get_many(
        self, wanted: Sequence[tuple[keys.TenantId, keys.RequestId]], workload: keys.WorkloadName
    ) -> list[Request]:
        """Many requests, each once, a hundred to a call, read consistently, in no order."""
        table = self.deployment.requests_table
        found: list[Request] = []
        wanted = list(dict.fromkeys(wanted))  # DynamoDB refuses a call that names a row twice
        for start in range(0, len(wanted), 100):
            names = [
                {"tenant": {"S": keys.table_partition(tenant, workload)}, "request": {"S": request}}
                for tenant, request in wanted[start : start + 100]
            ]
            pending: Any = {table: {"Keys": names, "ConsistentRead": True}}
            while pending:
                answer = self.deployment.dynamodb.batch_get_item(RequestItems=pending)
                found += _requests(answer["Responses"].get(table, []))
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
            (row for page in pages for row in _requests(page["Items"])),
            key=lambda request: request.accepted,
        )

    def due(self, workload: keys.WorkloadName, *, most: int = 20_000) -> list[Request]:
        """Pending requests whose time has come, the longest waiting first."""
        return list(_first(most, self._with_status(workload, "pending", until=now())))

    def in_packs(self, workload: keys.WorkloadName) -> list[Request]:
        """Requests that some pack has claimed and not finished."""
        return [request for status in IN_A_PACK for request in self._with_status(workload, status)]

    def open(self, workload: keys.WorkloadName) -> list[Request]:
        """All requests that are not finished."""
        return [request for status in OPEN for request in self._with_status(workload, status)]

    def with_status(self, workload: keys.WorkloadName, status: Status) -> list[Request]:
        """All requests of a status that can be listed (``INDEXED``), the first due first. Raises
        ``ValueError`` for another."""
        if status not in INDEXED:
            raise ValueError(
                f"requests that are {status} are not listed; those that are: {', '.join(INDEXED)}"
            )
        return list(self._with_status(workload, status))

    def counts(self, workload: keys.WorkloadName) -> dict[Status, int]:
        """How many requests have each status that can be listed (``INDEXED``)."""
        return {status: self._count(workload, status) for status in INDEXED}

    def _count(self, workload: keys.WorkloadName, status: Status) -> int:
        pages = self.deployment.dynamodb.get_paginator("query").paginate(
            TableName=self.deployment.requests_table,
            IndexName="queue",
            KeyConditionExpression="#queue = :queue",
            ExpressionAttributeNames={"#queue": "queue"},
            ExpressionAttributeValues={":queue": {"S": keys.queue_key(workload, status)}},
            Select="COUNT",
        )
        return sum(page["Count"] for page in pages)

    def _with_status(
        self, workload: keys.WorkloadName, status: Status, until: datetime | None = None
    ) -> Iterator[Request]:
        condition = "#queue = :queue"
        values: dict[str, Any] = {":queue": {"S": keys.queue_key(workload, status)}}
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
            yield from _requests(cast("Iterable[Mapping[str, Any]]", page["Items"]))

    def _change(
        self, status: Status, why: str, at: datetime, code: str | None = None
    ) -> dict[str, str]:
        change = {"at": at.isoformat(), "by": self.by[:100], "status": status, "why": why[:300]}
        return {**change, "code": code} if code is not None else change


def _afresh(request: Request, at: datetime) -> dict[str, Any]:
    """The changes that give a request all its tries again, from a moment on, for a version with a
    name of its own."""
    return {
        "due": at.isoformat(),
        "attempt": 1,
        "postponed": 0,
        "pack": None,
        "job": None,
        "reason": None,
        "version": keys.version_of(f"{request.request}/{at.isoformat()}", request.uploaded),
    }


def _key(request: Request) -> dict[str, Any]:
    return {
        "tenant": {"S": keys.table_partition(request.tenant, request.workload)},
        "request": {"S": request.request},
    }


def _first(most: int, requests: Iterator[Request]) -> Iterator[Request]:
    for _, request in zip(range(most), requests, strict=False):
        yield request
