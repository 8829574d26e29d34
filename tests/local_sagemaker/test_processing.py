"""Processing jobs, through boto3 unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import CAPACITY_REASON, Rule
from local_sagemaker.processes.folders import own_opt_ml
from tests.local_sagemaker.conftest import ROLE, Emulator, keys, running_emulator, unique, wait_for
from tests.local_sagemaker.processing_jobs import (
    PROCESSOR,
    create_processing_job,
    ended_processing_job,
    processing_request,
    source,
    target,
)


def records(s3: Any, bucket: str) -> dict[str, Any]:
    """What each host was given, by its name."""
    found = [key for key in keys(s3, bucket, "out/") if key.endswith(".json")]
    return {
        Path(key).stem: json.load(s3.get_object(Bucket=bucket, Key=key)["Body"]) for key in found
    }


def test_a_job_reads_its_inputs_and_leaves_its_outputs(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="in/deep/a.txt", Body="alpha")
    s3.put_object(Bucket=bucket, Key="code/script.py", Body="pass")
    name = create_processing_job(
        sagemaker,
        bucket,
        ProcessingInputs=[
            source("data", f"s3://{bucket}/in/"),
            source("code", f"s3://{bucket}/code/script.py"),
        ],
        AppSpecification={"ImageUri": PROCESSOR, "ContainerArguments": ["--split", "0.2"]},
        Environment={"COLOUR": "blue", "MESSAGE": "two files"},
        NetworkConfig={"EnableNetworkIsolation": True},
    )
    job = ended_processing_job(sagemaker, name)
    assert (job["ProcessingJobStatus"], job["ExitMessage"]) == ("Completed", "two files")
    assert "FailureReason" not in job
    assert job["CreationTime"] <= job["ProcessingStartTime"] <= job["ProcessingEndTime"]
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 24 * 3600}
    assert job["ProcessingInputs"][0]["S3Input"]["S3DataDistributionType"] == "FullyReplicated"
    assert job["NetworkConfig"] == {"EnableNetworkIsolation": True}
    # The symbolic link stays out, as AWS documents.
    assert keys(s3, bucket, "out/") == ["out/algo-1.json"]
    record = records(s3, bucket)["algo-1"]
    assert record["arguments"] == ["--split", "0.2"]
    assert record["inputs"] == {"data/deep/a.txt": "alpha", "code/script.py": "pass"}
    assert record["environment"]["COLOUR"] == "blue"
    assert record["resources"] == {"current_host": "algo-1", "hosts": ["algo-1"]}
    assert record["job"]["ProcessingJobArn"] == job["ProcessingJobArn"]
    assert record["job"]["ProcessingResources"] == job["ProcessingResources"]
    assert record["job"]["RoleArn"] == ROLE


def test_hosts_share_a_sharded_input_and_join_their_messages(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"in/{number}.txt", Body=str(number))
    manifest = json.dumps([{"prefix": f"s3://{bucket}/in/"}, "0.txt", "4.txt"])
    s3.put_object(Bucket=bucket, Key="some.manifest", Body=manifest)
    sharded = source("data", f"s3://{bucket}/in/", S3DataDistributionType="ShardedByS3Key")
    named = source("some", f"s3://{bucket}/some.manifest", S3DataType="ManifestFile")
    name = create_processing_job(
        sagemaker, bucket, hosts=2, ProcessingInputs=[sharded, named], Environment={"MESSAGE": "€"}
    )
    job = ended_processing_job(sagemaker, name)
    assert (job["ProcessingJobStatus"], job["ExitMessage"]) == ("Completed", "€€")
    found = records(s3, bucket)
    shares = [
        {path for path in found[host]["inputs"] if path.startswith("data/")}
        for host in ("algo-1", "algo-2")
    ]
    assert shares[0] | shares[1] == {f"data/{number}.txt" for number in range(5)}
    assert not shares[0] & shares[1]
    assert all({"some/0.txt", "some/4.txt"} < set(found[host]["inputs"]) for host in found)
    assert found["algo-2"]["resources"]["hosts"] == ["algo-1", "algo-2"]


def test_an_entry_point_runs_a_script_of_its_inputs(
    sagemaker: Any, s3: Any, bucket: str, tmp_path: Path
) -> None:
    """Absolute paths, as AWS's script processors write them."""
    if not own_opt_ml(tmp_path, tmp_path):
        pytest.skip("this machine allows neither mounts nor user namespaces")
    script = "import shutil, sys; shutil.copy(sys.argv[1], '/opt/ml/processing/output/records')"
    s3.put_object(Bucket=bucket, Key="code/copy.py", Body=script)
    script_path = "/opt/ml/processing/input/code/copy.py"
    name = create_processing_job(
        sagemaker,
        bucket,
        ProcessingInputs=[source("code", f"s3://{bucket}/code/")],
        AppSpecification={
            "ImageUri": PROCESSOR,
            "ContainerEntrypoint": ["python3", script_path],
            "ContainerArguments": [script_path],
        },
    )
    assert ended_processing_job(sagemaker, name)["ProcessingJobStatus"] == "Completed"
    assert keys(s3, bucket, "out/") == ["out/copy.py"]


def test_a_failed_host_fails_the_job_and_keeps_only_continuous_outputs(
    sagemaker: Any, s3: Any, emulator: Emulator, bucket: str
) -> None:
    outputs = [
        target("records", f"s3://{bucket}/out", "Continuous"),
        target("late", f"s3://{bucket}/late", LocalPath="/opt/ml/processing/output/records"),
    ]
    mark = unique("mark")
    environment = {
        "FAIL_ON": "algo-2",
        "EXIT_CODE": "7",
        "SLEEP_ON": "algo-1",
        "MESSAGE": "sad",
        "MARK": mark,
    }
    name = create_processing_job(
        sagemaker,
        bucket,
        hosts=2,
        Environment=environment,
        ProcessingOutputConfig={"Outputs": outputs},
    )
    job = ended_processing_job(sagemaker, name)
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: See job logs for more information")
    assert job["FailureReason"].endswith("algo-2 ended, exit code: 7")
    assert "sad" in job["ExitMessage"]
    assert "out/algo-2.json" in keys(s3, bucket)
    assert keys(s3, bucket, "late/") == []
    wait_for(lambda: emulator.containers(MARK=mark), lambda left: not left)


def test_messages_have_at_most_a_kilobyte_together(sagemaker: Any, bucket: str) -> None:
    """No character is cut: 341 of three bytes fit."""
    environment = {"MESSAGE": "€", "TIMES": "700"}
    job = ended_processing_job(
        sagemaker, create_processing_job(sagemaker, bucket, hosts=2, Environment=environment)
    )
    assert (job["ProcessingJobStatus"], job["ExitMessage"]) == ("Completed", "€" * 341)


def test_a_message_that_is_not_utf_8_fails_the_job(sagemaker: Any, bucket: str) -> None:
    environment = {"MESSAGE": "é", "ENCODING": "latin-1"}
    job = ended_processing_job(
        sagemaker, create_processing_job(sagemaker, bucket, Environment=environment)
    )
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: ")
    assert "not UTF-8" in job["FailureReason"]


def test_stopping_a_job_gives_it_sigterm_and_keeps_its_continuous_outputs(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    outputs = {"Outputs": [target("records", f"s3://{bucket}/out", "Continuous")]}
    environment = {"SLEEP_ON": "all", "ON_STOP": "finished in time"}
    name = create_processing_job(
        sagemaker, bucket, Environment=environment, ProcessingOutputConfig=outputs
    )
    # The file appears in S3 during the job, so the container runs and has its handler.
    wait_for(lambda: "out/ready.txt" in keys(s3, bucket), bool)
    assert (
        sagemaker.describe_processing_job(ProcessingJobName=name)["ProcessingJobStatus"]
        == "InProgress"
    )
    sagemaker.stop_processing_job(ProcessingJobName=name)
    assert ended_processing_job(sagemaker, name)["ProcessingJobStatus"] == "Stopped"
    # The container deleted the file at its end, and made a symbolic link at its beginning.
    assert keys(s3, bucket) == ["out/algo-1.json", "out/ready.txt", "out/stopped.txt"]
    with pytest.raises(ClientError, match="is in status Stopped"):
        sagemaker.stop_processing_job(ProcessingJobName=name)


def test_a_job_over_its_maximum_runtime_is_stopped(sagemaker: Any, bucket: str) -> None:
    name = create_processing_job(
        sagemaker,
        bucket,
        Environment={"SLEEP_ON": "all"},
        StoppingCondition={"MaxRuntimeInSeconds": 1},
    )
    assert ended_processing_job(sagemaker, name)["ProcessingJobStatus"] == "Stopped"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://{bucket}/nothing/", "matched no files on s3"),
        ("s3://no-such-bucket-of-processing/x", "NoSuchBucket"),
    ],
)
def test_input_that_is_not_there_fails_the_job(
    sagemaker: Any, bucket: str, uri: str, named: str
) -> None:
    inputs = [source("data", uri.format(bucket=bucket))]
    job = ended_processing_job(
        sagemaker, create_processing_job(sagemaker, bucket, ProcessingInputs=inputs)
    )
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Failed to download data.")
    assert named in job["FailureReason"]


def test_an_unknown_image_fails_the_job_with_a_clear_reason(sagemaker: Any, bucket: str) -> None:
    image = {"ImageUri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/nowhere:1"}
    job = ended_processing_job(
        sagemaker, create_processing_job(sagemaker, bucket, AppSpecification=image)
    )
    assert job["ProcessingJobStatus"] == "Failed"
    assert "'nowhere'" in job["FailureReason"]


def test_every_host_has_a_log_stream(sagemaker: Any, local_cloud: LocalCloud, bucket: str) -> None:
    name = create_processing_job(sagemaker, bucket, hosts=2)
    ended_processing_job(sagemaker, name)
    logs = boto3.client("logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1")
    group = "/aws/sagemaker/ProcessingJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")[
        "logStreams"
    ]
    assert [stream["logStreamName"].rpartition("-")[0] for stream in streams] == [
        f"{name}/algo-1",
        f"{name}/algo-2",
    ]
    events = logs.get_log_events(
        logGroupName=group, logStreamName=streams[1]["logStreamName"], startFromHead=True
    )
    assert events["events"][0]["message"] == "host algo-2 of ['algo-1', 'algo-2']"


def test_instances_are_billed_to_the_job_with_its_tags(
    sagemaker: Any, emulator: Emulator, bucket: str
) -> None:
    tags = [{"Key": "tenant", "Value": "acme"}]
    name = create_processing_job(sagemaker, bucket, hosts=2, Tags=tags)
    job = ended_processing_job(sagemaker, name)
    arn = job["ProcessingJobArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "tier", "Value": "silo"}])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [*tags, {"Key": "tier", "Value": "silo"}]
    bill = emulator.control("GET", "/_local/bill")
    mine = [line for line in bill["lines"] if line["resource"] == arn]
    assert {line["what"] for line in mine} == {"instance", "storage"}
    assert all(line["usage"] == "processing job" for line in mine)
    assert all(line["tags"] == {"tenant": "acme"} for line in mine)
    seconds = (job["ProcessingEndTime"] - job["ProcessingStartTime"]).total_seconds()
    billed = sum(line["quantity"] for line in mine if line["what"] == "instance") * 3600
    assert 0 < billed <= 2 * seconds + 0.1


def test_a_name_is_used_once(sagemaker: Any, bucket: str) -> None:
    name = create_processing_job(sagemaker, bucket)
    with pytest.raises(ClientError, match="a job with this name already exists") as error:
        create_processing_job(sagemaker, bucket, ProcessingJobName=name.upper())
    assert error.value.response["Error"]["Code"] == "ResourceInUse"
    ended_processing_job(sagemaker, name)


def test_more_instances_than_the_quota_are_refused(sagemaker: Any, bucket: str) -> None:
    with pytest.raises(
        ClientError, match=r"'ml\.m5\.large for processing job usage' is 12 Instances"
    ) as error:
        create_processing_job(sagemaker, bucket, hosts=13)
    assert error.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_planned_faults_strike_processing_jobs(
    sagemaker: Any, faults: FaultsClient, bucket: str
) -> None:
    name = unique("struck")
    with (
        faults.planned(Rule(kind="throttle", job=name, operation="CreateProcessingJob", most=1)),
        pytest.raises(ClientError, match="ThrottlingException"),
    ):
        create_processing_job(sagemaker, bucket, ProcessingJobName=name)
    with faults.planned(Rule(kind="capacity", image="*/processor:*", job=name)):
        create_processing_job(sagemaker, bucket, ProcessingJobName=name)
        job = ended_processing_job(sagemaker, name)
    assert (job["ProcessingJobStatus"], job["FailureReason"]) == ("Failed", CAPACITY_REASON)
    killed = unique("killed")
    with faults.planned(Rule(kind="kill_container", job=killed)):
        create_processing_job(
            sagemaker, bucket, ProcessingJobName=killed, Environment={"SLEEP_ON": "all"}
        )
        assert ended_processing_job(sagemaker, killed)["FailureReason"].endswith("exit code: 137")


def test_jobs_are_listed_in_pages_by_name_and_status(sagemaker: Any, bucket: str) -> None:
    prefix = unique("page")
    names = [f"{prefix}-{number}" for number in range(3)]
    for name in names:
        environment = {"FAIL_ON": "all"} if name == names[2] else {}
        create_processing_job(sagemaker, bucket, ProcessingJobName=name, Environment=environment)
    for name in names:
        ended_processing_job(sagemaker, name)
    pages = sagemaker.get_paginator("list_processing_jobs").paginate(
        NameContains=prefix, PaginationConfig={"PageSize": 2}
    )
    listed = [
        [job["ProcessingJobName"] for job in page["ProcessingJobSummaries"]] for page in pages
    ]
    assert listed == [names[:2], names[2:]]
    failed = sagemaker.list_processing_jobs(NameContains=prefix, StatusEquals="Failed")
    (summary,) = failed["ProcessingJobSummaries"]
    assert summary["ProcessingJobName"] == names[2]
    assert summary["FailureReason"].endswith("exit code: 1")


def test_a_restart_fails_the_jobs_in_progress(
    local_cloud: LocalCloud, tmp_path: Path, s3: Any, bucket: str
) -> None:
    for emulator in running_emulator(local_cloud, tmp_path / "state"):
        client = emulator.client("sagemaker")
        outputs = {"Outputs": [target("records", f"s3://{bucket}/out", "Continuous")]}
        name = create_processing_job(
            client, bucket, Environment={"SLEEP_ON": "all"}, ProcessingOutputConfig=outputs
        )
        wait_for(lambda: keys(s3, bucket, "out/"), bool)
        emulator.kill()
        wait_for(emulator.containers, lambda left: not left)
        emulator.start()
        job = client.describe_processing_job(ProcessingJobName=name)
        assert job["ProcessingJobStatus"] == "Failed"
        assert job["FailureReason"].startswith("InternalServerError: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ProcessingInputs": [source("a", "s3://b/c", LocalPath="/opt/ml/input")]},
            "LocalPath must begin with /opt/ml/processing/",
        ),
        (
            {"ProcessingInputs": [source("a", "s3://b/c", LocalPath="/opt/ml/processing/../x")]},
            "LocalPath must begin with /opt/ml/processing/",
        ),
        ({"ProcessingInputs": [source("a", "https://b/c")]}, "is not an S3 URI"),
        ({"ProcessingInputs": [source("a", "s3://b/c")] * 2}, "members of the same name"),
        ({"ProcessingInputs": [{"InputName": "a"}]}, "S3Input is required"),
        ({"ProcessingOutputConfig": {"Outputs": [{"OutputName": "a"}]}}, "S3Output is required"),
        (
            {"ProcessingResources": {"ClusterConfig": {"VolumeSizeInGB": 1}}},
            "InstanceCount of at least 1",
        ),
        (
            {"ProcessingInputs": [source("a", "s3://b/c", S3InputMode="Pipe")]},
            "S3InputMode Pipe is not emulated yet",
        ),
        (
            {"ProcessingInputs": [source("a", "s3://b/c", S3CompressionType="Gzip")]},
            "S3CompressionType Gzip is not emulated yet",
        ),
        (
            {"ProcessingInputs": [{"InputName": "a", "AppManaged": True}]},
            "AppManaged is not emulated yet",
        ),
        ({"ExperimentConfig": {"ExperimentName": "e"}}, "ExperimentConfig is not emulated yet"),
    ],
)
def test_requests_that_cannot_be_honoured_are_refused(
    sagemaker: Any, bucket: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message) as error:
        create_processing_job(sagemaker, bucket, **change)
    assert error.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.aws_verified
def test_a_missing_job_is_a_validation_exception(api: Any) -> None:
    for call in (api.describe_processing_job, api.stop_processing_job):
        with pytest.raises(ClientError, match="Could not find requested job with name") as error:
            call(ProcessingJobName=unique("nowhere"))
        assert error.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.aws_verified
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ProcessingJobName": "under_score"}, "Member must satisfy regular expression pattern"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 777601}}, "less than or equal to 777600"),
    ],
)
def test_the_service_model_is_enforced(api: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message) as error:
        api.create_processing_job(**processing_request("nowhere") | change)
    assert error.value.response["Error"]["Code"] == "ValidationException"
