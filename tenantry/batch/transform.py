"""Batch transform: one job predicts for many tenants, each with its own model and its own object.

SageMaker gives a transform job one model. The model here is a folder of the batch's archives
(``ModelDataSource`` with ``S3Prefix``,
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3ModelDataSource.html); each record
names the archive it is for. A silo tenant's batch holds that tenant alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from contracts.logs import log_environment
from contracts.records import Record
from contracts.trace_context import trace_id_of
from tenantry.aws import objects
from tenantry.aws.silo_roles import ensure_silo_role, silo_role_arn, tenant_tags, usable
from tenantry.batch.fresh_data import FreshData
from tenantry.batch.periods import Period
from tenantry.errors import TenantryError
from tenantry.hosting.endpoints import create_once, is_missing
from tenantry.hosting.shapes.multi_model import pipeline_containers
from tenantry.models.artifacts import placed_key
from tenantry.models.registry import Champion
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Machines, machines_of
from tenantry.serving.moments import of_the_day
from tenantry.tracing.spans import mark_failed, span
from tenantry.workloads.hosting import Pipeline
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeTransformJobResponseTypeDef

    from tenantry.aws.deployment import Deployment

MAX_SHOWN_BYTES: Final = 8 * 1024 * 1024
"""Of an answer that is shown to people; of a larger one, only the lines are counted."""
_CALLS_AT_ONCE: Final = 8
_OVER: Final = frozenset({"Completed", "Failed", "Stopped"})


class TransformJobFailedError(TenantryError, RuntimeError):
    """The transform job ended without being able to answer anything; the message holds SageMaker's
    reason."""


@dataclass(frozen=True)
class TenantPrediction:
    """One tenant's result of a batch: the key of its prediction, or the reason why there is none.
    ``rows`` counts predicted values or drawn pictures; ``shown`` is metadata for people.
    ``trace_id`` is the version's, empty for none."""

    tenant: ids.ModelId
    version: ids.Version
    key: str | None
    rows: int
    reason: str | None
    shown: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str = ""


@dataclass(frozen=True)
class BatchResult:
    """A finished batch. ``seconds`` is the job's running time."""

    job: str
    status: str
    seconds: float
    predictions: tuple[TenantPrediction, ...]


Show = Callable[[ids.ModelId, bytes], tuple[int, Mapping[str, Any]]]
"""Takes a tenant and its answer; returns the answer's number of rows and its metadata for
people."""


def one_row(_tenant: ids.ModelId, _content: bytes) -> tuple[int, Mapping[str, Any]]:
    """Count any answer as one row, and show nothing of it."""
    return 1, {}


def predict_batch(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    batch: str,
    champions: Sequence[Champion],
    *,
    fresh: FreshData | None = None,
    poll: float = 1.0,
    show: Show = one_row,
    given_up: threading.Event | None = None,
) -> BatchResult:
    """Run one batch transform for some tenants and put each one's answer under its own prefix.

    The job's name is made from the batch's, so that a repeated call takes up the job of the first.

    Args:
        deployment: buckets, role, clients.
        workload: the batch's request, instances and limits.
        period: the batch and the predicted day.
        batch: name of the batch.
        champions: the tenants' champions, all of one tier; a silo tenant alone.
        fresh: the tenants' data that their requests carry.
        poll: seconds between looks at the job.
        show: returns the rows and the metadata of each answer.
        given_up: set by another thread when no caller waits for the job any more. The job goes on,
            and a repeated call takes it up.

    Raises:
        TransformJobFailedError: it failed before any record, or was stopped.
    """
    name, began = ids.workload_name(workload.name), time.time_ns()
    job = sagemaker_names.transform_job_name(deployment.prefix, name, period.day, batch)
    client = deployment.sagemaker
    described = _describe(deployment, job)
    if described is None:
        # One archive serves many tenants where they share a model.
        archives = {sagemaker_names.target_model(c.route.tenant, c.version): c for c in champions}
        with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
            placed = dict(
                pool.map(
                    lambda one: (one[0], _place_archive(deployment, name, period, batch, one[1])),
                    archives.items(),
                )
            )
            written = list(
                pool.map(
                    lambda c: _write_input(
                        deployment, workload, period, batch, c, (fresh or {}).get(c.tenant)
                    ),
                    (
                        c
                        for c in champions
                        if placed[sagemaker_names.target_model(c.route.tenant, c.version)]
                    ),
                )
            )
        if not written:
            raise TransformJobFailedError(
                f"no archive is there to predict with for any of the {len(champions)} tenants"
            )
        machines = machines_of(champions[0].tier, champions[0].tenant)
        role = (
            ensure_silo_role(deployment, name, machines.tenant) if machines.tier == "silo" else None
        )
        model = _model_request(deployment, workload, period, batch, job, machines)
        usable(role, partial(create_once, client.create_model, model))
        request = _job_request(deployment, workload, period, batch, job, machines)
        usable(role, partial(create_once, client.create_transform_job, request))
    described = _wait(deployment, job, period.batch.max_seconds + 1800, poll, given_up)
    status = described["TransformJobStatus"]
    reason = described.get("FailureReason") or f"the transform job {job} ended as {status}"
    with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
        predictions = tuple(
            pool.map(
                lambda c: _collect(deployment, name, period, batch, c, reason, show, began),
                champions,
            )
        )
    try:
        client.delete_model(ModelName=job)
    except ClientError as error:
        if not is_missing(error):  # an earlier call deleted it
            raise
    if status == "Stopped" or (
        status == "Failed" and not any(prediction.key for prediction in predictions)
    ):
        raise TransformJobFailedError(f"transform job {job} is {status}: {reason}")
    started, ended = described.get("TransformStartTime"), described.get("TransformEndTime")
    return BatchResult(
        job, status, (ended - started).total_seconds() if started and ended else 0.0, predictions
    )


def _place_archive(
    deployment: Deployment, name: ids.WorkloadName, period: Period, batch: str, champion: Champion
) -> bool:
    """Put a model's archive where the job reads it. Returns False when it is gone."""
    owner, version = champion.route.tenant, champion.version
    kept = s3_keys.artifact(name, owner, version)
    # A version from before archives were kept lies under its endpoint's prefix alone.
    machines = machines_of(champion.tier, owner)
    placed = placed_key(deployment, name, owner, version, machines)
    destination = s3_keys.batch_model(name, period.day, batch, owner, version)
    for source in (kept, placed):
        with suppress(objects.ObjectMissingError):
            objects.copy(deployment.s3, deployment.data_bucket, source, destination)
            return True
    return False


def _write_input(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    batch: str,
    champion: Champion,
    fresh: Any,
) -> None:
    """Put a tenant's record where the job reads it."""
    name = ids.workload_name(workload.name)
    model = sagemaker_names.target_model(champion.route.tenant, champion.version)
    record = Record(model, of_the_day(workload, period.batch, period.day, fresh))
    objects.write_bytes(
        deployment.s3,
        deployment.data_bucket,
        s3_keys.batch_input(name, period.day, batch, champion.tenant),
        record.line() + b"\n",
        "application/jsonlines",
    )


def _tags(workload: Workload, batch: str, machines: Machines) -> list[dict[str, str]]:
    return [
        {"Key": "tenantry:workload", "Value": workload.name},
        {"Key": "tenantry:batch", "Value": batch},
        *(tenant_tags(machines.tenant) if machines.tier == "silo" else []),
    ]


def _model_request(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    batch: str,
    job: str,
    machines: Machines,
) -> Any:
    name = ids.workload_name(workload.name)
    role = (
        silo_role_arn(deployment, name, machines.tenant)
        if machines.tier == "silo"
        else deployment.batch_role
    )
    tags = _tags(workload, batch, machines)
    prefix = s3_keys.batch_prefix(name, period.day, batch)
    source = {
        "S3Uri": f"s3://{deployment.data_bucket}/{prefix}models/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    container = {
        "Image": deployment.image(workload.serving_container, workload.image_tag),
        "Mode": "SingleModel",
        "ModelDataSource": {"S3DataSource": source},
        "Environment": {**log_environment(), **workload.serving.variables},
    }
    # The containers that stand around the model where the tenants' endpoint answers at once.
    hosting = getattr(workload.hosting, machines.tier)
    if isinstance(hosting, Pipeline):
        containers = pipeline_containers(deployment, hosting, container)
        return {"ModelName": job, "ExecutionRoleArn": role, "Tags": tags, **containers}
    return {"ModelName": job, "ExecutionRoleArn": role, "Tags": tags, "PrimaryContainer": container}


def _job_request(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    batch: str,
    job: str,
    machines: Machines,
) -> Any:
    name = ids.workload_name(workload.name)
    prefix = f"s3://{deployment.data_bucket}/{s3_keys.batch_prefix(name, period.day, batch)}"
    return {
        "TransformJobName": job,
        "ModelName": job,
        "BatchStrategy": period.batch.strategy,
        "MaxPayloadInMB": period.batch.max_payload_megabytes,
        **(
            {}
            if period.batch.max_concurrent is None
            else {"MaxConcurrentTransforms": period.batch.max_concurrent}
        ),
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": 600, "InvocationsMaxRetries": 1},
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{prefix}input/"}},
            "ContentType": "application/jsonlines",
            "SplitType": "Line",
        },
        "TransformOutput": {
            "S3OutputPath": f"{prefix}output",
            "Accept": "application/json",
            "AssembleWith": "Line",
        },
        "TransformResources": {
            "InstanceType": period.batch.instance_type,
            "InstanceCount": period.batch.instances,
            **(
                {}
                if period.batch.ami_version is None
                else {"TransformAmiVersion": period.batch.ami_version}
            ),
        },
        "Tags": _tags(workload, batch, machines),
    }


def _describe(deployment: Deployment, job: str) -> DescribeTransformJobResponseTypeDef | None:
    try:
        return deployment.sagemaker.describe_transform_job(TransformJobName=job)
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def transform_job_runs(deployment: Deployment, job: str) -> bool:
    """Whether there is a transform job of this name that is not over."""
    described = _describe(deployment, job)
    return described is not None and described["TransformJobStatus"] not in _OVER


def _wait(
    deployment: Deployment, job: str, timeout: float, poll: float, given_up: threading.Event | None
) -> DescribeTransformJobResponseTypeDef:
    given_up = given_up or threading.Event()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        described = deployment.sagemaker.describe_transform_job(TransformJobName=job)
        if described["TransformJobStatus"] in _OVER:
            return described
        if given_up.wait(poll):
            raise TransformJobFailedError(
                f"nobody waits for transform job {job} any more; it goes on by itself"
            )
    raise TransformJobFailedError(f"transform job {job} was not finished after {timeout:.0f} s")


def _collect(
    deployment: Deployment,
    workload: ids.WorkloadName,
    period: Period,
    batch: str,
    champion: Champion,
    reason: str,
    show: Show,
    began: int,
) -> TenantPrediction:
    """Put a tenant's answer under its own prefix; ``began`` is when its batch began."""
    tenant, version, s3 = champion.tenant, champion.version, deployment.s3
    with span("batch", champion.traceparent, began=began, workload=workload, tenant=tenant):
        source = s3_keys.batch_output(workload, period.day, batch, tenant)
        key = s3_keys.prediction(workload, tenant, period.cadence, period.day)
        try:
            # Within S3: an answer may be larger than this machine's memory.
            objects.copy(s3, deployment.data_bucket, source, key)
        except objects.ObjectMissingError:
            mark_failed("no_prediction")
            archive = s3_keys.batch_model(
                workload, period.day, batch, champion.route.tenant, version
            )
            if not objects.exists(s3, deployment.data_bucket, archive):
                reason = f"the archive of version {version} is not there any more"
            return TenantPrediction(tenant, version, None, 0, reason)
        rows, shown = _shown(deployment, key, tenant, show)
        trace_id = trace_id_of(champion.traceparent)
        return TenantPrediction(tenant, version, key, rows, None, shown, trace_id)


def _shown(
    deployment: Deployment, key: str, tenant: ids.ModelId, show: Show
) -> tuple[int, Mapping[str, Any]]:
    """The rows of a stored answer, and its metadata for people."""
    s3, bucket = deployment.s3, deployment.data_bucket
    try:
        content = objects.read_bytes(s3, bucket, key, MAX_SHOWN_BYTES)
    except objects.ObjectTooLargeError:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"]
        return sum(part.count(b"\n") for part in body.iter_chunks(MAX_SHOWN_BYTES)), {}
    return show(tenant, content)
