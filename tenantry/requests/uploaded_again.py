"""Handles an upload whose content was uploaded before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from boto3.dynamodb.conditions import Attr

from tenantry.aws.tables import ConditionNotMetError
from tenantry.names import ids
from tenantry.requests.newest import Moment, newest_of, uploaded_after, uploaded_before
from tenantry.requests.rows import CAME_TO_NOTHING, NotTheirTurnError, Request, afresh, key_of, now

if TYPE_CHECKING:
    from tenantry.requests.queue import RequestQueue

_MAX_LOOKS: Final = 10  # at a row that others change meanwhile


def uploaded_again(
    queue: RequestQueue,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    content: ids.RequestId,
    row: Mapping[str, Any],
    uploaded: datetime,
) -> bool:
    """See that a tenant's last upload is made last, even if it repeats the content of an earlier
    one.

    The request of that content becomes as new as its latest upload. A further request is added if
    an older upload of it is made or on its way, and another upload came after that one.

    Args:
        queue: the requests.
        workload: of the upload.
        tenant: of the upload.
        content: the id of the first request of this content.
        row: the attributes a new request would have.
        uploaded: when S3 took the manifest.

    Returns:
        Whether there is something new to do.

    Raises:
        NotTheirTurnError: the row changed each time it was read.
    """
    first = queue.get(workload, tenant, content)
    if first is None or first.version is None or Moment.at(uploaded) <= Moment.of(first.version):
        return False  # a repeated event
    for _ in range(_MAX_LOOKS):
        same = (row for row in queue.of_tenant(workload, tenant) if row.content == content)
        known = newest_of(same)
        if known is None or known.version is None or uploaded_after(known, uploaded):
            return False
        newer = uploaded_before(known, uploaded)
        if known.status in CAME_TO_NOTHING:
            if not newer:
                return False
            # An endpoint may know the version that was given up by its name.
            again: dict[str, Any] = {
                **afresh(known, now()),
                "manifest_key": row["manifest_key"],
                "uploaded": uploaded.isoformat(),
                "nth": row.get("nth"),
                "traceparent": row.get("traceparent"),
                "version": ids.version_of(f"{known.request}/{uploaded.isoformat()}", uploaded),
            }
            if queue.try_move(known, "pending", why="uploaded again", changes=again):
                return True
            continue
        if newer and not _note_uploaded(queue, known, uploaded, row):
            continue
        if known.status in {"pending", "failed"}:
            return False
        # The tenant's requests are read only now: a later request's claim finds the new moment. A
        # repeated event comes here again.
        made_of = Moment.of(known.version)
        # While the request is only claimed, the earlier upload may turn out to lack a file that
        # this one has.
        if known.status == "claimed" or any(
            made_of <= Moment.of_request(other) and not uploaded_after(other, uploaded)
            for other in queue.of_tenant(workload, tenant)
            if other.content != content
            and other.notify_owner
            and other.status not in CAME_TO_NOTHING
        ):
            request = ids.request_id_of(
                workload, tenant, f"{content} again at {uploaded.isoformat()}"
            )
            more = {**row, "content": content, "version": ids.version_of(request, uploaded)}
            return queue.put(
                workload, tenant, request, "pending", now(), more, why="uploaded again"
            )
        return False
    raise NotTheirTurnError(
        f"request {content} of {tenant} changed {_MAX_LOOKS} times while it was looked at"
    )


def _note_uploaded(
    queue: RequestQueue, request: Request, uploaded: datetime, row: Mapping[str, Any]
) -> bool:
    """Make a row as new as a later upload of the same content. Returns False when it has moved
    on since it was read.

    A waiting request is then made from that upload, because the earlier one may lack a file. It
    also becomes due a little later: a process that read it before finds it changed, and does not
    supersede it.
    """
    changes: dict[str, Any] = {"uploaded": uploaded.isoformat()}
    if request.status in {"pending", "failed"}:
        changes["due"] = (request.due + timedelta(microseconds=1)).isoformat()
        changes["manifest_key"] = row["manifest_key"]
        changes["traceparent"] = row.get("traceparent")
    was_uploaded = Attr("uploaded")
    try:
        queue.deployment.requests.update(
            key_of(request),
            changes,
            only_if=Attr("status").eq(request.status)
            & Attr("due").eq(request.due.isoformat())
            & (was_uploaded.not_exists() | was_uploaded.eq(request.uploaded.isoformat())),
        )
    except ConditionNotMetError:
        return False
    return True
