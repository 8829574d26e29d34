"""The training of a pack as a SageMaker Pipeline, for those who work in SageMaker's console.

The definition is made from the workload's file. Its one step has the request of
``tenantry.training.jobs``, with the pack and the machines as parameters
(https://aws-sagemaker-mlops.github.io/sagemaker-model-building-pipeline-definition-JSON-schema/,
version 2020-12-01). What it trains lies where Tenantry's own job of the pack would leave it, and a
run of Tenantry registers it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from tenantry.aws import objects
from tenantry.names import ids, sagemaker_names
from tenantry.training.jobs import create_training_job_request, rungs
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

VERSION: Final = "2020-12-01"
STEP: Final = "Train"
PACK, INSTANCE_TYPE, INSTANCE_COUNT = "Pack", "InstanceType", "InstanceCount"
_ANY_PACK: Final = ids.pack_id("p-of-the-execution")


@dataclass(frozen=True)
class ExecutedStep:
    """A step of an execution. ``job`` is the name of its training job, once there is one."""

    name: str
    status: str
    started: datetime | None
    ended: datetime | None
    job: str | None
    reason: str | None


@dataclass(frozen=True)
class Execution:
    """An execution of a pipeline, with the steps that have begun."""

    arn: str
    status: str
    steps: tuple[ExecutedStep, ...]


def pipeline_name(deployment: Deployment, workload: Workload) -> str:
    """The name of a workload's pipeline."""
    return sagemaker_names.pipeline_name(deployment.prefix, ids.workload_name(workload.name))


def pipeline_definition(deployment: Deployment, workload: Workload) -> dict[str, Any]:
    """The definition of a workload's pipeline. The same file and stack give the same one.

    Its tasks are those of tenants on shared machines: the jobs of silo tenants have roles of their
    own.
    """
    rung = rungs(workload)[0]
    most = workload.training.max_instances
    tier = workload.shared_machines.tier
    request: dict[str, Any] = {
        **create_training_job_request(deployment, workload, tier, _ANY_PACK, most, None, rung)
    }
    del request["TrainingJobName"]  # SageMaker names a pipeline's jobs
    machines = request["ResourceConfig"]
    machines |= {"InstanceType": _get(INSTANCE_TYPE), "InstanceCount": _get(INSTANCE_COUNT)}
    return {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [
            {"Name": PACK, "Type": "String"},
            {"Name": INSTANCE_TYPE, "Type": "String", "DefaultValue": rung.instance_type},
            {"Name": INSTANCE_COUNT, "Type": "Integer", "DefaultValue": 1},
        ],
        "Steps": [{"Name": STEP, "Type": "Training", "Arguments": _with_pack(request)}],
    }


def put_pipeline(deployment: Deployment, workload: Workload, definition: str) -> bool:
    """Create a workload's pipeline, or update the one that is there. Returns whether it is new."""
    client, name = deployment.sagemaker, pipeline_name(deployment, workload)
    role = deployment.pipeline_role
    try:
        client.update_pipeline(PipelineName=name, PipelineDefinition=definition, RoleArn=role)
    except ClientError as error:
        if objects.error_code(error) != "ResourceNotFound":
            raise
        client.create_pipeline(
            PipelineName=name,
            PipelineDefinition=definition,
            RoleArn=role,
            ClientRequestToken=uuid.uuid4().hex,
            Tags=[{"Key": "tenantry:workload", "Value": workload.name}],
        )
        return True
    return False


def start_pipeline(
    deployment: Deployment, workload: Workload, pack: ids.PackId, instances: int
) -> str:
    """Start an execution for a pack that Tenantry has written down. Returns its ARN.

    Args:
        deployment: clients.
        workload: whose pipeline.
        pack: its tasks and data.
        instances: as many as its tasks are shared between.
    """
    return deployment.sagemaker.start_pipeline_execution(
        PipelineName=pipeline_name(deployment, workload),
        ClientRequestToken=uuid.uuid4().hex,
        PipelineParameters=[
            {"Name": PACK, "Value": pack},
            {"Name": INSTANCE_COUNT, "Value": str(instances)},
        ],
    )["PipelineExecutionArn"]


def newest_execution(deployment: Deployment, workload: Workload) -> Execution | None:
    """The latest execution of a workload's pipeline; None where there is none."""
    try:
        found = deployment.sagemaker.list_pipeline_executions(
            PipelineName=pipeline_name(deployment, workload), SortOrder="Descending", MaxResults=1
        )["PipelineExecutionSummaries"]
    except ClientError as error:
        if objects.error_code(error) != "ResourceNotFound":
            raise
        return None
    return describe_execution(deployment, found[0]["PipelineExecutionArn"]) if found else None


def describe_execution(deployment: Deployment, arn: str) -> Execution:
    """How an execution stands."""
    client = deployment.sagemaker
    status = client.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"]
    listed = client.list_pipeline_execution_steps(PipelineExecutionArn=arn, SortOrder="Ascending")
    # An ARN has a job's name in small letters. The name itself has the execution's id in it.
    jobs = client.list_training_jobs(NameContains=arn.rpartition("/")[2])["TrainingJobSummaries"]
    names = {one["TrainingJobArn"]: one["TrainingJobName"] for one in jobs}
    steps = []
    for each in listed["PipelineExecutionSteps"]:
        job = each.get("Metadata", {}).get("TrainingJob", {}).get("Arn")
        steps.append(
            ExecutedStep(
                each["StepName"],
                each["StepStatus"],
                each.get("StartTime"),
                each.get("EndTime"),
                None if job is None else names.get(job),
                each.get("FailureReason"),
            )
        )
    return Execution(arn, status, tuple(steps))


def _get(parameter: str) -> dict[str, str]:
    return {"Get": f"Parameters.{parameter}"}


def _with_pack(value: Any) -> Any:
    """A part of the request, with the execution's pack wherever the request names its own."""
    if isinstance(value, dict):
        return {name: _with_pack(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_pack(part) for part in value]
    if not isinstance(value, str) or _ANY_PACK not in value:
        return value
    if value == _ANY_PACK:
        return _get(PACK)
    before, *others = value.split(_ANY_PACK)
    joined: list[Any] = [before]
    for after in others:
        joined += [_get(PACK), after]
    return {"Std:Join": {"On": "", "Values": [part for part in joined if part != ""]}}
