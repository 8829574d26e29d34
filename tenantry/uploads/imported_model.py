"""A model that was trained elsewhere, from its tenant's upload: checked by its workload's own code
in a process apart, and kept as an artifact."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.limits import CARD_BYTES
from contracts.refused_data import RefusedDataError
from contracts.trace_context import trace_id_of
from tenantry.aws import objects
from tenantry.names import ids, s3_keys
from tenantry.uploads import manifests
from tenantry.uploads.bounded_calls import CallFailedError, bounded_calls, read_regular_file
from tenantry.uploads.training_data import call_limits, manifest_of
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment
    from tenantry.requests.rows import Request

ARCHIVE: Final = "archive.tar.gz"
"""The name under which a workload's code writes the archive anew."""


@dataclass(frozen=True)
class ImportedModel:
    """A model that is kept.

    ``archive`` is its key in the data bucket, ``size`` is in bytes, and ``sha256`` its digest.
    ``metrics`` are those that its maker claims. ``card`` has the digest of the archive as it was
    uploaded, under ``imported``.
    """

    archive: str
    size: int
    sha256: str
    metrics: Mapping[str, float]
    card: Mapping[str, Any]


def keep_imported_model(
    deployment: Deployment, workload: Workload, request: Request, version: ids.Version
) -> ImportedModel:
    """Fetch the archive of a request's upload, check it, write it anew, and keep it as an artifact.

    The same upload and version give the same bytes, so that a repeated call changes nothing.

    Args:
        deployment: buckets and clients.
        workload: its ``imports`` name the code that reads the archive.
        request: its upload is the archive.
        version: the version that the model becomes.

    Raises:
        manifests.RefusedUploadError: the archive is no usable model of the workload; the message
            gives the reason and the cure.
        CallFailedError: the workload's code failed, and the archive is not the reason.
    """
    manifest = manifest_of(deployment, workload, request)
    if workload.imports is None or manifest.purpose != "import":
        raise manifests.RefusedUploadError(
            "the upload's manifest.json names no model any more; upload again", "manifest_changed"
        )
    limits = replace(
        call_limits(workload),
        file_bytes=max(workload.imports.max_bytes, call_limits(workload).file_bytes),
    )
    module = workload.imports.module
    with tempfile.TemporaryDirectory(prefix="tenantry-") as scratch:
        raw, destination = Path(scratch, "raw"), Path(scratch, "taken")
        raw.mkdir()
        destination.mkdir()
        (file,) = manifests.fetch_files(deployment, manifest, raw)
        owner = {
            "workload": request.workload,
            "tenant": ids.tenant_of(request.tenant),
            "version": version,
            "sha256": manifest.files[0].sha256,
            "trace_id": trace_id_of(request.traceparent) or "",
        }
        try:
            said = bounded_calls(module).call(
                module,
                "take_over",
                paths={"archive": file, "destination": destination},
                values={"owner": owner, "environment": dict(workload.serving.environment)},
                limits=limits,
                alone=request.tier == "silo",
            )
        except RefusedDataError as error:
            raise manifests.RefusedUploadError(str(error), error.code) from error
        metrics, card = _parsed(said)
        _check_comparable(workload, metrics)
        content = read_regular_file(destination / ARCHIVE, limits.file_bytes)
    key = s3_keys.artifact(request.workload, request.tenant, version)
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, content)
    return ImportedModel(key, len(content), objects.sha256(content), metrics, card)


def _parsed(said: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and card of a call's result. Raises ``CallFailedError``."""
    match said:
        case {"metrics": dict(metrics), "card": dict(card)}:
            finite = all(
                type(value) in (int, float) and math.isfinite(value) for value in metrics.values()
            )
            if finite and len(json.dumps([metrics, card])) <= CARD_BYTES:
                return metrics, card
    raise CallFailedError("the workload's code returned something else than metrics and a card")


def _check_comparable(workload: Workload, metrics: Mapping[str, float]) -> None:
    """Refuse a model without the figures by which its workload compares: it would follow any
    champion."""
    quality = workload.quality
    if quality.skill(metrics) is None:
        names = [f"metrics.{name}" for name in (quality.metric, quality.baseline) if name]
        raise manifests.RefusedUploadError(
            f"card.json lacks {' or '.join(names)}, by which models of {workload.name} are "
            f"compared. Score the model on data that it has not seen, and write them there.",
            "metrics_missing",
        )
