"""A separate emulator for these tests, with their containers, on the ministack of `local_cloud`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config

from infrastructure.local_cloud import (
    LocalCloud,
    free_port,
    sagemaker_variables,
    start_local_sagemaker,
    stop_process,
)
from local_sagemaker.faults.client import FaultsClient

CONTAINERS = Path(__file__).parent / "containers"
ROLE = "arn:aws:iam::123456789012:role/execution"
RECORDER = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/recorder:1"
ECHO = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/echo:1"


class Emulator:
    """A local_sagemaker process with its own state folder."""

    def __init__(self, cloud: LocalCloud, state: Path, *arguments: str) -> None:
        self._cloud = cloud
        self.state = state
        self._arguments = arguments
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**self._cloud.environment, **sagemaker_variables(self.url)}

    def start(self) -> None:
        images = [] if "--images" in self._arguments else ["--containers", str(CONTAINERS)]
        self.process = start_local_sagemaker(
            self.port, self.state, *images, *self._arguments, environment=self.environment
        )

    def stop(self) -> None:
        if self.process is not None:
            stop_process(self.process, grace=20)
            self.process = None

    def kill(self) -> None:
        """Send SIGKILL only to the emulator, like an out-of-memory killer."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def client(self, service: str) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1}, max_pool_connections=32
        )
        return boto3.Session().client(
            service, endpoint_url=self.url, region_name="eu-west-1", config=config
        )  # type: ignore[call-overload]

    def containers(self, **variables: str) -> list[int]:
        """Process ids of all processes that any emulator on this state folder started, of those
        with these variables in their environment."""
        wanted = {"LOCAL_SAGEMAKER_STATE": str(self.state), **variables}
        return [
            pid for pid, environment in _environments() if wanted.items() <= environment.items()
        ]

    def control(self, method: str, path: str) -> Any:
        # The URL is a loopback address.
        request = urllib.request.Request(f"{self.url}{path}", method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return json.load(answer)


def _environments() -> Iterator[tuple[int, dict[str, str]]]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.environ()
        except psutil.Error:
            continue


def running_emulator(local_cloud: LocalCloud, state: Path, *arguments: str) -> Iterator[Emulator]:
    """An emulator that leaves no container behind."""
    running = Emulator(local_cloud, state, *arguments)
    running.start()
    yield running
    running.stop()
    assert running.containers() == []


@pytest.fixture(scope="session")
def emulator(
    local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulator]:
    """One emulator for all tests that do not restart it."""
    state = tmp_path_factory.mktemp("emulator") / "state"
    yield from running_emulator(
        local_cloud,
        state,
        "--create-training-job-rate",
        "100",
        "--create-training-job-burst",
        "100",
        "--instance-quota",
        "12",
        "--metrics-seconds",
        "1",
        "--load-wait-seconds",
        "1.5",
        "--model-disk-megabytes",
        "8",
    )


@pytest.fixture
def faults(emulator: Emulator) -> Iterator[FaultsClient]:
    """The faults of `emulator`; they end with the test."""
    client = FaultsClient(emulator.url)
    yield client
    client.end()


@pytest.fixture(scope="session")
def hurried_emulator(
    local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulator]:
    """An emulator on which a minute of AWS's passes in a second."""
    state = tmp_path_factory.mktemp("hurried") / "state"
    yield from running_emulator(
        local_cloud,
        state,
        "--time-lapse",
        "60",
        "--metrics-seconds",
        "1",
        "--async-payload-megabytes",
        "1",
    )


@pytest.fixture(scope="session")
def paced_emulator(
    local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulator]:
    """The same with more samples: metrics, alarms and scaling policies see two in each minute."""
    state = tmp_path_factory.mktemp("paced") / "state"
    yield from running_emulator(
        local_cloud, state, "--time-lapse", "60", "--metrics-seconds", "0.5"
    )


@pytest.fixture(scope="session")
def sagemaker(emulator: Emulator) -> Any:
    """boto3's sagemaker client."""
    return emulator.client("sagemaker")


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Any:
    """boto3's sagemaker client for tests that also hold on AWS; with TENANTRY_AWS_VERIFIED=1 they
    run there."""
    if os.environ.get("TENANTRY_AWS_VERIFIED") == "1":
        return boto3.client("sagemaker")
    return request.getfixturevalue("sagemaker")


@pytest.fixture(scope="session")
def runtime(emulator: Emulator) -> Any:
    """boto3's sagemaker-runtime client."""
    return emulator.client("sagemaker-runtime")


@pytest.fixture(scope="session")
def s3(local_cloud: LocalCloud) -> Any:
    """boto3's S3 client."""
    return boto3.client("s3", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1")


@pytest.fixture
def bucket(s3: Any) -> str:
    """A new bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def wait_for(read: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 30.0) -> Any:
    """Poll `read` until its result is `wanted`; that result."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = read()
        if wanted(value):
            return value
        time.sleep(0.02)
    raise AssertionError(f"not as wanted within {seconds:.0f} s: {value}")


def tar_gz(**files: str) -> bytes:
    """A model archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def keys(s3: Any, bucket: str, prefix: str = "") -> list[str]:
    """The keys below a prefix."""
    return [
        entry["Key"]
        for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    ]


def create_training_job(
    client: Any, bucket: str, name: str | None = None, /, *, hosts: int = 1, **changes: Any
) -> str:
    """A job of the recorder container; keyword arguments replace members of the request,
    `hyperparameters` sets those."""
    name = name or unique("job")
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": RECORDER, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/out/"},
        "ResourceConfig": {
            "InstanceType": "ml.m5.large",
            "InstanceCount": hosts,
            "VolumeSizeInGB": 1,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "HyperParameters": {
            key: str(value) for key, value in changes.pop("hyperparameters", {}).items()
        },
        **changes,
    }
    client.create_training_job(**request)
    return name


def ended_training_job(client: Any, name: str) -> Any:
    """The job's description once it has ended."""
    return wait_for(
        lambda: client.describe_training_job(TrainingJobName=name),
        lambda job: job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"),
    )


def model_files(s3: Any, job: Any) -> dict[str, str]:
    """The files of a job's model.tar.gz."""
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        members = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read().decode() for name, file in members.items() if file is not None}


def create_model(client: Any, **container: Any) -> str:
    """A model of the echo container."""
    name = unique("model")
    client.create_model(
        ModelName=name, PrimaryContainer={"Image": ECHO, **container}, ExecutionRoleArn=ROLE
    )
    return name


def create_endpoint_config(
    client: Any,
    *models: str,
    instances: int = 1,
    asynchronous: dict[str, Any] | None = None,
    **variant: Any,
) -> str:
    """A configuration with one variant per model, `variant-1` and so on; `asynchronous` is its
    AsyncInferenceConfig."""
    name = unique("config")
    variants = [
        {
            "VariantName": f"variant-{number}",
            "ModelName": model,
            "InitialInstanceCount": instances,
            "InstanceType": "ml.m5.large",
            **variant,
        }
        for number, model in enumerate(models, 1)
    ]
    more = {} if asynchronous is None else {"AsyncInferenceConfig": asynchronous}
    client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **more)
    return name


def settled_endpoint(client: Any, name: str) -> Any:
    """The endpoint's description once it is neither being created nor updated."""
    return wait_for(
        lambda: client.describe_endpoint(EndpointName=name),
        lambda endpoint: endpoint["EndpointStatus"] in ("InService", "Failed"),
    )


@pytest.fixture
def endpoint(sagemaker: Any) -> Iterator[Callable[..., str]]:
    """Creates endpoints of a configuration, and deletes them when the test ends."""
    yield from made_endpoints(sagemaker)


@pytest.fixture
def paced_endpoint(paced_emulator: Emulator) -> Iterator[Callable[..., str]]:
    """The same of `paced_emulator`."""
    yield from made_endpoints(paced_emulator.client("sagemaker"))


def made_endpoints(sagemaker: Any) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def make(config: str) -> str:
        name = unique("endpoint")
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        made.append(name)
        assert settled_endpoint(sagemaker, name)["EndpointStatus"] == "InService"
        return name

    yield make
    left = {
        entry["EndpointName"] for entry in sagemaker.list_endpoints(MaxResults=100)["Endpoints"]
    }
    for name in left.intersection(made):
        settled_endpoint(sagemaker, name)
        sagemaker.delete_endpoint(EndpointName=name)
