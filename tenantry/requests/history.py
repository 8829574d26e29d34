"""The changes that a row's history grew too long for: items of their own, so that no row grows to
the 400 KB that DynamoDB allows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.names import table_keys
from tenantry.requests.rows import Request, deserialize, key_of, serialize, time_of

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

LONGEST_HISTORY: Final = 60  # changes in a row; each has a kilobyte or two at most
_HISTORY_KEPT: Final = 20  # the latest, when the others move out of the row


def move_history_out(deployment: Deployment, row: Request) -> bool:
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
        deployment.requests_table,
        table_keys.history_partition(row.tenant, row.workload),
    )
    for start in range(0, len(older), LONGEST_HISTORY):
        some = older[start : start + LONGEST_HISTORY]
        item = {
            "tenant": partition,
            "request": table_keys.history_item(row.request, some[0]["at"]),
            "history": some,
        }
        deployment.dynamodb.put_item(
            TableName=table, Item={name: serialize(value) for name, value in item.items()}
        )
    try:
        deployment.dynamodb.update_item(
            TableName=table,
            Key=key_of(row),
            UpdateExpression="SET #history = :latest, #moved_out = :moved_out",
            # Nothing was added since, and nothing moved out.
            ConditionExpression="#history[0] = :first AND size(#history) = :length",
            ExpressionAttributeNames={"#history": "history", "#moved_out": "moved_out"},
            ExpressionAttributeValues={
                ":latest": serialize(latest),
                ":moved_out": serialize(row.moved_out + len(older)),
                ":first": serialize(row.history[0]),
                ":length": serialize(len(row.history)),
            },
        )
    except ClientError as error:
        if error_code(error) != "ConditionalCheckFailedException":
            raise
    return True


def history_of(
    deployment: Deployment, request: Request, since: datetime | None = None
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
        since is not None and latest and time_of(latest[0]["at"]) <= since
    ):
        return latest
    pages = deployment.dynamodb.get_paginator("query").paginate(
        TableName=deployment.requests_table,
        KeyConditionExpression="tenant = :partition AND begins_with(#request, :request)",
        ExpressionAttributeNames={"#request": "request"},
        ExpressionAttributeValues={
            ":partition": {"S": table_keys.history_partition(request.tenant, request.workload)},
            ":request": {"S": table_keys.history_item(request.request, "")},
        },
        ConsistentRead=True,
    )
    items = (item for page in pages for item in page["Items"])
    moved_out = [change for item in items for change in deserialize(cast("Any", item["history"]))]
    # What was being moved out when it was read is in both.
    return [change for change in moved_out if change not in latest] + latest
