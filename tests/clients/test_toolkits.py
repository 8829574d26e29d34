"""AWS's own toolkits as containers of the local cloud, unchanged: sagemaker-inference with AWS's
multi-model-server, and sagemaker-training."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from tests.clients.environments import python_of
from tests.local_sagemaker.conftest import (
    ECHO,
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    made_endpoints,
    model_files,
    running_emulator,
    tar_gz,
    unique,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first run creates the environment
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("java") is None,
        reason="AWS's model server needs Java, and writes below /etc as root",
    ),
]
FOLDER = Path(__file__).with_name("toolkits")
IMAGE = ECHO.replace("team/echo", "toolkit")
Endpoint = Callable[..., str]


@pytest.fixture(scope="module")
def cloud(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator whose containers are the toolkits."""
    folder = tmp_path_factory.mktemp("toolkits")
    shutil.copytree(FOLDER, folder / "containers" / "toolkit")
    packages = python_of("toolkits").parents[1]
    (folder / "containers" / "toolkit" / "packages").symlink_to(packages)
    yield from running_emulator(
        local_cloud,
        folder / "state",
        *("--containers", str(folder / "containers"), "--metrics-seconds", "1"),
    )


@pytest.fixture(scope="module")
def sagemaker(cloud: Emulator) -> Any:
    return cloud.client("sagemaker")


@pytest.fixture(scope="module")
def runtime(cloud: Emulator) -> Any:
    return cloud.client("sagemaker-runtime")


@pytest.fixture
def endpoint(cloud: Emulator, sagemaker: Any) -> Iterator[Endpoint]:
    """The model server finds itself among the processes of its machine, and refuses a second one.
    As a plain process it therefore runs once at a time."""
    yield from made_endpoints(sagemaker)
    wait_for(cloud.containers, lambda running: running == [], 60)


def ask(runtime: Any, endpoint: str, body: str, **request: Any) -> Any:
    """An answer of the toolkit, as its content type and text."""
    given = {"ContentType": "application/json", "Accept": "application/json"} | request
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode(), **given)
    return answer["ContentType"], answer["Body"].read().decode()


def refusal(runtime: Any, endpoint: str, body: str, **request: Any) -> Any:
    with pytest.raises(ClientError) as error:
        ask(runtime, endpoint, body, **request)
    return error.value.response


def test_aws_s_model_server_loads_answers_and_unloads_many_models(
    cloud: Emulator,
    sagemaker: Any,
    runtime: Any,
    endpoint: Endpoint,
    local_cloud: LocalCloud,
    s3: Any,
    bucket: str,
) -> None:
    for name, factor in {"acme/1": "3", "globex/1": "5"}.items():
        s3.put_object(
            Bucket=bucket, Key=f"many/{name}.tar.gz", Body=tar_gz(**{"factor.json": factor})
        )
    s3.put_object(Bucket=bucket, Key="many/bad.tar.gz", Body=tar_gz(other="no factor"))
    model = create_model(
        sagemaker,
        Image=IMAGE,
        Mode="MultiModel",
        ModelDataUrl=f"s3://{bucket}/many/",
        MultiModelConfig={"ModelCacheSetting": "Disabled"},  # unloaded after each call
    )
    name = endpoint(create_endpoint_config(sagemaker, model))
    for _ in range(2):
        for tenant, expected in {"acme": [[3.0, 6.0]], "globex": [[5.0, 10.0]]}.items():
            kind, text = ask(runtime, name, "[[1, 2]]", TargetModel=f"{tenant}/1.tar.gz")
            assert (kind, json.loads(text)) == ("application/json", expected)
    csv = {"ContentType": "text/csv", "Accept": "text/csv"}
    kind, text = ask(runtime, name, "1,2\n", TargetModel="acme/1.tar.gz", **csv)
    assert (kind, [float(value) for value in text.split()]) == ("text/csv", [3.0, 6.0])
    refused = refusal(runtime, name, "hello", TargetModel="acme/1.tar.gz", ContentType="a/b")
    assert refused["Error"]["Code"] == "ModelError"
    assert refused["OriginalStatusCode"] == 500
    assert "Content type a/b is not supported by this framework" in refused["OriginalMessage"]
    refused = refusal(runtime, name, "[[1]]", TargetModel="bad.tar.gz")
    assert refused["Error"]["Code"] == "ModelError"
    logs: Any = boto3.client(
        "logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )

    def unloaded() -> int:
        events = logs.filter_log_events(
            logGroupName=f"/aws/sagemaker/Endpoints/{name}", filterPattern="unregistered"
        )
        return len(events["events"])

    wait_for(unloaded, lambda count: count >= 5)


def test_aws_s_model_server_runs_the_code_in_a_model_s_archive(
    sagemaker: Any, runtime: Any, endpoint: Endpoint, s3: Any, bucket: str
) -> None:
    code = (FOLDER / "inference.py").read_text().replace("data * model", "data + model")
    archive = tar_gz(**{"factor.json": "3", "code/inference.py": code})
    s3.put_object(Bucket=bucket, Key="one.tar.gz", Body=archive)
    model = create_model(
        sagemaker,
        Image=IMAGE,
        ModelDataUrl=f"s3://{bucket}/one.tar.gz",
        Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "1"},
    )
    name = endpoint(create_endpoint_config(sagemaker, model))
    assert json.loads(ask(runtime, name, "[[1, 2]]")[1]) == [[4.0, 5.0]]
    assert refusal(runtime, name, "not JSON")["Error"]["Code"] == "ModelError"


def script(s3: Any, bucket: str) -> dict[str, str]:
    """The hyperparameters that name the user's script, as SDKs write them."""
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w:gz") as tar:
        tar.add(FOLDER / "script.py", "script.py")
    s3.put_object(Bucket=bucket, Key="code/source.tar.gz", Body=source.getvalue())
    return {
        "sagemaker_program": json.dumps("script.py"),
        "sagemaker_submit_directory": json.dumps(f"s3://{bucket}/code/source.tar.gz"),
    }


def train(sagemaker: Any, s3: Any, bucket: str, hosts: int = 1, **hyperparameters: Any) -> Any:
    """A job of the training toolkit, at its end."""
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"alpha")
    data = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}
    name = create_training_job(
        sagemaker,
        bucket,
        unique("toolkit"),
        hosts=hosts,
        hyperparameters=script(s3, bucket)
        | {key: json.dumps(value) for key, value in hyperparameters.items()},
        AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": data}}],
    )
    return wait_for(
        lambda: sagemaker.describe_training_job(TrainingJobName=name),
        lambda job: job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"),
        120,
    )


def test_aws_s_training_toolkit_runs_a_user_s_script(sagemaker: Any, s3: Any, bucket: str) -> None:
    job = train(sagemaker, s3, bucket, depth=3, name="oak tree")
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert json.loads(model_files(s3, job)["seen.json"]) == {
        "arguments": [3, "oak tree"],
        "files": {"a.txt": "alpha"},
        "hosts": ["algo-1"],
        "host": "algo-1",
    }


def test_a_script_that_fails_fails_the_job_with_the_toolkit_s_reason(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    job = train(sagemaker, s3, bucket, depth=3, name="oak", fail="no good data")
    assert job["TrainingJobStatus"] == "Failed"
    assert "ExecuteUserScriptError" in job["FailureReason"]
    assert "no good data" in job["FailureReason"]
