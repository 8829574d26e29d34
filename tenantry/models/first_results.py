"""The first results of a new model, which its training made: handed to its tenant before the model
is registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts.outcomes import FileDigest
from tenantry.aws import objects
from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment
    from tenantry.models.registry import ModelVersion

MAX_FIRST_RESULT_BYTES: Final = 32 * 1024 * 1024
"""The largest file of them that is read."""
_MAX_INDEX_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class FirstResult:
    """A file that a training made with a new model: its name, as ``00.png``, and its bytes."""

    name: str
    size: int


def hand_over(deployment: Deployment, model: ModelVersion, files: Mapping[str, FileDigest]) -> bool:
    """Copy the files that a training left beside a version's archive to where its tenant's session
    reads them, and list them there. A repeated call does nothing.

    Args:
        deployment: the data bucket.
        model: the version.
        files: from its outcome.

    Returns:
        Whether they were handed over now.

    Raises:
        objects.ObjectMissingError: a file is not in S3.
    """
    s3, bucket = deployment.s3, deployment.data_bucket
    index = s3_keys.first_results_index(model.workload, model.tenant, model.version)
    if not files or objects.exists(s3, bucket, index):
        return False
    left = s3_keys.files_beside(model.beside)
    for name in files:
        key = s3_keys.first_result(model.workload, model.tenant, model.version, ids.file_name(name))
        objects.copy(s3, bucket, f"{left}{name}", key)
    listed = [{"name": name, "bytes": digest.bytes} for name, digest in files.items()]
    objects.write_json(s3, bucket, index, {"format": 1, "files": listed})
    return True


def first_results(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.ModelId, version: ids.Version
) -> list[FirstResult]:
    """The first results of a version, in their order; none where its training made none."""
    key = s3_keys.first_results_index(workload, tenant, version)
    found = objects.find_object(deployment.s3, deployment.data_bucket, key, _MAX_INDEX_BYTES)
    listed = [] if found is None else json.loads(found.content)["files"]
    return [FirstResult(str(one["name"]), int(one["bytes"])) for one in listed]


def read_first_result(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    version: ids.Version,
    name: str,
) -> bytes:
    """The bytes of one of them.

    Raises:
        ids.InvalidIdError: ``name`` is no file's name.
        objects.ObjectMissingError: there is no such file.
    """
    key = s3_keys.first_result(workload, tenant, version, ids.file_name(name))
    return objects.read_bytes(deployment.s3, deployment.data_bucket, key, MAX_FIRST_RESULT_BYTES)
