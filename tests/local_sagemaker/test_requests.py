"""Clients' requests and their answers, one case a row; other tests cover the resources'
behaviour."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.conftest import (
    ECHO,
    RECORDER,
    ROLE,
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    ended_training_job,
    keys,
    tar_gz,
    unique,
    wait_for,
)
from tests.local_sagemaker.test_hosting import Endpoint

NOTHING_ASKED: list[dict[str, Any]] = [
    {"ProfilerConfig": {"DisableProfiler": True}},
    {"ProfilerConfig": {"DisableProfiler": True, "S3OutputPath": "s3://bucket/profile"}},
    {"InfraCheckConfig": {"EnableInfraCheck": False}},
    {"RemoteDebugConfig": {"EnableRemoteDebug": False}},
    {"DebugHookConfig": {"S3OutputPath": "s3://bucket/tensors", "CollectionConfigurations": []}},
    {"DebugRuleConfigurations": [], "ProfilerRuleConfigurations": [], "ExperimentConfig": {}},
    {"SessionChainingConfig": {"EnableSessionTagChaining": False}},
    {
        "AlgorithmSpecification": {
            "TrainingImage": RECORDER,
            "TrainingInputMode": "File",
            "MetricDefinitions": [],
            "EnableSageMakerMetricsTimeSeries": False,
            "TrainingImageConfig": {"TrainingRepositoryAccessMode": "Platform"},
        }
    },
]
SOMETHING_ASKED: list[tuple[dict[str, Any], str]] = [
    ({"ProfilerConfig": {"S3OutputPath": "s3://bucket/profile"}}, "ProfilerConfig"),
    ({"ProfilerConfig": {"DisableProfiler": False}}, "ProfilerConfig"),
    ({"InfraCheckConfig": {"EnableInfraCheck": True}}, "InfraCheckConfig"),
    ({"RemoteDebugConfig": {"EnableRemoteDebug": True}}, "RemoteDebugConfig"),
    (
        {
            "DebugHookConfig": {
                "S3OutputPath": "s3://b/t",
                "CollectionConfigurations": [{"CollectionName": "losses"}],
            }
        },
        "DebugHookConfig",
    ),
    ({"TensorBoardOutputConfig": {"S3OutputPath": "s3://b/t"}}, "TensorBoardOutputConfig"),
    (
        {"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxPendingTimeInSeconds": 7200}},
        "MaxPendingTimeInSeconds",
    ),
]


@pytest.mark.parametrize("members", NOTHING_ASKED, ids=lambda members: ",".join(members))
def test_a_training_job_may_say_that_it_wants_nothing_more(
    sagemaker: Any, bucket: str, members: dict[str, Any]
) -> None:
    name = create_training_job(sagemaker, bucket, **members)
    job = ended_training_job(sagemaker, name)
    assert job["TrainingJobStatus"] == "Completed"
    assert job.get("ProfilerConfig") == members.get("ProfilerConfig")


@pytest.mark.parametrize(("members", "named"), SOMETHING_ASKED)
def test_a_training_job_that_wants_more_is_refused_by_name(
    sagemaker: Any, bucket: str, members: dict[str, Any], named: str
) -> None:
    with pytest.raises(ClientError, match=f"{named} is not emulated yet"):
        create_training_job(sagemaker, bucket, **members)


def test_data_capture_that_is_switched_off_is_taken_and_other_members_are_refused_at_any_depth(
    sagemaker: Any,
) -> None:
    variants = [
        {
            "VariantName": "v",
            "ModelName": create_model(sagemaker),
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
        }
    ]
    capture = {
        "InitialSamplingPercentage": 1,
        "DestinationS3Uri": "s3://bucket",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    sagemaker.create_endpoint_config(
        EndpointConfigName=unique("c"),
        ProductionVariants=variants,
        DataCaptureConfig={"EnableCapture": False, **capture},
    )
    scaling = {"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 2}
    for change, named in (
        ({"DataCaptureConfig": {"EnableCapture": True, **capture}}, "DataCaptureConfig"),
        ({"MetricsConfig": {"EnableEnhancedMetrics": True}}, "MetricsConfig"),
        (
            {"ProductionVariants": [{**variants[0], "ManagedInstanceScaling": scaling}]},
            "ProductionVariants.ManagedInstanceScaling",
        ),
        (
            {
                "ProductionVariants": [
                    {**variants[0], "RoutingConfig": {"RoutingStrategy": "PREFIX_AWARE"}}
                ]
            },
            "RoutingConfig.RoutingStrategy PREFIX_AWARE",
        ),
    ):
        request: Any = {"EndpointConfigName": unique("c"), "ProductionVariants": variants, **change}
        with pytest.raises(ClientError, match=f"{named} is not emulated yet"):
            sagemaker.create_endpoint_config(**request)


def test_a_job_is_described_with_the_defaults_of_its_request(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"a")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}
    channels = [{"ChannelName": "training", "DataSource": {"S3DataSource": source}}]
    name = create_training_job(sagemaker, bucket, InputDataConfig=channels, StoppingCondition={})
    place = {"S3ModelArtifacts": f"s3://{bucket}/out/{name}/output/model.tar.gz"}
    begun = sagemaker.describe_training_job(TrainingJobName=name)
    for job in (begun, ended_training_job(sagemaker, name)):
        assert job["ModelArtifacts"] == place
        assert job["OutputDataConfig"] == {
            "KmsKeyId": "",
            "S3OutputPath": f"s3://{bucket}/out/",
            "CompressionType": "GZIP",
        }
        assert job["InputDataConfig"] == [
            {
                "ChannelName": "training",
                "CompressionType": "None",
                "RecordWrapperType": "None",
                "DataSource": {
                    "S3DataSource": {**source, "S3DataDistributionType": "FullyReplicated"}
                },
            }
        ]
        assert job["AlgorithmSpecification"]["EnableSageMakerMetricsTimeSeries"] is False
        assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}
        switches = (
            "EnableNetworkIsolation",
            "EnableInterContainerTrafficEncryption",
            "EnableManagedSpotTraining",
        )
        assert [job[switch] for switch in switches] == [False] * 3
        assert job["ProfilingStatus"] == "Disabled"


def test_a_failed_job_is_described_with_the_place_of_its_model(sagemaker: Any, bucket: str) -> None:
    name = create_training_job(
        sagemaker,
        bucket,
        hyperparameters={"fail_on": "all"},
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/out", "CompressionType": "NONE"},
    )
    job = ended_training_job(sagemaker, name)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{bucket}/out/{name}/output/model/"


def test_jobs_are_listed_by_the_status_of_their_warm_pool(sagemaker: Any, bucket: str) -> None:
    prefix = unique("pool")
    resources = {
        "InstanceType": "ml.m5.large",
        "InstanceCount": 1,
        "VolumeSizeInGB": 1,
        "KeepAlivePeriodInSeconds": 60,
    }
    kept = create_training_job(sagemaker, bucket, f"{prefix}-kept", ResourceConfig=resources)
    plain = create_training_job(sagemaker, bucket, f"{prefix}-plain")
    for name in (kept, plain):
        ended_training_job(sagemaker, name)
    status = sagemaker.describe_training_job(TrainingJobName=kept)["WarmPoolStatus"]["Status"]

    def listed(**wanted: str) -> list[str]:
        found = sagemaker.list_training_jobs(NameContains=prefix, **wanted)["TrainingJobSummaries"]
        return [job["TrainingJobName"] for job in found]

    assert listed(WarmPoolStatusEquals=status) == [kept]
    assert listed(WarmPoolStatusEquals="Reused") == []
    assert listed() == [kept, plain]


@pytest.mark.parametrize("end", ["", "/", "//", "/deep//"])
def test_outputs_lie_below_the_prefix_as_it_was_written(
    sagemaker: Any, s3: Any, bucket: str, end: str
) -> None:
    path = f"s3://{bucket}/out{end}"
    name = create_training_job(sagemaker, bucket, OutputDataConfig={"S3OutputPath": path})
    job = ended_training_job(sagemaker, name)
    below = path if path.endswith("/") else f"{path}/"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"{below}{name}/output/model.tar.gz"
    assert keys(s3, bucket, "") == [
        f"{below}{name}/output/model.tar.gz".removeprefix(f"s3://{bucket}/")
    ]


def test_outputs_may_lie_at_the_root_of_a_bucket(sagemaker: Any, s3: Any, bucket: str) -> None:
    name = create_training_job(
        sagemaker, bucket, OutputDataConfig={"S3OutputPath": f"s3://{bucket}/"}
    )
    ended_training_job(sagemaker, name)
    assert keys(s3, bucket, "") == [f"{name}/output/model.tar.gz"]


def test_names_that_differ_in_case_only_are_one_name(sagemaker: Any, bucket: str) -> None:
    """Two such names would share an ARN, and thereby their tags."""
    model = create_model(sagemaker)
    config = create_endpoint_config(sagemaker, model)
    job = create_training_job(sagemaker, bucket, Tags=[{"Key": "tenant", "Value": "acme"}])
    arn = sagemaker.describe_training_job(TrainingJobName=job)["TrainingJobArn"]
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    with pytest.raises(ClientError, match="already existing model") as error:
        sagemaker.create_model(
            ModelName=model.upper(), PrimaryContainer={"Image": ECHO}, ExecutionRoleArn=ROLE
        )
    assert error.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError, match="already existing endpoint configuration"):
        sagemaker.create_endpoint_config(
            EndpointConfigName=config.upper(), ProductionVariants=variants
        )
    with pytest.raises(ClientError, match="already exists") as error:
        create_training_job(
            sagemaker, bucket, job.upper(), Tags=[{"Key": "tenant", "Value": "globex"}]
        )
    assert error.value.response["Error"]["Code"] == "ResourceInUse"
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "tenant", "Value": "acme"}]
    ended_training_job(sagemaker, job)


def test_the_case_of_an_endpoint_s_name_counts_when_it_is_invoked(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    config = create_endpoint_config(sagemaker, create_model(sagemaker))
    name = endpoint(config)
    with pytest.raises(ClientError, match="already existing endpoint"):
        sagemaker.create_endpoint(EndpointName=name.upper(), EndpointConfigName=config)
    with pytest.raises(ClientError, match="not found"):
        runtime.invoke_endpoint(EndpointName=name.upper(), Body=b"x")
    assert sagemaker.describe_endpoint(EndpointName=name)["EndpointName"] == name


def test_a_name_is_free_again_when_its_resource_was_deleted(sagemaker: Any) -> None:
    model = create_model(sagemaker)
    sagemaker.delete_model(ModelName=model)
    sagemaker.create_model(
        ModelName=model.upper(), PrimaryContainer={"Image": ECHO}, ExecutionRoleArn=ROLE
    )
    assert sagemaker.describe_model(ModelName=model.upper())["ModelName"] == model.upper()


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}], "duplicate tag keys"),
        ([{"Key": "aws:owner", "Value": "1"}], "System prefix 'aws:' reserved"),
        ([{"Key": "AWS:owner", "Value": "1"}], "System prefix 'aws:' reserved"),
        ([{"Key": "curly{}", "Value": "1"}], "regular expression pattern"),
        ([{"Key": "k" * 129, "Value": "1"}], "less than or equal to 128"),
        ([{"Key": str(number), "Value": ""} for number in range(51)], "less than or equal to 50"),
    ],
)
def test_tags_that_aws_refuses_are_refused_wherever_they_are_given(
    sagemaker: Any, tags: Any, words: str
) -> None:
    name = unique("model")
    with pytest.raises(ClientError, match=words) as error:
        sagemaker.create_model(
            ModelName=name, PrimaryContainer={"Image": ECHO}, ExecutionRoleArn=ROLE, Tags=tags
        )
    assert error.value.response["Error"]["Code"] == "ValidationException"
    sagemaker.create_model(ModelName=name, PrimaryContainer={"Image": ECHO}, ExecutionRoleArn=ROLE)
    arn = sagemaker.describe_model(ModelName=name)["ModelArn"]
    with pytest.raises(ClientError, match=words):
        sagemaker.add_tags(ResourceArn=arn, Tags=tags)
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []


def test_keys_that_differ_in_case_and_letters_of_any_language_are_tags(sagemaker: Any) -> None:
    tags = [
        {"Key": "größe", "Value": "日本"},
        {"Key": "GRÖSSE", "Value": "x y_.:/=+-@"},
        {"Key": "awsome", "Value": ""},
    ]
    name = unique("model")
    sagemaker.create_model(
        ModelName=name, PrimaryContainer={"Image": ECHO}, ExecutionRoleArn=ROLE, Tags=tags
    )
    arn = sagemaker.describe_model(ModelName=name)["ModelArn"]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags
    with pytest.raises(ClientError, match="System prefix 'aws:' reserved"):
        sagemaker.delete_tags(ResourceArn=arn, TagKeys=["aws:x"])


def test_a_variant_is_named_once(sagemaker: Any, endpoint: Endpoint) -> None:
    model = create_model(sagemaker)
    variant = {
        "VariantName": "v",
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    with pytest.raises(ClientError, match="different names"):
        sagemaker.create_endpoint_config(
            EndpointConfigName=unique("c"), ProductionVariants=[variant, variant]
        )
    name = endpoint(create_endpoint_config(sagemaker, model))
    changes = [{"VariantName": "variant-1", "DesiredInstanceCount": count} for count in (1, 2)]
    with pytest.raises(ClientError, match="each variant once"):
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=changes
        )


def test_headers_are_utf_8_where_text_may_be_any_and_ascii_where_aws_says_so(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    output = {"S3OutputPath": f"s3://{bucket}/größe/aus"}
    config = create_endpoint_config(
        sagemaker, create_model(sagemaker), asynchronous={"OutputConfig": output}
    )
    name = endpoint(config)
    s3.put_object(Bucket=bucket, Key="größe/日本 ü.json", Body=b"upper \xc3\xbc")
    sent = runtime.invoke_endpoint_async(
        EndpointName=name, InputLocation=f"s3://{bucket}/größe/日本 ü.json", Filename="a.out"
    )
    assert sent["OutputLocation"].encode("latin-1").decode() == f"s3://{bucket}/größe/aus/a.out"
    key = "größe/aus/a.out"
    wait_for(lambda: keys(s3, bucket, "größe/aus/"), lambda found: found == [key])
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode() == "Ü"
    for member in ("CustomAttributes", "InferenceId", "Accept"):
        with pytest.raises(ClientError, match="regular expression pattern") as error:
            runtime.invoke_endpoint_async(EndpointName=name, Body=b"x", **{member: "größe"})
        assert error.value.response["Error"]["Code"] == "ValidationError"


def test_a_target_model_may_begin_with_a_slash(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    """It is the same model as without the slash: loaded once, and found below a prefix with or
    without a final slash."""
    s3.put_object(Bucket=bucket, Key="models/a.tar.gz", Body=tar_gz(weights="1"))
    for prefix, targets in (("models/", ("a.tar.gz", "/a.tar.gz")), ("models", ("/a.tar.gz",))):
        model = create_model(sagemaker, Mode="MultiModel", ModelDataUrl=f"s3://{bucket}/{prefix}")
        name = endpoint(create_endpoint_config(sagemaker, model))
        for target in targets:
            answer = runtime.invoke_endpoint(EndpointName=name, Body=b"x", TargetModel=target)
            document = json.loads(answer["Body"].read())
            assert (document["files"], document["loaded"], document["target"]) == (
                {"weights": "1"},
                1,
                target,
            )


def test_switching_the_profiler_off_changes_nothing(sagemaker: Any, bucket: str) -> None:
    name = create_training_job(sagemaker, bucket)
    answer = sagemaker.update_training_job(
        TrainingJobName=name, ProfilerConfig={"DisableProfiler": True}
    )
    assert answer["TrainingJobArn"].endswith(name)
    with pytest.raises(ClientError, match="ProfilerConfig is not emulated yet"):
        sagemaker.update_training_job(
            TrainingJobName=name, ProfilerConfig={"S3OutputPath": "s3://bucket/p"}
        )
    ended_training_job(sagemaker, name)


REFUSED_OPERATIONS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "sagemaker",
        "delete_training_job",
        {"TrainingJobName": "j"},
        (
            "a job stays on record, and its name stays taken. Leave the job, or forget everything "
            "with POST /_local/reset."
        ),
    ),
    (
        "sagemaker",
        "create_inference_component",
        {"InferenceComponentName": "c", "EndpointName": "e"},
        (
            "an instance of an endpoint runs the model of its production variant only. Name the "
            "model in a production variant, or serve many from a multi-model container."
        ),
    ),
    (
        "sagemaker",
        "list_hyper_parameter_tuning_jobs",
        {},
        "it has no tuning jobs. Call CreateTrainingJob once for each set of HyperParameters.",
    ),
    (
        "sagemaker-runtime",
        "invoke_endpoint_with_response_stream",
        {"EndpointName": "e", "Body": b"b"},
        (
            "it does not stream a container's answer. Call InvokeEndpoint, or InvokeEndpointAsync "
            "for an answer that takes long."
        ),
    ),
    (
        "application-autoscaling",
        "tag_resource",
        {"ResourceARN": "arn", "Tags": {"k": "v"}},
        (
            "a scalable target keeps the tags that it was registered with. Name the tags in "
            "RegisterScalableTarget; deregister the target first to change them."
        ),
    ),
    (
        "cloudwatch",
        "tag_resource",
        {"ResourceARN": "arn", "Tags": [{"Key": "k", "Value": "v"}]},
        "it keeps no tags of alarms. Tell alarms apart by AlarmName and AlarmDescription.",
    ),
]


@pytest.mark.parametrize(("service", "call", "request_", "why"), REFUSED_OPERATIONS)
def test_a_refused_operation_answers_with_the_reason_and_an_alternative(
    emulator: Emulator, service: str, call: str, request_: dict[str, Any], why: str
) -> None:
    with pytest.raises(ClientError) as error:
        getattr(emulator.client(service), call)(**request_)
    answer = error.value.response["Error"]
    assert answer["Code"] == "UnknownOperationException"
    operation = error.value.operation_name
    assert answer["Message"] == f"{operation} is not emulated by local_sagemaker: {why}"


def test_a_name_that_is_no_operation_says_so(emulator: Emulator) -> None:
    for path, target, problem in (
        (
            "/",
            {"X-Amz-Target": "SageMaker.CreateTea"},
            "CreateTea is not an operation of SageMaker",
        ),
        ("/", {}, "(no X-Amz-Target) is not an operation of SageMaker"),
        ("/endpoints/e/tea", {}, "POST /endpoints/e/tea is not an operation of SageMaker Runtime"),
    ):
        # The URL is a loopback address.
        request = urllib.request.Request(  # noqa: S310
            f"{emulator.url}{path}", data=b"{}", headers=target, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=30)  # noqa: S310 - the same
        assert error.value.code == 404
        assert json.load(error.value)["message"] == problem
