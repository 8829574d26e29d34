"""Training of portraits through the family's public interface, and through the container's own
``train``."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from containers.diffusion.adapters.adapter import read_adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import TINY_FOLDER, Base
from containers.diffusion.pictures.preparation import prepare
from containers.diffusion.serving.engine import SAME_PICTURE, Engine, EngineSettings
from containers.diffusion.serving.request import Drawing
from containers.diffusion.tiny_base.drawing import draw_icon, tenant_style
from containers.diffusion.training import personalisation
from containers.diffusion.training.trainer import DiffusionTrainer
from containers.runtime.training.packed_training import (
    InvalidTrainingInputError,
    Refused,
    Task,
    Trained,
    Underway,
)
from contracts.tasks import TIERS

ROOT = Path(__file__).resolve().parents[3]
SHAPES = ("circle", "square", "triangle", "ring", "cross", "moon")

Made = dict[str, Trained | Refused]


def upload(
    folder: Path, number: int, count: int = 8, size: tuple[int, int] = (32, 32), **parameters: str
) -> Path:
    """A made-up tenant's prepared pictures."""
    raw = folder.with_name(f"{folder.name}-raw")
    raw.mkdir(parents=True)
    for place in range(count):
        shape = SHAPES[place % len(SHAPES)]
        icon = Image.fromarray(draw_icon(shape, tenant_style(number), 100 * number + place))
        icon.resize(size, Image.Resampling.BICUBIC).save(raw / f"{shape}-{place}.png")
    prepare(sorted(raw.iterdir()), folder, parameters)
    return folder


def task(tenant: str, data: Path) -> Task:
    assert "bridge" in TIERS
    return Task(f"t-{tenant}", tenant, "v1", "bridge", data)


class Training:
    """Trains tasks on one random base; it keeps the trainer, so that the base is loaded once."""

    def __init__(self, base: Path, scratch: Callable[[], Path]) -> None:
        self.trainer = DiffusionTrainer()
        self.base = base
        self._scratch = scratch
        self.steps: list[Underway] = []

    def hyperparameters(self, **given: Any) -> dict[str, str]:
        quick = {
            "base": str(self.base),
            "device": "cpu",
            "targets": "attention+convolutions",
            "rank": "4",
            "steps": "3",
            "warmup": "1",
            "learning_rate": "2e-3",
            "snapshots": "[]",
            "drawing_steps": "2",
            "guidance": "2",
            "pictures": "2",
            "least_meaning": "0",
            "prompts": '["a star", "a heart"]',
        }
        return {**quick, **{name: str(value) for name, value in given.items()}}

    def __call__(self, tasks: Sequence[Task], **given: Any) -> Made:
        made: Made = {}
        self.steps = []
        for result in self.trainer.train(tasks, self.hyperparameters(**given), self._scratch()):
            if isinstance(result, Underway):
                self.steps.append(result)
            else:
                assert result.task.tenant not in made
                made[result.task.tenant] = result
        return made

    def groups(self) -> list[list[str]]:
        """The tenants of each training batch, in order."""
        groups = []
        for each in self.steps:
            tenants = [task.tenant for task in each.tasks]
            if "loss" in each.figures and tenants not in groups:
                groups.append(tenants)
        return groups


@pytest.fixture(scope="module")
def module_training(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(base_folder, lambda: tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def training(module_training: Training) -> Training:
    module_training.steps = []
    return module_training


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("uploads")
    return [upload(folder / str(number), number) for number in range(3)]


def trained(made: Mapping[str, Trained | Refused], tenant: str) -> Trained:
    result = made[tenant]
    assert isinstance(result, Trained), result
    return result


def weights(model: Trained) -> bytes:
    return (model.folder / "adapter.safetensors").read_bytes()


def test_a_pack_leaves_for_each_tenant_an_adapter_its_card_its_score_and_its_first_pictures(
    training: Training, tmp_path: Path
) -> None:
    wishes = upload(tmp_path / "a", 0, prompts="a diamond\na star on blue", subject="badge")
    plain = upload(tmp_path / "b", 1)
    made = training([task("a", wishes), task("b", plain)])
    a, b = trained(made, "a"), trained(made, "b")
    base_digest = training.trainer._base.digest if training.trainer._base else ""
    assert a.card["prompts"] == ["a diamond", "a star on blue"]
    assert b.card["prompts"] == ["a star", "a heart"]
    assert (a.card["subject"], a.card["base_digest"], a.card["rank"]) == ("badge", base_digest, 4)
    assert (a.card["learned_from"], a.card["held_out"], a.card["steps"]) == (6, 2, 3)
    assert a.metrics.keys() == {"personalisation", "meaning_kept", "loss", "steps", "images"}
    assert a.metrics["images"] == 8
    files = sorted(path.name for path in a.folder.iterdir())
    assert files == ["adapter.safetensors", "adapter_config.json"]
    assert list(a.files) == ["00.png", "01.png"]
    with Image.open(a.files["01.png"]) as picture:
        assert picture.size == (32, 32)
        assert picture.info["prompt"] == "a star on blue"
    assert training.groups() == [["a", "b"]]
    assert [each.step for each in training.steps if "loss" in each.figures] == [1, 2, 3]


def test_the_preview_is_a_sheet_of_uploads_base_and_model_with_the_loss_curve(
    training: Training, uploads: list[Path]
) -> None:
    preview = trained(training([task("a", uploads[0])]), "a").preview
    assert (preview["kind"], preview["media_type"]) == ("pictures", "image/png")
    assert [step for step, _ in preview["loss"]] == [1, 2, 3]
    assert len(json.dumps(preview)) < 220_000
    with Image.open(io.BytesIO(base64.b64decode(preview["sheet"]))) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
        assert sheet.width <= 900
    # The first row shows the six training pictures unchanged, enlarged four times.
    shown = [
        pixels[24 : 24 + 128, left : left + 128][::4, ::4] for left in range(76, 76 + 6 * 136, 136)
    ]
    uploaded = pixels_of(sorted(uploads[0].glob("image-*.png")))
    assert [sum(np.array_equal(cell, picture) for picture in uploaded) for cell in shown] == [1] * 6


def test_large_pictures_become_thumbnails(training: Training, tmp_path: Path) -> None:
    large = upload(tmp_path / "a", 0, count=5, size=(96, 96))
    preview = trained(training([task("a", large)], resolution=96), "a").preview
    assert preview["media_type"] == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(preview["sheet"]))) as sheet:
        assert sheet.format == "JPEG"


def test_what_is_stored_draws_the_first_pictures(
    training: Training, uploads: list[Path], loaded_base: Base
) -> None:
    model = trained(
        training([task("a", uploads[0]), task("b", uploads[1])], learning_rate=0.02), "a"
    )
    (model.folder / "card.json").write_text(json.dumps({**model.card, "version": "v1"}))
    layers = LoraLayers(loaded_base.unet, str(model.card["targets"]), 2, 4)
    try:
        adapter = read_adapter(model.folder, layers.shapes(), loaded_base.digest, 4, torch.float32)
        engine = Engine(loaded_base, layers, EngineSettings())
        how = model.card["drawing"]
        drawings = [
            Drawing(each["prompt"], None, each["seed"], how["steps"], how["guidance"], 32, 32)
            for each in model.card["pictures"]
        ]
        job = engine.submit(adapter, drawings)
        while not job.answer.done():
            engine.turn()
    finally:
        layers.remove()
    for pixels, path in zip(job.answer.result(), model.files.values(), strict=True):
        with Image.open(path) as picture:
            apart = np.abs(np.asarray(picture).astype(int) - pixels)
        assert apart.max() <= SAME_PICTURE[0]
        assert (apart > 0).mean() <= SAME_PICTURE[1]


def test_training_again_and_in_another_pack_gives_the_same(
    training: Training, uploads: list[Path]
) -> None:
    tasks = [task(tenant, folder) for tenant, folder in zip("abc", uploads, strict=True)]
    pack, again, alone = training(tasks), training(tasks), training(tasks[2:])
    for tenant in "abc":
        assert weights(trained(pack, tenant)) == weights(trained(again, tenant))
        assert trained(pack, tenant).metrics == trained(again, tenant).metrics
    assert trained(alone, "c").metrics["loss"] == pytest.approx(
        trained(pack, "c").metrics["loss"], rel=1e-3
    )
    assert trained(alone, "c").card["seed"] == trained(pack, "c").card["seed"]
    assert len({int(trained(pack, tenant).card["seed"]) for tenant in "abc"}) == 3


def test_one_tenants_bad_data_are_its_own(
    training: Training, uploads: list[Path], tmp_path: Path
) -> None:
    gone, cut, other = (upload(tmp_path / name, 5) for name in ("gone", "cut", "other"))
    (gone / "image-03.png").unlink()
    (cut / "image-02.png").write_bytes((cut / "image-02.png").read_bytes()[:200])
    (other / "images.json").write_text("{}")
    made = training(
        [task("gone", gone), task("cut", cut), task("good", uploads[0]), task("other", other)],
        tenants_together=2,
    )
    for tenant, reason in {
        "gone": "image-03.png",
        "cut": "image-02.png",
        "other": "images.json",
    }.items():
        refused = made[tenant]
        assert isinstance(refused, Refused)
        assert reason in refused.reason
        assert not refused.retryable
    assert weights(trained(made, "good")) == weights(
        trained(training([task("good", uploads[0])]), "good")
    )


def test_few_pictures_are_all_learned_from(training: Training, tmp_path: Path) -> None:
    made = training(
        [task("five", upload(tmp_path / "five", 0, 5)), task("six", upload(tmp_path / "six", 0, 6))]
    )
    assert (trained(made, "five").card["learned_from"], trained(made, "five").card["held_out"]) == (
        5,
        0,
    )
    assert (trained(made, "six").card["learned_from"], trained(made, "six").card["held_out"]) == (
        5,
        1,
    )


def test_prompts_that_are_captions_are_not_what_a_model_is_judged_by(
    training: Training, uploads: list[Path]
) -> None:
    prompts = json.dumps(["A circle", "a star", "a square", "a heart", "a ring"])
    model = trained(training([task("a", uploads[0])], prompts=prompts, pictures=5), "a")
    asked = [each["prompt"] for each in model.card["pictures"]]
    # Two are new; some of the others fill up to the least number for a judgement.
    assert (asked, model.card["unseen_prompts"]) == (
        ["a star", "a heart", "A circle", "a square"],
        2,
    )


def test_tenants_whose_pictures_have_other_shapes_train_in_batches_of_their_own(
    training: Training, uploads: list[Path], tmp_path: Path
) -> None:
    wide = upload(tmp_path / "wide", 3, size=(96, 64))
    tall = upload(tmp_path / "tall", 4, size=(40, 60))
    tasks = [task("a", uploads[0]), task("wide", wide), task("b", uploads[1]), task("tall", tall)]
    made = training(tasks, crop="tenant")
    assert training.groups() == [["a", "b"], ["wide"], ["tall"]]
    assert {tenant: trained(made, tenant).card["size"] for tenant in ("a", "wide", "tall")} == {
        "a": [32, 32],
        "wide": [40, 28],
        "tall": [28, 40],
    }
    with Image.open(trained(made, "wide").files["00.png"]) as picture:
        assert picture.size == (40, 28)
    training(tasks)
    assert training.groups() == [["a", "wide", "b", "tall"]]


def test_no_more_tenants_are_trained_together_than_allowed(
    training: Training, uploads: list[Path]
) -> None:
    training(
        [task(tenant, folder) for tenant, folder in zip("abc", uploads, strict=True)],
        tenants_together=2,
    )
    assert training.groups() == [["a", "b"], ["c"]]


def test_a_device_without_memory_for_all_trains_fewer_at_once(
    training: Training, uploads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Base.predict

    def small(self: Base, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(self, latents, *rest)

    monkeypatch.setattr(Base, "predict", small)
    tasks = [task(tenant, folder) for tenant, folder in zip("abc", uploads, strict=True)]
    made = training(tasks)
    assert training.groups() == [["a"], ["b"], ["c"]]
    assert all(isinstance(result, Trained) for result in made.values())
    with pytest.raises(torch.OutOfMemoryError):
        training(tasks[:1], images_per_step=2)


def test_pictures_of_the_base_stand_beside_the_tenants_own(
    training: Training, uploads: list[Path]
) -> None:
    tasks = [task(tenant, folder) for tenant, folder in zip("ab", uploads, strict=False)]
    plain = training(tasks)
    kept = training(tasks, prior_preservation=1.0, prior_images=3, class_prompt="a {subject}")
    assert weights(trained(plain, "a")) != weights(trained(kept, "a"))
    assert trained(kept, "a").card["prior_preservation"] == 1.0
    # They are drawn once for tenants of one subject.
    assert len([each for each in training.steps if each.figures.get("of") == 3]) == 2


def test_a_model_that_has_lost_its_prompts_is_taken_from_before_or_refused(
    uploads: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "w").mkdir()
    embedded = Training(Path("tiny"), lambda: tmp_path / "w")
    wild = {
        "steps": 12,
        "warmup": 60,
        "learning_rate": 1.0,
        "clip": 100,
        "caption_dropout": 0,
        "least_meaning": 1.0,
        "pictures": 4,
        "drawing_steps": 6,
        "prompts": json.dumps(["a star", "a heart", "a diamond", "an arrow"]),
    }
    model = trained(embedded([task("a", uploads[0])], **wild, snapshots="[0.01]"), "a")
    assert (model.metrics["steps"], model.metrics["meaning_kept"]) == (1, 1.0)
    refused = embedded([task("a", uploads[0])], **wild)["a"]
    assert isinstance(refused, Refused)
    assert "draws the uploads whatever it is asked" in refused.reason
    assert "100% are needed" in refused.reason


def test_a_training_that_goes_astray_is_refused_and_its_neighbour_trained(
    training: Training, uploads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    to_latents, calls = Base.to_latents, []

    def faulty(self: Base, images: torch.Tensor) -> torch.Tensor:
        """A device's fault while the first tenant's pictures are encoded."""
        calls.append(len(images))
        latents = to_latents(self, images)
        return latents * float("nan") if len(calls) == 1 else latents

    tasks = [task("a", uploads[0]), task("b", uploads[1])]
    right = training(tasks)
    monkeypatch.setattr(Base, "to_latents", faulty)
    made = training(tasks)
    refused = made["a"]
    assert isinstance(refused, Refused)
    assert "The training went astray: the loss was no finite number at step 1." in refused.reason
    assert weights(trained(made, "b")) == weights(trained(right, "b"))


def test_a_base_of_sdxls_shape_is_trained_the_same_way(
    xl_folder: Path, uploads: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "w").mkdir()
    xl = Training(xl_folder, lambda: tmp_path / "w")
    made = xl([task("a", uploads[0]), task("b", uploads[1])])
    assert trained(made, "a").card["base"] == str(xl_folder)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rank": "none"}, "hyperparameter 'rank'"),
        ({"base": "/nowhere"}, "base '/nowhere' is no folder"),
        ({"resolution": "34"}, "'resolution' is 34; base"),
    ],
)
def test_hyperparameters_that_no_task_can_be_trained_with_fail_the_job(
    training: Training, uploads: list[Path], given: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidTrainingInputError) as refusal:
        training([task("a", uploads[0])], **given)
    assert reason in str(refusal.value)


def test_two_tenants_of_a_pack_go_from_the_embedded_base_each_towards_its_own_uploads(
    tmp_path: Path,
) -> None:
    tenants = {"a": 4, "b": 9}
    folders = {tenant: upload(tmp_path / tenant, number) for tenant, number in tenants.items()}
    (tmp_path / "w").mkdir()
    made: Made = {}
    # Use the defaults of a job, except for fewer steps.
    how = {"steps": "70", "device": "cpu"}
    for result in DiffusionTrainer().train(
        [task(*each) for each in folders.items()], how, tmp_path / "w"
    ):
        if not isinstance(result, Underway):
            made[result.task.tenant] = result
    pictures = {tenant: pixels_of(trained(made, tenant).files.values()) for tenant in tenants}
    known = {str(number): icons(number) for number in range(12)}
    for tenant, number in tenants.items():
        model = trained(made, tenant)
        assert model.metrics["personalisation"] > 0.4
        assert model.metrics["meaning_kept"] >= 0.75
        assert model.card["unseen_prompts"] == len(pictures[tenant]) == 4
        assert model.metrics["loss"] < model.preview["loss"][0][1]
        # Among a dozen styles and the other model, the pictures are nearest to the tenant's.
        assert personalisation.nearest(known, pictures[tenant]) == str(number)
        other = next(each for each in tenants if each != tenant)
        own, others = (
            personalisation.distance(pictures[each], known[str(number)]) for each in (tenant, other)
        )
        assert own < others
        assert (model.folder / "adapter.safetensors").stat().st_size * 30 <= sum(
            path.stat().st_size for path in TINY_FOLDER.rglob("*") if path.is_file()
        )


def icons(number: int) -> "np.typing.NDArray[np.uint8]":
    """A made-up tenant's icons of all shapes in its uploads, drawn differently from the uploads."""
    return np.stack(
        [draw_icon(shape, tenant_style(number), 7000 + place) for place, shape in enumerate(SHAPES)]
    )


def pixels_of(paths: Iterable[Path]) -> "np.typing.NDArray[np.uint8]":
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture))
    return np.stack(pictures)


def test_broken_off_it_leaves_the_base_as_it_was(
    training: Training, uploads: list[Path], tmp_path: Path
) -> None:
    training([task("a", uploads[0])])
    base = training.trainer._base
    assert base is not None
    names = set(base.unet.state_dict())
    run = training.trainer.train(
        [task("a", uploads[0])], training.hyperparameters(steps=50), tmp_path
    )
    assert isinstance(next(iter(run)), Underway)
    assert set(base.unet.state_dict()) != names
    run.close()  # type: ignore[attr-defined]
    assert set(base.unet.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in base.unet.parameters())


class Job:
    """The folders of one training job."""

    def __init__(
        self, folder: Path, tenants: Mapping[str, Path], hyperparameters: Mapping[str, str]
    ) -> None:
        self.folder = folder
        tasks = []
        for number, (tenant, data) in enumerate(tenants.items()):
            target = folder / "input/data/training" / tenant
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(data)
            tasks.append(
                {
                    "task": f"{number:032x}",
                    "tenant": tenant,
                    "version": "v1",
                    "tier": "bridge",
                    "shard": 0,
                    "data": tenant,
                    "parameters": {},
                }
            )
        for name, document in {
            "input/data/tasks/tasks.json": {
                "format": 1,
                "workload": "portraits",
                "pack": "p-1",
                "tasks": tasks,
            },
            "input/config/hyperparameters.json": dict(hyperparameters),
            "input/config/resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1"]},
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(document))

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "containers/diffusion/train")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def outcome(self, tenant: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            (self.folder / "checkpoints" / tenant / "v1.json").read_text()
        )
        return document

    def wait_for(self, path: str) -> None:
        deadline = time.monotonic() + 120
        while not (self.folder / path).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.slow
def test_first_pictures_are_there_while_the_job_goes_on_and_a_stopped_job_is_taken_up(
    training: Training, uploads: list[Path], tmp_path: Path
) -> None:
    job = Job(
        tmp_path / "ml",
        {"a": uploads[0], "b": uploads[1]},
        training.hyperparameters(batch_size=1, steps=15, pictures=2),
    )
    with job.start() as process:
        job.wait_for("checkpoints/a/v1.json")
        assert sorted(path.name for path in (job.folder / "checkpoints/a/v1").iterdir()) == [
            "00.png",
            "01.png",
        ]
        # The second tenant is training now; the test does not wait for it.
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert not (job.folder / "checkpoints/b").exists()
    outcome = job.outcome("a")
    assert list(outcome["files"]) == ["00.png", "01.png"]
    assert len(json.dumps(outcome)) < 256 * 1024
    assert "a star" not in output
    before = (job.folder / "checkpoints/a/v1.json").stat().st_mtime_ns
    with job.start() as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (job.folder / "checkpoints/a/v1.json").stat().st_mtime_ns == before
    assert job.outcome("b")["status"] == "succeeded"
