"""Pipelines, through boto3 unchanged."""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tests.local_sagemaker.conftest import (
    ECHO,
    RECORDER,
    ROLE,
    Emulator,
    keys,
    running_emulator,
    unique,
    wait_for,
)
from tests.local_sagemaker.processing_jobs import processing_request, source, target


def step(name: str, kind: str, arguments: dict[str, Any], *after: str, **more: Any) -> Any:
    found = {"Name": name, "Type": kind, "Arguments": arguments, **more}
    return found | ({"DependsOn": list(after)} if after else {})


def get(path: str) -> dict[str, str]:
    return {"Get": path}


def processing(name: str, bucket: str, *after: str, **changes: Any) -> Any:
    more = {key: changes.pop(key) for key in ("PropertyFiles",) if key in changes}
    request = processing_request(bucket, **changes)
    del request["ProcessingJobName"], request["RoleArn"]  # which the pipeline gives
    return step(name, "Processing", request, *after, **more)


def training(name: str, bucket: str, *after: str, **changes: Any) -> Any:
    request = {
        "AlgorithmSpecification": {"TrainingImage": RECORDER, "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/models/"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }
    return step(name, "Training", request | changes, *after)


def condition(name: str, holds: list[Any], *after: str, **branches: Any) -> Any:
    return step(name, "Condition", {"Conditions": holds, **branches}, *after)


def equals(left: Any, right: Any) -> dict[str, Any]:
    return {"Type": "Equals", "LeftValue": left, "RightValue": right}


def definition(*steps: Any, parameters: list[Any] | None = None) -> str:
    return json.dumps(
        {"Version": "2020-12-01", "Metadata": {}, "Parameters": parameters or [], "Steps": steps}
    )


def create_pipeline(client: Any, *steps: Any, parameters: list[Any] | None = None) -> str:
    name = unique("pipeline")
    client.create_pipeline(
        PipelineName=name,
        PipelineDefinition=definition(*steps, parameters=parameters),
        RoleArn=ROLE,
    )
    return name


def start(client: Any, pipeline: str, **parameters: str) -> str:
    given_values = [{"Name": name, "Value": value} for name, value in parameters.items()]
    return str(
        client.start_pipeline_execution(PipelineName=pipeline, PipelineParameters=given_values)[
            "PipelineExecutionArn"
        ]
    )


def ended(client: Any, execution: str) -> Any:
    return wait_for(
        lambda: client.describe_pipeline_execution(PipelineExecutionArn=execution),
        lambda found: found["PipelineExecutionStatus"] in ("Succeeded", "Failed", "Stopped"),
    )


def steps_of(client: Any, execution: str) -> dict[str, Any]:
    """The steps in the order in which they began."""
    listed = client.list_pipeline_execution_steps(
        PipelineExecutionArn=execution, SortOrder="Ascending", MaxResults=100
    )["PipelineExecutionSteps"]
    return {each["StepName"]: each for each in listed}


def statuses(client: Any, execution: str) -> dict[str, str]:
    return {name: each["StepStatus"] for name, each in steps_of(client, execution).items()}


def test_a_pipeline_prepares_trains_and_predicts(sagemaker: Any, s3: Any, bucket: str) -> None:
    """Values pass from step to step: outputs, property files, parameters, variables."""
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body="alpha")
    prepare = processing(
        "Prepare",
        bucket,
        ProcessingInputs=[source("data", get("Parameters.Data"))],
        Environment={"SCORE": get("Parameters.Score"), "RUN": get("Execution.PipelineName")},
        PropertyFiles=[
            {"PropertyFileName": "report", "OutputName": "records", "FilePath": "algo-1.json"}
        ],
    )
    score = {
        "Std:JsonGet": {
            "PropertyFile": get("Steps.Prepare.PropertyFiles.report"),
            "Path": "job.Environment.SCORE",
        }
    }
    uri = get("Steps.Prepare.ProcessingOutputConfig.Outputs['records'].S3Output.S3Uri")
    channel = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    joined = {"Std:Join": {"On": "-", "Values": ["depth", get("Parameters.Hosts"), "x"]}}
    train = training(
        "Train_it",
        bucket,
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": channel}}],
        HyperParameters={"depth": joined},
        Tags=[{"Key": "tenant", "Value": "acme"}],
        ResourceConfig={
            "InstanceType": "ml.m5.large",
            "InstanceCount": get("Parameters.Hosts"),
            "VolumeSizeInGB": 1,
        },
    )
    container = {"Image": ECHO, "Environment": {"ECHO_AS_IS": "1"}}
    container["ModelDataUrl"] = get("Steps.Train_it.ModelArtifacts.S3ModelArtifacts")
    model = step("Model", "Model", {"PrimaryContainer": container})
    transform = {
        "ModelName": get("Steps.Model.ModelName"),
        "TransformInput": {
            "DataSource": {
                "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": get("Parameters.Data")}
            }
        },
        "TransformOutput": {"S3OutputPath": f"s3://{bucket}/predictions"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    good = condition(
        "IsGood",
        [equals(score, "good"), {"Type": "Not", "Condition": equals(get("Parameters.Hosts"), 1)}],
        IfSteps=[train],
        ElseSteps=[step("Give_up", "Fail", {"ErrorMessage": "bad data"})],
    )
    pipeline = create_pipeline(
        sagemaker,
        # The order of the steps in a definition does not matter.
        step("Predict", "Transform", transform),
        model,
        good,
        prepare,
        parameters=[
            {"Name": "Data", "Type": "String"},
            {"Name": "Score", "Type": "String", "DefaultValue": "good"},
            {"Name": "Hosts", "Type": "Integer", "DefaultValue": 1},
        ],
    )
    execution = start(sagemaker, pipeline, Data=f"s3://{bucket}/in/", Hosts="2")
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Succeeded"
    steps = steps_of(sagemaker, execution)
    assert list(steps) == ["Prepare", "IsGood", "Train_it", "Model", "Predict"]
    assert steps["IsGood"]["Metadata"] == {"Condition": {"Outcome": "True"}}
    assert all(each["StartTime"] <= each["EndTime"] for each in steps.values())
    job = steps["Train_it"]["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2]
    assert job.startswith(f"pipelines-{execution.rpartition('/')[2]}-train-it-")
    arn = steps["Train_it"]["Metadata"]["TrainingJob"]["Arn"]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [
        {"Key": "tenant", "Value": "acme"},
        {"Key": "sagemaker:pipeline-execution-arn", "Value": execution},
    ]
    described = sagemaker.describe_training_job(TrainingJobName=job.replace("train-it", "Train-it"))
    assert described["HyperParameters"] == {"depth": "depth-2-x"}
    assert described["ResourceConfig"]["InstanceCount"] == 2
    assert described["RoleArn"] == ROLE
    assert keys(s3, bucket, "predictions/") == ["predictions/a.txt.out"]
    parameters = sagemaker.list_pipeline_parameters_for_execution(PipelineExecutionArn=execution)
    assert {each["Name"]: each["Value"] for each in parameters["PipelineParameters"]} == {
        "Data": f"s3://{bucket}/in/",
        "Hosts": "2",
    }
    # The other branch: its message is the step's, and the execution's failure is AWS's text.
    execution = start(sagemaker, pipeline, Data=f"s3://{bucket}/in/", Score="bad", Hosts="2")
    failed = ended(sagemaker, execution)
    assert failed["PipelineExecutionStatus"] == "Failed"
    assert failed["FailureReason"] == "Step failure: One or multiple steps failed."
    steps = steps_of(sagemaker, execution)
    assert list(steps) == ["Prepare", "IsGood", "Give_up"]
    assert steps["Give_up"]["Metadata"] == {"Fail": {"ErrorMessage": "bad data"}}
    assert steps["Give_up"]["FailureReason"] == "bad data"


def test_a_failed_step_lets_running_steps_end_and_starts_no_more(
    sagemaker: Any, bucket: str
) -> None:
    pipeline = create_pipeline(
        sagemaker,
        training("Bad", bucket, HyperParameters={"fail_on": "all", "failure": "no column y"}),
        training("Slow", bucket, HyperParameters={"sleep": "1.5"}),
        training("After_slow", bucket, "Slow"),
        training("After_bad", bucket, "Bad"),
    )
    execution = start(sagemaker, pipeline)
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Failed"
    steps = steps_of(sagemaker, execution)
    assert {name: each["StepStatus"] for name, each in steps.items()} == {
        "Bad": "Failed",
        "Slow": "Succeeded",
    }
    assert steps["Bad"]["FailureReason"] == "no column y"
    (summary,) = sagemaker.list_pipeline_executions(PipelineName=pipeline)[
        "PipelineExecutionSummaries"
    ]
    assert summary["PipelineExecutionFailureReason"].startswith("Step failure")


@pytest.mark.parametrize("missing", ["data", "report"])
def test_what_is_missing_fails_its_step_with_a_reason(
    sagemaker: Any, bucket: str, missing: str
) -> None:
    uri = f"s3://{bucket}/nothing/"
    channel = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    inputs = [{"ChannelName": "training", "DataSource": {"S3DataSource": channel}}]
    report = {"PropertyFileName": "report", "OutputName": "records", "FilePath": "no.json"}
    value = {
        "Std:JsonGet": {"PropertyFile": get("Steps.First.PropertyFiles.report"), "Path": "a.b[0]"}
    }
    steps, named = {
        "data": (
            [training("Last", bucket, InputDataConfig=inputs)],
            "Failed to invoke sagemaker:CreateTrainingJob. Error Details: No S3 objects",
        ),
        "report": (
            [
                processing("First", bucket, PropertyFiles=[report]),
                condition("Last", [equals(value, "1")]),
            ],
            "NoSuchKey",
        ),
    }[missing]
    execution = start(sagemaker, create_pipeline(sagemaker, *steps))
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Failed"
    reason = steps_of(sagemaker, execution)["Last"]["FailureReason"]
    assert reason.startswith("ClientError: ")
    assert named in reason


def test_stopping_an_execution_stops_its_jobs(
    sagemaker: Any, emulator: Emulator, bucket: str
) -> None:
    mark = unique("mark")
    sleeping = {"SLEEP_ON": "all", "MARK": mark}
    pipeline = create_pipeline(
        sagemaker,
        processing("Sleep", bucket, Environment=sleeping),
        processing("Never", bucket, "Sleep"),
    )
    execution = start(sagemaker, pipeline)
    wait_for(lambda: emulator.containers(MARK=mark), bool)
    with pytest.raises(ClientError, match="has the running execution") as conflict:
        sagemaker.delete_pipeline(PipelineName=pipeline)
    assert conflict.value.response["Error"]["Code"] == "ConflictException"
    sagemaker.stop_pipeline_execution(PipelineExecutionArn=execution)
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Stopped"
    assert statuses(sagemaker, execution) == {"Sleep": "Stopped"}
    assert emulator.containers(MARK=mark) == []
    with pytest.raises(ClientError, match="is in status Stopped") as error:
        sagemaker.stop_pipeline_execution(PipelineExecutionArn=execution)
    assert error.value.response["Error"]["Code"] == "ConflictException"
    sagemaker.delete_pipeline(PipelineName=pipeline)
    with pytest.raises(ClientError, match="does not exist") as gone:
        sagemaker.describe_pipeline_execution(PipelineExecutionArn=execution)
    assert gone.value.response["Error"]["Code"] == "ResourceNotFound"


def test_no_more_steps_run_at_once_than_allowed(sagemaker: Any, bucket: str) -> None:
    pipeline = create_pipeline(
        sagemaker, *(processing(f"Step{number}", bucket) for number in range(3))
    )
    execution = sagemaker.start_pipeline_execution(
        PipelineName=pipeline, ParallelismConfiguration={"MaxParallelExecutionSteps": 1}
    )["PipelineExecutionArn"]
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Succeeded"
    steps = list(steps_of(sagemaker, execution).values())
    assert len(steps) == 3
    for before, after in itertools.pairwise(steps):
        assert before["EndTime"] <= after["StartTime"]


def test_throttled_calls_are_tried_again(sagemaker: Any, faults: FaultsClient, bucket: str) -> None:
    pipeline = create_pipeline(sagemaker, processing("Only", bucket))
    for kind, operation, attempts in (
        ("throttle", "CreateProcessingJob", 2),
        ("server_error", "DescribeProcessingJob", 1),
    ):
        rule = Rule.model_validate({"kind": kind, "operation": operation, "most": 1})
        with faults.planned(rule):
            execution = start(sagemaker, pipeline)
            assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Succeeded"
            assert faults.report().rules[0].happened == 1
        assert steps_of(sagemaker, execution)["Only"]["AttemptCount"] == attempts


def test_an_execution_survives_a_restart(
    local_cloud: LocalCloud, tmp_path: Path, s3: Any, bucket: str
) -> None:
    """The job under way died with the emulator, so its step fails; what ended stays as it was."""
    for emulator in running_emulator(local_cloud, tmp_path / "state"):
        client = emulator.client("sagemaker")
        outputs = {"Outputs": [target("records", f"s3://{bucket}/out", "Continuous")]}
        sleeping = processing(
            "Sleep",
            bucket,
            "First",
            Environment={"SLEEP_ON": "all"},
            ProcessingOutputConfig=outputs,
        )
        pipeline = create_pipeline(
            client,
            condition("First", [equals(1, 1.0)]),
            sleeping,
            processing("Never", bucket, "Sleep"),
        )
        execution = start(client, pipeline)
        wait_for(lambda: keys(s3, bucket, "out/"), bool)
        emulator.kill()
        emulator.start()
        assert ended(client, execution)["PipelineExecutionStatus"] == "Failed"
        steps = steps_of(client, execution)
        assert {name: each["StepStatus"] for name, each in steps.items()} == {
            "First": "Succeeded",
            "Sleep": "Failed",
        }
        assert steps["Sleep"]["FailureReason"].startswith("InternalServerError: ")
        assert client.list_pipelines(PipelineNamePrefix=pipeline)["PipelineSummaries"]


def test_pipelines_are_made_changed_listed_and_deleted(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    name, token = unique("pipeline"), uuid.uuid4().hex
    first = definition(step("Only", "Fail", {"ErrorMessage": "first"}))
    request = {
        "PipelineName": name,
        "PipelineDefinition": first,
        "RoleArn": ROLE,
        "ClientRequestToken": token,
        "Tags": [{"Key": "tenant", "Value": "acme"}],
    }
    arn = sagemaker.create_pipeline(**request)["PipelineArn"]
    assert sagemaker.create_pipeline(**request)["PipelineArn"] == arn
    with pytest.raises(ClientError, match="Pipeline names must be unique within") as error:
        sagemaker.create_pipeline(**request | {"ClientRequestToken": uuid.uuid4().hex})
    assert error.value.response["Error"]["Code"] == "ValidationException"
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == request["Tags"]
    started = {"PipelineName": arn, "ClientRequestToken": uuid.uuid4().hex}
    execution = sagemaker.start_pipeline_execution(**started)["PipelineExecutionArn"]
    assert sagemaker.start_pipeline_execution(**started)["PipelineExecutionArn"] == execution
    second = definition(condition("Only", [equals("a", "a")]))
    s3.put_object(Bucket=bucket, Key="second.json", Body=second)
    sagemaker.update_pipeline(
        PipelineName=name,
        PipelineDescription="better",
        PipelineDefinitionS3Location={"Bucket": bucket, "ObjectKey": "second.json"},
    )
    described = sagemaker.describe_pipeline(PipelineName=name)
    assert described["PipelineDefinition"] == second
    assert described["PipelineDescription"] == "better"
    assert described["PipelineStatus"] == "Active"
    assert described["LastRunTime"] >= described["CreationTime"]
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Failed"
    kept = sagemaker.describe_pipeline_definition_for_execution(PipelineExecutionArn=execution)
    assert kept["PipelineDefinition"] == first
    latest = start(sagemaker, name)
    assert ended(sagemaker, latest)["PipelineExecutionStatus"] == "Succeeded"
    listed = sagemaker.get_paginator("list_pipeline_executions").paginate(
        PipelineName=name, PaginationConfig={"PageSize": 1}
    )
    assert [
        each["PipelineExecutionArn"]
        for page in listed
        for each in page["PipelineExecutionSummaries"]
    ] == [latest, execution]
    (summary,) = sagemaker.list_pipelines(PipelineNamePrefix=name)["PipelineSummaries"]
    assert summary["LastExecutionTime"] > described["LastRunTime"]
    sagemaker.delete_pipeline(PipelineName=name)
    with pytest.raises(ClientError, match=f"Pipeline '{arn}' does not exist") as gone:
        sagemaker.describe_pipeline(PipelineName=name)
    assert gone.value.response["Error"]["Code"] == "ResourceNotFound"


ROUND = (
    step("A", "Fail", {"ErrorMessage": "x"}, "B"),
    condition("B", [equals(1, 1)], IfSteps=[step("C", "Fail", {"ErrorMessage": "x"}, "A")]),
)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "Steps: List should have at least 1 item"),
        ([step("A", "Fail", {"Message": "x"})], "Message: Extra inputs are not permitted"),
        ([step("A b", "Fail", {})], "String should match pattern"),
        ([step("A", "Fail", {}), step("A", "Fail", {})], "must be unique"),
        ([step("A", "Fail", {}, "B")], "there is no step B"),
        ([step("A", "Fail", {}, "B"), step("B", "Fail", {}, "A")], "depend on each other"),
        (ROUND, "depend on each other"),
        ([step("A", "Nonsense", {})], "there is no type Nonsense"),
        ([step("A", "Lambda", {})], "step A: Type Lambda is not emulated yet"),
        ([step("A", "RegisterModel", {})], "step A: Type RegisterModel is not emulated yet"),
        ([step("A", "Fail", {}, CacheConfig={"Enabled": True})], "CacheConfig is not emulated"),
        ([step("A", "Fail", {"ErrorMessage": get("Parameters.X")})], "there is no parameter X"),
        ([step("A", "Fail", {"ErrorMessage": get("Execution.X")})], "no execution variable X"),
        ([step("A", "Fail", {"ErrorMessage": get("Nothing")})], "names neither Parameters.NAME"),
        (
            [condition("B", [equals(1, 1)]), condition("A", [equals(get("Steps.B.Arn"), 1)])],
            "step B has no property",
        ),
        ([condition("A", [{"Type": "Near"}])], "does not match any of the expected tags"),
        ([step("A", "Training", {})], "Missing required parameter"),
        ([training("A", "b", Colour="blue")], "Unknown parameter in input"),
        (
            [training("A", "b", HyperParameters={"a": "x" * 2501})],
            "length less than or equal to 2500",
        ),
        ([training("A", "b", RetryStrategy={"MaximumRetryAttempts": 2})], "RetryStrategy is not"),
    ],
)
def test_definitions_that_cannot_be_honoured_are_refused(
    sagemaker: Any, steps: list[Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message) as error:
        create_pipeline(sagemaker, *steps)
    assert error.value.response["Error"]["Code"] == "ValidationException"


def refusal(client: Any, text: str) -> str | None:
    """The code of the error that refuses a definition, None where it is taken."""
    try:
        client.create_pipeline(PipelineName=unique("any"), PipelineDefinition=text, RoleArn=ROLE)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "A", "Steps.A.B"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["Get", "Std:Join", "Std:JsonGet", "Values", "PropertyFile", "Path", "x"]
            ),
            inner,
            max_size=2,
        )
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.data(), JSON)
def test_a_definition_with_anything_in_it_is_taken_or_refused(
    sagemaker: Any, data: st.DataObject, anything: Any
) -> None:
    """No value at any place makes an error of the emulator."""
    file = {"PropertyFileName": "report", "OutputName": "records", "FilePath": "a.json"}
    whole: Any = json.loads(
        definition(
            processing("A", "bucket", PropertyFiles=[file], Environment={"a": get("Parameters.P")}),
            condition("B", [equals(get("Steps.A.ProcessingJobName"), "a")], "A", IfSteps=[]),
            parameters=[{"Name": "P", "Type": "String", "DefaultValue": "p"}],
        )
    )
    place = whole
    while True:
        names = list(place) if isinstance(place, dict) else list(range(len(place)))
        name = data.draw(st.sampled_from(names))
        if isinstance(place[name], dict | list) and place[name] and data.draw(st.booleans()):
            place = place[name]
            continue
        place[name] = anything
        break
    assert refusal(sagemaker, json.dumps(whole)) in (None, "ValidationException")


@pytest.mark.parametrize(
    ("given_value", "message"),
    [
        ({}, "Parameter Count has neither a value nor a default value"),
        ({"Count": "many"}, "the value is no Integer"),
        ({"Count": "1", "Colour": "red"}, "the value must be one of blue"),
        ({"Count": "1", "Nothing": "1"}, "has no parameters Nothing"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    sagemaker: Any, given_value: dict[str, str], message: str
) -> None:
    parameters = [
        {"Name": "Count", "Type": "Integer"},
        {"Name": "Colour", "Type": "String", "DefaultValue": "blue", "EnumValues": ["blue"]},
    ]
    pipeline = create_pipeline(sagemaker, step("A", "Fail", {}), parameters=parameters)
    with pytest.raises(ClientError, match=message) as error:
        start(sagemaker, pipeline, **given_value)
    assert error.value.response["Error"]["Code"] == "ValidationException"


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 5), max_size=3), st.booleans()), min_size=1, max_size=6
    )
)
def test_every_step_that_is_needed_runs_once_after_what_it_needs(
    sagemaker: Any, graph: list[tuple[set[int], bool]]
) -> None:
    """Condition steps that need earlier ones; each also has a step in the branch that it takes."""
    steps = []
    for number, (earlier, holds) in enumerate(graph):
        needs = [f"S{other}" for other in sorted(earlier) if other < number]
        chosen = condition(f"T{number}", [equals(1, 1)])
        other = condition(f"U{number}", [equals(1, 1)])
        branches = {"IfSteps": [chosen], "ElseSteps": [other]} if holds else {"ElseSteps": [chosen]}
        steps.append(condition(f"S{number}", [equals(holds, True)], *needs, **branches))
    execution = start(sagemaker, create_pipeline(sagemaker, *reversed(steps)))
    assert ended(sagemaker, execution)["PipelineExecutionStatus"] == "Succeeded"
    ran = steps_of(sagemaker, execution)
    wanted = [f"{letter}{number}" for number in range(len(graph)) for letter in "ST"]
    assert sorted(ran) == sorted(wanted)
    for number, (earlier, _) in enumerate(graph):
        for other in (other for other in earlier if other < number):
            assert ran[f"T{other}"]["EndTime"] <= ran[f"S{number}"]["StartTime"]
