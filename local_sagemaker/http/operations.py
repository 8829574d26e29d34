"""The operations of the services: which are executed, and why the others are refused.

`REFUSALS` gives each refused operation its reason and an alternative. The emulator's answer and
docs/local-cloud-operations.md both come from it. `python -m local_sagemaker --all-operations`
prints that page. An operation that botocore's models have and neither `members` nor `REFUSALS`
names is refused without a reason, and the page counts it as unknown.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from local_sagemaker.errors import ServiceError
from local_sagemaker.http.members import PAGE_WIDTH, SERVICES, executed
from local_sagemaker.http.protocol import Protocol


@dataclass(frozen=True)
class Refusal:
    """Why the emulator refuses some operations, and what serves the purpose `instead`."""

    reason: str
    instead: str
    operations: tuple[str, ...]


def _refusal(reason: str, instead: str, operations: str) -> Refusal:
    return Refusal(reason, instead, tuple(operations.split()))


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "sagemaker": (
        # Training
        _refusal(
            "a job stays on record, and its name stays taken",
            "Leave the job, or forget everything with POST /_local/reset.",
            "DeleteTrainingJob DeleteProcessingJob",
        ),
        _refusal(
            "it has no tuning jobs",
            "Call CreateTrainingJob once for each set of HyperParameters.",
            "CreateHyperParameterTuningJob DeleteHyperParameterTuningJob "
            "DescribeHyperParameterTuningJob ListHyperParameterTuningJobs "
            "ListTrainingJobsForHyperParameterTuningJob StopHyperParameterTuningJob",
        ),
        _refusal(
            "it has no training plans and reserves no capacity",
            "Run the job on demand, as managed spot or from a warm pool; --quota limits instances.",
            "CreateTrainingPlan DescribeReservedCapacity DescribeTrainingPlan "
            "DescribeTrainingPlanExtensionHistory ExtendTrainingPlan ListTrainingPlans "
            "ListUltraServersByReservedCapacity SearchTrainingPlanOfferings",
        ),
        _refusal(
            "it has no AutoML jobs and no model customization jobs",
            "Train with a container of your own: CreateTrainingJob.",
            "CreateAutoMLJob CreateAutoMLJobV2 DescribeAutoMLJob DescribeAutoMLJobV2 "
            "ListAutoMLJobs ListCandidatesForAutoMLJob StopAutoMLJob CreateJob DeleteJob "
            "DescribeJob DescribeJobSchemaVersion ListJobSchemaVersions ListJobs StopJob",
        ),
        _refusal(
            "it has no HyperPod clusters",
            "Call CreateTrainingJob with an InstanceCount; each job has hosts of its own.",
            "AttachClusterNodeNetworkInterface AttachClusterNodeVolume BatchAddClusterNodes "
            "BatchDeleteClusterNodes BatchRebootClusterNodes BatchReplaceClusterNodes "
            "CreateCluster CreateClusterSchedulerConfig CreateComputeQuota DeleteCluster "
            "DeleteClusterSchedulerConfig DeleteComputeQuota DescribeCluster "
            "DescribeClusterEvent DescribeClusterNode DescribeClusterSchedulerConfig "
            "DescribeComputeQuota DetachClusterNodeVolume ListClusterEvents ListClusterNodes "
            "ListClusterSchedulerConfigs ListClusters ListComputeQuotas StartClusterHealthCheck "
            "UpdateCluster UpdateClusterSchedulerConfig UpdateClusterSoftware "
            "UpdateComputeQuota",
        ),
        # Hosting
        _refusal(
            "an instance of an endpoint runs the model of its production variant only",
            "Name the model in a production variant, or serve many from a multi-model container.",
            "CreateInferenceComponent DeleteInferenceComponent DescribeInferenceComponent "
            "ListInferenceComponents UpdateInferenceComponent "
            "UpdateInferenceComponentRuntimeConfig",
        ),
        _refusal(
            "it runs shadow variants, and no experiments that begin and end by themselves",
            "Name a shadow variant in ShadowProductionVariants of CreateEndpointConfig, and update "
            "the endpoint when the test is over.",
            "CreateInferenceExperiment DeleteInferenceExperiment DescribeInferenceExperiment "
            "ListInferenceExperiments StartInferenceExperiment StopInferenceExperiment "
            "UpdateInferenceExperiment",
        ),
        _refusal(
            "it has no Inference Recommender and no benchmark jobs",
            "Measure on AWS, whose instances are not this machine's processes.",
            "CreateAIBenchmarkJob CreateAIRecommendationJob CreateAIWorkloadConfig "
            "CreateInferenceRecommendationsJob DeleteAIBenchmarkJob DeleteAIRecommendationJob "
            "DeleteAIWorkloadConfig DescribeAIBenchmarkJob DescribeAIRecommendationJob "
            "DescribeAIWorkloadConfig DescribeInferenceRecommendationsJob "
            "GetScalingConfigurationRecommendation ListAIBenchmarkJobs ListAIRecommendationJobs "
            "ListAIWorkloadConfigs ListInferenceRecommendationsJobSteps "
            "ListInferenceRecommendationsJobs ListModelMetadata StopAIBenchmarkJob "
            "StopAIRecommendationJob StopInferenceRecommendationsJob",
        ),
        _refusal(
            "it has no jobs that compile or optimize a model",
            "Do it in a training job, and serve the job's model.",
            "CreateCompilationJob CreateOptimizationJob DeleteCompilationJob "
            "DeleteOptimizationJob DescribeCompilationJob DescribeOptimizationJob "
            "ListCompilationJobs ListOptimizationJobs StopCompilationJob StopOptimizationJob",
        ),
        _refusal(
            "it has no model registry and no algorithm resources",
            "Name the image, and for CreateModel the model's place in S3, in the request.",
            "BatchDescribeModelPackage CreateAlgorithm CreateModelPackage "
            "CreateModelPackageGroup DeleteAlgorithm DeleteModelPackage DeleteModelPackageGroup "
            "DeleteModelPackageGroupPolicy DescribeAlgorithm DescribeModelPackage "
            "DescribeModelPackageGroup GetModelPackageGroupPolicy ListAlgorithms "
            "ListModelPackageGroups ListModelPackages PutModelPackageGroupPolicy "
            "UpdateModelPackage",
        ),
        _refusal(
            "it has no hubs of models",
            "Put the model into S3 and name its place in CreateModel.",
            "CreateHub CreateHubContentPresignedUrls CreateHubContentReference DeleteHub "
            "DeleteHubContent DeleteHubContentReference DescribeHub DescribeHubContent "
            "ImportHubContent ListHubContentVersions ListHubContents ListHubs UpdateHub "
            "UpdateHubContent UpdateHubContentReference",
        ),
        _refusal(
            "it has no model cards",
            "Keep what a card would tell in the model's tags, or beside the model in S3.",
            "CreateModelCard CreateModelCardExportJob DeleteModelCard DescribeModelCard "
            "DescribeModelCardExportJob ListModelCardExportJobs ListModelCardVersions "
            "ListModelCards UpdateModelCard",
        ),
        _refusal(
            "it captures no data of endpoints, which monitoring reads",
            "Put a metric of your own into CloudWatch, with an alarm.",
            "CreateDataQualityJobDefinition CreateModelBiasJobDefinition "
            "CreateModelExplainabilityJobDefinition CreateModelQualityJobDefinition "
            "CreateMonitoringSchedule DeleteDataQualityJobDefinition "
            "DeleteModelBiasJobDefinition DeleteModelExplainabilityJobDefinition "
            "DeleteModelQualityJobDefinition DeleteMonitoringSchedule "
            "DescribeDataQualityJobDefinition DescribeModelBiasJobDefinition "
            "DescribeModelExplainabilityJobDefinition DescribeModelQualityJobDefinition "
            "DescribeMonitoringSchedule ListDataQualityJobDefinitions "
            "ListModelBiasJobDefinitions ListModelExplainabilityJobDefinitions "
            "ListModelQualityJobDefinitions ListMonitoringAlertHistory ListMonitoringAlerts "
            "ListMonitoringExecutions ListMonitoringSchedules StartMonitoringSchedule "
            "StopMonitoringSchedule UpdateMonitoringAlert UpdateMonitoringSchedule",
        ),
        _refusal(
            "it has no edge devices",
            "Copy the model from S3 to the device.",
            "CreateDeviceFleet CreateEdgeDeploymentPlan CreateEdgeDeploymentStage "
            "CreateEdgePackagingJob DeleteDeviceFleet DeleteEdgeDeploymentPlan "
            "DeleteEdgeDeploymentStage DeregisterDevices DescribeDevice DescribeDeviceFleet "
            "DescribeEdgeDeploymentPlan DescribeEdgePackagingJob GetDeviceFleetReport "
            "ListDeviceFleets ListDevices ListEdgeDeploymentPlans ListEdgePackagingJobs "
            "ListStageDevices RegisterDevices StartEdgeDeploymentStage StopEdgeDeploymentStage "
            "StopEdgePackagingJob UpdateDeviceFleet UpdateDevices",
        ),
        # Around training and hosting
        _refusal(
            "its pipelines have no versions, no callback steps, and run once in an execution",
            "Name each version's pipeline anew, and start another execution.",
            "ListPipelineVersions RetryPipelineExecution SendPipelineExecutionStepFailure "
            "SendPipelineExecutionStepSuccess UpdatePipelineExecution UpdatePipelineVersion",
        ),
        _refusal(
            "it has no experiments, no lineage and no MLflow",
            "Name what belongs together in tags, or give jobs the address of your own tracking "
            "server in Environment.",
            "AddAssociation AssociateTrialComponent CreateAction CreateArtifact CreateContext "
            "CreateExperiment CreateMlflowApp CreateMlflowTrackingServer "
            "CreatePresignedMlflowAppUrl CreatePresignedMlflowTrackingServerUrl CreateTrial "
            "CreateTrialComponent DeleteAction DeleteArtifact DeleteAssociation DeleteContext "
            "DeleteExperiment DeleteMlflowApp DeleteMlflowTrackingServer DeleteTrial "
            "DeleteTrialComponent DescribeAction DescribeArtifact DescribeContext "
            "DescribeExperiment DescribeLineageGroup DescribeMlflowApp "
            "DescribeMlflowTrackingServer DescribeTrial DescribeTrialComponent "
            "DisassociateTrialComponent GetLineageGroupPolicy ListActions ListArtifacts "
            "ListAssociations ListContexts ListExperiments ListLineageGroups ListMlflowApps "
            "ListMlflowTrackingServers ListTrialComponents ListTrials QueryLineage "
            "StartMlflowTrackingServer StopMlflowTrackingServer UpdateAction UpdateArtifact "
            "UpdateContext UpdateExperiment UpdateMlflowApp UpdateMlflowTrackingServer "
            "UpdateTrial UpdateTrialComponent",
        ),
        _refusal(
            "it has no search across resources",
            "List the kind of resource, with NameContains, times and status where it has them.",
            "GetSearchSuggestions Search",
        ),
        _refusal(
            "it has no Feature Store",
            "Put the features into S3, and give them to the job as a channel.",
            "CreateFeatureGroup DeleteFeatureGroup DescribeFeatureGroup "
            "DescribeFeatureMetadata ListFeatureGroups ListResourceCatalogs UpdateFeatureGroup "
            "UpdateFeatureMetadata",
        ),
        _refusal(
            "it has no Ground Truth, no human workers and no human reviews",
            "Label elsewhere, and put the labels into S3.",
            "CreateFlowDefinition CreateHumanTaskUi CreateLabelingJob CreateWorkforce "
            "CreateWorkteam DeleteFlowDefinition DeleteHumanTaskUi DeleteWorkforce "
            "DeleteWorkteam DescribeFlowDefinition DescribeHumanTaskUi DescribeLabelingJob "
            "DescribeSubscribedWorkteam DescribeWorkforce DescribeWorkteam ListFlowDefinitions "
            "ListHumanTaskUis ListLabelingJobs ListLabelingJobsForWorkteam "
            "ListSubscribedWorkteams ListWorkforces ListWorkteams RenderUiTemplate "
            "StopLabelingJob UpdateWorkforce UpdateWorkteam",
        ),
        _refusal(
            "it has no Studio, notebooks, projects or partner apps",
            "Work in an editor or notebook of this machine; AWS_ENDPOINT_URL_SAGEMAKER leads its "
            "clients here.",
            "CreateApp CreateAppImageConfig CreateCodeRepository CreateDomain CreateImage "
            "CreateImageVersion CreateNotebookInstance CreateNotebookInstanceLifecycleConfig "
            "CreatePartnerApp CreatePartnerAppPresignedUrl CreatePresignedDomainUrl "
            "CreatePresignedNotebookInstanceUrl CreateProject CreateSpace "
            "CreateStudioLifecycleConfig CreateUserProfile DeleteApp DeleteAppImageConfig "
            "DeleteCodeRepository DeleteDomain DeleteImage DeleteImageVersion "
            "DeleteNotebookInstance DeleteNotebookInstanceLifecycleConfig DeletePartnerApp "
            "DeleteProject DeleteSpace DeleteStudioLifecycleConfig DeleteUserProfile "
            "DescribeApp DescribeAppImageConfig DescribeCodeRepository DescribeDomain "
            "DescribeImage DescribeImageVersion DescribeNotebookInstance "
            "DescribeNotebookInstanceLifecycleConfig DescribePartnerApp DescribeProject "
            "DescribeSpace DescribeStudioLifecycleConfig DescribeUserProfile "
            "DisableSagemakerServicecatalogPortfolio EnableSagemakerServicecatalogPortfolio "
            "GetSagemakerServicecatalogPortfolioStatus ListAliases ListAppImageConfigs ListApps "
            "ListCodeRepositories ListDomains ListImageVersions ListImages "
            "ListNotebookInstanceLifecycleConfigs ListNotebookInstances ListPartnerApps "
            "ListProjects ListSpaces ListStudioLifecycleConfigs ListUserProfiles "
            "StartNotebookInstance StartSession StopNotebookInstance UpdateAppImageConfig "
            "UpdateCodeRepository UpdateDomain UpdateImage UpdateImageVersion "
            "UpdateNotebookInstance UpdateNotebookInstanceLifecycleConfig UpdatePartnerApp "
            "UpdateProject UpdateSpace UpdateUserProfile",
        ),
    ),
    "sagemaker-runtime": (
        _refusal(
            "it does not stream a container's answer",
            "Call InvokeEndpoint, or InvokeEndpointAsync for an answer that takes long.",
            "InvokeEndpointWithResponseStream",
        ),
    ),
    "application-autoscaling": (
        _refusal(
            "it has no predictive scaling policies",
            "Scale by target tracking, in steps, or at the times of PutScheduledAction.",
            "GetPredictiveScalingForecast",
        ),
        _refusal(
            "a scalable target keeps the tags that it was registered with",
            "Name the tags in RegisterScalableTarget; deregister the target first to change them.",
            "ListTagsForResource TagResource UntagResource",
        ),
    ),
    "cloudwatch": (
        _refusal(
            "an alarm compares one metric or expression with a static threshold",
            "Call PutMetricAlarm, with metric math for a condition on several metrics.",
            "DeleteAnomalyDetector DescribeAlarmContributors DescribeAnomalyDetectors "
            "PutAnomalyDetector PutCompositeAlarm PutLogAlarm",
        ),
        _refusal(
            "it keeps the present state of an alarm only",
            "Read StateReason and StateUpdatedTimestamp in DescribeAlarms.",
            "DescribeAlarmHistory",
        ),
        _refusal(
            "it has no mute rules",
            "Call DisableAlarmActions, and EnableAlarmActions afterwards.",
            "DeleteAlarmMuteRule GetAlarmMuteRule ListAlarmMuteRules PutAlarmMuteRule",
        ),
        _refusal(
            "it draws no dashboards and graphs",
            "Read the values with GetMetricData and draw them yourself.",
            "DeleteDashboards GetDashboard GetMetricWidgetImage ListDashboards PutDashboard",
        ),
        _refusal(
            "it has no Contributor Insights rules",
            "Put a metric with a dimension for the contributor: PutMetricData.",
            "DeleteInsightRules DescribeInsightRules DisableInsightRules EnableInsightRules "
            "GetInsightRuleReport ListManagedInsightRules PutInsightRule PutManagedInsightRules",
        ),
        _refusal(
            "it sends metrics nowhere",
            "Read them with GetMetricData.",
            "DeleteMetricStream GetMetricStream ListMetricStreams PutMetricStream "
            "StartMetricStreams StopMetricStreams",
        ),
        _refusal(
            "its metrics are those of endpoints and of PutMetricData, in its state folder, without "
            "encryption, enrichment or PromQL",
            "Put further metrics with PutMetricData.",
            "AssociateDatasetKmsKey CreateResourceMetricsConfiguration "
            "DeleteResourceMetricsConfiguration DisassociateDatasetKmsKey GetDataset "
            "GetOTelEnrichment GetResourceMetricsConfiguration StartOTelEnrichment "
            "StopOTelEnrichment UpdateOTelEnrichment UpdateResourceMetricsConfiguration",
        ),
        _refusal(
            "it keeps no tags of alarms",
            "Tell alarms apart by AlarmName and AlarmDescription.",
            "ListTagsForResource TagResource UntagResource",
        ),
    ),
}
"""By service, as botocore names it."""

_REASONS = {
    (service, operation): refusal
    for service, refusals in REFUSALS.items()
    for refusal in refusals
    for operation in refusal.operations
}


def refused(protocol: Protocol, operation: str) -> ServiceError:
    """The answer to an operation that is not executed. It names the operation, the reason and the
    alternative; for a name that the service does not have, it says so."""
    if operation not in protocol.operations:
        return ServiceError(
            "UnknownOperationException",
            f"{operation or '(no X-Amz-Target)'} is not an operation of {protocol.name}",
            404,
        )
    refusal = _REASONS.get((protocol.service, operation))
    why = "" if refusal is None else f": {refusal.reason}. {refusal.instead}"
    return ServiceError(
        "UnknownOperationException", f"{operation} is not emulated by local_sagemaker{why}", 501
    )


def unknown(protocol: Protocol) -> list[str]:
    """The operations that are neither executed nor refused with a reason."""
    return sorted(
        operation
        for operation in protocol.operations.difference(executed(protocol))
        if (protocol.service, operation) not in _REASONS
    )


_INTRODUCTION = """\
# The operations of the local cloud

`python -m local_sagemaker --all-operations` prints this page. It has every operation of botocore's
models of the services that [`local_sagemaker`](local-cloud.md) answers.

- **Executed**: the emulator carries the operation out. It may refuse
  [members of the request](local-cloud.md#what-the-local-cloud-does-not-do).
- **Refused**: the answer is `UnknownOperationException`, with the reason and an alternative.
- **Unknown**: the answer is `UnknownOperationException` with the operation's name alone.

| service | executed | refused | unknown |
|---|---|---|---|
"""


def page() -> str:
    """docs/local-cloud-operations.md: every operation of the services with its answer."""
    protocols = [Protocol(service) for service in SERVICES]
    counts = "".join(_counts(protocol) for protocol in protocols)
    return _INTRODUCTION + counts + "".join(_part(protocol) for protocol in protocols)


def _counts(protocol: Protocol) -> str:
    done, left = len(executed(protocol)), len(unknown(protocol))
    return f"| {protocol.name} | {done} | {len(protocol.operations) - done - left} | {left} |\n"


def _part(protocol: Protocol) -> str:
    rows = "".join(
        f"| {refusal.reason} | {refusal.instead} | {_names(refusal.operations)} |\n"
        for refusal in REFUSALS[protocol.service]
    )
    left = unknown(protocol)
    return (
        f"\n## {protocol.name}\n\n"
        f"{textwrap.fill(f'Executed: {_names(executed(protocol))}.', PAGE_WIDTH)}\n\n"
        f"| why refused | instead | operations |\n|---|---|---|\n{rows}"
    ) + (f"\n{textwrap.fill(f'Unknown: {_names(left)}.', PAGE_WIDTH)}\n" if left else "")


def _names(operations: Iterable[str]) -> str:
    return ", ".join(f"`{operation}`" for operation in operations)
