"""PipesSageMakerTrainingJobClient in real Dagster runs, against real training containers on the
local cloud."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from dagster import DagsterInstance, materialize
from dagster._core.errors import DagsterExecutionInterruptedError

from pipes_sagemaker.client import (
    PipesSageMakerLogReader,
    PipesSageMakerMessageReader,
    PipesSageMakerTrainingJobClient,
    TrainingJobDiffersError,
    TrainingJobFailedError,
    TrainingJobResourceLimitExceededError,
)
from tests.pipes_sagemaker.broken_calls import break_calls
from tests.pipes_sagemaker.counting_jobs import (
    BUCKET,
    PAGE,
    ROOT,
    Params,
    counting,
    example_code,
    numbers_by_host,
    run_asset,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient


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
    assert not [key for key in outcome.metadata if key.endswith("URL")]  # No page of AWS has it.
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
        # Without it the container waits until its time limit.
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
    assert outcome.error.console_url is None, "no page of AWS shows a job of the local cloud"
    assert str(outcome.error).endswith("AlgorithmError: no more fingers.")
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
    # The next run adopts the job in either state.
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
    # One call happens during the job. At its end one call finds the streams, and two read each: its
    # lines, and then the end.
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


def keys(s3: "S3Client", params: Params) -> list[str]:
    """Every key below the job's folder."""
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"pipes/{params['TrainingJobName']}/")
    return [item["Key"] for item in found.get("Contents", [])]


def run_and_tell(endpoint: str, params: str) -> None:
    """Run the asset in a separate process, and print each message on standard output."""
    client = PipesSageMakerTrainingJobClient(
        client=boto3.client("sagemaker", endpoint_url=endpoint),
        message_reader=PipesSageMakerMessageReader(bucket=BUCKET, interval=0.1),
        forward_logs=False,
        poll_interval=0.2,
    )
    run_asset(client, json.loads(params), lambda message: print(f"heard {message}", flush=True))  # noqa: T201
