"""How many uploads of a tenant came on a day: one item a tenant, which holds the ids of the day."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from boto3.dynamodb.conditions import Attr

from tenantry.aws.tables import ConditionNotMetError
from tenantry.names import ids, table_keys

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
        workload: of the upload.
        tenant: of the upload.
        upload: its id.
        uploaded: when S3 took it.
        most: how many are counted.

    Returns:
        How many there were with it; None when it is one too many. For an upload of an earlier day
        than the last one counted, 1.
    """
    day, most = f"{uploaded.astimezone(UTC):%Y-%m-%d}", min(most, _MAX_UPLOADS_COUNTED)
    key, table = table_keys.daily_uploads_item(tenant, workload), deployment.requests
    its_day, its_uploads = Attr("day"), Attr("uploads")
    another_day = its_day.not_exists() | its_day.lt(day)
    with suppress(ConditionNotMetError):
        table.put(key, {"day": day, "uploads": {upload}}, only_if=another_day)
        return 1
    counted_or_room = its_uploads.contains(upload) | its_uploads.size().lt(most)
    try:
        row = table.update(
            key, adding={"uploads": {upload}}, only_if=its_day.eq(day) & counted_or_room
        )
    except ConditionNotMetError as error:
        return None if error.found is not None and error.found.get("day") == day else 1
    return len(row["uploads"])
