"""Pictures of many tenants' adapters over one base, for the multi-model server."""

import asyncio
import base64
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from containers.diffusion.adapters.adapter import Adapter, UnusableAdapterError, read_adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import TINY, Base, load_base
from containers.diffusion.serving.engine import Engine, EngineSettings, Pixels
from containers.diffusion.serving.request import (
    PNG,
    Drawing,
    PictureRequest,
    RefusedPictureRequestError,
    Terms,
)
from containers.diffusion.training.settings import ICON_PROMPTS, SCENE_PROMPTS, SUBJECT
from containers.runtime.serving.predictor import Answer, InvalidModelError
from contracts import variables

# Real-time answers must arrive within 60 seconds
# (docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html), asynchronous ones
# by default within 15 minutes (…/async-inference-create-invoke-endpoint.html); a batch transform
# waits for an hour at most (CreateTransformJob, InvocationsTimeoutInSeconds).
REAL_TIME_SECONDS: Final = 55.0
ASYNCHRONOUS_SECONDS: Final = 890.0
BATCH_SECONDS: Final = 3600.0
LONGEST_SECONDS: Final = 3600.0

# The approximate memory of the CPython and torch objects of one tensor, in bytes, beside its
# weights.
_OVERHEAD_OF_TENSOR: Final = 500


@dataclass(frozen=True)
class ServingSettings:
    """How pictures are served, from the environment; docs/contracts.md, "Portraits", lists the
    variables."""

    base: str
    dtype: str | None
    device: str | None
    threads: int | None
    slots: int
    rank: int
    targets: str
    steps: int
    max_steps: int
    guidance: float
    max_size: int | None
    timeout_seconds: float
    max_timeout_seconds: float
    engine: EngineSettings

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> "ServingSettings":
        """Read the process's variables, or the given ones. Raises `ValueError` that names the
        variable."""
        env = os.environ if environment is None else environment
        base = env.get("TENANTRY_BASE") or TINY
        tiny = base == TINY
        batch = env.get("SAGEMAKER_BATCH", "").lower() == "true"
        targets = env.get("TENANTRY_LORA_TARGETS") or "attention+convolutions"
        if targets not in TARGETS:
            raise ValueError(f"TENANTRY_LORA_TARGETS must be one of {', '.join(TARGETS)}")
        # As in the server, only an asynchronous endpoint fetches models when a request names them.
        asynchronous = bool(env.get(variables.MODELS_URI))
        max_timeout = (
            BATCH_SECONDS if batch else ASYNCHRONOUS_SECONDS if asynchronous else REAL_TIME_SECONDS
        )
        max_timeout = _number(
            env, "TENANTRY_MAX_TIMEOUT_SECONDS", max_timeout, 0.001, LONGEST_SECONDS
        )
        max_steps = _whole(env, "TENANTRY_MAX_STEPS", 150, 1, 1000)
        places = _whole(env, "TENANTRY_BATCH", 16, 1, 1024)
        # The configured concurrency bounds the requests of a batch transform or an asynchronous
        # endpoint.
        patient = batch or asynchronous
        waiting = _whole(env, "TENANTRY_QUEUE", 1_000_000 if patient else 256, 1, 1_000_000)
        return cls(
            base=base,
            dtype=env.get("TENANTRY_DTYPE") or None,
            device=env.get("TENANTRY_DEVICE") or None,
            threads=_whole(env, "TENANTRY_TORCH_THREADS", 0, 1, 1024) or None,
            slots=_whole(env, "TENANTRY_SLOTS", 64, 1, 65536),
            rank=_whole(env, "TENANTRY_RANK", 8 if tiny else 32, 1, 1024),
            targets=targets,
            steps=_whole(env, "TENANTRY_STEPS", min(12 if tiny else 30, max_steps), 1, max_steps),
            max_steps=max_steps,
            guidance=_number(env, "TENANTRY_GUIDANCE", 2.5 if tiny else 7.5, 0.0, 30.0),
            max_size=_whole(env, "TENANTRY_MAX_SIZE", 0, 8, 8192) or None,
            timeout_seconds=_number(
                env, "TENANTRY_TIMEOUT_SECONDS", max_timeout, 0.001, max_timeout
            ),
            max_timeout_seconds=max_timeout,
            engine=EngineSettings(
                places=places,
                waiting=waiting,
                waiting_of_tenant=_whole(
                    env,
                    "TENANTRY_TENANT_QUEUE",
                    waiting if patient else min(64, waiting),
                    1,
                    waiting,
                ),
                prompt_cache_bytes=_whole(
                    env, "TENANTRY_PROMPT_CACHE_BYTES", 64 * 1024 * 1024, 0, 1 << 40
                ),
            ),
        )

    def terms(self, base: Base) -> Terms:
        """The defaults and limits of requests to ``base``."""
        multiple = base.size_multiple
        # The limit is half as large again as the base's training size. Larger pictures repeat
        # themselves and exhaust memory.
        most = self.max_size or base.default_size * 3 // 2
        return Terms(
            steps=self.steps,
            max_steps=self.max_steps,
            guidance=self.guidance,
            size=base.default_size,
            max_size=max(most // multiple * multiple, multiple),
            size_multiple=multiple,
            timeout_seconds=self.timeout_seconds,
            max_timeout_seconds=self.max_timeout_seconds,
        )


def _whole(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return int(text)


def _number(env: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}")
    return value


def base_and_layers(settings: ServingSettings) -> tuple[Base, LoraLayers]:
    """The base that ``settings`` name, and the slots of its adapters; raises
    `UnusableBaseError`."""
    base = load_base(settings.base, device=settings.device, dtype=settings.dtype)
    # The base takes one slot more.
    return base, LoraLayers(base.unet, settings.targets, settings.slots + 1, settings.rank)


class DiffusionPredictor:
    """Text-to-image for the multi-model server: a model is a tenant's adapter, the base is the
    process's."""

    family = "diffusion"

    def __init__(
        self,
        settings: Callable[[], ServingSettings] = ServingSettings.of_environment,
        load: Callable[[ServingSettings], tuple[Base, LoraLayers]] = base_and_layers,
    ) -> None:
        """``settings`` are read, and ``load`` is called with them, when the server starts."""
        self._read_settings = settings
        self._load = load
        self._engine: Engine | None = None

    def start(self) -> None:
        """Load the base and start the engine. Raises `ValueError` when the settings or the base are
        unusable."""
        settings = self._read_settings()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        base, layers = self._load(settings)
        self._base = base
        self._shapes = layers.shapes()
        self._rank = settings.rank
        self._terms = settings.terms(base)
        engine = Engine(base, layers, settings.engine)
        engine.start()
        self._engine = engine

    def close(self) -> None:
        """Stop drawing."""
        if self._engine is not None:
            self._engine.close()

    def status(self) -> dict[str, Any]:
        """The engine's figures, with the base and its device."""
        engine = self._started()
        return {
            "base": self._base.name,
            "base_digest": self._base.digest,
            "device": str(self._base.device),
            **engine.status(),
        }

    def _started(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("start comes first")
        return self._engine

    def load(self, folder: Path) -> Adapter:
        """Read an adapter's files. Raises `InvalidModelError`, with the kind as its reason, for
        files that are not an adapter for this base."""
        try:
            return read_adapter(
                folder, self._shapes, self._base.digest, self._rank, self._base.dtype
            )
        except UnusableAdapterError as error:
            raise InvalidModelError(str(error), error.code) from error

    def size(self, model: Adapter) -> int:
        """Host memory the adapter holds."""
        return model.bytes + 2 * _OVERHEAD_OF_TENSOR * len(model.weights)

    def unload(self, model: Adapter) -> None:
        """Wipe the adapter from the device too."""
        self._started().forget(model)

    async def predict(self, model: Adapter, body: bytes, content_type: str, accept: str) -> Answer:
        """Answer a request for pictures.

        Raises `RefusedPictureRequestError`, `TooManyRequestsError`, or `DeadlineExceededError`.
        """
        kind = content_type.split(";")[0].strip().lower()
        if kind not in ("", "application/json"):
            raise RefusedPictureRequestError(
                f"the body must be application/json, not {kind[:60]!r}",
                "Content-Type",
                "content_type_unknown",
            )
        began = time.monotonic()
        request = PictureRequest.parse(body, accept, own_prompts(model), self._terms)
        pictures = await self._started().draw(model, request)
        # Compression takes too long for the event loop.
        return await asyncio.to_thread(_answer, model.version, request, pictures, began)


def own_prompts(adapter: Adapter) -> tuple[str, ...]:
    """The prompts of an adapter's card, or by default the trial prompts of its base."""
    if adapter.card.prompts:
        return adapter.card.prompts
    prompts = ICON_PROMPTS if adapter.card.base == TINY else SCENE_PROMPTS
    return tuple(prompt.replace(SUBJECT, adapter.card.subject or "subject") for prompt in prompts)


def _answer(version: str, request: PictureRequest, pictures: list[Pixels], began: float) -> Answer:
    encoded = [
        _png(version, drawing, pixels)
        for drawing, pixels in zip(request.drawings, pictures, strict=True)
    ]
    if request.format == "png":
        return Answer(encoded[0], PNG)
    first = request.drawings[0]
    document = {
        "version": version,
        "images": [
            {"prompt": drawing.prompt, "seed": drawing.seed, "png": base64.b64encode(png).decode()}
            for drawing, png in zip(request.drawings, encoded, strict=True)
        ],
        "negative_prompt": first.negative_prompt,
        "steps": first.steps,
        "guidance": first.guidance,
        "width": first.width,
        "height": first.height,
        "milliseconds": round(1000 * (time.monotonic() - began)),
    }
    return Answer(json.dumps(document).encode())


def _png(version: str, drawing: Drawing, pixels: Pixels) -> bytes:
    """A picture as PNG whose text chunks describe how it was drawn
    (https://www.w3.org/TR/png-3/#11textinfo)."""
    words = PngInfo()
    told = {"version": version, **asdict(drawing)}
    for key, value in told.items():
        if value is not None:
            words.add_itxt(key, str(value))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=words)
    return file.getvalue()
