"""Packed training: which tasks go to which instance, the job's input documents, and the CreateTrainingJob request."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from resources import keys, storage
from workloads.schema import Workload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import CreateTrainingJobRequestTypeDef

    from resources.deployment import Deployment

TASKS_FILE: Final = keys.FileName("tasks.json")
MANIFEST_FILE: Final = keys.FileName("training.manifest")


@dataclass(frozen=True)
class TrainingTask:
    """One tenant's part of a packed job.

    ``files`` are the names of the prepared files; ``weight`` stands for the expected duration (rows of data).
    """

    request: keys.RequestId
    tenant: keys.TenantId
    version: keys.Version
    data_version: keys.Version
    files: tuple[keys.FileName, ...]
    weight: float
    parameters: Mapping[str, Any] = field(default_factory=dict)


def instance_count(workload: Workload, tasks: int) -> int:
    """How many instances a pack of ``tasks`` gets."""
    return max(1, min(workload.training.most_instances, math.ceil(tasks / workload.training.tenants_per_instance)))


def balance(weights: Sequence[float], shards: int) -> list[int]:
    """The shard of each task, so that shards take about equal time: longest processing time first.

    Graham, "Bounds on multiprocessing timing anomalies" (1969): the longest shard is at most 4/3 of the best possible.

    Args:
        weights: expected duration of each task, any unit.
        shards: how many instances share them.

    Returns:
        A shard number for each task, in the tasks' order.
    """
    heap = [(0.0, shard) for shard in range(shards)]
    placed = [0] * len(weights)
    for index in sorted(range(len(weights)), key=lambda i: -weights[i]):
        load, shard = heapq.heappop(heap)
        placed[index] = shard
        heapq.heappush(heap, (load + weights[index], shard))
    return placed


def write_job_inputs(
    deployment: Deployment, workload: Workload, tier: keys.Tier, pack: keys.PackId, tasks: Sequence[TrainingTask]
) -> None:
    """Put ``tasks.json`` and the S3 manifest of the training channel where the job will read them."""
    name = keys.workload_name(workload.name)
    shards = balance([task.weight for task in tasks], instance_count(workload, len(tasks)))
    listed = [
        {
            "task": task.request,
            "tenant": task.tenant,
            "version": task.version,
            "tier": tier,
            "shard": shard,
            "data": keys.training_data_folder(task.tenant, task.data_version),
            "parameters": dict(task.parameters),
        }
        for task, shard in zip(tasks, shards, strict=True)
    ]
    document = {"format": 1, "workload": name, "pack": pack, "tasks": listed}
    s3, bucket = deployment.s3, deployment.data_bucket
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html, S3DataType ManifestFile
    manifest: list[Any] = [{"prefix": f"s3://{bucket}/{keys.training_data_root(name)}"}]
    manifest += [
        f"{keys.training_data_folder(task.tenant, task.data_version)}/{file}" for task in tasks for file in task.files
    ]
    storage.write_json(s3, bucket, keys.job_file(name, pack, MANIFEST_FILE), manifest)
    # Last: its presence says that the pack was written down.
    storage.write_json(s3, bucket, keys.job_file(name, pack, TASKS_FILE), document)


def written_tasks(deployment: Deployment, workload: Workload, pack: keys.PackId) -> dict[keys.RequestId, keys.Version]:
    """The requests, and the versions they become, in the ``tasks.json`` an earlier run of this pack wrote; empty without one."""
    key = keys.job_file(keys.workload_name(workload.name), pack, TASKS_FILE)
    try:
        content = storage.read_bytes(deployment.s3, deployment.data_bucket, key, most_bytes=16 * 1024 * 1024)
    except storage.ObjectMissing:
        return {}
    listed = json.loads(content)["tasks"]
    return {keys.request_id(task["task"]): keys.version_name(task["version"]) for task in listed}


def create_training_job_request(
    deployment: Deployment,
    workload: Workload,
    tier: keys.Tier,
    pack: keys.PackId,
    tasks: int,
    tenant: keys.TenantId | None,
) -> CreateTrainingJobRequestTypeDef:
    """The request for a pack's job; equal packs make equal requests.

    Args:
        deployment: names of the buckets and roles.
        workload: whose container and limits.
        tier: the tier all its tasks belong to.
        pack: its id.
        tasks: how many tasks are in it.
        tenant: the tenant, when the tier is silo: it stands in the job's tags, chained into its role's session, so that
            policies can hold to it
            (https://docs.aws.amazon.com/sagemaker/latest/dg/model-access-training-data-abac.html).
    """
    name = keys.workload_name(workload.name)
    bucket = f"s3://{deployment.data_bucket}"
    count = instance_count(workload, tasks)
    tags = [
        {"Key": "tenantry:workload", "Value": workload.name},
        {"Key": "tenantry:pack", "Value": pack},
        {"Key": "tenantry:tier", "Value": tier},
    ]
    request: dict[str, Any] = {
        "TrainingJobName": keys.training_job_name(deployment.prefix, name, pack),
        "AlgorithmSpecification": {
            "TrainingImage": deployment.image(workload.container, workload.image_tag),
            "TrainingInputMode": "File",
        },
        "RoleArn": deployment.training_role,
        "HyperParameters": dict(workload.training.hyperparameters),
        "InputDataConfig": [
            _channel("tasks", "S3Prefix", f"{bucket}/{keys.job_file(name, pack, TASKS_FILE)}"),
            _channel("training", "ManifestFile", f"{bucket}/{keys.job_file(name, pack, MANIFEST_FILE)}"),
        ],
        "OutputDataConfig": {"S3OutputPath": f"{bucket}/{keys.job_output_prefix(name, pack)}"},
        "CheckpointConfig": {"S3Uri": f"{bucket}/{keys.checkpoint_prefix(name, pack)}"},
        "ResourceConfig": {
            "InstanceType": workload.training.instance_type,
            "InstanceCount": count,
            "VolumeSizeInGB": workload.training.volume_gigabytes,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": workload.training.most_seconds},
        "EnableInterContainerTrafficEncryption": count > 1,
        "Tags": tags,
    }
    if tenant is not None:
        tags.append({"Key": "tenant", "Value": tenant})
        request["SessionChainingConfig"] = {"EnableSessionTagChaining": True}
    return request  # type: ignore[return-value]  # built as a plain dict; the client validates it


def _channel(name: str, kind: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "InputMode": "File",
        "DataSource": {
            "S3DataSource": {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"},
        },
    }
