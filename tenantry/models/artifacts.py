"""Versions' archives: kept for good once they match their training's promise, and placed under an
endpoint's prefix."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenantry.aws import objects
from tenantry.errors import TenantryError
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Machines

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment
    from tenantry.models.registry import ModelVersion


class ArchiveDiffersError(TenantryError, ValueError):
    """The bytes in S3 are not the promised ones.

    ``code`` is ``archive_size_differs`` or ``archive_digest_differs``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Promise:
    """The size in bytes and the hexadecimal SHA-256 that an archive must have."""

    size: int
    sha256: str


def keep(
    deployment: Deployment,
    left: str,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    version: ids.Version,
    promise: Promise,
    *,
    wait: float,
) -> str | None:
    """Copy an archive from a training job's output to its durable key, if it matches its promise.

    Args:
        deployment: the data bucket.
        left: the key under which the job left it.
        workload: the model's workload.
        tenant: the model's tenant.
        version: which of the tenant's versions.
        promise: its size and digest, from the task's outcome.
        wait: seconds to wait for it; checkpoints are synced a moment after the container reports.

    Returns:
        The durable key; None when the archive is not there within ``wait`` seconds.

    Raises:
        ArchiveDiffersError: it is there, but does not match its promise.
    """
    deadline = time.monotonic() + wait
    kept = s3_keys.artifact(workload, tenant, version)
    while True:
        try:
            _copy_verified(deployment, left, kept, promise)
        except objects.ObjectMissingError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.1)
        else:
            return kept


def placed_key(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    version: ids.Version,
    machines: Machines,
) -> str:
    """The key from which the endpoints on some machines serve a version.

    All of them serve from one prefix, which is named after the multi-model one.
    """
    home = sagemaker_names.endpoint_name(deployment.prefix, workload, machines)
    return s3_keys.endpoint_model(home, tenant, version)


def place(
    deployment: Deployment, model: ModelVersion, machines: Machines, *, verified: bool = False
) -> None:
    """Copy a version's archive under the prefix that the endpoints on some machines serve.

    Args:
        deployment: the data bucket.
        model: the version; ``archive`` is where its archive lies.
        machines: the endpoints'.
        verified: whether its bytes have just been verified; they are read once more otherwise.

    Raises:
        objects.ObjectMissingError: its archive is neither where it was kept nor at the endpoint.
        ArchiveDiffersError: it does not match its training's promise.
    """
    promise = Promise(model.size, model.sha256)
    destination = placed_key(deployment, model.workload, model.tenant, model.version, machines)
    if verified:
        objects.copy(deployment.s3, deployment.data_bucket, model.archive, destination)
        return
    try:
        _copy_verified(deployment, model.archive, destination, promise)
    except objects.ObjectMissingError:
        # A version from before archives were kept may have only the endpoint's copy, as the
        # training's expires.
        _verified(deployment, destination, promise)


def _copy_verified(deployment: Deployment, source: str, destination: str, promise: Promise) -> None:
    """Copy exactly the verified bytes. If a job writes in between, S3 refuses the copy, and the new
    bytes are verified."""
    while True:
        etag = _verified(deployment, source, promise)
        try:
            objects.copy(deployment.s3, deployment.data_bucket, source, destination, etag=etag)
        except objects.ObjectChangedError:
            continue
        return


def _verified(deployment: Deployment, key: str, promise: Promise) -> str:
    """The ETag of an archive that matches its promise. Raises ``objects.ObjectMissingError`` and
    ``ArchiveDiffersError``."""
    found = objects.digest(deployment.s3, deployment.data_bucket, key)
    if found.size != promise.size:
        raise ArchiveDiffersError(
            f"the archive has {found.size} bytes where its outcome promised {promise.size}; it may "
            f"be truncated",
            "archive_size_differs",
        )
    if found.sha256 != promise.sha256:
        raise ArchiveDiffersError(
            "the archive has another SHA-256 than its outcome promised; it was changed or damaged",
            "archive_digest_differs",
        )
    return found.etag
