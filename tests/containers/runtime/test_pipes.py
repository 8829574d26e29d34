"""The container's side of Dagster Pipes: an instance's messages, and errors of S3."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from dagster_pipes import encode_param

from containers.runtime.training.pipes import (
    InstanceMessageChannel,
    current_host,
    open_pipes_progress,
)
from infrastructure.local_cloud import LocalCloud

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).resolve().parents[3]
BUCKET = "pipes-container"


@pytest.fixture(scope="module")
def bucket(local_cloud: LocalCloud) -> None:
    boto3.client("s3").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )


@pytest.fixture
def s3(bucket: None) -> "S3Client":
    """A new client for each test, because one test disturbs its client. The client does not retry
    errors."""
    return boto3.client("s3", config=Config(retries={"mode": "standard", "total_max_attempts": 1}))


def message(number: int) -> Any:
    return {
        "__dagster_pipes_version": "0.1",
        "method": "report_custom_message",
        "params": {"payload": number},
    }


def chunks(s3: "S3Client", prefix: str) -> list[list[Any]]:
    """The documents of each chunk, up to the first missing chunk."""
    found: list[list[Any]] = []
    keys = {
        item["Key"]
        for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
    }
    while (key := f"{prefix}/{len(found) + 1}.json") in keys:
        text = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
        found.append([json.loads(line) for line in text.splitlines()])
    assert len(found) == len(keys)
    return found


def environment(s3: "S3Client", prefix: str) -> dict[str, str]:
    """The variables that Dagster gives to a job."""
    context: Mapping[str, Any] = {
        "asset_keys": None,
        "run_id": "run",
        "retry_number": 0,
        "extras": {},
    }
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/context.json", Body=json.dumps(context).encode())
    return {
        "DAGSTER_PIPES_CONTEXT": encode_param({"bucket": BUCKET, "key": f"{prefix}/context.json"}),
        "DAGSTER_PIPES_MESSAGES": encode_param(
            {"bucket": BUCKET, "key_prefix": f"{prefix}/messages", "interval": 0.05}
        ),
    }


def test_a_restarted_instance_writes_on_after_its_last_chunk(s3: "S3Client") -> None:
    prefix = f"restart/{uuid.uuid4()}/algo-1"
    for numbers in ([1, 2], [3]):
        channel = InstanceMessageChannel(s3, BUCKET, prefix, interval=30)
        for number in numbers:
            channel.write_message(message(number))
        channel.close()
    assert chunks(s3, prefix) == [[message(1), message(2)], [message(3)]]


def test_messages_survive_a_fault_of_s3(s3: "S3Client", capfd: pytest.CaptureFixture[str]) -> None:
    left, recovered = [1, 2], threading.Event()

    def lose_connection(**_: Any) -> None:
        if left:
            left.pop()
            raise EndpointConnectionError(endpoint_url="s3")
        recovered.set()

    s3.meta.events.register("before-send.s3.PutObject", lose_connection)
    prefix = f"fault/{uuid.uuid4()}/algo-1"
    channel = InstanceMessageChannel(s3, BUCKET, prefix, interval=0.01)
    channel.write_message(message(1))
    assert recovered.wait(30)
    channel.write_message(message(2))
    channel.close()
    assert [document for chunk in chunks(s3, prefix) for document in chunk] == [
        message(1),
        message(2),
    ]
    assert "could not be written" in capfd.readouterr().err


def test_without_dagster_each_message_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_PIPES_CONTEXT", raising=False)
    with open_pipes_progress() as report:
        report({"event": "task_started", "tenant": "acme"})
    assert json.loads(capsys.readouterr().out) == {"event": "task_started", "tenant": "acme"}


def test_a_context_that_cannot_be_read_does_not_stop_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "not base64")
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", "neither")
    with open_pipes_progress() as report:
        report({"event": "task_started"})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"event": "task_started"}
    assert "could not be opened" in said.err


def test_a_message_that_is_not_json_is_told_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_PIPES_CONTEXT", raising=False)
    with open_pipes_progress() as report:
        report({"event": object()})
    said = capsys.readouterr()
    assert said.out == ""
    assert "was not reported" in said.err


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_an_instance_that_is_not_named_reports_as_the_first(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    if content is not None:
        (tmp_path / "input/config").mkdir(parents=True)
        (tmp_path / "input/config/resourceconfig.json").write_text(content)
    assert current_host() == "algo-1"


PROGRAM = """
import sys, time
from containers.runtime.training.pipes import open_pipes_progress
with open_pipes_progress() as report:
    try:
        report({"number": 1})
        print("ready", flush=True)
        for _ in range(600):  # a signal that comes just before a sleep begins does not end that one
            time.sleep(0.1)
    except SystemExit:
        report({"number": 2})
        raise
"""


def test_sigterm_brings_out_what_was_reported(s3: "S3Client", tmp_path: Path) -> None:
    prefix = f"sigterm/{uuid.uuid4()}"
    (tmp_path / "input/config").mkdir(parents=True)
    (tmp_path / "input/config/resourceconfig.json").write_text('{"current_host": "algo-2"}')
    variables = {**os.environ, **environment(s3, prefix), "SAGEMAKER_BASE_DIR": str(tmp_path)}
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM], cwd=ROOT, env=variables, stdout=subprocess.PIPE
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    documents = [
        document for chunk in chunks(s3, f"{prefix}/messages/algo-2") for document in chunk
    ]
    assert [document["method"] for document in documents] == [
        "opened",
        "report_custom_message",
        "report_custom_message",
        "closed",
    ]
    assert [document["params"]["payload"]["number"] for document in documents[1:3]] == [1, 2]
    assert documents[3]["params"]["exception"]["name"] == "SystemExit"
