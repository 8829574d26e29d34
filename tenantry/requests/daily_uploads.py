"""How many uploads of a tenant came on a day: one item a tenant, which holds the ids of the day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.names import ids, table_keys
from tenantry.requests.rows import deserialize, serialize

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_MAX_UPLOADS_COUNTED: Final = 2000  # of a tenant and a day; their ids lie in one item


def count_upload(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.TenantId,
    upload: ids.UploadId,
    uploaded: datetime,
    most: int,
) -> int | None:
    """Count an upload among those of its tenant and its day (UTC). The same one is counted
    once, however often its event comes.

    Args:
        deployment: where the item lies.
        workload: which.
        tenant: whose.
        upload: its id.
        uploaded: when S3 took it.
        most: how many are counted.

    Returns:
        How many there were with it; None when it is one too many. For one of an earlier day
        than the last that was counted, 1.
    """
    day, most = f"{uploaded.astimezone(UTC):%Y-%m-%d}", min(most, _MAX_UPLOADS_COUNTED)
    key = {"tenant": table_keys.upload_counts_partition(tenant, workload), "request": "latest"}
    table = deployment.requests_table
    try:
        deployment.dynamodb.put_item(
            TableName=table,
            Item={
                name: serialize(value)
                for name, value in {**key, "day": day, "uploads": {upload}}.items()
            },
            ConditionExpression="attribute_not_exists(#day) OR #day < :day",
            ExpressionAttributeNames={"#day": "day"},
            ExpressionAttributeValues={":day": serialize(day)},
        )
    except ClientError as error:
        if error_code(error) != "ConditionalCheckFailedException":
            raise
    else:
        return 1
    try:
        answer = deployment.dynamodb.update_item(
            TableName=table,
            Key={name: serialize(value) for name, value in key.items()},
            UpdateExpression="ADD #uploads :uploads",
            ConditionExpression="#day = :day AND (contains(#uploads, :upload) OR "
            "size(#uploads) < :most)",
            ExpressionAttributeNames={"#day": "day", "#uploads": "uploads"},
            ExpressionAttributeValues={
                ":day": serialize(day),
                ":uploads": serialize({upload}),
                ":upload": serialize(upload),
                ":most": serialize(most),
            },
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except ClientError as error:
        if error_code(error) != "ConditionalCheckFailedException":
            raise
        found = cast("Mapping[str, Any]", error.response.get("Item") or {})
        return None if found.get("day", {}).get("S") == day else 1
    return len(deserialize(answer["Attributes"]["uploads"]))
