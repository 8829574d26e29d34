"""A SageMaker that knows this folder's images, and the client on it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

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
)
from tests.pipes_sagemaker.counting_jobs import BUCKET, ROOT, example_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient


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
