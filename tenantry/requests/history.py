"""The older changes of a row, in items of their own, so that no row grows to the 400 KB that
DynamoDB allows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from boto3.dynamodb.conditions import Attr

from tenantry.aws.tables import ConditionNotMetError
from tenantry.names import table_keys
from tenantry.requests.rows import Request, key_of, time_of

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

LONGEST_HISTORY: Final = 60  # changes in a row; each has a kilobyte or two at most
_HISTORY_KEPT: Final = 20  # the latest, when the others move out of the row


def move_history_out(deployment: Deployment, row: Request) -> bool:
    """Move all but the latest changes of a row's history to items of their own. Returns whether
    there were any to move.

    Each item is written first, under the name of its oldest change: after a crash in between, the
    next call writes the same item again. Items lie in a partition beside the tenant's, so that a
    query for the tenant's requests does not read them.
    """
    older, latest = list(row.history[:-_HISTORY_KEPT]), list(row.history[-_HISTORY_KEPT:])
    if not older:
        return False
    table = deployment.requests
    for start in range(0, len(older), LONGEST_HISTORY):
        some = older[start : start + LONGEST_HISTORY]
        table.put(
            table_keys.history_item(row.tenant, row.workload, row.request, some[0]["at"]),
            {"history": some},
        )
    nothing_added = Attr("history").size().eq(len(row.history))
    nothing_moved_out = Attr("history[0]").eq(row.history[0])
    with suppress(ConditionNotMetError):
        table.update(
            key_of(row),
            {"history": latest, "moved_out": row.moved_out + len(older)},
            only_if=nothing_added & nothing_moved_out,
        )
    return True


def history_of(
    deployment: Deployment, request: Request, since: datetime | None = None
) -> list[Mapping[str, Any]]:
    """All changes of a request, the oldest first. The request was read by itself or with all of its
    tenant's.

    Args:
        request: as it was read.
        since: changes before this moment may be left out, which saves a call where the row
            itself reaches back as far.
    """
    latest = list(request.history)
    if not request.moved_out or (
        since is not None and latest and time_of(latest[0]["at"]) <= since
    ):
        return latest
    rows = deployment.requests.query(
        table_keys.history_partition(request.tenant, request.workload),
        beginning=table_keys.history_sort_key(request.request, ""),
    )
    moved_out = [change for row in rows for change in row["history"]]
    # Changes that were being moved out during the read are in both.
    return [change for change in moved_out if change not in latest] + latest
