"""The work on its way and the serving endpoints: packs with their training jobs, endpoints, and the
counts of the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.catalogue import shapes_of
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, sagemaker_names
from tenantry.names.tiers import Shared, SharedTier, Tier
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.requests.workload_controls import Pause, WorkloadControls
from tenantry.tenants.unused import unused_endpoints
from tenantry.training.jobs import describe_job, newest_job_of_pack
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeTrainingJobResponseTypeDef

# SageMaker returns at most this many in one call, and takes few calls a second
ENDPOINTS_LISTED: Final = 100


@dataclass(frozen=True)
class TrainingJob:
    """A training job as SageMaker describes it."""

    name: str
    status: str
    secondary_status: str
    instances: int
    instance_type: str
    created: datetime
    ended: datetime | None
    reason: str | None


@dataclass(frozen=True)
class PackOnItsWay:
    """Requests that share a job: the number in each status, and the job once there is one."""

    pack: ids.PackId
    tier: Tier
    requests: Mapping[str, int]
    job: TrainingJob | None


@dataclass(frozen=True)
class EndpointInUse:
    """An endpoint; ``models`` counts the champions it serves (an asynchronous one serves those of
    its tier). ``usd_per_hour`` is the cost of its instances. ``unused_since`` is since when it has
    served nobody, where that was looked up."""

    name: str
    status: str
    instances: int
    wanted: int
    models: int
    changed: datetime
    reason: str | None
    usd_per_hour: float
    unused_since: datetime | None


@dataclass(frozen=True)
class WorkloadStatus:
    """The state of a workload. ``oldest_wait`` is how long, in seconds, the longest waiting request
    has been due."""

    workload: str
    paused: Pause | None
    requests: Mapping[str, int]
    oldest_wait: float | None
    packs: Sequence[PackOnItsWay]
    endpoints: Sequence[EndpointInUse]


@dataclass(frozen=True)
class UploadEvents:
    """The queue that S3 fills: how many events wait to be read, are being read, and could not be
    handled."""

    waiting: int
    being_read: int
    dead_letters: int


def _training_job(found: DescribeTrainingJobResponseTypeDef) -> TrainingJob:
    return TrainingJob(
        name=found["TrainingJobName"],
        status=found["TrainingJobStatus"],
        secondary_status=found["SecondaryStatus"],
        instances=found["ResourceConfig"].get("InstanceCount", 0),
        instance_type=str(found["ResourceConfig"].get("InstanceType", "")),
        created=found["CreationTime"],
        ended=found.get("TrainingEndTime"),
        reason=found.get("FailureReason"),
    )


def newest_training_jobs(
    deployment: Deployment, workload: Workload | None, most: int
) -> list[TrainingJob]:
    """The newest jobs of a workload, or of all. One ListTrainingJobs call, and a Describe for
    each."""
    prefix = (
        f"{deployment.prefix}-{workload.name}-" if workload is not None else f"{deployment.prefix}-"
    )
    pages = deployment.sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains=prefix,
        SortBy="CreationTime",
        SortOrder="Descending",
        PaginationConfig={"MaxItems": most},
    )
    names = [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]
    found = (describe_job(deployment, name) for name in names if name.startswith(prefix))
    return [_training_job(job) for job in found if job is not None]


def packs_on_their_way(
    deployment: Deployment, requests: Sequence[Request]
) -> Iterator[PackOnItsWay]:
    """The packs that some requests are in, each with its job."""
    packs: dict[ids.PackId, list[Request]] = {}
    for request in requests:
        if request.pack is not None:
            packs.setdefault(request.pack, []).append(request)
    for pack, rows in packs.items():
        asked = any(row.job is not None for row in rows)
        job = newest_job_of_pack(deployment, rows[0].workload, pack) if asked else None
        yield PackOnItsWay(
            pack=pack,
            tier=rows[0].tier,
            requests=Counter(row.status for row in rows),
            job=None if job is None else _training_job(job),
        )


def endpoint(
    deployment: Deployment,
    name: str,
    models: int,
    usd_per_hour: float,
    unused_since: datetime | None = None,
) -> EndpointInUse | None:
    """The endpoint, or None when there is none of that name; an instance of it costs
    ``usd_per_hour``."""
    found = endpoints.describe_endpoint(deployment, name)
    if found is None:
        return None
    # Before its first fleet is up an endpoint has no variants yet.
    variants: Sequence[Any] = found.get("ProductionVariants") or [{}]
    instances = variants[0].get("CurrentInstanceCount", 0)
    return EndpointInUse(
        name=name,
        status=found["EndpointStatus"],
        instances=instances,
        wanted=variants[0].get("DesiredInstanceCount", 0),
        models=models,
        changed=found["LastModifiedTime"],
        reason=found.get("FailureReason"),
        usd_per_hour=round(instances * usd_per_hour, 6),
        unused_since=unused_since,
    )


def _usd_per_hour(workload: Workload, name: str) -> float:
    serving = workload.serving
    if name.endswith(f"-{ASYNCHRONOUS.end}") and serving.asynchronous is not None:
        return serving.asynchronous.usd_per_hour
    return serving.usd_per_hour


def _models(deployment: Deployment, workload: ids.WorkloadName) -> Counter[str]:
    """How many champions some machines serve, by the name of their multi-model endpoint."""
    champions = ModelRegistry(deployment).champions(workload)
    return Counter(sagemaker_names.without_end(champion.endpoint) for champion in champions)


def shared_endpoints(deployment: Deployment, workload: Workload) -> list[EndpointInUse]:
    """The endpoints that tenants of a workload share."""
    name = ids.workload_name(workload.name)
    models = _models(deployment, name)
    found = []
    tiers: tuple[SharedTier, ...] = ("bridge", "pool")
    for tier in tiers:
        for shape in shapes_of(workload, tier):
            its_name = shape.endpoint_name(deployment.prefix, name, Shared(tier))
            cost = _usd_per_hour(workload, its_name)
            count = models[sagemaker_names.without_end(its_name)]
            found.append(endpoint(deployment, its_name, count, cost))
    return [one for one in found if one is not None]


def all_endpoints(deployment: Deployment, workload: Workload) -> Iterator[EndpointInUse]:
    """Every endpoint of a workload, those of silo tenants included, the latest made first."""
    unused = {
        one.name: one.since for one in unused_endpoints(deployment, workload, datetime.now(UTC))
    }
    models = _models(deployment, ids.workload_name(workload.name))
    prefix = f"{deployment.prefix}-{workload.name}-"
    pages = deployment.sagemaker.get_paginator("list_endpoints").paginate(
        NameContains=prefix, SortBy="CreationTime", SortOrder="Descending"
    )
    names = (one["EndpointName"] for page in pages for one in page["Endpoints"])
    for name in islice((name for name in names if name.startswith(prefix)), ENDPOINTS_LISTED):
        found = endpoint(
            deployment,
            name,
            models[sagemaker_names.without_end(name)],
            _usd_per_hour(workload, name),
            unused.get(name),
        )
        if found is not None:
            yield found


def workload_status(deployment: Deployment, workload: Workload, at: datetime) -> WorkloadStatus:
    """The state of a workload at this moment."""
    queue, name = RequestQueue(deployment), ids.workload_name(workload.name)
    counts = queue.counts(name)
    longest = queue.due(name, most=1)
    on_their_way = queue.in_packs(name)
    return WorkloadStatus(
        workload=workload.name,
        paused=WorkloadControls(deployment).paused(name),
        requests={str(status): count for status, count in counts.items()},
        oldest_wait=(at - longest[0].due).total_seconds() if longest else None,
        packs=list(packs_on_their_way(deployment, on_their_way)),
        endpoints=shared_endpoints(deployment, workload),
    )


def upload_events(deployment: Deployment) -> UploadEvents:
    """How many of S3's events wait. SQS counts approximately."""
    waiting, being_read = deployment.uploads_queue.counts()
    return UploadEvents(waiting, being_read, sum(deployment.uploads_dead_letters.counts()))
