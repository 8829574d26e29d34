"""A row of the queue as a value, its statuses, and which may follow which. ``docs/concepts.md`` has
the picture."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from tenantry.errors import TenantryError
from tenantry.names import ids, table_keys, tiers
from tenantry.names.purposes import Purpose

if TYPE_CHECKING:
    from tenantry.aws.tables import Row

Status = Literal[
    "pending",
    "claimed",
    "training",
    "trained",
    "registered",
    "appended",
    "failed",
    "refused",
    "superseded",
    "cancelled",
    "dead_lettered",
]
DATA_GROUP: Final = "data"
"""The group of requests that bring a tenant's data to a workload with a shared model."""
SHARED_GROUP: Final = "shared"
"""The group of requests for a shared model."""
OPEN: Final[tuple[Status, ...]] = ("pending", "claimed", "training", "trained", "failed")
IN_A_PACK: Final[tuple[Status, ...]] = ("claimed", "training", "trained")
CAME_TO_NOTHING: Final[tuple[Status, ...]] = ("refused", "superseded", "cancelled", "dead_lettered")
INDEXED: Final[tuple[Status, ...]] = (*OPEN, "dead_lettered")
"""The statuses whose requests can be listed: the open ones, and those that wait for an operator."""
_LEAVES_A_PACK: Final[tuple[Status, ...]] = ("failed", "refused", "cancelled", "dead_lettered")
NEXT: Final[Mapping[Status, tuple[Status, ...]]] = {
    "pending": ("claimed", "pending", "refused", "superseded", "cancelled", "dead_lettered"),
    "claimed": ("training", "trained", "appended", "pending", *_LEAVES_A_PACK),
    "training": ("trained", "pending", *_LEAVES_A_PACK),
    "trained": ("registered", "pending", *_LEAVES_A_PACK),
    "failed": ("pending", "superseded", "cancelled"),
    "registered": (),
    "appended": (),
    # It was uploaded again, or the request that superseded it was refused.
    "superseded": ("pending",),
    # An operator, or another upload of the same content, may send these back to the queue.
    "refused": ("pending",),
    "cancelled": ("pending",),
    "dead_lettered": ("pending",),
}
"""Which status may follow which. pending → pending gives a waiting request a later moment."""

_LOG = logging.getLogger(__name__)


class NotTheirTurnError(TenantryError, RuntimeError):
    """The request's state does not allow this change; another process was first."""


class RequestKey(NamedTuple):
    """Where a request of a workload is found."""

    tenant: ids.ModelId
    request: ids.RequestId
    purpose: Purpose = "training"


@dataclass(frozen=True)
class Request:
    """A row of the queue: make a model for this tenant from this upload.

    ``uploaded`` is when S3 took its manifest. It decides which of two uploads is newer, in any
    order of their events. After several uploads of the same content it is the moment of the latest.
    ``content`` is the id of the first request of this content: its own, unless the tenant came back
    to it after another upload. ``due`` is when it may be claimed. ``group`` tells apart requests
    that must not share a pack. Without ``notify_owner`` the tenant did not ask for it, and its
    owner hears nothing of it. ``apart`` is set by ``RequestQueue.set_apart``: requests that differ
    in it share no pack. ``nth`` is its number, or a lower bound of it, among its tenant's uploads
    of the day, where these are limited. ``reason_code`` names the kind of ``reason`` for programs,
    where there is one. ``traceparent`` is the trace of its upload, as W3C writes it; empty on rows
    of releases without. ``purpose`` is that of its upload: with ``import`` the model is made
    already, and its training is left out. With ``inference`` no model is made: its data are
    appended to the tenant's, and the row ends as ``appended``. ``hyperparameters`` are those of the
    job it went to training with last. ``facts``, ``hyperparameters`` and ``history`` are empty on
    rows of a list (``due``, ``in_packs``, ``with_status``, ``open``); ``moved_out`` counts the
    changes that came
    before those in ``history``.
    """

    request: ids.RequestId
    tenant: ids.ModelId
    workload: ids.WorkloadName
    status: Status
    manifest_key: str
    version: ids.Version | None
    tier: tiers.Tier
    accepted: datetime
    uploaded: datetime
    due: datetime
    content: ids.RequestId
    first: bool = False
    attempt: int = 1
    postponements: int = 0
    group: str = ""
    apart: str = ""
    nth: int = 1
    notify_owner: bool = True
    pack: ids.PackId | None = None
    job: str | None = None
    reason: str | None = None
    reason_code: str | None = None
    traceparent: str = ""
    purpose: Purpose = "training"
    facts: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    moved_out: int = 0

    @property
    def key(self) -> RequestKey:
        """What tells it from every other request of the workload."""
        return RequestKey(self.tenant, self.request, self.purpose)


def now() -> datetime:
    """This moment, in UTC, to the microsecond."""
    return datetime.now(UTC)


def time_of(text: str) -> datetime:
    """A moment as rows hold it."""
    return datetime.fromisoformat(text)


def request_of(row: Row) -> Request:
    """The request that a row of the table is. Raises ``KeyError``, ``ValueError``,
    ``TypeError``."""
    tenant, workload = table_keys.parse_table_partition(row["tenant"])
    return Request(
        request=ids.RequestId(row["request"]),
        tenant=tenant,
        workload=workload,
        status=row["status"],
        manifest_key=row["manifest_key"],
        version=row.get("version"),
        tier=row.get("tier", "bridge"),
        accepted=time_of(row["accepted"]),
        uploaded=time_of(row.get("uploaded", row["accepted"])),
        due=time_of(row["due"]),
        first=bool(row.get("first", False)),
        attempt=int(row.get("attempt", 1)),
        postponements=int(row.get("postponements", row.get("postponed", 0))),
        group=row.get("group", ""),
        notify_owner=bool(row.get("notify_owner", not row.get("quiet", False))),
        pack=row.get("pack"),
        job=row.get("job"),
        reason=row.get("reason"),
        reason_code=row.get("reason_code"),
        traceparent=row.get("traceparent", ""),
        purpose=row.get("purpose", "training"),
        apart=row.get("apart", ""),
        nth=int(row.get("nth", 1)),
        moved_out=int(row.get("moved_out", 0)),
        content=ids.RequestId(row.get("content", row["request"])),
        facts=row.get("facts", {}),
        hyperparameters=row.get("hyperparameters", {}),
        history=row.get("history", ()),
    )


def requests_of(rows: Iterable[Row]) -> Iterator[Request]:
    """The requests of a list of rows. An unreadable row is logged and left out, so that the others
    are not lost."""
    for row in rows:
        try:
            yield request_of(row)
        except (KeyError, ValueError, TypeError, AttributeError):
            _LOG.exception("the row %s, %s cannot be read", row.get("tenant"), row.get("request"))


def key_of(request: Request) -> table_keys.ItemKey:
    """The key of its item."""
    return table_keys.request_item(
        request.tenant, request.workload, request.request, request.purpose
    )


def afresh(request: Request, at: datetime) -> dict[str, Any]:
    """The changes that give a request all its tries again, from a moment on, for a version with a
    name of its own."""
    return {
        "due": at.isoformat(),
        "attempt": 1,
        "postponements": 0,
        "pack": None,
        "job": None,
        "reason": None,
        "version": ids.version_of(f"{request.request}/{at.isoformat()}", request.uploaded),
    }
