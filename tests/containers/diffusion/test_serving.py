"""The portraits container as a process, called over HTTP like by SageMaker, by many tenants at once
and by hostile ones."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, load_base
from containers.diffusion.serving.engine import SAME_PICTURE, Pixels
from containers.diffusion.serving.predictor import DiffusionPredictor, ServingSettings
from containers.diffusion.training.settings import SCENE_PROMPTS
from containers.runtime.serving.predictor import InvalidModelError
from tests.containers.diffusion.conftest import (
    RANK,
    TARGETS,
    archived,
    card,
    random_weights,
    write_model,
)
from tests.containers.runtime.serving import ROOT, Server, free_port

TENANTS = ("ant", "bee", "cow", "dog", "elk")
ASKED = {"prompt": "a star", "seed": 7, "steps": 5, "guidance": 4.0}


# The trial prompts of a model whose card names none, for a tenant whose pictures show a cat.
TRIED = [prompt.replace("{subject}", "cat") for prompt in SCENE_PROMPTS]


def start(base: Path, port: int, **environment: str) -> "subprocess.Popen[str]":
    surroundings = {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "TENANTRY_RANK": str(RANK),
        "TENANTRY_DEVICE": "cpu",
        "TENANTRY_TORCH_THREADS": "1",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "containers/diffusion/serve")],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def serving(base: Path, **environment: str) -> Iterator[Server]:
    """A server that answers /ping; the end of the block stops it."""
    port = free_port()
    with start(base, port, **environment) as process:
        server = Server(process, port)
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    assert server.call("GET", "/ping") == (200, {})
                    break
                except OSError:
                    if process.poll() is not None:
                        raise AssertionError(process.communicate()[0]) from None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield server
        finally:
            process.kill()


@pytest.fixture(scope="module")
def models(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive `{tenant}/v1.tar.gz` of every tenant."""
    base = load_base(str(base_folder), device="cpu")
    layers = LoraLayers(base.unet, TARGETS, 2, RANK)
    folder = tmp_path_factory.mktemp("models")
    for number, tenant in enumerate(TENANTS):
        prompts = ("a heart", "a moon") if tenant == "bee" else ()
        write_model(
            folder / tenant / "v1",
            random_weights(layers, number),
            card(base, prompts=prompts, subject="cat"),
            tenant=tenant,
        )
        archived(folder / tenant / "v1")
    return folder


@pytest.fixture(scope="module")
def shared(
    base_folder: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for the module, with fewer slots than tenants and a short queue."""
    with serving(
        tmp_path_factory.mktemp("serving"),
        SAGEMAKER_MULTI_MODEL="true",
        TENANTRY_BASE=str(base_folder),
        TENANTRY_SLOTS="4",
        TENANTRY_BATCH="4",
        TENANTRY_TENANT_QUEUE="8",
        TENANTRY_QUEUE="24",
    ) as server:
        for tenant in TENANTS:
            assert server.load(f"{tenant}/v1.tar.gz", models / tenant / "v1.tar.gz") == (200, {})
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The shared server, at rest before and after."""
    yield shared
    shared.until(
        lambda status: status["diffusion"]["in_flight"] == status["diffusion"]["waiting"] == 0
    )
    assert shared.status()["models"] == len(TENANTS)


def ask(server: Server, tenant: str, **fields: Any) -> tuple[int, Any]:
    return server.invoke(f"{tenant}/v1.tar.gz", {**ASKED, **fields})


def pixels_of(png: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(png)))


def picture(server: Server, tenant: str, **fields: Any) -> Pixels:
    status, answer = ask(server, tenant, **fields)
    assert status == 200, answer
    (image,) = answer["images"]
    return pixels_of(base64.b64decode(image["png"]))


def same(one: Pixels, other: Pixels) -> bool:
    most, share = SAME_PICTURE
    difference = np.abs(one.astype(int) - other.astype(int))
    return bool(difference.max() <= most and (difference > 0).mean() <= share)


def test_a_tenants_picture_comes_as_json_or_as_png_that_says_how_it_was_drawn(
    server: Server,
) -> None:
    status, answer = ask(server, "ant", negative_prompt="grey", width=24)
    assert status == 200
    (image,) = answer.pop("images")
    assert answer.pop("milliseconds") > 0
    assert answer == {
        "version": "v1",
        "negative_prompt": "grey",
        "steps": 5,
        "guidance": 4.0,
        "width": 24,
        "height": 32,
    }
    assert (image["prompt"], image["seed"]) == ("a star", 7)
    headers = {"Accept": "image/png"}
    body = {**ASKED, "negative_prompt": "grey", "width": 24}
    status, png = server.call(
        "POST", f"/models/{quote('ant/v1.tar.gz', safe='')}/invoke", body, headers
    )
    assert status == 200
    assert png == base64.b64decode(image["png"])
    opened = Image.open(io.BytesIO(png))
    assert opened.format == "PNG"
    assert opened.size == (24, 32)
    assert opened.info == {
        "version": "v1",
        "prompt": "a star",
        "negative_prompt": "grey",
        "seed": "7",
        "steps": "5",
        "guidance": "4.0",
        "width": "24",
        "height": "32",
    }


def test_each_tenant_is_drawn_with_its_own_model_and_the_same_again(server: Server) -> None:
    first = [picture(server, tenant) for tenant in TENANTS]
    assert not any(same(first[one], first[other]) for one in range(5) for other in range(one))
    with ThreadPoolExecutor(5) as threads:
        again = list(threads.map(lambda tenant: picture(server, tenant), TENANTS))
    assert all(same(one, other) for one, other in zip(first, again, strict=True))


def test_a_model_draws_its_own_prompts(server: Server) -> None:
    own = {"seed": 1, "steps": 1, "prompts": "own"}
    _, answer = server.invoke("bee/v1.tar.gz", {**own, "count": 2})
    told = [(image["prompt"], image["seed"]) for image in answer["images"]]
    assert told == [("a heart", 1), ("a heart", 2), ("a moon", 1), ("a moon", 2)]
    _, answer = server.invoke("ant/v1.tar.gz", own)
    assert [image["prompt"] for image in answer["images"]] == TRIED


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"width": 10_000, "height": 10_000}, "width"),
        ({"steps": 10**6}, "steps"),
        ({"prompt": "\0" * 2000}, "prompt"),
        ({"format": "png", "count": 2}, "format"),
        ({"pickle": "x"}, "pickle"),
    ],
)
def test_what_is_absurd_is_refused_with_its_field(
    server: Server, fields: dict[str, Any], field: str
) -> None:
    status, document = ask(server, "ant", **fields)
    assert (status, document["error"]["code"], document["error"]["field"]) == (
        400,
        "InvalidRequest",
        field,
    )
    assert document["error"]["reason"], "a word for programs"


def test_other_types_are_refused(server: Server) -> None:
    path = f"/models/{quote('ant/v1.tar.gz', safe='')}/invoke"
    for name, value in (("Content-Type", "text/plain"), ("Accept", "image/jpeg")):
        status, document = server.call("POST", path, ASKED, {name: value})
        assert (status, document["error"]["field"]) == (400, name)


def test_a_burst_is_turned_away_and_its_neighbour_is_not(server: Server) -> None:
    with ThreadPoolExecutor(12) as threads:
        burst = [
            threads.submit(ask, server, "ant", steps=40, count=4, timeout_seconds=50)
            for _ in range(8)
        ]
        # Four pictures are in flight, and eight wait.
        server.until(lambda status: status["diffusion"]["turned_away"] >= 5)
        assert ask(server, "bee")[0] == 200
        answers = [job.result() for job in burst]
    assert sorted(status for status, _ in answers) == [200] * 3 + [429] * 5
    (refused, *_) = (document["error"] for status, document in answers if status == 429)
    assert refused["code"] == "TooManyRequests"
    assert "of this model are waiting" in refused["message"]


def test_who_is_out_of_time_or_goes_away_leaves_the_batch(server: Server) -> None:
    before = server.status()["diffusion"]
    status, document = ask(server, "ant", steps=150, count=8, timeout_seconds=0.1)
    assert (status, document["error"]["code"], document["error"]["field"]) == (
        504,
        "DeadlineExceeded",
        "timeout_seconds",
    )
    body = json.dumps({**ASKED, "steps": 150, "count": 8}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as impatient:
        head = (
            f"POST /models/ant%2Fv1.tar.gz/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: "
            f"{len(body)}\r\n\r\n"
        )
        impatient.sendall(head.encode() + body)
        server.until(lambda status: status["diffusion"]["in_flight"] > 0)
    server.until(
        lambda status: status["diffusion"]["in_flight"] == status["diffusion"]["waiting"] == 0
    )
    after = server.status()["diffusion"]
    assert after["called_off"] - before["called_off"] == 16
    assert after["out_of_time"] - before["out_of_time"] == 1
    assert after["pictures"] == before["pictures"]


def test_an_unloaded_model_frees_its_slot(server: Server, models: Path) -> None:
    ask(server, "elk")
    used = server.status()["diffusion"]["slots"]["used"]
    assert server.call("DELETE", f"/models/{quote('elk/v1.tar.gz', safe='')}")[0] == 200
    server.until(lambda status: status["diffusion"]["slots"]["used"] == used - 1)
    assert ask(server, "elk")[0] == 404
    assert server.load("elk/v1.tar.gz", models / "elk" / "v1.tar.gz")[0] == 200
    assert ask(server, "elk")[0] == 200


def hostile_archives(folder: Path, good: Path) -> dict[str, Path]:
    """Archives that must be refused, by their fault; `good` is the folder of a valid model."""

    def tarred(name: str, files: dict[str, bytes]) -> Path:
        path = folder / f"{name}.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    card_json = (good / "card.json").read_bytes()
    weights = (good / "adapter.safetensors").read_bytes()
    pickled = io.BytesIO()
    torch.save({"weights": torch.zeros(4)}, pickled)
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"

    def tensors(rank: int, width: int, value: float) -> bytes:
        path = folder / "tensors"
        save_file(
            {
                f"unet.{layer}.lora_A.weight": torch.full((rank, width), value),
                f"unet.{layer}.lora_B.weight": torch.zeros(64, rank),
            },
            path,
        )
        return path.read_bytes()

    other_base = json.dumps({**json.loads(card_json), "base_digest": "0" * 64}).encode()
    return {
        "pickle": tarred(
            "pickle", {"card.json": card_json, "pytorch_lora_weights.bin": pickled.getvalue()}
        ),
        "pickle by the right name": tarred(
            "renamed", {"card.json": card_json, "adapter.safetensors": pickled.getvalue()}
        ),
        "path outside": tarred(
            "outside", {"card.json": card_json, "../../adapter.safetensors": weights}
        ),
        "bomb": tarred("bomb", {"card.json": card_json, "adapter.safetensors": bytes(300 << 20)}),
        "not a number": tarred(
            "nan", {"card.json": card_json, "adapter.safetensors": tensors(4, 64, float("nan"))}
        ),
        "infinite": tarred(
            "inf", {"card.json": card_json, "adapter.safetensors": tensors(4, 64, float("inf"))}
        ),
        "another shape": tarred(
            "shape", {"card.json": card_json, "adapter.safetensors": tensors(4, 65, 0.0)}
        ),
        "too high a rank": tarred(
            "rank", {"card.json": card_json, "adapter.safetensors": tensors(5, 64, 0.0)}
        ),
        "another base": tarred("base", {"card.json": other_base, "adapter.safetensors": weights}),
        "endless header": tarred(
            "header",
            {"card.json": card_json, "adapter.safetensors": b"\xff" * 7 + b"\x7f" + weights[8:]},
        ),
        "malformed header": tarred(
            "malformed",
            {"card.json": card_json, "adapter.safetensors": weights[:8] + b"x" + weights[9:]},
        ),
        "cut": tarred("cut", {"card.json": card_json, "adapter.safetensors": weights[:-1]}),
    }


def test_hostile_models_and_requests_do_not_touch_the_pictures_in_flight(
    server: Server, models: Path, tmp_path: Path
) -> None:
    seeds = range(6)
    expected = {
        (tenant, seed): picture(server, tenant, seed=seed)
        for tenant in TENANTS[:3]
        for seed in seeds
    }
    archives = hostile_archives(tmp_path, models / "ant" / "v1")
    failures = server.status()["load_failures"]
    finished = False

    def neighbour(tenant: str) -> int:
        """Ask repeatedly during the attacks; returns the number of answers."""
        asked = 0
        while not finished or asked < len(seeds):
            seed = asked % len(seeds)
            assert same(picture(server, tenant, seed=seed), expected[tenant, seed])
            asked += 1
        return asked

    with ThreadPoolExecutor(3) as threads:
        neighbours = [threads.submit(neighbour, tenant) for tenant in TENANTS[:3]]
        try:
            server.until(lambda status: status["diffusion"]["in_flight"] > 0)
            for kind, path in archives.items():
                status, document = server.load(f"mallory/{kind}", path)
                assert (status, document["error"]["code"]) == (400, "InvalidModel"), kind
                assert len(document["error"]["message"]) > 20, kind
                assert ask(server, "dog", width=10_000, height=10_000)[0] == 400
                assert ask(server, "dog", steps=150, timeout_seconds=0.01)[0] == 504
                assert server.invoke("dog/v1.tar.gz", b"\x80\x04" + bytes(100))[0] == 400
        finally:
            finished = True
        assert sum(asking.result() for asking in neighbours) >= 3 * len(seeds)
    assert server.status()["load_failures"] == failures + len(archives)


def test_a_batch_transform_draws_each_tenants_prompts_and_ends_cleanly(
    base_folder: Path, models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    for tenant in TENANTS[:2]:
        (folder / tenant).mkdir(parents=True)
        (folder / tenant / "v1.tar.gz").write_bytes((models / tenant / "v1.tar.gz").read_bytes())
    with serving(
        tmp_path, SAGEMAKER_BATCH="true", TENANTRY_BASE=str(base_folder), TENANTRY_STEPS="2"
    ) as server:
        records = [
            {
                "model": f"{tenant}/v1.tar.gz",
                "request": {"prompts": "own", "seed": 3, "timeout_seconds": 600},
            }
            for tenant in ("bee", "ant", "bee")
        ]
        body = "\n".join(json.dumps(record) for record in records).encode()
        status, lines = server.call(
            "POST", "/invocations", body, {"Content-Type": "application/jsonlines"}
        )
        assert status == 200, lines
        answers = [json.loads(line) for line in lines.splitlines()]
        assert [[image["prompt"] for image in answer["images"]] for answer in answers] == [
            ["a heart", "a moon"],
            TRIED,
            ["a heart", "a moon"],
        ]
        assert answers[0]["images"] == answers[2]["images"]
        assert {answer["steps"] for answer in answers} == {2}
        records[1]["request"] = {"prompts": "own", "steps": 0}
        body = "\n".join(json.dumps(record) for record in records).encode()
        status, document = server.call(
            "POST", "/invocations", body, {"Content-Type": "application/jsonlines"}
        )
        assert (status, document["error"]["field"]) == (400, "steps")
        assert document["error"]["message"].startswith("record 1: ")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_a_server_without_a_usable_base_says_why_and_ends(tmp_path: Path) -> None:
    with start(
        tmp_path, free_port(), TENANTRY_BASE="/nowhere", SAGEMAKER_MULTI_MODEL="true"
    ) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "serving_failed: base '/nowhere' is no folder" in output


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"TENANTRY_SLOTS": "0"}, "TENANTRY_SLOTS must be a whole number from 1"),
        ({"TENANTRY_RANK": "-1"}, "TENANTRY_RANK must be a whole number"),
        ({"TENANTRY_LORA_TARGETS": "all"}, "TENANTRY_LORA_TARGETS must be one of attention"),
        ({"TENANTRY_GUIDANCE": "high"}, "TENANTRY_GUIDANCE must be a number from 0 to 30"),
        ({"TENANTRY_GUIDANCE": "nan"}, "TENANTRY_GUIDANCE must be a number"),
        (
            {"TENANTRY_TIMEOUT_SECONDS": "56"},
            "TENANTRY_TIMEOUT_SECONDS must be a number from 0.001 to 55",
        ),
        (
            {"TENANTRY_QUEUE": "10", "TENANTRY_TENANT_QUEUE": "11"},
            "TENANTRY_TENANT_QUEUE must be a whole number from 1 to 10",
        ),
        ({"TENANTRY_STEPS": "151"}, "TENANTRY_STEPS must be a whole number from 1 to 150"),
    ],
)
def test_settings_that_make_no_sense_are_refused(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ServingSettings.of_environment(environment)


def test_settings_suit_the_base_and_the_kind_of_serving(loaded_base: Base) -> None:
    tiny = ServingSettings.of_environment({})
    assert (tiny.base, tiny.rank, tiny.steps, tiny.guidance, tiny.slots) == ("tiny", 8, 12, 2.5, 64)
    assert (tiny.timeout_seconds, tiny.engine.waiting, tiny.engine.waiting_of_tenant) == (
        55.0,
        256,
        64,
    )
    terms = tiny.terms(loaded_base)
    assert (terms.size, terms.max_size, terms.size_multiple) == (32, 48, 4)
    real = ServingSettings.of_environment(
        {"TENANTRY_BASE": "owner/name", "TENANTRY_MAX_SIZE": "1030"}
    )
    assert (real.rank, real.steps, real.guidance) == (32, 30, 7.5)
    assert real.terms(loaded_base).max_size == 1028
    batch = ServingSettings.of_environment({"SAGEMAKER_BATCH": "true"})
    assert (batch.timeout_seconds, batch.engine.waiting_of_tenant) == (3600.0, 1_000_000)
    asynchronous = ServingSettings.of_environment({"TENANTRY_MODELS_URI": "s3://bucket/models/"})
    assert (asynchronous.timeout_seconds, asynchronous.engine.waiting_of_tenant) == (
        890.0,
        1_000_000,
    )
    longer = ServingSettings.of_environment({"TENANTRY_MAX_TIMEOUT_SECONDS": "1800"})
    assert (longer.timeout_seconds, longer.max_timeout_seconds) == (1800.0, 1800.0)


def test_a_model_counts_as_many_bytes_as_its_weights_take(base_folder: Path, models: Path) -> None:
    environment = {
        "TENANTRY_BASE": str(base_folder),
        "TENANTRY_RANK": str(RANK),
        "TENANTRY_SLOTS": "1",
    }
    predictor = DiffusionPredictor(lambda: ServingSettings.of_environment(environment))
    with pytest.raises(RuntimeError, match="start comes first"):
        predictor.status()
    predictor.start()
    try:
        model = predictor.load(models / "ant" / "v1")
        weights = sum(4 * (a.numel() + b.numel()) for a, b in model.weights.values())
        assert weights < predictor.size(model) < 1.5 * weights
        with pytest.raises(InvalidModelError, match=r"card\.json is not there") as refused:
            predictor.load(models)
        assert refused.value.reason == "adapter_card_missing"
    finally:
        predictor.close()
