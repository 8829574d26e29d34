"""One file of many customers becomes an upload for each: here, or by a SageMaker Processing job
when the file is large.

The workload's module in ``upload.split`` reads the file. It runs in a process apart
(``tenantry.uploads.bounded_calls``), or in the job's container. Both leave the same files
(``contracts.split_files``).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.errors import MalformedDocumentError
from contracts.split_files import DATA_FILE, TENANTS_BYTES, TENANTS_FILE, SplitTenant, parse
from contracts.variables import PROCESS, SPLIT_CUSTOMERS
from tenantry.aws import objects
from tenantry.aws.processing_jobs import ProcessingFailedError, result_of_job
from tenantry.errors import TenantryError
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.uploads import manifests
from tenantry.uploads.bounded_calls import Limits, bounded_calls, read_regular_file
from tenantry.workloads.schema import Workload
from tenantry.workloads.split import Split

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import CreateProcessingJobRequestTypeDef

    from tenantry.aws.deployment import Deployment

SUFFIXES: Final = (".csv", ".parquet")
_INPUT, _OUTPUT = "/opt/ml/processing/input", "/opt/ml/processing/output"
_LARGEST_FILE: Final = 4 * 1024 * 1024 * 1024  # bytes that a split here may write to one file
Parameters = Mapping[str, str | int | float | bool]


class SplitFailedError(TenantryError, RuntimeError):
    """The job that splits a file ended without its result; the message says why."""


@dataclass(frozen=True)
class SplitFile:
    """A file that was split: its tenants, and what reads the rows of one. ``read`` raises
    ``objects.ObjectTooLargeError`` for more bytes than its caller takes."""

    tenants: list[SplitTenant]
    read: Callable[[ids.TenantId, int], bytes]


@contextmanager
def split_here(workload: Workload, split: Split, file: Path, customers: str) -> Iterator[SplitFile]:
    """Split a file in a process apart, within ``upload.split``'s limits. The parts last as long as
    the block.

    Args:
        workload: whose tenants they are.
        split: its section.
        file: CSV or Parquet.
        customers: the column that names each row's customer.

    Raises:
        RefusedDataError: the file cannot be split.
        CallFailedError: the module failed, and the file is not the reason.
        SplitFailedError: its result is not of the right form.
    """
    limits = Limits(
        memory_bytes=split.memory_megabytes_here << 20,
        cpu_seconds=split.seconds_here,
        seconds=split.seconds_here,
        file_bytes=_LARGEST_FILE,
    )
    with tempfile.TemporaryDirectory(prefix="tenantry-split-") as scratch:
        folder = Path(scratch)
        bounded_calls(split.module).call(
            split.module,
            "split",
            paths={"file": file, "destination": folder},
            values={"customers": customers},
            limits=limits,
            alone=True,
        )

        def read(tenant: ids.TenantId, max_bytes: int) -> bytes:
            path = folder / tenant / DATA_FILE
            if (size := path.stat().st_size) > max_bytes:
                raise objects.ObjectTooLargeError(_too_large(workload, size))
            return read_regular_file(path, max_bytes)

        yield SplitFile(_parsed(read_regular_file(folder / TENANTS_FILE, TENANTS_BYTES)), read)


def split_by_job(
    deployment: Deployment,
    workload: Workload,
    split: Split,
    file: Path,
    customers: str,
    tell: Callable[[str], None],
) -> SplitFile:
    """Split a file by a processing job of one instance. Waits for its end.

    The job's name is that of the file's content: a repeated call adopts the job that is there. A
    job that failed is followed by another.

    Args:
        deployment: buckets, roles and clients.
        workload: whose container does it.
        split: its section, which has the job's machine.
        file: CSV or Parquet.
        customers: the column that names each row's customer.
        tell: gets a sentence for each step.

    Raises:
        SplitFailedError: the job failed; the message has its own words.
    """
    name, s3, bucket = ids.workload_name(workload.name), deployment.s3, deployment.data_bucket
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    image = deployment.image(workload.container, workload.image_tag)
    said = json.dumps([digest, customers, split.module, image])
    which = f"split-{hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def request(job: str) -> CreateProcessingJobRequestTypeDef:
        key = s3_keys.split_input(name, which, file.suffix.lower())
        tell(f"{file.stat().st_size:,} bytes to s3://{bucket}")
        s3.upload_file(str(file), bucket, key)
        return processing_job_request(deployment, workload, split, which, job, key, customers)

    def read(tenant: ids.TenantId, max_bytes: int) -> bytes:
        key = s3_keys.split_file(name, which, tenant)
        try:
            return objects.read_bytes(s3, bucket, key, max_bytes)
        except objects.ObjectTooLargeError as error:
            size = objects.size(s3, bucket, key)
            raise objects.ObjectTooLargeError(_too_large(workload, size)) from error

    index = s3_keys.split_index(name, which)
    try:
        content_of_index = result_of_job(
            deployment,
            partial(sagemaker_names.processing_job_name, deployment.prefix, name, which),
            request,
            lambda: objects.read_bytes(s3, bucket, index, TENANTS_BYTES),
            tell=tell,
        )
    except ProcessingFailedError as error:
        raise SplitFailedError(str(error)) from error
    return SplitFile(_parsed(content_of_index), read)


def processing_job_request(
    deployment: Deployment,
    workload: Workload,
    split: Split,
    which: str,
    job: str,
    key: str,
    customers: str,
) -> CreateProcessingJobRequestTypeDef:
    """The request for the job that splits the file under ``key``.

    The image's entry point runs the container's ``process``. ``which`` names the split in keys.
    """
    name, bucket = ids.workload_name(workload.name), f"s3://{deployment.data_bucket}"
    request: dict[str, Any] = {
        "ProcessingJobName": job,
        "AppSpecification": {"ImageUri": deployment.image(workload.container, workload.image_tag)},
        "RoleArn": deployment.processing_role,
        "Environment": {PROCESS: "split", SPLIT_CUSTOMERS: customers},
        "ProcessingInputs": [
            {
                "InputName": "raw",
                "S3Input": {
                    "S3Uri": f"{bucket}/{key}",
                    "LocalPath": _INPUT,
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                },
            }
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "tenants",
                    "S3Output": {
                        "S3Uri": f"{bucket}/{s3_keys.split_output_prefix(name, which)}",
                        "LocalPath": _OUTPUT,
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceType": split.instance_type,
                "InstanceCount": 1,
                "VolumeSizeInGB": split.volume_gigabytes,
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": split.max_seconds},
        "Tags": [{"Key": "tenantry:workload", "Value": workload.name}],
    }
    return request  # type: ignore[return-value]  # built as a plain dict; the client validates it


def upload_once(
    deployment: Deployment,
    workload: Workload,
    tenant: ids.TenantId,
    content: bytes,
    parameters: Parameters,
) -> tuple[ids.UploadId, bool]:
    """Upload a tenant's rows, unless the same rows with the same parameters are there from an
    earlier split. Returns the upload's id, and whether it is new."""
    name = ids.workload_name(workload.name)
    said = json.dumps([objects.sha256(content), sorted(parameters.items())])
    upload = ids.upload_id(f"split-{hashlib.sha256(said.encode()).hexdigest()[:32]}")
    manifest = s3_keys.upload_manifest(name, tenant, upload)
    if any(True for _ in objects.keys_under(deployment.s3, deployment.uploads_bucket, manifest)):
        return upload, False
    manifests.put_upload(deployment, name, tenant, upload, {DATA_FILE: content}, parameters)
    return upload, True


def _parsed(content: bytes) -> list[SplitTenant]:
    try:
        return parse(content)
    except MalformedDocumentError as error:
        raise SplitFailedError(f"the split's result cannot be read: {error}") from error


def _too_large(workload: Workload, size: int) -> str:
    return (
        f"its rows have {size:,} bytes; {workload.name} takes at most "
        f"{workload.upload.max_megabytes:g} MB"
    )
