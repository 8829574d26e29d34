"""The Triton model, run by a stand-in for Triton: it answers like the project's own server."""

import asyncio
import base64
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base
from containers.diffusion.serving.engine import SAME_PICTURE
from containers.diffusion.serving.predictor import DiffusionPredictor
from containers.diffusion.triton.repository import CONFIGURATION, main
from containers.runtime.archives.archive import write_archive
from containers.runtime.serving.server import ServingApp
from containers.runtime.serving.settings import Settings
from infrastructure.local_cloud import LocalCloud
from tests.containers.diffusion.conftest import RANK, card, random_weights, write_model
from tests.containers.diffusion.triton_stand_in import (
    Triton,
    TritonError,
    TritonModelException,
    utilities,
)

SERVE = Path("containers/diffusion/triton/serve")
TENANTS = ("acme", "borealis")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def archives(loaded_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tenants' archives and a broken one, as SageMaker lays out a model folder."""
    folder = tmp_path_factory.mktemp("opt-ml")
    layers = LoraLayers(loaded_base.unet, "attention+convolutions", 2, RANK)
    for number, tenant in enumerate(TENANTS):
        written = write_model(
            folder / "written" / tenant, random_weights(layers, number), card(loaded_base)
        )
        (folder / "model" / tenant).mkdir(parents=True)
        write_archive(written, folder / "model" / tenant / "v1.tar.gz")
    layers.remove()
    (folder / "model" / "broken").mkdir()
    (folder / "model" / "broken" / "v1.tar.gz").write_bytes(b"no archive")
    return folder


@pytest.fixture(scope="module")
def environment(base_folder: Path, archives: Path) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for name, value in {
        "SAGEMAKER_BASE_DIR": str(archives),
        "TENANTRY_BASE": str(base_folder),
        "TENANTRY_RANK": str(RANK),
        "TENANTRY_DEVICE": "cpu",
    }.items():
        patch.setenv(name, value)
    with utilities():
        yield
    patch.undo()


@pytest.fixture(scope="module")
def triton(repository: Path, environment: None) -> Iterator[Triton]:
    triton = Triton(repository / "portraits")
    yield triton
    triton.model.finalize()


def record(tenant: str, **request: Any) -> bytes:
    request = {"prompt": "a red circle", "seed": 7, "steps": 4, **request}
    return json.dumps({"model": f"{tenant}/v1.tar.gz", "request": request}).encode()


def pixels(document: Any) -> "np.ndarray[Any, Any]":
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(document["images"][0]["png"]))), dtype=int
    )


def status(triton: Triton) -> dict[str, Any]:
    """The server's answer to `GET /_status`."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(triton.model.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.get("/_status")

    document: dict[str, Any] = asyncio.run(call()).json()
    return document


def test_the_configuration_is_one_that_triton_reads() -> None:
    config = text_format.Parse(CONFIGURATION, model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("portraits", "python", 0)
    assert config.instance_group[0].count == 1
    assert not config.model_transaction_policy.decoupled, (
        "SageMaker's front and Triton's HTTP refuse decoupled models"
    )


def test_a_configuration_with_a_misspelt_field_is_not() -> None:
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse(
            CONFIGURATION.replace("max_batch_size", "max_batchsize"), model_config_pb2.ModelConfig()
        )


def test_requests_of_two_tenants_in_one_call_are_drawn_in_one_batch(triton: Triton) -> None:
    before = status(triton)["diffusion"]
    answers = triton.ask(*(record(tenant, steps=60) for tenant in TENANTS))
    first, second = (pixels(answer.document) for answer in answers)
    assert np.abs(first - second).mean() > 1, "each is drawn by its own tenant's adapter"
    after = status(triton)["diffusion"]
    assert after["picture_steps"] - before["picture_steps"] == 2 * 60
    assert after["steps"] - before["steps"] < 2 * 60, "some steps were taken for both at once"


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_picture_is_the_one_the_http_server_draws(
    triton: Triton, tenant: str, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    predictor = DiffusionPredictor()
    predictor.start()
    transport = httpx.ASGITransport(ServingApp(predictor, Settings.of_environment()))
    request = {"prompt": "a red circle", "seed": 7, "steps": 4}

    async def call() -> Any:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            model = {"model_name": tenant, "url": str(archives / "model" / tenant / "v1.tar.gz")}
            assert (await client.post("/models", json=model)).status_code == 200
            return (await client.post(f"/models/{tenant}/invoke", json=request)).json()

    try:
        theirs = asyncio.run(call())
    finally:
        predictor.close()
    (ours,) = triton.ask(record(tenant))
    difference = np.abs(pixels(ours.document) - pixels(theirs))
    most, share = SAME_PICTURE
    assert difference.max() <= most
    assert (difference > 0).mean() <= share
    assert {**ours.document, "images": 0, "milliseconds": 0} == {
        **theirs,
        "images": 0,
        "milliseconds": 0,
    }


def test_what_is_wrong_with_a_request_is_told_and_its_neighbour_is_answered(triton: Triton) -> None:
    answers = triton.ask(
        record("acme", steps=100_000),
        record("nobody"),
        record("broken"),
        b"no JSON",
        record("acme"),
    )
    assert [answer.error and answer.error[0] for answer in answers] == [
        TritonError.INVALID_ARG,
        TritonError.INVALID_ARG,
        TritonError.INVALID_ARG,
        TritonError.INVALID_ARG,
        None,
    ]
    steps, nobody, broken, nonsense, good = answers
    assert steps.error is not None
    assert "steps must be a whole number from 1 to 150 (field steps)" in steps.error[1]
    assert nobody.error is not None
    assert "there is no folder" in nobody.error[1]
    assert broken.error is not None
    assert "InvalidModel" in broken.error[1]
    assert nonsense.error is not None
    assert "not JSON" in nonsense.error[1]
    assert good.document["version"] == "v1"


def test_a_request_whose_time_is_over_is_unavailable(triton: Triton) -> None:
    (answer,) = triton.ask(record("acme", steps=150, count=8, timeout_seconds=0.001))
    assert answer.error is not None
    code, message = answer.error
    assert code == TritonError.UNAVAILABLE
    assert "timeout_seconds" in message


def test_a_client_that_went_away_is_drawn_no_further(triton: Triton) -> None:
    before = status(triton)["diffusion"]["pictures"]
    (sender,) = triton.send(record("acme", steps=150, count=8))
    sender.cancelled = True
    (answer,) = triton.answers([sender])
    assert answer.error == (TritonError.CANCELLED, "the client went away")
    triton.ask(record("borealis"))
    assert status(triton)["diffusion"]["pictures"] == before + 1


def test_adapters_are_fetched_from_s3_as_they_are_asked_for(
    repository: Path,
    environment: None,
    archives: Path,
    local_cloud: LocalCloud,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local_cloud.reset()
    s3 = boto3.client("s3")
    s3.create_bucket(
        Bucket="portraits", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    s3.upload_file(str(archives / "model/acme/v1.tar.gz"), "portraits", "models/acme/v1.tar.gz")
    monkeypatch.setenv("TENANTRY_MODELS_URI", "s3://portraits/models/")
    triton = Triton(repository / "portraits")
    try:
        acme, borealis = triton.ask(record("acme"), record("borealis"))
    finally:
        triton.model.finalize()
    assert acme.document["version"] == "v1"
    assert borealis.error == (
        TritonError.NOT_FOUND,
        "NotFound: there is no model 'borealis/v1.tar.gz' (field model)",
    )


def test_finalize_answers_what_is_left_and_ends_the_threads(
    repository: Path, environment: None
) -> None:
    before = set(threading.enumerate())
    triton = Triton(repository / "portraits")
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert {"engine", "answers"} <= names
    senders = triton.send(record("acme", steps=150, count=8))
    triton.model.finalize()
    (answer,) = triton.answers(senders)
    assert answer.error is not None
    assert answer.error[0] == TritonError.CANCELLED
    left = {thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()}
    assert not {"engine", "answers"} & left


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TENANTRY_BASE": "/nowhere"}, "is no folder"),
        ({"TENANTRY_SLOTS": "none"}, "TENANTRY_SLOTS"),
        ({"SAGEMAKER_MULTI_MODEL": "true"}, "SingleModel"),
        ({"SAGEMAKER_BASE_DIR": "/nowhere"}, "TENANTRY_MODELS_URI"),
    ],
)
def test_a_model_that_cannot_be_served_says_why_and_leaves_no_thread(
    repository: Path,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    words: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = set(threading.enumerate())
    with pytest.raises(TritonModelException, match=words):
        Triton(repository / "portraits")
    assert not {"engine", "answers"} & {
        thread.name for thread in set(threading.enumerate()) - before
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_instance_on_a_machine_without_a_gpu_says_so(
    repository: Path, environment: None
) -> None:
    with pytest.raises(TritonModelException, match=r"(?i)cuda|nvidia"):
        Triton(repository / "portraits", kind="GPU")


def test_the_entry_point_starts_triton_on_sagemakers_port(tmp_path: Path) -> None:
    (tmp_path / "tritonserver").write_text(
        '#!/bin/sh\necho "$SAGEMAKER_TRITON_DEFAULT_MODEL_NAME $@"\n'
    )
    (tmp_path / "tritonserver").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SAGEMAKER_BIND_TO_PORT": "8123",
    }
    said = subprocess.run(
        [SERVE], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[0] == "portraits"
    assert {"--sagemaker-port=8123", "--load-model=portraits", "--allow-sagemaker=true"} <= set(
        said
    )
