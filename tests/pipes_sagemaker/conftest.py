"""A SageMaker that knows this folder's images, and the client on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from infrastructure.local_cloud import LocalCloud, local_sagemaker_running
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
    """The images of this folder, and ``example`` of the docs page; each contains the runtime, as
    after its Dockerfile."""
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
    """A separate SageMaker that knows these images."""
    folder = tmp_path_factory.mktemp("sagemaker")
    allowed = ("--create-training-job-burst", "100", "--instance-quota", "4")
    with local_sagemaker_running(folder, containers, *allowed) as url:
        yield url


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
