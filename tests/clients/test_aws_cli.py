"""The unchanged AWS CLI against the emulator: a person's commands, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clients.aws_cli import Cli
from tests.local_sagemaker.conftest import (
    ECHO,
    RECORDER,
    ROLE,
    Emulator,
    keys,
    tar_gz,
    unique,
    wait_for,
)
from tests.local_sagemaker.processing_jobs import PROCESSOR, processing_request, source, target


@pytest.fixture
def aws(emulator: Emulator, tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(emulator.environment, tmp_path)
    yield cli
    cli.close()


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def training_job(bucket: str, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "training_job_name": name,
        # the CLI's shorthand
        "algorithm_specification": f"TrainingImage={RECORDER},TrainingInputMode=File",
        "role_arn": ROLE,
        "output_data_config": {"S3OutputPath": f"s3://{bucket}/out"},
        "resource_config": "InstanceType=ml.m5.large,InstanceCount=1,VolumeSizeInGB=1",
        "stopping_condition": "MaxRuntimeInSeconds=60",
        **changes,
    }


def test_training_step_by_step(aws: Cli, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"alpha")
    name = unique("cli")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}}
    job = training_job(
        bucket,
        name,
        hyper_parameters="depth=3",
        tags="Key=tenant,Value=acme",
        input_data_config=[{"ChannelName": "training", "DataSource": source}],
    )
    arn = aws("create-training-job", **job)["TrainingJobArn"]
    assert aws("describe-training-job", training_job_name=name)["ModelArtifacts"][
        "S3ModelArtifacts"
    ]
    assert "ResourceInUse" in aws.refused(
        "create-training-job", **{**job, "training_job_name": name.upper()}
    )
    wait_for(
        lambda: aws("describe-training-job", training_job_name=name)["TrainingJobStatus"],
        lambda status: status == "Completed",
    )
    _, waited, errors = aws.run(
        "sagemaker wait training-job-completed-or-stopped", training_job_name=name
    )
    assert (waited, errors) == ("", "")
    listed = aws(
        "list-training-jobs", name_contains=name, query="TrainingJobSummaries[].TrainingJobStatus"
    )
    assert listed == ["Completed"]
    aws("add-tags", resource_arn=arn, tags="Key=tier,Value=silo")
    aws("delete-tags", resource_arn=arn, tag_keys="tenant")
    assert aws("list-tags", resource_arn=arn)["Tags"] == [{"Key": "tier", "Value": "silo"}]
    assert "System prefix 'aws:' reserved" in aws.refused(
        "add-tags", resource_arn=arn, tags="Key=aws:x,Value=1"
    )
    assert "Requested resource not found" in aws.refused(
        "describe-training-job", training_job_name="nowhere"
    )
    assert "InProgress" in aws.refused("list-training-jobs", status_equals="Nonsense")
    running = unique("cli")
    aws(
        "create-training-job",
        **training_job(bucket, running, hyper_parameters="sleep=600,on_stop=x"),
    )
    aws("stop-training-job", training_job_name=running)
    wait_for(
        lambda: aws("describe-training-job", training_job_name=running)["TrainingJobStatus"],
        lambda status: status == "Stopped",
    )
    assert "ListClusters is not emulated" in aws.refused("list-clusters")


def test_processing_step_by_step(aws: Cli, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"alpha")
    name = unique("cli")
    job = {
        "processing_job_name": name,
        "app_specification": f"ImageUri={PROCESSOR},ContainerArguments=--split,0.2",
        "role_arn": ROLE,
        "processing_inputs": [source("data", f"s3://{bucket}/in/")],
        "processing_output_config": {"Outputs": [target("records", f"s3://{bucket}/out")]},
        "processing_resources": "ClusterConfig="
        "{InstanceCount=1,InstanceType=ml.m5.large,VolumeSizeInGB=1}",
        "environment": "MESSAGE=done",
        "tags": "Key=tenant,Value=acme",
    }
    arn = aws("create-processing-job", **job)["ProcessingJobArn"]
    assert "ResourceInUse" in aws.refused("create-processing-job", **job)
    described = wait_for(
        lambda: aws("describe-processing-job", processing_job_name=name),
        lambda found: found["ProcessingJobStatus"] == "Completed",
    )
    _, waited, errors = aws.run(
        "sagemaker wait processing-job-completed-or-stopped", processing_job_name=name
    )
    assert (waited, errors) == ("", "")
    assert described["ExitMessage"] == "done"
    assert keys(s3, bucket, "out/") == ["out/algo-1.json"]
    listed = aws(
        "list-processing-jobs",
        name_contains=name,
        query="ProcessingJobSummaries[].ProcessingJobStatus",
    )
    assert listed == ["Completed"]
    assert aws("list-tags", resource_arn=arn)["Tags"] == [{"Key": "tenant", "Value": "acme"}]
    assert "in status Completed" in aws.refused("stop-processing-job", processing_job_name=name)


def test_a_pipeline_step_by_step(aws: Cli, s3: Any, bucket: str) -> None:
    name = unique("cli")
    request = processing_request(bucket)
    del request["ProcessingJobName"]
    request["Environment"] = {"MESSAGE": {"Get": "Parameters.Words"}}
    parameter = {"Name": "Words", "Type": "String", "DefaultValue": "none"}
    step = {"Name": "Only", "Type": "Processing", "Arguments": request}
    pipeline = {"Version": "2020-12-01", "Parameters": [parameter], "Steps": [step]}
    aws("create-pipeline", pipeline_name=name, pipeline_definition=pipeline, role_arn=ROLE)
    execution = aws(
        "start-pipeline-execution", pipeline_name=name, pipeline_parameters="Name=Words,Value=done"
    )["PipelineExecutionArn"]
    wait_for(
        lambda: aws("describe-pipeline-execution", pipeline_execution_arn=execution),
        lambda found: found["PipelineExecutionStatus"] == "Succeeded",
    )
    (ran,) = aws("list-pipeline-execution-steps", pipeline_execution_arn=execution)[
        "PipelineExecutionSteps"
    ]
    job = ran["Metadata"]["ProcessingJob"]["Arn"].rpartition("/")[2]
    listed = aws("list-processing-jobs", name_contains=job, query="ProcessingJobSummaries")
    assert [each["ExitMessage"] for each in listed] == ["done"]
    assert "ConflictException" in aws.refused(
        "stop-pipeline-execution", pipeline_execution_arn=execution
    )
    aws("delete-pipeline", pipeline_name=name)
    assert "does not exist" in aws.refused("describe-pipeline", pipeline_name=name)


def test_hosting_and_transform_step_by_step(aws: Cli, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="models/a.tar.gz", Body=tar_gz(weights="1"))
    s3.put_object(Bucket=bucket, Key="in/größe.txt", Body=b"alpha")
    model, config, endpoint = unique("cli"), unique("cli"), unique("cli")
    container = {
        "Image": ECHO,
        "ModelDataUrl": f"s3://{bucket}/models/a.tar.gz",
        "Environment": {"ECHO_AS_IS": "1"},
    }
    aws("create-model", model_name=model, execution_role_arn=ROLE, primary_container=container)
    variant = f"VariantName=v,ModelName={model},InitialInstanceCount=1,InstanceType=ml.m5.large"
    aws("create-endpoint-config", endpoint_config_name=config, production_variants=variant)
    aws("create-endpoint", endpoint_name=endpoint, endpoint_config_name=config)
    wait_for(
        lambda: aws("describe-endpoint", endpoint_name=endpoint)["EndpointStatus"],
        lambda status: status == "InService",
    )
    status, _, errors = aws.run(
        "sagemaker-runtime invoke-endpoint answer.txt",
        endpoint_name=endpoint,
        body="hello",
        content_type="text/plain",
    )
    assert (status, errors) == (0, "")
    assert (aws.folder / "answer.txt").read_text() == "HELLO"
    weights = "VariantName=v,DesiredWeight=1,DesiredInstanceCount=2"
    aws(
        "update-endpoint-weights-and-capacities",
        endpoint_name=endpoint,
        desired_weights_and_capacities=weights,
    )
    wait_for(
        lambda: aws("describe-endpoint", endpoint_name=endpoint)["ProductionVariants"][0][
            "CurrentInstanceCount"
        ],
        lambda count: count == 2,
    )
    transform = unique("cli")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}}
    aws(
        "create-transform-job",
        transform_job_name=transform,
        model_name=model,
        transform_input={"DataSource": source},
        transform_output={"S3OutputPath": f"s3://{bucket}/out"},
        transform_resources="InstanceType=ml.m5.large,InstanceCount=1",
    )
    wait_for(
        lambda: aws("describe-transform-job", transform_job_name=transform)["TransformJobStatus"],
        lambda status: status == "Completed",
    )
    assert keys(s3, bucket, "out/") == ["out/größe.txt.out"]
    aws("delete-endpoint", endpoint_name=endpoint)
    aws("delete-endpoint-config", endpoint_config_name=config)
    aws("delete-model", model_name=model)
    assert aws("list-models", name_contains=model)["Models"] == []


def test_scaling_step_by_step(aws: Cli) -> None:
    model, config, endpoint = unique("cli"), unique("cli"), unique("cli")
    aws(
        "create-model", model_name=model, execution_role_arn=ROLE, primary_container={"Image": ECHO}
    )
    variant = f"VariantName=v,ModelName={model},InitialInstanceCount=1,InstanceType=ml.m5.large"
    aws("create-endpoint-config", endpoint_config_name=config, production_variants=variant)
    aws("create-endpoint", endpoint_name=endpoint, endpoint_config_name=config)
    wait_for(
        lambda: aws("describe-endpoint", endpoint_name=endpoint)["EndpointStatus"],
        lambda status: status == "InService",
    )
    scope = {
        "service_namespace": "sagemaker",
        "resource_id": f"endpoint/{endpoint}/variant/v",
        "scalable_dimension": "sagemaker:variant:DesiredInstanceCount",
    }

    def run(command: str, **options: Any) -> Any:
        status, output, errors = aws.run(command, **options)
        assert status == 0, errors
        return json.loads(output) if output else None

    scaling = "application-autoscaling"
    run(f"{scaling} register-scalable-target", **scope, min_capacity="1", max_capacity="3")
    kind = "PredefinedMetricType=SageMakerVariantInvocationsPerInstance"
    put = run(
        f"{scaling} put-scaling-policy",
        **scope,
        policy_name="follow",
        policy_type="TargetTrackingScaling",
        target_tracking_scaling_policy_configuration=f"TargetValue=70,"
        f"PredefinedMetricSpecification={{{kind}}},ScaleInCooldown=120",
    )
    (policy,) = run(f"{scaling} describe-scaling-policies", service_namespace="sagemaker")[
        "ScalingPolicies"
    ]
    assert policy["Alarms"] == put["Alarms"]
    names = [alarm["AlarmName"] for alarm in put["Alarms"]]
    described = run(
        "cloudwatch describe-alarms", alarm_name_prefix=f"TargetTracking-{scope['resource_id']}"
    )
    assert sorted(one["AlarmName"] for one in described["MetricAlarms"]) == sorted(names)
    run(
        "cloudwatch put-metric-data",
        namespace="Cli",
        metric_data="MetricName=Load,Value=2.5,Unit=Count,Dimensions=[{Name=Endpoint,Value=x}]",
    )
    metrics = run("cloudwatch list-metrics", namespace="Cli")["Metrics"]
    assert metrics[0]["Dimensions"] == [{"Name": "Endpoint", "Value": "x"}]
    stat = {"Metric": metrics[0], "Period": 60, "Stat": "Sum"}
    found = run(
        "cloudwatch get-metric-data",
        metric_data_queries=[{"Id": "m1", "MetricStat": stat}],
        start_time=_ago(600),
        end_time=_ago(-60),
    )
    assert found["MetricDataResults"][0]["Values"] == [2.5]
    run(f"{scaling} deregister-scalable-target", **scope)
    assert run("cloudwatch describe-alarms", alarm_names=names[0])["MetricAlarms"] == []
    aws("delete-endpoint", endpoint_name=endpoint)
