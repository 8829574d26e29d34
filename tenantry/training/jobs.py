"""Packed training: the instance of each task, the machines to try, the job's input documents, and
the CreateTrainingJob request.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from botocore.exceptions import ClientError

from contracts.limits import TASKS_BYTES
from contracts.logs import log_environment
from contracts.tasks import ARCHIVE_SUFFIX, TASKS_FILE, ListedTask, TaskList
from tenantry.aws import objects
from tenantry.aws.silo_roles import silo_role_arn, tenant_tags
from tenantry.hosting.endpoints import is_missing
from tenantry.names import ids, s3_keys, sagemaker_names, tiers
from tenantry.training.task_archives import write_task_archives
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        CreateTrainingJobRequestTypeDef,
        DescribeTrainingJobResponseTypeDef,
    )

    from pipes_sagemaker.errors import FailureClass
    from tenantry.aws.deployment import Deployment
    from tenantry.training.shared_model import TenantData

TASKS: Final = ids.FileName(TASKS_FILE)
MANIFEST_FILE: Final = ids.FileName("training.manifest")
Distribution = Literal["FullyReplicated", "ShardedByS3Key"]
"""How the data of a pack reach its instances, in SageMaker's words."""


@dataclass(frozen=True)
class TrainingTask:
    """One tenant's part of a packed job.

    ``files`` are the names of the prepared files, ``traceparent`` is the trace of its upload. Those
    of a shared model are ``of_all``: the data of every tenant.
    """

    request: ids.RequestId
    tenant: ids.ModelId
    version: ids.Version
    data_version: ids.Version
    files: tuple[ids.FileName, ...]
    expected_seconds: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str = ""
    of_all: Sequence[TenantData] = ()

    @property
    def folder(self) -> str:
        """The folder of its own data below the training channel."""
        return s3_keys.training_data_folder(self.tenant, self.data_version)

    def paths(self) -> Iterator[str]:
        """The paths of its files below the training channel."""
        if not self.of_all:
            yield from (f"{self.folder}/{file}" for file in self.files)
        for one in self.of_all:
            folder = s3_keys.training_data_folder(one.tenant, one.data.version)
            yield from (f"{folder}/{file}" for file in one.data.files)


@dataclass(frozen=True)
class Rung:
    """The machines a job is tried on."""

    instance_type: str
    usd_per_hour: float
    spot: bool

    def __str__(self) -> str:
        return f"{self.instance_type} {'spot' if self.spot else 'on demand'}"


def rungs(workload: Workload) -> tuple[Rung, ...]:
    """The machines to try, in this order: spot ones first where the workload allows it, then those
    on demand."""
    given = workload.training
    types = {given.instance_type: given.usd_per_hour, **given.other_instance_types}
    kinds = (True, False) if given.spot else (False,)
    return tuple(Rung(name, price, spot) for spot in kinds for name, price in types.items())


class Ladder:
    """The next job of a pack. The ends of the earlier jobs alone decide it. So a run that takes the
    pack up again finds the same jobs under the same names. It adopts them one after the other, and
    goes on where they end.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._rungs = rungs
        self._at = 0
        self._tried_again = False
        self.number = 1
        """The number of the job among those of the pack, which is part of the job's name."""

    @property
    def rung(self) -> Rung:
        """The machines of the job of this number."""
        return self._rungs[self._at]

    def climb(self, kind: FailureClass) -> bool:
        """Go to the job that follows one with this end; False when none does.

        - No machine, or none for long enough: the next machines.
        - A failure of SageMaker itself: once more on the same ones.
        - Any other failure: no further job, as it would repeat itself.
        """
        if kind == "internal" and not self._tried_again:
            self._tried_again = True
        elif kind in NO_MACHINE and self._at + 1 < len(self._rungs):
            self._at += 1
        else:
            return False
        self.number += 1
        return True


NO_MACHINE: Final[frozenset[FailureClass]] = frozenset({"capacity", "max_wait"})
"""The ends of a job that got no machine, or lost a spot machine for too long. Nothing is wrong with
its tasks."""


def instance_count(workload: Workload, seconds: Sequence[float], *, learned: bool) -> int:
    """How many instances a pack gets: the fewest that are expected to meet
    ``training.deadline_seconds``.

    The fewest are the cheapest: the tasks cost the same wherever they run, and each instance pays
    for its start.

    Args:
        workload: its limits; the deadline may ask for more than ``tenants_per_instance`` would,
            never for fewer.
        seconds: how long each task is expected to take.
        learned: whether these are seconds, which can be measured against a deadline.
    """
    limits = workload.training
    shares = balance if limits.data_distribution == "FullyReplicated" else dealt
    tasks = len(seconds)
    fewest = max(1, min(limits.max_instances, math.ceil(tasks / limits.tenants_per_instance)))
    most = max(fewest, min(limits.max_instances, tasks))
    if limits.deadline_seconds is None or not learned:
        return fewest
    for count in range(fewest, most):
        if slowest(seconds, shares(seconds, count)) <= limits.deadline_seconds:
            return count
    return most


def slowest(seconds: Sequence[float], shards: Sequence[int]) -> float:
    """The duration of the longest shard."""
    loads: dict[int, float] = {}
    for task, shard in zip(seconds, shards, strict=True):
        loads[shard] = loads.get(shard, 0.0) + task
    return max(loads.values(), default=0.0)


def balance(weights: Sequence[float], shards: int) -> list[int]:
    """The shard of each task, so that shards take about equal time: longest processing time first.

    Graham, "Bounds on multiprocessing timing anomalies" (1969): the longest shard is at most 4/3 of
    the best possible.

    Args:
        weights: expected duration of each task, any unit.
        shards: how many instances share them.

    Returns:
        A shard number for each task, in the tasks' order.
    """
    heap = [(0.0, shard) for shard in range(shards)]
    placed = [0] * len(weights)
    for index in _longest_first(weights):
        load, shard = heapq.heappop(heap)
        placed[index] = shard
        heapq.heappush(heap, (load + weights[index], shard))
    return placed


def dealt(weights: Sequence[float], shards: int) -> list[int]:
    """The expected shard of each task where SageMaker shares their data out.

    The manifest lists the longest first. AWS says only that each instance gets about the same
    number of objects (API_S3DataSource, S3DataDistributionType); taken is that it deals them out
    in turn, as the local cloud does.
    """
    placed = [0] * len(weights)
    for place, index in enumerate(_longest_first(weights)):
        placed[index] = place % shards
    return placed


def _longest_first(weights: Sequence[float]) -> list[int]:
    return sorted(range(len(weights)), key=lambda index: -weights[index])


def write_job_inputs(
    deployment: Deployment,
    workload: Workload,
    tier: tiers.Tier,
    pack: ids.PackId,
    tasks: Sequence[TrainingTask],
    instances: int,
) -> None:
    """Put ``tasks.json`` and the S3 manifest of the training channel where the pack's jobs will
    read them.

    With ``ShardedByS3Key`` the manifest has one object for each task, so that no task's files lie
    on two instances: its only file, or an archive of its files.
    """
    name = ids.workload_name(workload.name)
    seconds = [task.expected_seconds for task in tasks]
    sharded = workload.training.data_distribution == "ShardedByS3Key"
    shards = [None] * len(tasks) if sharded else balance(seconds, instances)
    listed = [
        ListedTask(
            task.request,
            ids.tenant_of(task.tenant),
            task.version,
            tier,
            task.folder if not task.of_all else name,
            shard,
            task.parameters,
            task.traceparent,
        )
        for task, shard in zip(tasks, shards, strict=True)
    ]
    s3, bucket = deployment.s3, deployment.data_bucket
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html, S3DataType
    # ManifestFile
    # The folder of a shared model's data is that of the workload: the channel begins above it.
    shared = any(task.of_all for task in tasks)
    root = s3_keys.TRAINING_DATA_ROOT if shared else s3_keys.training_data_root(name)
    above = f"{name}/" if shared else ""
    in_order = [tasks[index] for index in _longest_first(seconds)] if sharded else tasks
    paths = [f"{above}{path}" for task in in_order for path in task.paths()]
    if sharded and any(len(task.files) != 1 for task in tasks):
        write_task_archives(deployment, name, pack, tasks)
        root = s3_keys.job_data_prefix(name, pack)
        paths = [f"{task.folder}{ARCHIVE_SUFFIX}" for task in in_order]
    # Tasks with the same data share one object. Listed twice, it might reach two instances.
    manifest = [{"prefix": f"s3://{bucket}/{root}"}, *dict.fromkeys(paths)]
    objects.write_json(s3, bucket, s3_keys.job_file(name, pack, MANIFEST_FILE), manifest)
    # This file comes last: its presence says that the pack was written down.
    tasks_of_pack = TaskList(name, pack, listed, instances if sharded else None)
    objects.write_json(s3, bucket, s3_keys.job_file(name, pack, TASKS), tasks_of_pack.document())


@dataclass(frozen=True)
class WrittenPack:
    """The record of an earlier run of a pack: the requests, the versions they become, the number
    of instances, and how these get the data, whatever the workload's file says by now."""

    versions: Mapping[ids.RequestId, ids.Version]
    instances: int
    distribution: Distribution


def written_pack(
    deployment: Deployment, workload: Workload, pack: ids.PackId
) -> WrittenPack | None:
    """The ``tasks.json`` an earlier run of this pack wrote; None without one."""
    key = s3_keys.job_file(ids.workload_name(workload.name), pack, TASKS)
    try:
        content = objects.read_bytes(
            deployment.s3, deployment.data_bucket, key, max_bytes=TASKS_BYTES
        )
    except objects.ObjectMissingError:
        return None
    listed = TaskList.parse(content)
    tasks = listed.tasks
    versions = {ids.request_id(task.task): ids.version_name(task.version) for task in tasks}
    shards = [task.shard for task in tasks if task.shard is not None]
    if not shards:
        return WrittenPack(versions, listed.instances or 1, "ShardedByS3Key")
    # every instance has a task
    return WrittenPack(versions, 1 + max(shards), "FullyReplicated")


def create_training_job_request(
    deployment: Deployment,
    workload: Workload,
    tier: tiers.Tier,
    pack: ids.PackId,
    instances: int,
    tenant: ids.TenantId | None,
    rung: Rung,
    number: int = 1,
    *,
    distribution: Distribution | None = None,
) -> CreateTrainingJobRequestTypeDef:
    """The request for a pack's job; equal packs make equal requests.

    All jobs of a pack share its inputs and its checkpoints: each finds the tasks that the one
    before finished.

    Args:
        deployment: names of the buckets and roles.
        workload: its container and limits.
        tier: the tier all its tasks belong to.
        pack: its id.
        instances: how many machines share its tasks.
        tenant: the tenant, when the tier is silo: the job runs under its role and bears its tag.
        rung: the machines.
        number: of the job, among those of the pack.
        distribution: how the pack was written down; as the workload's file says if None.
    """
    name = ids.workload_name(workload.name)
    bucket = f"s3://{deployment.data_bucket}"
    tags = [
        {"Key": "tenantry:workload", "Value": workload.name},
        {"Key": "tenantry:pack", "Value": pack},
        {"Key": "tenantry:tier", "Value": tier},
    ]
    request: dict[str, Any] = {
        "TrainingJobName": sagemaker_names.training_job_name(deployment.prefix, name, pack, number),
        "AlgorithmSpecification": {
            "TrainingImage": deployment.image(workload.container, workload.image_tag),
            "TrainingInputMode": "File",
        },
        "RoleArn": (
            deployment.training_role if tenant is None else silo_role_arn(deployment, name, tenant)
        ),
        "HyperParameters": dict(workload.training.hyperparameters),
        "InputDataConfig": [
            _channel("tasks", "S3Prefix", f"{bucket}/{s3_keys.job_file(name, pack, TASKS)}"),
            _channel(
                "training",
                "ManifestFile",
                f"{bucket}/{s3_keys.job_file(name, pack, MANIFEST_FILE)}",
                distribution or workload.training.data_distribution,
            ),
        ],
        "OutputDataConfig": {"S3OutputPath": f"{bucket}/{s3_keys.job_output_prefix(name, pack)}"},
        "CheckpointConfig": {"S3Uri": f"{bucket}/{s3_keys.checkpoint_prefix(name, pack)}"},
        "ResourceConfig": {
            "InstanceType": rung.instance_type,
            "InstanceCount": instances,
            "VolumeSizeInGB": volume_gigabytes(workload, tier),
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": workload.training.max_seconds},
        "EnableInterContainerTrafficEncryption": instances > 1,
        "Tags": tags,
    }
    if environment := log_environment():
        request["Environment"] = environment
    if rung.spot:
        request["EnableManagedSpotTraining"] = True
        request["StoppingCondition"]["MaxWaitTimeInSeconds"] = workload.training.max_wait_seconds
    elif workload.training.keep_alive_seconds and tier == workload.tier and tier != "silo":
        # "Warm pools cannot be used with spot instances": train-warm-pools.html, Considerations.
        request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = workload.training.keep_alive_seconds
    if tenant is not None:
        tags += tenant_tags(tenant)
    return request  # type: ignore[return-value]  # built as a plain dict; the client validates it


def describe_job(deployment: Deployment, name: str) -> DescribeTrainingJobResponseTypeDef | None:
    """The training job, or None when SageMaker knows none of that name (yet)."""
    try:
        return deployment.sagemaker.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if is_missing(error) or "not found" in str(error):
            return None
        raise


def newest_job_of_pack(
    deployment: Deployment, workload: ids.WorkloadName, pack: ids.PackId
) -> DescribeTrainingJobResponseTypeDef | None:
    """The pack's last job; where one ended without a machine, another takes its place under the
    next number."""
    found: DescribeTrainingJobResponseTypeDef | None = None
    for number in itertools.count(1):
        job = describe_job(
            deployment, sagemaker_names.training_job_name(deployment.prefix, workload, pack, number)
        )
        if job is None:
            return found
        found = job
        if job["TrainingJobStatus"] not in {"Failed", "Stopped"}:
            return found
    return found


def stop_job_of_pack(
    deployment: Deployment, workload: ids.WorkloadName, pack: ids.PackId
) -> str | None:
    """Stop the training job of a pack. Returns its name; None when none is in progress."""
    job = newest_job_of_pack(deployment, workload, pack)
    if job is None or job["TrainingJobStatus"] != "InProgress":
        return None
    try:
        deployment.sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
    except ClientError as error:
        if "in status" not in str(error):  # it ended in this moment
            raise
        return None
    return job["TrainingJobName"]


_TIERS: Final[tuple[tiers.Tier, ...]] = ("silo", "bridge", "pool")


def volume_gigabytes(workload: Workload, tier: tiers.Tier) -> int:
    """The size of a job's volumes: at least the workload's, and one that jobs of no other tier
    have.

    A job gets the machines of a warm pool only if their volumes have the size it asks for
    (https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html, "Matching training
    jobs"). Sizes of different tiers leave different remainders. So no job ever gets a machine that
    worked for another tier of any workload.
    """
    given = workload.training.volume_gigabytes
    return given + (_TIERS.index(tier) - given) % len(_TIERS)


def _channel(
    name: str, kind: str, uri: str, distribution: Distribution = "FullyReplicated"
) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "InputMode": "File",
        "DataSource": {
            "S3DataSource": {
                "S3DataType": kind,
                "S3Uri": uri,
                "S3DataDistributionType": distribution,
            }
        },
    }
