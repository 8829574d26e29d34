"""A tenant's batch predictions as S3 has them, and answers with their pictures in files."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenantry.names import ids, s3_keys
from tenantry.shown.tabulated import PICTURE

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction by one of the workload's batches, of a day; ``size`` in bytes, ``written`` when
    S3 took it."""

    batch: ids.BatchName
    day: date
    key: str
    size: int
    written: datetime


def stored_predictions(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.ModelId
) -> list[StoredPrediction]:
    """All batch predictions of a tenant's model, in the order of their days."""
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.data_bucket, Prefix=s3_keys.predictions_prefix(workload, tenant)
    )
    found = []
    for page in pages:
        for entry in page.get("Contents", []):
            with suppress(ids.InvalidIdError):
                batch, day = s3_keys.parse_prediction(workload, tenant, entry["Key"])
                size, written = entry["Size"], entry["LastModified"]
                found.append(StoredPrediction(batch, day, entry["Key"], size, written))
    return sorted(found, key=lambda one: (one.day, one.written))


# ---- answers with pictures -----------------------------------------------------------------------


def without_pictures(document: Any, output: Path | None) -> tuple[Any, list[Path]]:
    """An answer with each picture replaced by its file, or by its size if no file is to be written;
    and the files.

    The first picture is written to ``output``; further ones beside it, with their numbers.

    Raises:
        OSError: a file cannot be written.
    """
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        return document, []
    files: list[Path] = []
    shown = []
    for image in images:
        content = _picture(image)
        if content is None:
            shown.append(image)
        elif output is None:
            said = f"{len(content):,} bytes; --output FILE saves them"
            shown.append({**image, PICTURE: said})
        else:
            number = f"-{len(files) + 1}" if files else ""
            file = output.with_name(f"{output.stem}{number}{output.suffix}")
            file.write_bytes(content)
            files.append(file)
            shown.append({**image, PICTURE: str(file)})
    return {**document, "images": shown}, files


def _picture(image: object) -> bytes | None:
    encoded = image.get(PICTURE) if isinstance(image, dict) else None
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except binascii.Error:
        return None
