"""Checks requests for training jobs, and builds the jobs' descriptions."""

from typing import Any

from local_sagemaker.account.rates import SPOT_TRAINING, TRAINING
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError, S3Location
from local_sagemaker.clock import Clock
from local_sagemaker.errors import validation

_LONGEST_RUNTIME_SECONDS = 28 * 24 * 3600
_DEFAULT_RUNTIME_SECONDS = 24 * 3600


def with_defaults(params: dict[str, Any]) -> Document:
    """A job's description from its request, with AWS's defaults for missing members.

    The defaults are those of recorded answers of DescribeTrainingJob; SDK 2 cannot attach to a job
    without them.
    """
    return {key: value for key, value in params.items() if key != "Tags"} | {
        "AlgorithmSpecification": {
            "EnableSageMakerMetricsTimeSeries": False,
            **params["AlgorithmSpecification"],
        },
        "InputDataConfig": [
            _channel_with_defaults(channel) for channel in params.get("InputDataConfig", [])
        ],
        "OutputDataConfig": {
            "KmsKeyId": "",
            "CompressionType": "GZIP",
            **params["OutputDataConfig"],
        },
        "StoppingCondition": {
            "MaxRuntimeInSeconds": _DEFAULT_RUNTIME_SECONDS,
            **params.get("StoppingCondition", {}),
        },
        "EnableNetworkIsolation": params.get("EnableNetworkIsolation", False),
        "EnableInterContainerTrafficEncryption": params.get(
            "EnableInterContainerTrafficEncryption", False
        ),
        "EnableManagedSpotTraining": params.get("EnableManagedSpotTraining", False),
        "ProfilingStatus": "Disabled",
    }


def _channel_with_defaults(channel: Document) -> Document:
    source = {"S3DataDistributionType": "FullyReplicated", **channel["DataSource"]["S3DataSource"]}
    defaults = {"CompressionType": "None", "RecordWrapperType": "None"}
    return {**defaults, **channel, "DataSource": {"S3DataSource": source}}


def check_request(params: dict[str, Any]) -> None:
    """Check the rules that the service model lacks. Raises ValidationException."""
    algorithm, resources = params["AlgorithmSpecification"], params.get("ResourceConfig", {})
    if not algorithm.get("TrainingImage"):
        raise validation("AlgorithmSpecification.TrainingImage is required")
    if not resources.get("InstanceType") or resources.get("InstanceCount", 0) < 1:
        raise validation(
            "ResourceConfig.InstanceType and an InstanceCount of at least 1 are required"
        )
    stopping = params.get("StoppingCondition", {})
    runtime = stopping.get("MaxRuntimeInSeconds", _DEFAULT_RUNTIME_SECONDS)
    if runtime > _LONGEST_RUNTIME_SECONDS:
        raise validation(
            f"MaxRuntimeInSeconds must be at most {_LONGEST_RUNTIME_SECONDS} (28 days)"
        )
    if params.get("EnableManagedSpotTraining") and resources.get("KeepAlivePeriodInSeconds"):
        raise validation("KeepAlivePeriodInSeconds is not supported with EnableManagedSpotTraining")
    if params.get("EnableManagedSpotTraining"):
        if stopping.get("MaxWaitTimeInSeconds", 0) < runtime:
            raise validation(
                "MaxWaitTimeInSeconds is required for managed spot training and must be at least "
                "MaxRuntimeInSeconds"
            )
    elif "MaxWaitTimeInSeconds" in stopping:
        raise validation("MaxWaitTimeInSeconds is only valid with EnableManagedSpotTraining")
    names = [channel["ChannelName"] for channel in params.get("InputDataConfig", [])]
    if len(set(names)) != len(names):
        raise validation("InputDataConfig has channels of the same name")
    for channel in params.get("InputDataConfig", []):
        if "S3DataSource" not in channel["DataSource"]:
            raise validation(
                f"channel {channel['ChannelName']}: DataSource.S3DataSource is required"
            )
    try:
        S3Location.parse(params["OutputDataConfig"]["S3OutputPath"])
        if "CheckpointConfig" in params:
            S3Location.parse(params["CheckpointConfig"]["S3Uri"])
    except DataError as error:
        raise validation(str(error)) from error


def output_of(job: Document) -> S3Location:
    """The location of a job's outputs: `{S3OutputPath}/{TrainingJobName}/output`."""
    return (
        S3Location.parse(job["OutputDataConfig"]["S3OutputPath"])
        .child(job["TrainingJobName"])
        .child("output")
    )


def is_archived(job: Document) -> bool:
    """Whether a job's model becomes one archive, which is the default, or plain files."""
    return bool(job["OutputDataConfig"].get("CompressionType") != "NONE")


def artifacts_of(job: Document) -> S3Location:
    """The present or future location of a job's model. The service model requires it in every
    answer, also for unfinished jobs."""
    return output_of(job).child("model.tar.gz" if is_archived(job) else "model/")


def usage_of(job: Document) -> str:
    """The quota that a job's instances count towards."""
    return SPOT_TRAINING if job.get("EnableManagedSpotTraining") else TRAINING


def seconds_trained(job: Document, clock: Clock) -> float:
    """AWS's seconds on training instances, summed over a job's attempts. Only a managed spot job
    has more than one."""
    attempts: list[tuple[float, float | None]] = job.get("Attempts", [])
    return sum(clock.since(begun, ended) for begun, ended in attempts)
