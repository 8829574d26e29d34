"""The project's images, built like `make images`. The local SageMaker trains and serves in them;
Dagster's services start in Dagster's image."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from containers.forecast.consumption.preparation import prepare as prepare_series
from containers.forecast.consumption.synthetic import generate
from infrastructure import images
from infrastructure.local_cloud import (
    LocalCloud,
    end_of_log,
    free_port,
    start_process,
    stop_process,
)
from infrastructure.set_up import ROOT
from local_sagemaker.processes.images import BuildahImages, engine
from local_sagemaker.processes.launch import ImagesError
from tests.containers.diffusion.test_training import upload
from tests.local_sagemaker.conftest import ROLE, Emulator, keys, settled_endpoint, unique, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
TAG = "tested"
USER = 10001
MARK = "packages.invalid"
"""A host in pip's settings during the builds."""
ENDED = ("Completed", "Failed", "Stopped")


@pytest.fixture(scope="module")
def built() -> Iterator[Callable[[str], str]]:
    """Builds an image once for all tests; returns its name."""
    try:
        images.keeper_here()
    except (ImagesError, images.BuildError) as error:
        pytest.skip(str(error))
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("the base image is made by debootstrap, as root: apt install debootstrap")
    made: set[str] = set()

    def build(name: str) -> str:
        if name not in made:
            monkeypatched.setenv("PIP_TRUSTED_HOST", MARK)
            assert images.main([name, "--tag", TAG, "--debootstrap"]) == 0
            made.add(name)
        return f"{name}:{TAG}"

    with pytest.MonkeyPatch.context() as monkeypatched:
        yield build


@pytest.fixture(scope="module")
def s3(local_cloud: LocalCloud) -> Any:
    return boto3.client("s3", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1")


@pytest.fixture
def bucket(s3: Any) -> str:
    name = unique("tried")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


@pytest.fixture
def emulator(local_cloud: LocalCloud, tmp_path: Path) -> Iterator[Emulator]:
    running = Emulator(local_cloud, tmp_path / "state", "--images")
    running.start()
    yield running
    running.stop()
    assert running.containers() == []


def put(s3: Any, bucket: str, prefix: str, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")


def users(emulator: Emulator) -> set[int]:
    """The user ids of the Python programs that currently run in containers."""
    found = set()
    for pid in emulator.containers():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if "python" in process.name() or process.name() in ("train", "serve"):
                found.add(process.uids().effective)
    return found


def train(
    emulator: Emulator,
    s3: Any,
    bucket: str,
    image: str,
    data: Path,
    parameters: Mapping[str, Any],
    hyperparameters: Mapping[str, str],
) -> str:
    """Train one task in the image; returns the key of its archive."""
    task = {
        "task": "0" * 32,
        "tenant": "acme",
        "version": "v1",
        "tier": "bridge",
        "shard": 0,
        "data": "acme/v1",
        "parameters": parameters,
    }
    document = {"format": 1, "workload": "tried", "pack": "p-1", "tasks": [task]}
    s3.put_object(Bucket=bucket, Key="tasks/tasks.json", Body=json.dumps(document))
    put(s3, bucket, "training/acme/v1", data)
    client, name = emulator.client("sagemaker"), unique("job")
    client.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/tenantry/{image}",
            "TrainingInputMode": "File",
        },
        RoleArn=ROLE,
        InputDataConfig=[
            {
                "ChannelName": channel,
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/{channel}/"}
                },
            }
            for channel in ("tasks", "training")
        ],
        HyperParameters=dict(hyperparameters),
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/out/"},
        CheckpointConfig={"S3Uri": f"s3://{bucket}/models"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 900},
    )
    seen: set[int] = set()

    def look() -> Any:
        seen.update(users(emulator))
        return client.describe_training_job(TrainingJobName=name)

    job = wait_for(look, lambda described: described["TrainingJobStatus"] in ENDED, 900)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert seen == {USER}
    outcome = json.load(s3.get_object(Bucket=bucket, Key="models/acme/v1.json")["Body"])
    assert outcome["status"] == "succeeded", outcome
    assert "models/acme/v1.tar.gz" in keys(s3, bucket, "models/")
    return "acme/v1.tar.gz"


def ask(
    emulator: Emulator, bucket: str, image: str, model: str, question: Mapping[str, Any]
) -> bytes:
    """Serve the trained model in the image, and ask it."""
    client, name = emulator.client("sagemaker"), unique("tried")
    client.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={
            "Image": f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/tenantry/{image}",
            "Mode": "MultiModel",
            "ModelDataUrl": f"s3://{bucket}/models/",
        },
    )
    variant = {
        "VariantName": "all",
        "ModelName": name,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    client.create_endpoint(EndpointName=name, EndpointConfigName=name)
    endpoint = wait_for(
        lambda: settled_endpoint(client, name), lambda one: bool(one["EndpointStatus"]), 120
    )
    assert endpoint["EndpointStatus"] == "InService", endpoint.get("FailureReason")
    assert users(emulator) == {USER}
    answer = emulator.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name,
        TargetModel=model,
        ContentType="application/json",
        Body=json.dumps(question),
    )
    return bytes(answer["Body"].read())


def test_the_forecast_image_trains_and_serves_without_root(
    built: Callable[[str], str], emulator: Emulator, s3: Any, bucket: str, tmp_path: Path
) -> None:
    image = built("forecast")
    end = datetime(2025, 4, 1, tzinfo=UTC)
    raw, data = tmp_path / "raw.csv", tmp_path / "data"
    generate(1, end - timedelta(days=90), end).to_csv(raw, index=False)
    data.mkdir()
    place = {"timezone": "Europe/London"}
    prepare_series([raw], data, place)
    model = train(emulator, s3, bucket, image, data, place, {"frequency": "auto"})
    question = {"period": 7, "start": "2025-04-02T00:00:00+01:00"}
    answer = json.loads(ask(emulator, bucket, image, model, question))
    assert len(answer["mean"]) == 7 * 24


def test_the_diffusion_image_trains_and_draws_on_the_cpu_without_root(
    built: Callable[[str], str], emulator: Emulator, s3: Any, bucket: str, tmp_path: Path
) -> None:
    image = built("diffusion")
    data = upload(tmp_path / "data", 0)
    quick = {"steps": "3", "warmup": "1", "snapshots": "[]", "drawing_steps": "2", "pictures": "2"}
    settings = {**quick, "least_meaning": "0", "base": "tiny", "device": "cpu"}
    model = train(emulator, s3, bucket, image, data, {}, settings)
    question = {"prompt": "a star", "seed": 7, "steps": 2, "format": "png"}
    assert ask(emulator, bucket, image, model, question).startswith(b"\x89PNG")


SERVICES = {
    "code-server": "dagster code-server start --host 0.0.0.0 --port 4000 "
    "--module-name orchestration.definitions --location-name tenantry",
    "daemon": "dagster-daemon run --workspace orchestration/remote_workspace.yaml",
    "webserver": "dagster-webserver --host 0.0.0.0 --port 3000 "
    "--workspace orchestration/remote_workspace.yaml",
}
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name
locationOrLoadError { ... on RepositoryLocation { repositories { jobs { name } } } } } } } }"""


def test_dagsters_services_start_from_one_image_without_root(
    built: Callable[[str], str], local_cloud: LocalCloud, tmp_path: Path
) -> None:
    image = built("dagster")
    if engine() != "buildah":
        pytest.skip("the services are entered as local_sagemaker enters buildah's images")
    guide = (ROOT / "docs/scaling.md").read_text()
    here = BuildahImages(tmp_path)
    (tmp_path / "ml").mkdir()
    port = free_port()
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in SERVICES.items():
            assert f"`{command}`" in guide
            # Another Dagster on this machine may use the webserver's usual port.
            words = command.replace("--port 3000", f"--port {port}").split()
            more = {
                "TENANTRY_CODE_SERVER_HOST": "127.0.0.1",
                "TENANTRY_STACK": "tenantry",
                "DAGSTER_CURRENT_IMAGE": image,
            }
            program = here.program(image, "", words, ())
            launch = here.launch(program, tmp_path / "ml", more, name)
            started[name] = start_process(
                launch.command, tmp_path / f"{name}.log", dict(launch.environment), launch.folder
            )
        url = f"http://127.0.0.1:{port}"
        answer = wait_for(lambda: locations(url), lambda told: "energy_fine_tuning" in told, 240)
        assert '"name":"tenantry"' in answer
        for name, process in started.items():
            assert process.poll() is None, end_of_log(tmp_path / f"{name}.log")
            assert psutil.Process(process.pid).uids().effective == USER
    finally:
        for name, process in started.items():
            stop_process(process)
            here.remove(name)


def locations(url: str) -> str:
    """The webserver's answer about its code locations; empty while it does not answer."""
    request = urllib.request.Request(  # noqa: S310 - a loopback address made here
        f"{url}/graphql",
        data=json.dumps({"query": LOCATIONS}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        # The same.
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(answer.read().decode())
    except OSError:
        return ""


def test_nothing_of_pips_settings_stays_in_an_image(
    built: Callable[[str], str], tmp_path: Path
) -> None:
    if engine() != "buildah":
        pytest.skip("the image's layers are read as buildah keeps them")
    image = built("forecast")
    folder = tmp_path / "image"
    push = ["buildah", "push", "--quiet", "--disable-compression"]
    subprocess.run([*push, f"localhost/{image}", f"dir:{folder}"], check=True)
    addresses = {
        word
        for value in images._settings().values()
        for word in value.replace(",", " ").split()
        if "://" in word
    }
    wanted = [word.encode() for word in (MARK, *addresses)]
    layers = [path for path in folder.iterdir() if path.stat().st_size > 1000]
    assert len(layers) >= 2
    for path in layers:
        content = path.read_bytes()
        assert not [word for word in wanted if word in content], path
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as layer:
                names = layer.getnames()
            left = [
                name for name in names if name.startswith("run/packages/") or "pip.conf" in name
            ]
            assert left == []
