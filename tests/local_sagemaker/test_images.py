"""Containers from images: they train, serve, stop and are cleaned up like processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infrastructure.base_image import make_base
from infrastructure.local_cloud import LocalCloud
from local_sagemaker.processes.images import engine
from local_sagemaker.processes.launch import ImagesError
from tests.local_sagemaker.conftest import (
    CONTAINERS,
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    ended_training_job,
    keys,
    model_files,
    settled_endpoint,
    tar_gz,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN useradd --uid 1234 --create-home somebody
COPY train serve /opt/program/
ENV PATH="/opt/program:${PATH}" GREETING=hello
WORKDIR /opt/program
ENTRYPOINT ["setpriv", "--reuid=1234", "--clear-groups"]
"""


@pytest.fixture(scope="module")
def keeper() -> str:
    """docker or buildah, depending on the machine."""
    try:
        found = engine()
    except ImagesError as error:
        pytest.skip(str(error))
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("the base image is made by debootstrap, as root: apt install debootstrap")
    return found


@pytest.fixture(scope="module")
def built(keeper: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests' containers as images, `recorder:1` and `echo:1`."""
    context = tmp_path_factory.mktemp("context")
    shutil.copy(CONTAINERS / "recorder" / "train", context)
    shutil.copy(CONTAINERS / "echo" / "serve", context)
    (context / "Dockerfile").write_text(DOCKERFILE)
    command = {
        "docker": ["docker", "build"],
        "buildah": ["buildah", "build", "--isolation", "chroot", "--pull=false"],
    }[keeper]
    base = make_base(keeper, print)
    tags = ["--tag", "recorder:1", "--tag", "echo:1", "--build-arg", f"BASE_IMAGE={base}"]
    subprocess.run([*command, *tags, str(context)], check=True)


@pytest.fixture
def images_emulator(built: None, local_cloud: LocalCloud, tmp_path: Path) -> Iterator[Emulator]:
    running = Emulator(local_cloud, tmp_path / "state", "--images", "--failed-pings", "2")
    running.start()
    yield running
    running.stop()
    assert running.containers() == []
    assert working_containers() == []


def working_containers() -> list[str]:
    """Names of the containers that docker or buildah holds for emulators."""
    command = {
        "docker": ["docker", "ps", "--all", "--format", "{{.Names}}"],
        "buildah": ["buildah", "containers", "--format", "{{.ContainerName}}"],
    }[engine()]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [name for name in told.split() if name.startswith("local-sagemaker-")]


def test_training_in_an_image_finds_its_opt_ml_and_the_images_own_settings(
    images_emulator: Emulator, s3: Any, bucket: str
) -> None:
    client = images_emulator.client("sagemaker")
    # The mount at /opt/ml belongs to root, as on AWS, so that this image's user may only read it.
    job = ended_training_job(client, create_training_job(client, bucket))
    assert job["TrainingJobStatus"] == "Failed"
    plain = {
        "TrainingImage": "x.dkr.ecr.eu-west-1.amazonaws.com/recorder:1",
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["train"],
        "ContainerArguments": ["now"],
    }
    job = ended_training_job(
        client,
        create_training_job(
            client, bucket, AlgorithmSpecification=plain, Environment={"COLOUR": "blue"}
        ),
    )
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    record = json.loads(model_files(s3, job)["algo-1.json"])
    assert record["arguments"] == ["now"]
    environment = record["environment"]
    assert environment["SAGEMAKER_BASE_DIR"] == "/opt/ml"
    assert (environment["GREETING"], environment["COLOUR"]) == ("hello", "blue")
    assert environment["PATH"].startswith("/opt/program:")
    assert "AWS_CA_BUNDLE" not in environment


def test_an_image_that_is_not_here_is_told(images_emulator: Emulator, bucket: str) -> None:
    client = images_emulator.client("sagemaker")
    algorithm = {"TrainingImage": "a/recorder:no-such-tag", "TrainingInputMode": "File"}
    job = ended_training_job(
        client, create_training_job(client, bucket, AlgorithmSpecification=algorithm)
    )
    assert "Cannot pull algorithm container" in job["FailureReason"]
    assert "recorder:no-such-tag" in job["FailureReason"]


def test_a_stopped_job_is_sent_sigterm(images_emulator: Emulator, s3: Any, bucket: str) -> None:
    client = images_emulator.client("sagemaker")
    algorithm = {
        "TrainingImage": "recorder:1",
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["train"],
    }
    name = create_training_job(
        client,
        bucket,
        AlgorithmSpecification=algorithm,
        hyperparameters={"sleep": 600, "on_stop": "asked", "checkpoint": "half"},
        CheckpointConfig={"S3Uri": f"s3://{bucket}/checkpoints"},
    )
    wait_for(lambda: keys(s3, bucket, "checkpoints/"), bool)
    client.stop_training_job(TrainingJobName=name)
    job = ended_training_job(client, name)
    assert job["TrainingJobStatus"] == "Stopped"
    assert model_files(s3, job)["stopped.txt"] == "asked"


def test_models_are_served_by_a_user_who_is_not_root(
    images_emulator: Emulator, s3: Any, bucket: str
) -> None:
    client = images_emulator.client("sagemaker")
    s3.put_object(Bucket=bucket, Key="models/t.tar.gz", Body=tar_gz(weights="5"))
    model = create_model(client, Mode="MultiModel", ModelDataUrl=f"s3://{bucket}/models/")
    client.create_endpoint(
        EndpointName="e", EndpointConfigName=create_endpoint_config(client, model)
    )
    described = settled_endpoint(client, "e")
    assert described["EndpointStatus"] == "InService", described.get("FailureReason")
    answer = images_emulator.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="e", TargetModel="t.tar.gz", Body=b"hello"
    )
    assert json.load(answer["Body"])["files"] == {"weights": "5"}
    if engine() == "buildah":
        (pid,) = images_emulator.containers()
        assert psutil.Process(pid).uids().real == 1234


def test_nothing_is_left_of_an_emulator_that_was_killed(
    images_emulator: Emulator, bucket: str
) -> None:
    client = images_emulator.client("sagemaker")
    algorithm = {
        "TrainingImage": "recorder:1",
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["train"],
    }
    create_training_job(
        client,
        bucket,
        AlgorithmSpecification=algorithm,
        hyperparameters={"sleep": 600, "descendant": "left over"},
    )
    wait_for(lambda: len(images_emulator.containers()), lambda count: count >= 2)
    assert len(working_containers()) == 1
    images_emulator.kill()
    wait_for(images_emulator.containers, lambda left: not left)
    wait_for(working_containers, lambda left: not left)
    images_emulator.start()
