"""Which of two uploads is the newer one: the queue, turns, registration, drift, re-training and the
command line ask here.

Two values answer, both with ``<``. ``Upload`` orders a tenant's requests. ``Moment`` orders
versions: a version's name keeps the moment of its upload, to the second. A request that was
uploaded again is newer than the version made from its first upload.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tenantry.names import ids

if TYPE_CHECKING:
    from tenantry.requests.rows import Request


@dataclass(frozen=True, order=True)
class Upload:
    """The place of an upload among its tenant's: the later S3 took it, the newer it is.

    Uploads of one moment are ordered by when their requests were accepted, then by id, so that
    every process sees the same order.
    """

    uploaded: datetime
    accepted: datetime
    request: str

    @classmethod
    def of(cls, request: Request) -> Upload:
        """The upload that a request is made from."""
        return cls(request.uploaded, request.accepted, request.request)


@dataclass(frozen=True, order=True)
class Moment:
    """When an upload came, to the second (UTC). Two versions of one upload are equally new."""

    text: str

    @classmethod
    def at(cls, uploaded: datetime) -> Moment:
        """The moment of an upload that S3 took then."""
        return cls(ids.moment_of(uploaded))

    @classmethod
    def of(cls, version: ids.Version) -> Moment:
        """The moment of the upload that a version was made from."""
        return cls(ids.upload_moment(version))

    @classmethod
    def of_request(cls, request: Request) -> Moment:
        """The moment of the latest upload of a request's content."""
        return cls.at(request.uploaded)


def newest_of(requests: Iterable[Request]) -> Request | None:
    """The newest of a tenant's requests; None if there are none."""
    return max(requests, key=Upload.of, default=None)


def newest_of_each_tenant(
    requests: Iterable[Request],
) -> tuple[list[Request], list[tuple[Request, Request]]]:
    """Each tenant's newest request; and the others, each with the one that supersedes it."""
    newest: dict[ids.ModelId, Request] = {}
    rows = sorted(requests, key=Upload.of)
    for row in rows:
        newest[row.tenant] = row
    older = [(row, newest[row.tenant]) for row in rows if newest[row.tenant] is not row]
    return list(newest.values()), older


def uploaded_after(request: Request, moment: datetime) -> bool:
    """Whether a request's latest upload came after a moment."""
    return request.uploaded > moment


def uploaded_before(request: Request, moment: datetime) -> bool:
    """Whether a request's latest upload came before a moment."""
    return request.uploaded < moment


def came_after(other: Request, request: Request) -> bool:
    """Whether S3 took the upload of ``other`` after that of ``request``. Of two uploads at one
    moment neither came after."""
    return other.uploaded > request.uploaded


def is_older(version: ids.Version, than: ids.Version) -> bool:
    """Whether a version's upload came before another version's."""
    return Moment.of(version) < Moment.of(than)


def uploaded_again_since(request: Request) -> bool:
    """Whether a request has a version, and was uploaded again after the upload that the version is
    named for."""
    return request.version is not None and Moment.of(request.version) < Moment.of_request(request)
