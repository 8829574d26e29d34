"""Which of two uploads is the newer one: the queue, turns, registration, drift, re-training and the
command line ask here.

Two values answer, both with ``<``. ``Upload`` orders a tenant's requests. ``Moment`` is how new a
version is: a version's name keeps when the upload came that it was made of, to the second. A
request that was uploaded again is newer than the version that was made of its first upload.
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
    """What a tenant uploaded, among its uploads: the later S3 took it, the newer it is.

    Uploads of one moment are ordered by when their requests were accepted, then by id, so that
    whoever looks sees the same one in front.
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
        """Of an upload that S3 took then."""
        return cls(ids.moment_of(uploaded))

    @classmethod
    def of(cls, version: ids.Version) -> Moment:
        """Of the upload that a version was made of."""
        return cls(ids.upload_moment(version))

    @classmethod
    def of_request(cls, request: Request) -> Moment:
        """Of the latest upload of what a request is made from."""
        return cls.at(request.uploaded)


def newest_of(requests: Iterable[Request]) -> Request | None:
    """The newest of a tenant's requests; None of none."""
    return max(requests, key=Upload.of, default=None)


def newest_of_each_tenant(
    requests: Iterable[Request],
) -> tuple[list[Request], list[tuple[Request, Request]]]:
    """Each tenant's newest request; and the others, each with the one that supersedes it."""
    newest: dict[ids.TenantId, Request] = {}
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
    """Whether S3 took the one upload after the other. Of two of one moment neither came after."""
    return other.uploaded > request.uploaded


def is_older(version: ids.Version, than: ids.Version) -> bool:
    """Whether a version was made of an upload that came before that of another version."""
    return Moment.of(version) < Moment.of(than)


def uploaded_again_since(request: Request) -> bool:
    """Whether a request has a version, and was uploaded again after what that is named for."""
    return request.version is not None and Moment.of(request.version) < Moment.of_request(request)
