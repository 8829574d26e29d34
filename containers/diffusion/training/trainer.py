"""Training of text-to-image models: each tenant's pictures become an adapter on the shared base,
several tenants in one batch. The trainer judges an adapter by its pictures, and delivers the
tenant's first pictures with it."""

import contextlib
import gc
import hashlib
import io
import logging
import math
import tempfile
import time
from base64 import b64encode
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from containers.diffusion.adapters.adapter import (
    Adapter,
    AdapterCard,
    UnusableAdapterError,
    write_adapter,
)
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, UnusableBaseError, load_base
from containers.diffusion.base.prompts import PromptCache
from containers.diffusion.pictures.preparation import (
    PreparedImages,
    RefusedDataError,
    read_prepared,
)
from containers.diffusion.pictures.previews import Row, contact_sheet, loss_curve
from containers.diffusion.serving.request import Drawing
from containers.diffusion.training import personalisation
from containers.diffusion.training.packed_steps import FIRST_SLOT, Examples, Lesson, PackedSteps
from containers.diffusion.training.settings import (
    FEWEST_TRAINED,
    InvalidHyperparameterError,
    Settings,
    parse_settings,
)
from containers.diffusion.training.trial import Images, Trial, about, drawing_of, prompts_for
from containers.runtime.training.packed_training import Refused, Task, Trained, Underway
from containers.runtime.training.training_input import InvalidTrainingInputError

ASPECTS: Final = (1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16)
"""Widths over heights that pictures are cropped to where tenants keep their own aspect ratio. They
are few, so that tenants share batches."""

ENCODED_TOGETHER: Final = 8
PROMPT_BYTES: Final = 64 * 1024 * 1024

_log = logging.getLogger(__name__)

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class _Upload:
    """A task's prepared pictures, and their size in training."""

    task: Task
    prepared: PreparedImages
    size: Size


@dataclass(frozen=True)
class _Pupil:
    """A tenant in training: the pictures to learn from, the held-out pictures, and the prompts for
    its model."""

    task: Task
    prepared: PreparedImages
    size: Size
    trained: Images
    captions: tuple[str, ...]
    held_out: Images
    prompts: tuple[str, ...]
    unseen_prompts: int
    lesson: Lesson

    @property
    def first_prompts(self) -> tuple[str, ...]:
        """The prompts of its first and nightly pictures: the tenant's own prompts, if it gave
        any."""
        return self.prepared.prompts or self.prompts


@dataclass(frozen=True)
class _Judged:
    """A model with its pictures. ``step`` is the number of steps it was trained for."""

    adapter: Adapter
    step: int
    base_pictures: Images
    pictures: Images
    personalisation: float
    meaning_kept: float


class DiffusionTrainer:
    """Adapters for the packed training loop. The base is loaded once for a process."""

    family = "diffusion"

    def __init__(self) -> None:
        """Without a base, until the first tasks come."""
        self._base: Base | None = None
        self._loaded: tuple[str, str | None, str | None] | None = None

    def train(
        self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
    ) -> Iterator[Trained | Refused | Underway]:
        """Yield the model of each tenant, group by group; tenants with one picture size train in
        one batch.

        Raises `InvalidTrainingInputError` for hyperparameters or a base that no task can train
        with.
        """
        try:
            settings = parse_settings(hyperparameters)
            base = self._base_of(settings)
        except (InvalidHyperparameterError, UnusableBaseError) as error:
            raise InvalidTrainingInputError(str(error)) from error
        settings = replace(settings, resolution=_resolution(settings, base))
        uploads: dict[Size, list[_Upload]] = {}
        for task in tasks:
            try:
                prepared = read_prepared(task.data)
                size = _size_of(prepared, settings, base)
            except RefusedDataError as error:
                yield Refused(task, str(error))
                continue
            uploads.setdefault(size, []).append(_Upload(task, prepared, size))
        session = _Session(base, settings, workspace)
        for members in uploads.values():
            yield from session.train(members)

    def _base_of(self, settings: Settings) -> Base:
        wanted = (settings.base, settings.device, settings.dtype)
        if self._base is None or self._loaded != wanted:
            # Release the previous base first, because two may not fit.
            self._base = None
            self._base = load_base(settings.base, device=settings.device, dtype=settings.dtype)
            self._loaded = wanted
        return self._base


def _resolution(settings: Settings, base: Base) -> int:
    resolution = settings.resolution or base.default_size
    if resolution % base.size_multiple:
        raise InvalidTrainingInputError(
            f"hyperparameter 'resolution' is {resolution}; base {base.name!r} needs a multiple of "
            f"{base.size_multiple}"
        )
    return resolution


def _size_of(prepared: PreparedImages, settings: Settings, base: Base) -> Size:
    """The size of a tenant's pictures in training. Raises `RefusedDataError`."""
    resolution = settings.resolution or base.default_size
    if settings.crop == "square":
        return resolution, resolution
    sizes = [image.read().size for image in prepared.images]
    usual = float(np.median([math.log(width / height) for width, height in sizes]))
    aspect = min(ASPECTS, key=lambda each: abs(math.log(each) - usual))
    multiple = base.size_multiple
    width, height = resolution * aspect**0.5, resolution / aspect**0.5
    return max(1, round(width / multiple)) * multiple, max(1, round(height / multiple)) * multiple


class _Session:
    """One call's tasks on one base."""

    def __init__(self, base: Base, settings: Settings, workspace: Path) -> None:
        self._base = base
        self._settings = settings
        self._workspace = workspace
        self._together = settings.tenants_together
        self._words = PromptCache(base, PROMPT_BYTES)
        self._prior: dict[tuple[str, Size], Examples] = {}

    def train(self, members: Sequence[_Upload]) -> Iterator[Trained | Refused | Underway]:
        """Train uploads of one size, as many together as the settings and the device's memory
        allow."""
        left = list(members)
        while left:
            group = left[: self._together]
            try:
                for result in self._train_group(group):
                    if not isinstance(result, Underway):
                        left = [member for member in left if member.task is not result.task]
                    yield result
            except torch.OutOfMemoryError:
                if len(group) == 1:
                    raise
                self._together = len(group) // 2
                _log.warning("out_of_memory tenants=%d next=%d", len(group), self._together)
            # Free the failed batch, including its frames, before building the next one.
            gc.collect()
            if self._base.device.type == "cuda":
                torch.cuda.empty_cache()

    def _train_group(self, group: Sequence[_Upload]) -> Iterator[Trained | Refused | Underway]:
        base, settings = self._base, self._settings
        layers = LoraLayers(
            base.unet, settings.targets, FIRST_SLOT + len(group), settings.rank, torch.float32
        )
        trial = Trial(base, layers, settings)
        try:
            pupils = []
            for upload in group:
                try:
                    prior = yield from self._prior_of(upload, trial)
                    pupils.append(self._pupil(upload, prior))
                except RefusedDataError as error:
                    yield Refused(upload.task, str(error))
            if not pupils:
                return
            nothing = self._words.of(None)
            steps = PackedSteps(base, layers, [pupil.lesson for pupil in pupils], settings, nothing)
            yield from self._run(steps, [pupil.task for pupil in pupils])
            for number, reason in steps.failures.items():
                advice = "If the pictures are in order, train with a lower learning rate."
                yield Refused(pupils[number].task, f"The training went astray: {reason}. {advice}")
            yield from self._judge(pupils, steps, trial)
        finally:
            layers.remove()

    def _run(self, steps: PackedSteps, tasks: Sequence[Task]) -> Iterator[Underway]:
        """Take the steps and report progress."""
        began, total = time.monotonic(), self._settings.steps
        images = self._settings.images_per_step * len(tasks)
        with contextlib.closing(steps.run()) as run:
            for done in run:
                seconds = max(1e-9, time.monotonic() - began)
                losses = [loss for loss in steps.losses[-1] if math.isfinite(loss)]
                figures = {
                    "loss": float(np.mean(losses)) if losses else math.nan,
                    "images_per_second": done * images / seconds,
                    "seconds_left": seconds / done * (total - done),
                }
                yield Underway(tasks, done, total, figures)

    # The training data.

    def _pupil(self, upload: _Upload, prior: Examples | None) -> _Pupil:
        """Decode a tenant's pictures, hold some out, encode the others. Raises
        `RefusedDataError`."""
        settings, task, prepared = self._settings, upload.task, upload.prepared
        pixels = np.stack([_fitted(image.read(), upload.size) for image in prepared.images])
        captions = [image.caption for image in prepared.images]
        seed = _seed(task, prepared, pixels, settings)
        out = min(settings.held_out, max(0, len(pixels) - FEWEST_TRAINED))
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed)).tolist()
        kept, held_out = sorted(order[out:]), sorted(order[:out])
        trained, trained_captions = pixels[kept], tuple(captions[number] for number in kept)
        # Every caption counts as seen, also that of a held-out picture, which the score compares
        # with.
        prompts, unseen = prompts_for(prepared.prompts, captions, prepared.subject, settings)
        words = [self._words.of(caption) for caption in trained_captions]
        return _Pupil(
            task=task,
            prepared=prepared,
            size=upload.size,
            trained=trained,
            captions=trained_captions,
            # With too few pictures none is held out; the training pictures then stand for the
            # tenant.
            held_out=pixels[held_out] if out else trained,
            prompts=tuple(prompts),
            unseen_prompts=unseen,
            lesson=Lesson(Examples(self._encoded(trained), words), seed, prior),
        )

    def _encoded(self, pixels: Images) -> Tensor:
        parts = [
            self._base.to_latents(
                torch.from_numpy(pixels[start : start + ENCODED_TOGETHER]).permute(0, 3, 1, 2)
                / 127.5
                - 1
            )
            for start in range(0, len(pixels), ENCODED_TOGETHER)
        ]
        return torch.cat(parts)

    def _prior_of(
        self, upload: _Upload, trial: Trial
    ) -> Generator[Underway, None, Examples | None]:
        """The base's own pictures of the class prompt, drawn once for tenants of one subject."""
        settings = self._settings
        if settings.prior_preservation == 0:
            return None
        prompt = about(settings.class_prompt, upload.prepared.subject)
        key = (prompt, upload.size)
        if key not in self._prior:
            first = drawing_of(prompt, upload.size, settings)
            drawings = [
                replace(first, seed=first.seed + number) for number in range(settings.prior_images)
            ]
            bare = _bare(self._base, settings)
            drawn = _of_base(
                (yield from _telling(trial, {bare: drawings}, [upload.task], settings))[bare]
            )
            self._prior[key] = Examples(self._encoded(drawn), [self._words.of(prompt)] * len(drawn))
        return self._prior[key]

    # The results.

    def _judge(
        self, pupils: Sequence[_Pupil], steps: PackedSteps, trial: Trial
    ) -> Iterator[Trained | Refused | Underway]:
        """Yield the models that keep their prompts' meaning, each at its last snapshot that
        does."""
        base_pictures = yield from self._base_pictures(pupils, trial)
        pending = {
            number: pupil for number, pupil in enumerate(pupils) if number not in steps.failures
        }
        best: dict[int, float] = {}
        for step, snapshot in reversed(steps.snapshots):
            adapters = {
                number: self._adapter(pupil, snapshot[number]) for number, pupil in pending.items()
            }
            drawn = yield from _telling(
                trial,
                {
                    adapters[number]: self._drawings(pupil.prompts, pupil)
                    for number, pupil in pending.items()
                },
                [pupil.task for pupil in pending.values()],
                self._settings,
            )
            judged: dict[int, _Judged] = {}
            for number, pupil in list(pending.items()):
                pictures = drawn[adapters[number]]
                if isinstance(pictures, Exception):
                    yield Refused(
                        pupil.task, f"The trained model draws nothing: {pictures}", retryable=True
                    )
                    del pending[number]
                    continue
                of_base = np.stack(
                    [base_pictures[drawing] for drawing in self._drawings(pupil.prompts, pupil)]
                )
                kept = personalisation.meaning_kept(of_base, pictures)
                best[number] = max(best.get(number, 0.0), kept)
                if kept >= self._settings.least_meaning:
                    score = personalisation.score(of_base, pictures, pupil.held_out, pupil.trained)
                    judged[number] = _Judged(adapters[number], step, of_base, pictures, score, kept)
                    del pending[number]
            yield from self._finish(
                {number: (pupils[number], judged[number]) for number in judged}, steps, trial
            )
            if not pending:
                return
        for number, pupil in pending.items():
            yield Refused(
                pupil.task,
                f"The model draws the uploads whatever it is asked: {best[number]:.0%} of prompts "
                f"kept their meaning, and"
                f" {self._settings.least_meaning:.0%} are needed. Upload pictures that differ "
                f"more, with captions that say what"
                " each shows.",
            )

    def _base_pictures(
        self, pupils: Sequence[_Pupil], trial: Trial
    ) -> Generator[Underway, None, dict[Drawing, Images]]:
        """The base's pictures for all prompts of a group, one for each prompt."""
        drawings = list(
            dict.fromkeys(each for pupil in pupils for each in self._drawings(pupil.prompts, pupil))
        )
        bare = _bare(self._base, self._settings)
        tasks = [pupil.task for pupil in pupils]
        drawn = _of_base(
            (yield from _telling(trial, {bare: drawings}, tasks, self._settings))[bare]
        )
        return dict(zip(drawings, drawn, strict=True))

    def _finish(
        self, judged: Mapping[int, tuple[_Pupil, _Judged]], steps: PackedSteps, trial: Trial
    ) -> Iterator[Trained | Refused | Underway]:
        """Draw the first pictures of the good models, all in one batch, and yield the models."""
        missing = {
            model.adapter: self._drawings(
                [each for each in pupil.first_prompts if each not in pupil.prompts], pupil
            )
            for pupil, model in judged.values()
        }
        drawn = yield from _telling(
            trial, missing, [pupil.task for pupil, _ in judged.values()], self._settings
        )
        for number, (pupil, model) in judged.items():
            more = drawn.get(model.adapter)
            if isinstance(more, Exception):
                yield Refused(
                    pupil.task, f"The trained model draws nothing: {more}", retryable=True
                )
                continue
            pictures = dict(zip(self._drawings(pupil.prompts, pupil), model.pictures, strict=True))
            pictures.update(
                zip(missing[model.adapter], more if more is not None else (), strict=True)
            )
            first = {
                drawing: pictures[drawing] for drawing in self._drawings(pupil.first_prompts, pupil)
            }
            losses = [row[number] for row in steps.losses[: model.step]]
            try:
                yield self._trained(pupil, model, first, losses)
            except UnusableAdapterError as error:
                yield Refused(pupil.task, f"The training went astray: {error}.")

    def _trained(
        self,
        pupil: _Pupil,
        model: _Judged,
        first: Mapping[Drawing, Images],
        losses: Sequence[float],
    ) -> Trained:
        settings, task = self._settings, pupil.task
        folder = Path(tempfile.mkdtemp(prefix="model-", dir=self._workspace))
        write_adapter(folder, model.adapter.weights)
        beside = Path(tempfile.mkdtemp(prefix="pictures-", dir=self._workspace))
        files = {}
        for number, (drawing, pixels) in enumerate(first.items()):
            files[f"{number:02}.png"] = beside / f"{number:02}.png"
            files[f"{number:02}.png"].write_bytes(_png(pixels, drawing, task))
        held_out = 0 if pupil.held_out is pupil.trained else len(pupil.held_out)
        sheet = contact_sheet(
            [
                Row("uploads", pupil.captions, pupil.trained),
                Row("base", pupil.prompts, model.base_pictures),
                Row("this model", pupil.prompts, model.pictures),
            ]
        )
        details = {
            "steps": model.step,
            "learned_from": len(pupil.trained),
            "held_out": held_out,
            "unseen_prompts": pupil.unseen_prompts,
            "size": list(pupil.size),
            "seed": pupil.lesson.seed,
            "prior_preservation": settings.prior_preservation,
            "drawing": {"steps": settings.drawing_steps, "guidance": settings.guidance},
            "pictures": [
                {"file": name, "prompt": drawing.prompt, "seed": drawing.seed}
                for name, drawing in zip(files, first, strict=True)
            ],
        }
        last = losses[-max(1, len(losses) // 5) :]
        return Trained(
            task=task,
            folder=folder,
            metrics={
                "personalisation": round(model.personalisation, 4),
                "meaning_kept": round(model.meaning_kept, 4),
                "loss": float(f"{np.mean(last):.4g}"),
                "steps": model.step,
                "images": len(pupil.trained) + held_out,
            },
            card=replace(model.adapter.card, details=details).to_json(),
            preview={
                "kind": "pictures",
                "sheet": b64encode(sheet.content).decode(),
                "media_type": sheet.media_type,
                "loss": loss_curve(losses),
            },
            files=files,
        )

    def _drawings(self, prompts: Sequence[str], pupil: _Pupil) -> list[Drawing]:
        return [drawing_of(prompt, pupil.size, self._settings) for prompt in prompts]

    def _adapter(self, pupil: _Pupil, weights: Mapping[str, tuple[Tensor, Tensor]]) -> Adapter:
        card = replace(
            _bare(self._base, self._settings).card,
            subject=pupil.prepared.subject,
            prompts=pupil.first_prompts,
        )
        return Adapter(card, pupil.task.version, weights)


def _bare(base: Base, settings: Settings) -> Adapter:
    """An adapter that changes nothing; its pictures are the base's."""
    return Adapter(AdapterCard(base.name, base.digest, settings.targets, settings.rank), "", {})


def _of_base(drawn: Images | Exception) -> Images:
    if isinstance(drawn, np.ndarray):
        return drawn
    raise RuntimeError(f"the base cannot draw: {drawn}") from drawn


def _telling(
    trial: Trial,
    wanted: Mapping[Adapter, Sequence[Drawing]],
    tasks: Sequence[Task],
    settings: Settings,
) -> Generator[Underway, None, dict[Adapter, Images | Exception]]:
    """Draw and report progress."""
    drawing = trial.draw(wanted)
    while True:
        try:
            done, total = next(drawing)
        except StopIteration as end:
            drawn: dict[Adapter, Images | Exception] = end.value
            return drawn
        yield Underway(tasks, settings.steps, settings.steps, {"pictures": done, "of": total})


def _fitted(image: Image.Image, size: Size) -> NDArray[np.uint8]:
    """A picture's pixels (height, width, 3): the largest crop of this shape around its centre,
    resized."""
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))


def _seed(task: Task, prepared: PreparedImages, pixels: Images, settings: Settings) -> int:
    """A seed from tenant and data, so that a tenant's model is the same in any pack and two
    tenants' seeds differ."""
    digest = hashlib.sha256(
        repr((settings.seed, task.tenant, prepared.subject, pixels.shape)).encode()
    )
    for image in prepared.images:
        digest.update(image.caption.encode() + b"\0")
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


def _png(pixels: NDArray[np.uint8], drawing: Drawing, task: Task) -> bytes:
    """A picture as a PNG file whose text chunks describe it."""
    words = PngInfo()
    for name, value in {
        "prompt": drawing.prompt,
        "seed": drawing.seed,
        "version": task.version,
    }.items():
        words.add_itxt(name, str(value))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=words)
    return file.getvalue()
