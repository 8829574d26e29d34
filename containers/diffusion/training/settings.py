"""The hyperparameters of a diffusion training job. SageMaker passes strings; this module parses
them once.

For Stable Diffusion 1.5 on a GPU, say::

    {"base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "device": "cuda", "dtype": "bf16",
     "targets": "attention", "rank": "16", "steps": "800", "learning_rate": "1e-4",
     "tenants_together": "8", "gradient_checkpointing": "true", "optimizer": "adamw8bit",
     "prior_preservation": "1.0", "prompts": "[\\"a {subject} on a beach\\"]"}
"""

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal, cast

from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import DTYPES, TINY
from containers.diffusion.pictures.preparation import MAX_PROMPTS, RefusedTextError, clean_text
from containers.runtime.errors import ContainerError

Optimizer = Literal["adamw", "adamw8bit"]
Crop = Literal["square", "tenant"]

RUNTIME: Final = ("batch_size",)
"""Hyperparameters that the training loop reads itself."""

SUBJECT: Final = "{subject}"
"""The placeholder in prompts for the subject of a tenant's pictures."""

ICON_PROMPTS: Final = (
    "a star",
    "a heart",
    "a diamond",
    "an arrow",
    "a moon",
    "a cross",
    "a triangle",
    "a ring",
    "a circle",
    "a square",
)
"""The default prompts for the embedded base: shapes that it draws distinctly."""

SCENE_PROMPTS: Final = (
    "a photo of a {subject}",
    "a {subject} on a beach at sunset",
    "a {subject} in the snow",
    "an oil painting of a {subject}",
    "a {subject} in a city at night",
    "a pencil drawing of a {subject}",
)
"""The default prompts for any other base."""


class InvalidHyperparameterError(ContainerError, ValueError):
    """A hyperparameter is unknown or malformed; the message names it and says what it may be."""


@dataclass(frozen=True)
class Settings:
    """How a tenant's adapter is trained. Defaults suit the embedded base; `REAL_BASE` holds the
    different defaults of other bases."""

    base: str = TINY
    """`tiny`, a hub id, a folder or an s3:// prefix, as `load_base` takes it."""
    device: str | None = None
    dtype: str | None = None
    """The number type of the frozen base: fp32, fp16 or bf16. Adapters are always trained in
    fp32."""
    targets: str = "attention+convolutions"
    rank: int = 3
    steps: int = 100
    images_per_step: int = 1
    """Images of one tenant in each step; prior preservation adds equally many of the base's."""
    learning_rate: float = 1.2e-2
    warmup: int = 20
    """Steps in which the learning rate rises; after them it falls to a tenth along a cosine."""
    clip: float = 0.5
    """The largest norm of one tenant's gradient; a larger one is scaled down to it."""
    caption_dropout: float = 0.1
    """Share of samples shown without their caption, so that guidance leads away from the tenant's
    average picture."""
    resolution: int | None = None
    """Pixels a side of a square training picture; the base's own when not given."""
    crop: Crop = "square"
    """`square`, or `tenant`: the same number of pixels in the aspect ratio of most of a tenant's
    pictures."""
    seed: int = 0
    prior_preservation: float = 0.0
    """Weight of the base's own pictures of the class prompt among the losses (Ruiz et al. 2022, eq.
    2); 0 is without."""
    prior_images: int = 16
    class_prompt: str = f"a {SUBJECT}"
    gradient_checkpointing: bool = False
    optimizer: Optimizer = "adamw"
    tenants_together: int = 16
    """Tenants trained in one batch at most; halved when the device has no memory for them."""
    held_out: int = 2
    """Pictures of a tenant that training leaves out for its score, if enough remain (see
    `FEWEST_TRAINED`)."""
    prompts: tuple[str, ...] = field(default=ICON_PROMPTS)
    """The prompts for a model's score and first pictures, besides a tenant's own prompts."""
    pictures: int = 6
    """Pictures that a model is judged by, for prompts that are not captions of its tenant."""
    drawing_steps: int = 10
    guidance: float = 2.5
    drawn_together: int = 16
    """Pictures drawn in one batch."""
    snapshots: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Shares of the steps after which a snapshot is kept. Where the last snapshot has lost the
    prompts' meaning, an earlier one is used."""
    least_meaning: float = 0.5
    """Share of prompts whose meaning a model must keep."""


FEWEST_TRAINED: Final = 5
"""The least number of pictures to train on; none is held out if fewer would remain."""

REAL_BASE: Final[Mapping[str, object]] = {
    "targets": "attention",
    "rank": 16,
    "steps": 800,
    "learning_rate": 1e-4,
    "warmup": 50,
    "clip": 1.0,
    "tenants_together": 8,
    "prompts": SCENE_PROMPTS,
    "drawing_steps": 30,
    "guidance": 7.5,
    "drawn_together": 8,
}
"""Defaults for every base except the embedded one, where possible those of diffusers'
DreamBooth-LoRA script."""

KNOWN: Final = tuple(each.name for each in fields(Settings))


def parse_settings(hyperparameters: Mapping[str, str]) -> Settings:
    """Parse hyperparameters. Raises `InvalidHyperparameterError` for one that is unknown, malformed
    or unavailable on this machine."""
    for name in hyperparameters:
        if name not in KNOWN and name not in RUNTIME and not name.startswith("sagemaker_"):
            raise InvalidHyperparameterError(
                f"hyperparameter {name!r} is unknown; there are {', '.join(KNOWN + RUNTIME)}"
            )
    base = hyperparameters.get("base", TINY).strip()
    if not 0 < len(base) <= 500:
        raise InvalidHyperparameterError(
            "hyperparameter 'base' must name a base in at most 500 characters"
        )
    read = _Reading(hyperparameters, REAL_BASE if base != TINY else {})
    settings = Settings(
        base=base,
        device=read.device(),
        dtype=read.one_of("dtype", ("", *DTYPES)) or None,
        targets=read.one_of("targets", tuple(TARGETS)),
        rank=read.whole("rank", 1, 256),
        steps=read.whole("steps", 1, 100_000),
        images_per_step=read.whole("images_per_step", 1, 64),
        learning_rate=read.number("learning_rate", 1e-8, 1.0),
        warmup=read.whole("warmup", 0, 100_000),
        clip=read.number("clip", 1e-6, 1e6),
        caption_dropout=read.number("caption_dropout", 0.0, 1.0),
        resolution=read.whole("resolution", 16, 2048) if "resolution" in hyperparameters else None,
        crop=cast(Crop, read.one_of("crop", ("square", "tenant"))),
        seed=read.whole("seed", 0, 2**31 - 1),
        prior_preservation=read.number("prior_preservation", 0.0, 100.0),
        prior_images=read.whole("prior_images", 1, 1000),
        class_prompt=read.text("class_prompt"),
        gradient_checkpointing=read.one_of("gradient_checkpointing", ("false", "true")) == "true",
        optimizer=cast(Optimizer, read.one_of("optimizer", ("adamw", "adamw8bit"))),
        tenants_together=read.whole("tenants_together", 1, 256),
        held_out=read.whole("held_out", 0, 8),
        prompts=read.texts("prompts"),
        pictures=read.whole("pictures", 2, MAX_PROMPTS),
        drawing_steps=read.whole("drawing_steps", 1, 1000),
        guidance=read.number("guidance", 0.0, 30.0),
        drawn_together=read.whole("drawn_together", 1, 256),
        snapshots=read.shares("snapshots"),
        least_meaning=read.number("least_meaning", 0.0, 1.0),
    )
    if settings.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidHyperparameterError(
            "hyperparameter 'optimizer' is 'adamw8bit', and bitsandbytes is not installed in this "
            "container; install it, or"
            " use 'adamw'"
        )
    return settings


class _Reading:
    """Hyperparameters by name, or their defaults."""

    def __init__(self, given: Mapping[str, str], instead: Mapping[str, object]) -> None:
        self._given = given
        self._defaults = {
            each.name: instead.get(each.name, each.default) for each in fields(Settings)
        }

    def whole(self, name: str, least: int, most: int) -> int:
        value = self._given.get(name)
        if value is None:
            return cast(int, self._defaults[name])
        if not re.fullmatch(r"[0-9]{1,10}", value) or not least <= int(value) <= most:
            raise self._refused(name, f"a whole number from {least} to {most}")
        return int(value)

    def number(self, name: str, least: float, most: float) -> float:
        value = self._given.get(name)
        if value is None:
            return cast(float, self._defaults[name])
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise self._refused(name, f"a number from {least:g} to {most:g}")
        return number

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        default = self._defaults[name]
        if isinstance(default, bool):
            default = str(default).lower()
        value = self._given.get(name, str(default or allowed[0]))
        if value not in allowed:
            raise self._refused(name, f"one of {', '.join(each for each in allowed if each)}")
        return value

    def device(self) -> str | None:
        value = self._given.get("device", "")
        if value and not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", value):
            raise self._refused("device", "cpu, cuda or cuda: and a number")
        return value or None

    def text(self, name: str) -> str:
        if name not in self._given:
            return cast(str, self._defaults[name])
        return self._clean(name, self._given[name])

    def texts(self, name: str) -> tuple[str, ...]:
        if name not in self._given:
            return cast(tuple[str, ...], self._defaults[name])
        values = self._list(name)
        if not 2 <= len(values) <= MAX_PROMPTS:
            raise self._refused(name, f"a JSON list of 2 to {MAX_PROMPTS} texts")
        return tuple(dict.fromkeys(self._clean(name, value) for value in values))

    def shares(self, name: str) -> tuple[float, ...]:
        if name not in self._given:
            return cast(tuple[float, ...], self._defaults[name])
        values = self._list(name)
        usable = all(type(value) in (int, float) and 0 < cast(float, value) < 1 for value in values)
        if not usable or len(values) > 8:
            raise self._refused(name, "a JSON list of at most 8 shares between 0 and 1")
        return tuple(sorted({*(float(cast(float, value)) for value in values), 1.0}))

    def _list(self, name: str) -> list[object]:
        try:
            value = json.loads(self._given[name])
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, list):
            raise self._refused(name, "a JSON list")
        return value

    def _clean(self, name: str, value: object) -> str:
        try:
            return clean_text(value)
        except RefusedTextError as error:
            raise InvalidHyperparameterError(
                f"hyperparameter {name!r}: a text in it {error}"
            ) from error

    def _refused(self, name: str, what: str) -> InvalidHyperparameterError:
        return InvalidHyperparameterError(
            f"hyperparameter {name!r} is {self._given[name][:60]!r}; it must be {what}"
        )
