"""A task's prepared files as one object, for jobs whose instances get their data by key.

``ShardedByS3Key`` gives every object to one instance, whatever folder it lies in
(https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html). The files of a
task would so be torn apart.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from tenantry.aws import objects
from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment
    from tenantry.training.jobs import TrainingTask

_AT_ONCE: Final = 8


def write_task_archives(
    deployment: Deployment,
    workload: ids.WorkloadName,
    pack: ids.PackId,
    tasks: Sequence[TrainingTask],
) -> None:
    """Put an archive of each task's prepared files among the pack's inputs.

    The same files give the same bytes. They pass through files on this machine's disk, those of a
    few tasks at a time, and not through its memory.

    Raises:
        objects.ObjectMissingError: a prepared file is gone.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(_write, deployment, workload, pack, task) for task in tasks]
        try:
            for done in waiting:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write(
    deployment: Deployment, workload: ids.WorkloadName, pack: ids.PackId, task: TrainingTask
) -> None:
    s3, bucket = deployment.s3, deployment.data_bucket
    with tempfile.TemporaryFile(prefix="tenantry-") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in task.files:
                key = s3_keys.training_data_file(workload, task.tenant, task.data_version, name)
                try:
                    answer = s3.get_object(Bucket=bucket, Key=key)
                except ClientError as error:
                    if objects.error_code(error) in {"NoSuchKey", "404"}:
                        message = f"s3://{bucket}/{key} is not there"
                        raise objects.ObjectMissingError(message) from error
                    raise
                member = tarfile.TarInfo(name)  # without time and owner
                member.size = answer["ContentLength"]
                with closing(answer["Body"]) as body:
                    tar.addfile(member, body)
        file.seek(0)
        s3.upload_fileobj(
            file, bucket, s3_keys.job_data_archive(workload, pack, task.tenant, task.data_version)
        )
