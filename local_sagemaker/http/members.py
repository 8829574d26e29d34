"""The supported members of requests: for each structure, the members that are honoured and those
that are accepted without effect.

`STRUCTURES` lists every structure of an emulated request. Members that a newer service model adds
are refused until they are listed. A request may still contain a refused member whose value asks for
nothing, because clients always send `{"EnableInfraCheck": false}` and the like. `python -m
local_sagemaker --operations` prints the tables of docs/local-cloud.md from this module.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from local_sagemaker.errors import not_emulated
from local_sagemaker.http.protocol import Protocol


@dataclass(frozen=True)
class Structure:
    """The members of one structure of the service model.

    Members that are `honoured` work as on AWS. Those `without_effect` are accepted and described
    again. For a member in `values`, only these values are honoured.
    """

    honoured: frozenset[str]
    without_effect: frozenset[str] = frozenset()
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _structure(honoured: str, without_effect: str = "", **values: str) -> Structure:
    allowed = {member: tuple(text.split()) for member, text in values.items()}
    return Structure(
        frozenset((*honoured.split(), *allowed)), frozenset(without_effect.split()), allowed
    )


_CREATED = "CreationTimeAfter CreationTimeBefore"
_MODIFIED = "LastModifiedTimeAfter LastModifiedTimeBefore"
_PAGE = "NameContains SortBy SortOrder MaxResults NextToken"

STRUCTURES: dict[str, Structure] = {
    # Training
    "CreateTrainingJobRequest": _structure(
        "TrainingJobName HyperParameters AlgorithmSpecification InputDataConfig OutputDataConfig "
        "ResourceConfig"
        " StoppingCondition Tags EnableManagedSpotTraining CheckpointConfig Environment",
        "RoleArn VpcConfig EnableNetworkIsolation EnableInterContainerTrafficEncryption "
        "SessionChainingConfig",
    ),
    "AlgorithmSpecification": _structure(
        "TrainingImage ContainerEntrypoint ContainerArguments",
        "TrainingImageConfig",
        TrainingInputMode="File FastFile",
    ),
    "Channel": _structure(
        "ChannelName DataSource ContentType",
        CompressionType="None",
        RecordWrapperType="None",
        InputMode="File FastFile",
    ),
    "DataSource": _structure("S3DataSource"),
    "S3DataSource": _structure("S3Uri S3DataDistributionType", S3DataType="S3Prefix ManifestFile"),
    "OutputDataConfig": _structure("S3OutputPath CompressionType", "KmsKeyId"),
    "ResourceConfig": _structure(
        "InstanceType InstanceCount KeepAlivePeriodInSeconds VolumeSizeInGB", "VolumeKmsKeyId"
    ),
    "StoppingCondition": _structure("MaxRuntimeInSeconds MaxWaitTimeInSeconds"),
    "CheckpointConfig": _structure("S3Uri LocalPath"),
    "DescribeTrainingJobRequest": _structure("TrainingJobName"),
    "ListTrainingJobsRequest": _structure(
        f"{_PAGE} {_CREATED} {_MODIFIED} StatusEquals WarmPoolStatusEquals"
    ),
    "StopTrainingJobRequest": _structure("TrainingJobName"),
    "UpdateTrainingJobRequest": _structure("TrainingJobName ResourceConfig"),
    "ResourceConfigForUpdate": _structure("KeepAlivePeriodInSeconds"),
    # Models
    "CreateModelInput": _structure(
        "ModelName PrimaryContainer Containers InferenceExecutionConfig Tags",
        "ExecutionRoleArn VpcConfig EnableNetworkIsolation",
    ),
    "ContainerDefinition": _structure(
        "ContainerHostname Image Mode ModelDataUrl ModelDataSource Environment MultiModelConfig",
        "ImageConfig",
    ),
    "InferenceExecutionConfig": _structure("Mode"),
    "ModelDataSource": _structure("S3DataSource"),
    "S3ModelDataSource": _structure("S3Uri S3DataType CompressionType"),
    "MultiModelConfig": _structure("ModelCacheSetting"),
    "DescribeModelInput": _structure("ModelName"),
    "ListModelsInput": _structure(f"{_PAGE} {_CREATED}"),
    "DeleteModelInput": _structure("ModelName"),
    # Endpoint configurations
    "CreateEndpointConfigInput": _structure(
        "EndpointConfigName ProductionVariants ShadowProductionVariants Tags AsyncInferenceConfig",
        "KmsKeyId ExecutionRoleArn VpcConfig EnableNetworkIsolation",
    ),
    "ProductionVariant": _structure(
        "VariantName ModelName InitialInstanceCount InstanceType InitialVariantWeight RoutingConfig"
        " ContainerStartupHealthCheckTimeoutInSeconds ServerlessConfig VolumeSizeInGB",
        "ModelDataDownloadTimeoutInSeconds InferenceAmiVersion EnableSSMAccess",
    ),
    "ProductionVariantServerlessConfig": _structure(
        "MemorySizeInMB MaxConcurrency ProvisionedConcurrency"
    ),
    "ProductionVariantServerlessUpdateConfig": _structure("MaxConcurrency ProvisionedConcurrency"),
    "ProductionVariantRoutingConfig": _structure(
        "", RoutingStrategy="LEAST_OUTSTANDING_REQUESTS RANDOM"
    ),
    "AsyncInferenceConfig": _structure("ClientConfig OutputConfig"),
    "AsyncInferenceClientConfig": _structure("MaxConcurrentInvocationsPerInstance"),
    "AsyncInferenceOutputConfig": _structure(
        "S3OutputPath S3FailurePath NotificationConfig", "KmsKeyId"
    ),
    "AsyncInferenceNotificationConfig": _structure(
        "SuccessTopic ErrorTopic IncludeInferenceResponseIn"
    ),
    "DescribeEndpointConfigInput": _structure("EndpointConfigName"),
    "ListEndpointConfigsInput": _structure(f"{_PAGE} {_CREATED}"),
    "DeleteEndpointConfigInput": _structure("EndpointConfigName"),
    # Endpoints
    "CreateEndpointInput": _structure("EndpointName EndpointConfigName DeploymentConfig Tags"),
    "DeploymentConfig": _structure(
        "BlueGreenUpdatePolicy RollingUpdatePolicy AutoRollbackConfiguration"
    ),
    "BlueGreenUpdatePolicy": _structure(
        "TrafficRoutingConfiguration TerminationWaitInSeconds MaximumExecutionTimeoutInSeconds"
    ),
    "TrafficRoutingConfig": _structure("Type WaitIntervalInSeconds CanarySize LinearStepSize"),
    "RollingUpdatePolicy": _structure(
        "MaximumBatchSize WaitIntervalInSeconds MaximumExecutionTimeoutInSeconds "
        "RollbackMaximumBatchSize"
    ),
    "CapacitySize": _structure("Type Value"),
    "AutoRollbackConfig": _structure("Alarms"),
    "Alarm": _structure("AlarmName"),
    "DescribeEndpointInput": _structure("EndpointName"),
    "ListEndpointsInput": _structure(f"{_PAGE} {_CREATED} {_MODIFIED} StatusEquals"),
    "UpdateEndpointInput": _structure(
        "EndpointName EndpointConfigName RetainAllVariantProperties "
        "ExcludeRetainedVariantProperties DeploymentConfig RetainDeploymentConfig"
    ),
    "VariantProperty": _structure("", VariantPropertyType="DesiredInstanceCount DesiredWeight"),
    "UpdateEndpointWeightsAndCapacitiesInput": _structure(
        "EndpointName DesiredWeightsAndCapacities"
    ),
    "DesiredWeightAndCapacity": _structure(
        "VariantName DesiredWeight DesiredInstanceCount ServerlessUpdateConfig"
    ),
    "DeleteEndpointInput": _structure("EndpointName"),
    # Batch transform
    "CreateTransformJobRequest": _structure(
        "TransformJobName ModelName MaxConcurrentTransforms ModelClientConfig MaxPayloadInMB "
        "BatchStrategy Environment"
        " TransformInput TransformOutput TransformResources DataProcessing Tags"
    ),
    "ModelClientConfig": _structure("InvocationsTimeoutInSeconds InvocationsMaxRetries"),
    "TransformInput": _structure("DataSource ContentType CompressionType", SplitType="None Line"),
    "TransformDataSource": _structure("S3DataSource"),
    "TransformS3DataSource": _structure("S3Uri", S3DataType="S3Prefix ManifestFile"),
    "TransformOutput": _structure("S3OutputPath Accept AssembleWith", "KmsKeyId"),
    "TransformResources": _structure(
        "InstanceType InstanceCount", "VolumeKmsKeyId TransformAmiVersion"
    ),
    "DataProcessing": _structure("InputFilter OutputFilter JoinSource"),
    "DescribeTransformJobRequest": _structure("TransformJobName"),
    "ListTransformJobsRequest": _structure(f"{_PAGE} {_CREATED} {_MODIFIED} StatusEquals"),
    "StopTransformJobRequest": _structure("TransformJobName"),
    # Processing
    "CreateProcessingJobRequest": _structure(
        "ProcessingJobName ProcessingInputs ProcessingOutputConfig ProcessingResources "
        "StoppingCondition AppSpecification Environment Tags",
        "RoleArn NetworkConfig",
    ),
    "ProcessingInput": _structure("InputName S3Input"),
    "ProcessingS3Input": _structure(
        "S3Uri LocalPath S3DataType S3DataDistributionType",
        S3InputMode="File",
        S3CompressionType="None",
    ),
    "ProcessingOutputConfig": _structure("Outputs", "KmsKeyId"),
    "ProcessingOutput": _structure("OutputName S3Output"),
    "ProcessingS3Output": _structure("S3Uri LocalPath S3UploadMode"),
    "ProcessingResources": _structure("ClusterConfig"),
    "ProcessingClusterConfig": _structure(
        "InstanceType InstanceCount VolumeSizeInGB", "VolumeKmsKeyId"
    ),
    "ProcessingStoppingCondition": _structure("MaxRuntimeInSeconds"),
    "AppSpecification": _structure("ImageUri ContainerEntrypoint ContainerArguments"),
    "DescribeProcessingJobRequest": _structure("ProcessingJobName"),
    "ListProcessingJobsRequest": _structure(f"{_PAGE} {_CREATED} {_MODIFIED} StatusEquals"),
    "StopProcessingJobRequest": _structure("ProcessingJobName"),
    # Pipelines
    "CreatePipelineRequest": _structure(
        "PipelineName PipelineDisplayName PipelineDefinition PipelineDefinitionS3Location "
        "PipelineDescription ClientRequestToken RoleArn Tags ParallelismConfiguration"
    ),
    "PipelineDefinitionS3Location": _structure("Bucket ObjectKey VersionId"),
    "ParallelismConfiguration": _structure("MaxParallelExecutionSteps"),
    "UpdatePipelineRequest": _structure(
        "PipelineName PipelineDisplayName PipelineDefinition PipelineDefinitionS3Location "
        "PipelineDescription RoleArn ParallelismConfiguration"
    ),
    "DescribePipelineRequest": _structure("PipelineName"),
    "DeletePipelineRequest": _structure("PipelineName ClientRequestToken"),
    "ListPipelinesRequest": _structure(
        "PipelineNamePrefix CreatedAfter CreatedBefore SortBy SortOrder NextToken MaxResults"
    ),
    "StartPipelineExecutionRequest": _structure(
        "PipelineName PipelineExecutionDisplayName PipelineParameters "
        "PipelineExecutionDescription ClientRequestToken ParallelismConfiguration"
    ),
    "Parameter": _structure("Name Value"),
    "StopPipelineExecutionRequest": _structure("PipelineExecutionArn ClientRequestToken"),
    "DescribePipelineExecutionRequest": _structure("PipelineExecutionArn"),
    "DescribePipelineDefinitionForExecutionRequest": _structure("PipelineExecutionArn"),
    "ListPipelineExecutionsRequest": _structure(
        "PipelineName CreatedAfter CreatedBefore SortBy SortOrder NextToken MaxResults"
    ),
    "ListPipelineExecutionStepsRequest": _structure(
        "PipelineExecutionArn NextToken MaxResults SortOrder"
    ),
    "ListPipelineParametersForExecutionRequest": _structure(
        "PipelineExecutionArn NextToken MaxResults"
    ),
    # Tags
    "Tag": _structure("Key Value"),
    "AddTagsInput": _structure("ResourceArn Tags"),
    "ListTagsInput": _structure("ResourceArn NextToken MaxResults"),
    "DeleteTagsInput": _structure("ResourceArn TagKeys"),
    # Application Auto Scaling
    "RegisterScalableTargetRequest": _structure(
        "ServiceNamespace ResourceId ScalableDimension MinCapacity MaxCapacity SuspendedState Tags",
        "RoleARN",
    ),
    "SuspendedState": _structure(
        "DynamicScalingInSuspended DynamicScalingOutSuspended ScheduledScalingSuspended"
    ),
    "DescribeScalableTargetsRequest": _structure(
        "ServiceNamespace ResourceIds ScalableDimension MaxResults NextToken"
    ),
    "DeregisterScalableTargetRequest": _structure("ServiceNamespace ResourceId ScalableDimension"),
    "PutScheduledActionRequest": _structure(
        "ServiceNamespace ResourceId ScalableDimension ScheduledActionName Schedule Timezone "
        "StartTime EndTime ScalableTargetAction"
    ),
    "ScalableTargetAction": _structure("MinCapacity MaxCapacity"),
    "DescribeScheduledActionsRequest": _structure(
        "ServiceNamespace ScheduledActionNames ResourceId ScalableDimension MaxResults NextToken"
    ),
    "DeleteScheduledActionRequest": _structure(
        "ServiceNamespace ScheduledActionName ResourceId ScalableDimension"
    ),
    "DescribeScalingActivitiesRequest": _structure(
        "ServiceNamespace ResourceId ScalableDimension MaxResults NextToken"
    ),
    "PutScalingPolicyRequest": _structure(
        "PolicyName ServiceNamespace ResourceId ScalableDimension StepScalingPolicyConfiguration "
        "TargetTrackingScalingPolicyConfiguration",
        PolicyType="StepScaling TargetTrackingScaling",
    ),
    "StepScalingPolicyConfiguration": _structure(
        "AdjustmentType StepAdjustments MinAdjustmentMagnitude Cooldown", "MetricAggregationType"
    ),
    "StepAdjustment": _structure(
        "MetricIntervalLowerBound MetricIntervalUpperBound ScalingAdjustment"
    ),
    "TargetTrackingScalingPolicyConfiguration": _structure(
        "TargetValue PredefinedMetricSpecification CustomizedMetricSpecification ScaleOutCooldown "
        "ScaleInCooldown DisableScaleIn"
    ),
    "PredefinedMetricSpecification": _structure(
        "",
        PredefinedMetricType="SageMakerVariantInvocationsPerInstance "
        "SageMakerVariantProvisionedConcurrencyUtilization",
    ),
    "CustomizedMetricSpecification": _structure(
        "MetricName Namespace Dimensions Statistic Metrics", "Unit"
    ),
    "MetricDimension": _structure("Name Value"),
    "TargetTrackingMetricDataQuery": _structure("Expression Id Label MetricStat ReturnData"),
    "TargetTrackingMetricStat": _structure("Metric Stat", "Unit"),
    "TargetTrackingMetric": _structure("Dimensions MetricName Namespace"),
    "TargetTrackingMetricDimension": _structure("Name Value"),
    "DescribeScalingPoliciesRequest": _structure(
        "PolicyNames ServiceNamespace ResourceId ScalableDimension MaxResults NextToken"
    ),
    "DeleteScalingPolicyRequest": _structure(
        "PolicyName ServiceNamespace ResourceId ScalableDimension"
    ),
    # CloudWatch
    "PutMetricDataInput": _structure("Namespace MetricData", "StrictEntityValidation"),
    "MetricDatum": _structure(
        "MetricName Dimensions Timestamp Value StatisticValues Values Counts",
        "Unit StorageResolution",
    ),
    "StatisticSet": _structure("SampleCount Sum Minimum Maximum"),
    "Dimension": _structure("Name Value"),
    "GetMetricDataInput": _structure("MetricDataQueries StartTime EndTime ScanBy"),
    "MetricDataQuery": _structure("Id MetricStat Expression Label ReturnData Period"),
    "MetricStat": _structure("Metric Period Stat", "Unit"),
    "Metric": _structure("Namespace MetricName Dimensions"),
    "GetMetricStatisticsInput": _structure(
        "Namespace MetricName Dimensions StartTime EndTime Period Statistics ExtendedStatistics",
        "Unit",
    ),
    "ListMetricsInput": _structure("Namespace MetricName Dimensions NextToken", "RecentlyActive"),
    "DimensionFilter": _structure("Name Value"),
    "PutMetricAlarmInput": _structure(
        "AlarmName AlarmDescription ActionsEnabled OKActions AlarmActions InsufficientDataActions "
        "MetricName Namespace Statistic ExtendedStatistic Dimensions Period EvaluationPeriods "
        "DatapointsToAlarm Threshold ComparisonOperator TreatMissingData Metrics",
        "Unit Tags",
    ),
    "DescribeAlarmsInput": _structure(
        "AlarmNames AlarmNamePrefix AlarmTypes StateValue ActionPrefix MaxRecords NextToken"
    ),
    "DescribeAlarmsForMetricInput": _structure(
        "MetricName Namespace Statistic ExtendedStatistic Dimensions Period Unit"
    ),
    "DeleteAlarmsInput": _structure("AlarmNames"),
    "SetAlarmStateInput": _structure("AlarmName StateValue StateReason", "StateReasonData"),
    "EnableAlarmActionsInput": _structure("AlarmNames"),
    "DisableAlarmActionsInput": _structure("AlarmNames"),
    # Invocations
    "InvokeEndpointInput": _structure(
        "EndpointName Body ContentType Accept CustomAttributes TargetModel TargetVariant "
        "TargetContainerHostname InferenceId"
    ),
    "InvokeEndpointAsyncInput": _structure(
        "EndpointName Body InputLocation ContentType Accept CustomAttributes InferenceId "
        "S3OutputPathExtension Filename"
        " RequestTTLSeconds InvocationTimeoutSeconds"
    ),
}
_SWITCHED_OFF = {
    "ProfilerConfig": ("DisableProfiler", True),
    "DataCaptureConfig": ("EnableCapture", False),
}
"""Structures that ask for nothing when this member has this value, regardless of the other members.
Otherwise they ask for something."""
_PLACES = {"DebugHookConfig": {"S3OutputPath", "LocalPath"}}
"""Structures whose listed members only name a place for output. Without further members they do not
ask for any output."""


def asks_for_nothing(member: str, value: Any) -> bool:
    """Whether a member that is not emulated has a value with the same effect as no member."""
    if value in (None, [], {}, "", False):
        return True
    if not isinstance(value, dict):
        return False
    if member in _SWITCHED_OFF:
        switch, off = _SWITCHED_OFF[member]
        return bool(value.get(switch) is off)
    places = _PLACES.get(member, set())
    return all(name in places or asks_for_nothing(name, item) for name, item in value.items())


def refuse_what_is_not_emulated(protocol: Protocol, operation: str, params: dict[str, Any]) -> None:
    """Refuse each member of a request, at any depth, that asks for a feature that is not emulated.
    Raises ValidationException."""
    _refuse(protocol.model.operation_model(operation).input_shape, params, operation)


def _refuse(shape: Any, value: Any, where: str) -> None:
    if shape.type_name == "list":
        for item in value:
            _refuse(shape.member, item, where)
    if shape.type_name != "structure":
        return
    structure = STRUCTURES[shape.name]
    for member, item in value.items():
        if item is None or member in structure.without_effect:
            continue
        if member in structure.honoured:
            if item not in structure.values.get(member, (item,)):
                raise not_emulated(f"{where}.{member} {item}")
            _refuse(shape.members[member], item, f"{where}.{member}")
        elif not asks_for_nothing(member, item):
            raise not_emulated(f"{where}.{member}")


SERVICES = ("sagemaker", "sagemaker-runtime", "application-autoscaling", "cloudwatch")
"""The services that the emulator answers, as botocore names them."""
PAGE_WIDTH = 100
"""Characters in a line of the pages that the code prints."""


def executed(protocol: Protocol) -> list[str]:
    """The operations of a service that the emulator carries out: those whose requests `STRUCTURES`
    describes."""
    return [
        operation
        for operation in sorted(protocol.operations)
        if (shape := protocol.model.operation_model(operation).input_shape) is not None
        and shape.name in STRUCTURES
    ]


def tables() -> str:
    """The tables of docs/local-cloud.md: for each request and its structures, the refused members
    and those without effect."""
    lines = ["| request | refused | without effect |", "|---|---|---|"]
    whole = []
    for service in SERVICES:
        protocol = Protocol(service)
        for operation in executed(protocol):
            shape = protocol.model.operation_model(operation).input_shape
            rows = list(_rows(shape, operation, set()))
            lines.extend(rows)
            whole.extend([] if rows else [f"`{operation}`"])
    told = textwrap.fill(f"Honoured with all their members: {', '.join(whole)}.", PAGE_WIDTH)
    return "\n".join(lines) + f"\n\n{told}\n"


def _rows(shape: Any, where: str, seen: set[str]) -> Iterator[str]:
    if shape.type_name == "list":
        yield from _rows(shape.member, where, seen)
    if shape.type_name != "structure" or shape.name in seen:
        return
    seen.add(shape.name)
    structure = STRUCTURES[shape.name]
    refused = [
        f"`{member}`"
        for member in shape.members
        if member not in structure.honoured | structure.without_effect
    ]
    for member, allowed in structure.values.items():
        refused.extend(
            f"`{member}` {value}" for value in shape.members[member].enum if value not in allowed
        )
    ignored = [f"`{member}`" for member in shape.members if member in structure.without_effect]
    if refused or ignored:
        yield f"| `{where}` | {', '.join(refused)} | {', '.join(ignored)} |"
    for member, inner in shape.members.items():
        if member in structure.honoured:
            yield from _rows(inner, f"{where}.{member}", seen)
