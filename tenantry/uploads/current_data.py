"""The current data of a tenant's model: those of its newest upload for training, and those that
uploads for inference have appended since.

A pointer in the models table says which prepared folder that is. The next prediction starts from
there, and so does a re-training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.conditions import Attr, ConditionBase

from tenantry.aws.tables import MISSING, ConditionNotMetError
from tenantry.errors import TenantryError
from tenantry.names import ids, s3_keys, table_keys
from tenantry.requests.newest import uploaded_before
from tenantry.requests.rows import time_of
from tenantry.uploads.training_data import TrainingData

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment
    from tenantry.requests.rows import Request


class DataChangedError(TenantryError, RuntimeError):
    """Another process appended to the data, or replaced them, since they were read."""


@dataclass(frozen=True)
class CurrentData:
    """The pointer. ``base`` is the manifest of the upload for training, and ``uploaded`` when S3
    took it. ``extended`` tells whether something was appended. ``before`` is the folder before this
    one, where it may still be in use. ``turn`` counts the changes."""

    base: str
    uploaded: datetime
    data: TrainingData
    extended: bool
    before: ids.Version | None
    turn: int


def current_data(
    deployment: Deployment, workload: ids.WorkloadName, model: ids.ModelId
) -> CurrentData | None:
    """The current data of a model, read consistently; None before its first were prepared."""
    row = deployment.models.get(table_keys.current_data_item(model, workload))
    return None if row is None else _parsed(row)


def current_data_of(
    deployment: Deployment, workload: ids.WorkloadName, models: Iterable[ids.ModelId]
) -> dict[ids.ModelId, CurrentData]:
    """The current data of many models, a hundred to a call. One without is missing."""
    keys = (table_keys.current_data_item(model, workload) for model in models)
    rows = deployment.models.get_many(keys)
    return {table_keys.parse_table_partition(str(row["tenant"]))[0]: _parsed(row) for row in rows}


def note_base(deployment: Deployment, request: Request, data: TrainingData) -> None:
    """Note freshly prepared data of an upload for training, unless those of a newer upload are
    current. A repeated call for the same upload keeps what was appended to it."""
    for _ in range(_LOOKS):
        known = current_data(deployment, request.workload, request.tenant)
        if known is not None and (
            uploaded_before(request, known.uploaded)
            or (known.base == request.manifest_key and known.extended)
        ):
            return
        turn = 1 if known is None else known.turn + 1
        current = CurrentData(request.manifest_key, request.uploaded, data, False, None, turn)
        try:
            _write(deployment, request, current, known)
        except DataChangedError:
            continue
        return
    raise DataChangedError(f"the data of {request.tenant} changed {_LOOKS} times at this moment")


def note_extension(
    deployment: Deployment, request: Request, known: CurrentData, data: TrainingData
) -> None:
    """Note data that were appended to ``known``. The folder before that one is deleted.

    Raises:
        DataChangedError: the data were changed since ``known`` was read; nothing was written.
    """
    before = known.data.version if known.extended else None
    current = CurrentData(known.base, known.uploaded, data, True, before, known.turn + 1)
    _write(deployment, request, current, known)
    if known.before is not None:
        for name in known.data.files:
            key = s3_keys.training_data_file(request.workload, request.tenant, known.before, name)
            deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=key)


_LOOKS = 5


def _write(
    deployment: Deployment, request: Request, current: CurrentData, known: CurrentData | None
) -> None:
    row = {
        "base": current.base,
        "uploaded": current.uploaded.isoformat(),
        "data": current.data.to_json(),
        "extended": current.extended,
        "before": current.before,
        "turn": current.turn,
    }
    unchanged: ConditionBase = MISSING if known is None else Attr("turn").eq(known.turn)
    try:
        deployment.models.put(
            table_keys.current_data_item(request.tenant, request.workload), row, only_if=unchanged
        )
    except ConditionNotMetError as error:
        raise DataChangedError(
            f"the data of {request.tenant} changed while others were prepared"
        ) from error


def _parsed(row: Any) -> CurrentData:
    before = row.get("before")
    return CurrentData(
        base=str(row["base"]),
        uploaded=time_of(row["uploaded"]),
        data=TrainingData.from_json(row["data"]),
        extended=bool(row["extended"]),
        before=None if before is None else ids.Version(before),
        turn=int(row["turn"]),
    )
