"""PipesSageMakerTrainingJobClient in real Dagster runs, against real training containers on the
local cloud."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize
from dagster._core.errors import DagsterExecutionInterruptedError
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.local_cloud import (
    LocalCloud,
    free_port,
    start_process,
    stop_process,
    wait_until_healthy,
)
from pipes_sagemaker.client import (
    PipesSageMakerLogReader,
    PipesSageMakerMessageReader,
    PipesSageMakerTrainingJobClient,
    TrainingJobDiffersError,
    TrainingJobFailedError,
    TrainingJobResourceLimitExceededError,
    failure_class,
)
from pipes_sagemaker.comparison import first_difference
from tests.pipes_sagemaker.broken_calls import break_calls

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/pipes-sagemaker.md"
BUCKET = "pipes"
Params = dict[str, Any]


def example_code(language_line: str) -> str:
    """The code block of the docs page that starts with this line."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    [code] = [block for block in blocks if block.startswith(language_line)]
    return str(code)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of this folder, and ``example`` of the docs page; each holds the runtime, as its
    Dockerfile would."""
    folder = tmp_path_factory.mktemp("containers")
    programs = {
        path.parent.name: path.read_text()
        for path in (Path(__file__).parent / "containers").glob("*/train")
    }
    for name, code in {**programs, "example": example_code("#!/usr/bin/env python3")}.items():
        (folder / name).mkdir()
        (folder / name / "train").write_text(code, encoding="utf-8")
        (folder / name / "train").chmod(0o755)
        (folder / name / "containers").symlink_to(ROOT / "containers")
    return folder


@pytest.fixture(scope="module")
def endpoint(
    local_cloud: LocalCloud, containers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A SageMaker of its own, that knows these images."""
    folder, port = tmp_path_factory.mktemp("sagemaker"), free_port()
    command = [
        sys.executable,
        "-m",
        "local_sagemaker",
        "--port",
        str(port),
        "--state",
        str(folder / "state"),
        "--containers",
        str(containers),
        "--create-training-job-burst",
        "100",
        "--instance-quota",
        "4",
    ]
    process = start_process(command, folder / "log", dict(os.environ), cwd=ROOT)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/_local/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_process(process)


@pytest.fixture(scope="module")
def s3(endpoint: str) -> "S3Client":
    client = boto3.client("s3")
    client.create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    return client


@pytest.fixture
def sagemaker(endpoint: str) -> "SageMakerClient":
    """A new client for each test, since some tests disturb theirs."""
    return boto3.client("sagemaker", endpoint_url=endpoint)


@pytest.fixture
def pipes(sagemaker: "SageMakerClient", s3: "S3Client") -> PipesSageMakerTrainingJobClient:
    return PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        log_reader=PipesSageMakerLogReader(interval=0.1, settle=0.0),
        poll_interval=0.2,
    )


def counting(*, instances: int = 1, name: str | None = None, **hyperparameters: str) -> Params:
    """A request for the counting container."""
    return {
        "TrainingJobName": name or f"counting-{uuid.uuid4().hex[:12]}",
        "AlgorithmSpecification": {
            "TrainingImage": "registry/counting:1",
            "TrainingInputMode": "File",
        },
        "HyperParameters": {"count": "3", **hyperparameters},
        "RoleArn": "arn:aws:iam::123456789012:role/training",
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
        "ResourceConfig": {
            "InstanceType": "ml.m5.large",
            "InstanceCount": instances,
            "VolumeSizeInGB": 1,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 120},
    }


@dataclass
class Outcome:
    """What a run of the asset left behind."""

    success: bool
    error: BaseException | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    custom_messages: list[Any] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def run_asset(
    pipes: PipesSageMakerTrainingJobClient,
    params: Params,
    on_custom_message: Callable[[Any], None] | None = None,
    **options: Any,
) -> Outcome:
    """Materialise an asset that uses the client, in a real ephemeral instance."""
    outcome = Outcome(success=False)

    @asset
    def counted(
        context: AssetExecutionContext, pipes: PipesSageMakerTrainingJobClient
    ) -> MaterializeResult[Any]:
        try:
            completed = pipes.run(
                context=context,
                # The tests build it as plain JSON.
                create_training_job_params=params,  # type: ignore[arg-type]
                on_custom_message=on_custom_message,
                **options,
            )
        except BaseException as error:
            outcome.error = error
            raise
        outcome.custom_messages = list(completed.get_custom_messages())
        return completed.get_materialize_result()

    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            [counted], instance=instance, resources={"pipes": pipes}, raise_on_error=False
        )
        outcome.success = result.success
        outcome.log = [entry.user_message for entry in instance.all_logs(result.run_id)]
        if result.success:
            [event] = result.asset_materializations_for_node("counted")
            outcome.metadata = {key: value.value for key, value in event.metadata.items()}
    return outcome


def numbers_by_host(messages: list[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for message in messages:
        if "number" in message:
            found.setdefault(message["host"], []).append(message["number"])
    return found


def test_one_instance_reports_its_messages_log_lines_and_metadata(
    pipes: PipesSageMakerTrainingJobClient,
    sagemaker: "SageMakerClient",
    s3: "S3Client",
    capfd: pytest.CaptureFixture[str],
) -> None:
    params = counting()
    outcome = run_asset(pipes, params)
    assert outcome.success
    assert outcome.custom_messages == [{"host": "algo-1", "number": number} for number in range(3)]
    assert [line for line in capfd.readouterr().out.splitlines() if "counted" in line] == [
        f"algo-1 counted {number}" for number in range(3)
    ]
    name = params["TrainingJobName"]
    described = sagemaker.describe_training_job(TrainingJobName=name)
    assert outcome.metadata["AWS SageMaker Training Job ARN"] == described["TrainingJobArn"]
    assert outcome.metadata["AWS SageMaker Training Job Status"] == "Completed"
    assert outcome.metadata["Billable Seconds"] == described["BillableTimeInSeconds"]
    assert outcome.metadata["S3 Output"] == f"s3://{BUCKET}/output/{name}/output/model.tar.gz"
    assert outcome.metadata["AWS SageMaker Training Job URL"].endswith(f"#/jobs/{name}")
    assert [text for text in outcome.log if f"{name}: Training" in text]
    assert not [text for text in outcome.log if "did not receive" in text]
    assert not [key for key in keys(s3, params) if "/messages/" not in key]  # The context is gone.
    assert "Environment" not in params
    assert "Tags" not in params
    tags = {
        tag["Key"] for tag in sagemaker.list_tags(ResourceArn=described["TrainingJobArn"])["Tags"]
    }
    assert {"dagster/run-id", "dagster/job"} <= tags


def test_three_instances_each_report_everything(
    pipes: PipesSageMakerTrainingJobClient, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_asset(pipes, counting(instances=3))
    assert outcome.success
    assert numbers_by_host(outcome.custom_messages) == {
        host: [0, 1, 2] for host in ("algo-1", "algo-2", "algo-3")
    }
    lines = [line for line in capfd.readouterr().out.splitlines() if "counted" in line]
    assert sorted(lines) == sorted(
        f"{host} | {host} counted {number}"
        for host in ("algo-1", "algo-2", "algo-3")
        for number in range(3)
    )
    assert not [text for text in outcome.log if "did not receive" in text or "after closed" in text]


def test_a_message_arrives_while_the_job_still_runs(
    pipes: PipesSageMakerTrainingJobClient, s3: "S3Client"
) -> None:
    key = f"go/{uuid.uuid4()}"
    seen: list[tuple[Any, threading.Thread]] = []

    def on_custom_message(message: Any) -> None:
        seen.append((message, threading.current_thread()))
        # Without it the container waits until its time is up.
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")

    outcome = run_asset(pipes, counting(wait_for=f"{BUCKET}/{key}"), on_custom_message)
    assert outcome.success
    assert [message["number"] for message, _ in seen] == [0, 1, 2]
    assert {thread for _, thread in seen} == {threading.current_thread()}


def count_calls(client: Any, operation: str) -> list[float]:
    """A list that grows with each call of an operation."""
    calls: list[float] = []
    client.meta.events.register(
        f"before-send.sagemaker.{operation}", lambda **_: calls.append(time.monotonic())
    )
    return calls


def test_a_watched_job_is_described_when_its_status_changes_and_not_each_time(
    sagemaker: "SageMakerClient", s3: "S3Client"
) -> None:
    key, looks = f"go/{uuid.uuid4()}", list[str | None]()
    described = count_calls(sagemaker, "DescribeTrainingJob")

    def watch(job_name: str) -> str | None:
        listed = sagemaker.list_training_jobs(NameContains=job_name, StatusEquals="InProgress")[
            "TrainingJobSummaries"
        ]
        looks.append(listed[0]["SecondaryStatus"] if listed else None)
        if len(looks) == 12:
            s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
        return looks[-1]

    pipes = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        forward_logs=False,
        poll_interval=0.1,
        job_watch=watch,
    )
    params = counting(wait_for=f"{BUCKET}/{key}")
    outcome = run_asset(pipes, params)
    assert outcome.success
    assert outcome.metadata["AWS SageMaker Training Job Status"] == "Completed"
    assert len(looks) >= 12
    assert len(described) <= 6, (
        "the five statuses of such a job, and one at its end that the list did not show"
    )
    transitions = {
        text.rpartition(": ")[2].partition(" (")[0]
        for text in outcome.log
        if params["TrainingJobName"] in text
    }
    assert {"Starting", "Training", "Completed"} <= transitions


def test_a_job_of_which_only_the_progress_is_known_is_not_described_meanwhile(
    sagemaker: "SageMakerClient", s3: "S3Client"
) -> None:
    described = count_calls(sagemaker, "DescribeTrainingJob")
    looks: list[str] = []

    def watch(job_name: str) -> str | None:
        looks.append(job_name)
        return "" if len(looks) < 10 else None

    pipes = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        forward_logs=False,
        poll_interval=0.1,
        job_watch=watch,
    )
    params = counting()
    assert run_asset(pipes, params).success
    assert set(looks) == {params["TrainingJobName"]}
    assert len(described) <= 2 + len(looks) - 9, "once at first, and from the tenth look on"


def test_a_turn_is_waited_for_before_each_job_is_made_and_whoever_gets_none_makes_none(
    sagemaker: "SageMakerClient", s3: "S3Client"
) -> None:
    turns: list[str] = []

    def turn() -> None:
        turns.append("taken")
        if len(turns) > 2:
            raise TimeoutError("no turn in sight")

    pipes = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        forward_logs=False,
        poll_interval=0.1,
        before_create=turn,
    )
    created = count_calls(sagemaker, "CreateTrainingJob")
    break_calls(sagemaker, "CreateTrainingJob", 1, "ValidationException", 400)
    assert isinstance(run_asset(pipes, counting()).error, ClientError)
    assert run_asset(pipes, counting()).success
    params = counting()
    assert "no turn in sight" in str(run_asset(pipes, params).error)
    assert len(turns) == len(created) + 1 == 3
    with pytest.raises(ClientError, match="not found"):
        sagemaker.describe_training_job(TrainingJobName=params["TrainingJobName"])


def test_a_killed_run_is_continued_by_the_next_one(
    pipes: PipesSageMakerTrainingJobClient,
    sagemaker: "SageMakerClient",
    s3: "S3Client",
    endpoint: str,
) -> None:
    key = f"go/{uuid.uuid4()}"
    params = counting(instances=2, wait_for=f"{BUCKET}/{key}")
    code = (
        "import sys, json; from tests.pipes_sagemaker.test_client import *; "
        "run_and_tell(*sys.argv[1:])"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, endpoint, json.dumps(params)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout is not None
        assert any(line.startswith("heard ") for line in first.stdout)  # It follows the job by now.
        first.kill()
    assert first.returncode == -signal.SIGKILL
    name = params["TrainingJobName"]
    assert (
        sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress"
    )

    s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    outcome = run_asset(pipes, params)
    assert outcome.success
    assert numbers_by_host(outcome.custom_messages) == {"algo-1": [0, 1, 2], "algo-2": [0, 1, 2]}
    assert [text for text in outcome.log if "adopted" in text]
    assert len(sagemaker.list_training_jobs(NameContains=name)["TrainingJobSummaries"]) == 1


def test_a_job_that_has_ended_is_adopted_for_the_same_work_and_refused_for_other(
    pipes: PipesSageMakerTrainingJobClient,
) -> None:
    params = counting()
    once, again = run_asset(pipes, params), run_asset(pipes, params)
    assert again.success
    assert again.custom_messages == once.custom_messages != []
    assert [text for text in again.log if "Completed: adopted" in text]
    same = ("AWS SageMaker Training Job ARN", "Billable Seconds", "S3 Output")
    assert {key: again.metadata[key] for key in same} == {key: once.metadata[key] for key in same}

    other = run_asset(pipes, {**params, "HyperParameters": {"count": "4"}})
    assert isinstance(other.error, TrainingJobDiffersError)
    assert other.error.field == "HyperParameters.count"
    assert "'4', existing '3'" in str(other.error)


def test_a_job_started_without_pipes_is_refused(
    pipes: PipesSageMakerTrainingJobClient, sagemaker: "SageMakerClient"
) -> None:
    params = counting()
    sagemaker.create_training_job(**params)
    outcome = run_asset(pipes, params)
    assert isinstance(outcome.error, TrainingJobDiffersError)
    assert outcome.error.field == "Environment.DAGSTER_PIPES_MESSAGES"


def test_a_failed_job_raises_with_its_reason_after_its_messages_or_returns_it(
    pipes: PipesSageMakerTrainingJobClient,
) -> None:
    heard: list[Any] = []
    params = counting(failure="AlgorithmError: no more fingers")
    outcome = run_asset(pipes, params, heard.append)
    assert not outcome.success
    assert isinstance(outcome.error, TrainingJobFailedError)
    assert outcome.error.failure_reason == "AlgorithmError: no more fingers"
    assert (outcome.error.status, outcome.error.failure_class) == ("Failed", "algorithm")
    assert outcome.error.console_url in str(outcome.error)
    assert [message["number"] for message in heard] == [0, 1, 2]

    returned = run_asset(pipes, params, raise_on_failure=False)
    assert returned.success
    assert returned.metadata["AWS SageMaker Training Job Status"] == "Failed"
    assert returned.metadata["Failure Class"] == "algorithm"


def test_a_stopped_job_is_no_success_and_its_last_messages_arrive(
    pipes: PipesSageMakerTrainingJobClient, sagemaker: "SageMakerClient"
) -> None:
    heard: list[Any] = []
    params = counting(instances=2, wait_for=f"{BUCKET}/never")

    def stop(message: Any) -> None:
        heard.append(message)
        if len(numbers_by_host(heard)) == 2 and "number" in message:
            sagemaker.stop_training_job(TrainingJobName=params["TrainingJobName"])

    outcome = run_asset(pipes, params, stop)
    assert isinstance(outcome.error, TrainingJobFailedError)
    assert (outcome.error.status, outcome.error.failure_class) == ("Stopped", "stopped")
    assert {message["host"] for message in heard if message.get("stopped")} == {"algo-1", "algo-2"}


@pytest.mark.parametrize("forward", [True, False])
def test_an_interrupted_run_stops_its_job_only_if_told_to(
    pipes: PipesSageMakerTrainingJobClient,
    sagemaker: "SageMakerClient",
    s3: "S3Client",
    forward: bool,
) -> None:
    key = f"go/{uuid.uuid4()}"
    params = counting(wait_for=f"{BUCKET}/{key}")
    pipes.forward_termination = forward
    interrupted = run_asset(pipes, params, lambda _message: os.kill(os.getpid(), signal.SIGINT))
    assert isinstance(interrupted.error, DagsterExecutionInterruptedError)
    described = sagemaker.describe_training_job(TrainingJobName=params["TrainingJobName"])
    assert described["TrainingJobStatus"] in (
        ("Stopping", "Stopped") if forward else ("InProgress",)
    )
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    # The next run adopts it, whichever it became.
    assert run_asset(pipes, params).success is not forward


def test_an_interruption_does_not_stop_other_work_of_the_same_name(
    pipes: PipesSageMakerTrainingJobClient, sagemaker: "SageMakerClient"
) -> None:
    params = counting(wait_for=f"{BUCKET}/never")
    sagemaker.create_training_job(**params)

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    sagemaker.meta.events.register("before-send.sagemaker.CreateTrainingJob", interrupt)
    other = {**params, "HyperParameters": {"count": "4"}}
    assert isinstance(run_asset(pipes, other).error, KeyboardInterrupt)
    try:
        described = sagemaker.describe_training_job(TrainingJobName=params["TrainingJobName"])
        assert described["TrainingJobStatus"] == "InProgress"
    finally:
        sagemaker.stop_training_job(TrainingJobName=params["TrainingJobName"])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RECIPE": "x" * 513}, "Environment.RECIPE has 513 characters"),
        ({f"V{number}": "" for number in range(99)}, "Environment has 101 entries"),
    ],
)
def test_an_environment_over_the_limits_is_refused_by_name(
    pipes: PipesSageMakerTrainingJobClient,
    sagemaker: "SageMakerClient",
    environment: dict[str, str],
    words: str,
) -> None:
    params = {**counting(), "Environment": environment}
    outcome = run_asset(pipes, params)
    assert isinstance(outcome.error, ValueError)
    assert words in str(outcome.error)
    assert not sagemaker.list_training_jobs(NameContains=params["TrainingJobName"])[
        "TrainingJobSummaries"
    ]


def test_a_used_up_quota_is_an_error_of_its_own(pipes: PipesSageMakerTrainingJobClient) -> None:
    outcome = run_asset(pipes, counting(instances=5))
    assert isinstance(outcome.error, TrainingJobResourceLimitExceededError)


def test_a_quota_that_is_spent_on_the_very_job_does_not_keep_a_run_from_adopting_it(
    pipes: PipesSageMakerTrainingJobClient, sagemaker: "SageMakerClient"
) -> None:
    params = counting()
    assert run_asset(pipes, params).success
    break_calls(sagemaker, "CreateTrainingJob", 1, "ResourceLimitExceeded", 400)
    assert run_asset(pipes, params).success
    assert (
        len(
            sagemaker.list_training_jobs(NameContains=params["TrainingJobName"])[
                "TrainingJobSummaries"
            ]
        )
        == 1
    )


def test_an_existing_job_is_found_though_it_cannot_be_described_just_then(
    endpoint: str, s3: "S3Client"
) -> None:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    sagemaker = boto3.client("sagemaker", endpoint_url=endpoint, config=once)
    client = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        forward_logs=False,
        poll_interval=0.1,
    )
    params = counting()
    assert run_asset(client, params).success
    break_calls(sagemaker, "CreateTrainingJob", 1, "ResourceLimitExceeded", 400)
    break_calls(sagemaker, "DescribeTrainingJob", 2, "ThrottlingException", 400)
    outcome = run_asset(client, params)
    assert outcome.success
    assert (
        len(
            [
                text
                for text in outcome.log
                if "DescribeTrainingJob" in text and "tried again" in text
            ]
        )
        == 2
    )


def test_a_long_wait_for_ones_turn_leaves_time_to_ask_whether_the_job_exists(
    endpoint: str, s3: "S3Client"
) -> None:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    sagemaker = boto3.client("sagemaker", endpoint_url=endpoint, config=once)
    had_turn = False

    def turn() -> None:
        nonlocal had_turn
        if had_turn:
            time.sleep(1.5)  # longer than ``create_timeout``
            break_calls(sagemaker, "DescribeTrainingJob", 1, "ThrottlingException", 400)
            raise TimeoutError("no turn in sight")
        had_turn = True

    client = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        forward_logs=False,
        poll_interval=0.1,
        create_timeout=1.0,
        before_create=turn,
    )
    params = counting()
    assert run_asset(client, params).success
    assert run_asset(client, params).success, "the job that exists is adopted"


@pytest.mark.parametrize(
    ("code", "create_timeout", "expected"),
    [("AccessDeniedException", 300.0, ClientError), ("ThrottlingException", 0.3, TimeoutError)],
)
def test_a_job_that_cannot_be_asked_about_is_not_taken_for_none(
    endpoint: str, s3: "S3Client", code: str, create_timeout: float, expected: type[Exception]
) -> None:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    sagemaker = boto3.client("sagemaker", endpoint_url=endpoint, config=once)
    client = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1),
        forward_logs=False,
        poll_interval=0.1,
        create_timeout=create_timeout,
    )
    break_calls(sagemaker, "CreateTrainingJob", 1, "ResourceLimitExceeded", 400)
    break_calls(sagemaker, "DescribeTrainingJob", 1000, code, 400)
    outcome = run_asset(client, counting())
    assert isinstance(outcome.error, expected)


def test_throttling_and_faults_of_the_services_do_not_disturb_a_run(
    endpoint: str, s3: "S3Client"
) -> None:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    sagemaker = boto3.client("sagemaker", endpoint_url=endpoint, config=once)
    storage, logs = boto3.client("s3", config=once), boto3.client("logs", config=once)
    break_calls(sagemaker, "CreateTrainingJob", 1, "ThrottlingException", 400)
    break_calls(sagemaker, "DescribeTrainingJob", 2, "InternalFailure", 500)
    break_calls(storage, "GetObject", 3, "SlowDown", 503)
    break_calls(logs, "GetLogEvents", 1, "ThrottlingException", 400)
    lines = io.StringIO()
    client = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=storage, interval=0.1),
        log_reader=PipesSageMakerLogReader(
            client=logs, interval=0.1, settle=0.0, target_stream=lines
        ),
        poll_interval=0.2,
    )
    outcome = run_asset(client, counting())
    assert outcome.success
    assert numbers_by_host(outcome.custom_messages) == {"algo-1": [0, 1, 2]}
    assert lines.getvalue().splitlines() == [f"algo-1 counted {number}" for number in range(3)]
    assert [text for text in outcome.log if "CreateTrainingJob" in text and "tried again" in text]


def test_an_instance_that_is_restarted_reports_on(pipes: PipesSageMakerTrainingJobClient) -> None:
    outcome = run_asset(pipes, counting(instances=2, restart="once"))
    assert outcome.success
    assert numbers_by_host(outcome.custom_messages) == {
        host: [0, 1, 2, 0, 1, 2] for host in ("algo-1", "algo-2")
    }
    assert not [text for text in outcome.log if "after closed" in text or "did not receive" in text]


def test_a_container_with_the_stock_message_writer_reports(
    pipes: PipesSageMakerTrainingJobClient,
) -> None:
    stock = {
        "AlgorithmSpecification": {"TrainingImage": "registry/stock:1", "TrainingInputMode": "File"}
    }
    outcome = run_asset(pipes, {**counting(), **stock})
    assert outcome.success
    assert outcome.metadata["rows"] == 7
    assert not [text for text in outcome.log if "did not receive" in text]


def test_however_rarely_it_reads_every_message_and_line_has_come_at_the_end(
    sagemaker: "SageMakerClient", s3: "S3Client"
) -> None:
    logs, calls, lines = boto3.client("logs"), list[str](), io.StringIO()
    logs.meta.events.register("before-call.logs", lambda model, **_: calls.append(model.name))
    client = PipesSageMakerTrainingJobClient(
        client=sagemaker,
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=1000.0),
        log_reader=PipesSageMakerLogReader(
            client=logs, interval=1000.0, settle=0.0, target_stream=lines
        ),
        poll_interval=0.2,
    )
    outcome = run_asset(client, counting(instances=2))
    assert outcome.success
    assert numbers_by_host(outcome.custom_messages) == {"algo-1": [0, 1, 2], "algo-2": [0, 1, 2]}
    assert len(lines.getvalue().splitlines()) == 6
    # One while it ran; at its end one to find the streams, and two for each: its lines, and that
    # there are no more.
    assert sorted(calls) == ["DescribeLogStreams"] * 2 + ["GetLogEvents"] * 4


def test_log_lines_stay_in_cloudwatch_when_forwarding_is_off(
    sagemaker: "SageMakerClient", s3: "S3Client", capfd: pytest.CaptureFixture[str]
) -> None:
    reader = PipesSageMakerMessageReader(bucket=BUCKET, client=s3, interval=0.1)
    client = PipesSageMakerTrainingJobClient(
        client=sagemaker, message_reader=reader, forward_logs=False, poll_interval=0.2
    )
    assert run_asset(client, counting()).success
    assert "counted" not in capfd.readouterr().out


def test_the_example_of_the_docs_page_runs(
    endpoint: str, s3: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", endpoint)
    example: dict[str, Any] = {}
    # Our own page.
    exec(compile(example_code("import dagster as dg"), str(PAGE), "exec"), example)  # noqa: S102
    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            [example["model"]], instance=instance, resources=example["defs"].resources
        )
        [event] = result.asset_materializations_for_node("model")
        assert event.metadata["loss"].value == 0.125
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "epoch 3: loss 0.125" in said


@pytest.mark.parametrize(
    ("status", "secondary_status", "reason", "expected"),
    [
        (
            "Failed",
            "Failed",
            "CapacityError: Unable to provision requested ML compute capacity.",
            "capacity",
        ),
        ("Failed", "Failed", "InternalServerError: We encountered an internal error.", "internal"),
        ("Failed", "Failed", "out of memory", "algorithm"),
        ("Failed", "Failed", "", "unknown"),
        ("Stopped", "MaxRuntimeExceeded", "", "max_runtime"),
        ("Stopped", "MaxWaitTimeExceeded", "", "max_wait"),
        ("Stopped", "Stopped", "", "stopped"),
    ],
)
def test_failures_are_classified(
    status: str, secondary_status: str, reason: str, expected: str
) -> None:
    assert failure_class(status, secondary_status, reason) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    requested=st.dictionaries(st.text(max_size=3), json_values, max_size=4), defaults=json_values
)
def test_what_sagemaker_adds_by_itself_is_no_difference(
    requested: dict[str, Any], defaults: Any
) -> None:
    described = {**json.loads(json.dumps(requested)), "added by SageMaker": defaults}
    assert first_difference(requested, described, "ResourceConfig") is None


@given(
    requested=st.dictionaries(st.text(max_size=3), json_values, min_size=1, max_size=4),
    data=st.data(),
)
def test_a_changed_value_is_found_and_named(requested: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(requested)))
    found = first_difference(
        requested, {**requested, key: "no drawn text is this long"}, "InputDataConfig"
    )
    assert found is not None
    assert found[0].startswith(f"InputDataConfig.{key}")


def test_an_added_hyperparameter_is_a_difference() -> None:
    assert first_difference({"a": "1"}, {"a": "1", "b": "2"}, "HyperParameters") == (
        "HyperParameters.b",
        None,
        "2",
    )


def test_channels_are_compared_by_name_and_their_uris_without_a_last_slash() -> None:
    def channel(name: str, uri: str) -> Params:
        return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3Uri": uri}}}

    requested = [channel("a", "s3://b/one"), channel("b", "s3://b/two/")]
    assert (
        first_difference(
            requested, [channel("b", "s3://b/two"), channel("a", "s3://b/one/")], "InputDataConfig"
        )
        is None
    )
    found = first_difference(
        requested, [channel("a", "s3://b/one"), channel("b", "s3://b/2")], "InputDataConfig"
    )
    assert found == ("InputDataConfig[b].DataSource.S3DataSource.S3Uri", "s3://b/two", "s3://b/2")


def keys(s3: "S3Client", params: Params) -> list[str]:
    """Every key below the job's folder."""
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"pipes/{params['TrainingJobName']}/")
    return [item["Key"] for item in found.get("Contents", [])]


def run_and_tell(endpoint: str, params: str) -> None:
    """Run the asset in a process of its own, telling each message on standard output."""
    client = PipesSageMakerTrainingJobClient(
        client=boto3.client("sagemaker", endpoint_url=endpoint),
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, interval=0.1),
        forward_logs=False,
        poll_interval=0.2,
    )
    run_asset(client, json.loads(params), lambda message: print(f"heard {message}", flush=True))  # noqa: T201
