"""The base model that all tenants share: a diffusers text-to-image pipeline. This module finds it,
loads it and runs the parts that training and serving need.

Callers use every base of the Stable Diffusion family the same way. A base is the tiny one that this
package ships, a hub id, a folder or an S3 prefix. Only this module knows how SD 1.5 and SDXL
differ: a second text encoder, pooled states and size conditioning.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from containers.runtime.errors import ContainerError

TINY: Final = "tiny"
TINY_FOLDER: Final = Path(__file__).resolve().parents[1] / "tiny_base" / "model"
WEIGHTS: Final = "*.safetensors"
KINDS: Final = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}

# Names of Hugging Face repositories: an owner and a name (huggingface_hub.utils.validate_repo_id).
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HUB_FILES: Final = ("*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.safetensors", "*/merges.txt")


class UnusableBaseError(ContainerError, ValueError):
    """The base cannot be found, read or used; the message names it, the reason and the remedy."""


@dataclass(frozen=True)
class Conditioning:
    """The UNet's input for one prompt: ``states`` (tokens, width), and for SDXL ``pooled``
    (width)."""

    states: Tensor
    pooled: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(
            tensor.numel() * tensor.element_size()
            for tensor in (self.states, self.pooled)
            if tensor is not None
        )


class Base:
    """A loaded base. Only one thread may use it at a time, because diffusers' pipelines are not
    thread-safe."""

    def __init__(
        self, name: str, digest: str, pipeline: Any, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Hold a pipeline whose modules are frozen, on ``device`` in ``dtype``; ``digest``
        identifies its weights."""
        self.name = name
        self.digest = digest
        self.pipeline = pipeline
        self.device = device
        self.dtype = dtype

    @property
    def unet(self) -> Any:
        """The UNet2DConditionModel."""
        return self.pipeline.unet

    @property
    def is_xl(self) -> bool:
        """Whether it has SDXL's second text encoder and its size conditioning."""
        return hasattr(self.pipeline, "text_encoder_2")

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """The share of signal left at each training timestep, fp32 (timesteps).

        It comes from diffusers' DDIM with this base's own configuration, so that it includes
        zero-terminal-SNR rescaling.
        """
        table: Tensor = self._ddim.alphas_cumprod
        return table.to(self.device)

    @cached_property
    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_config(self.pipeline.scheduler.config)

    @property
    def predicts(self) -> str:
        """What the UNet predicts: ``epsilon`` (the noise) or ``v_prediction``."""
        return str(self._ddim.config.prediction_type)

    @property
    def clips(self) -> float | None:
        """The limit at which this base clips the clean picture of a step, or None when it does not
        clip."""
        config = self._ddim.config
        return float(config.clip_sample_range) if config.clip_sample else None

    def timesteps(self, steps: int) -> list[int]:
        """The timesteps of a generation in ``steps`` steps, from noise to picture, as DDIM spaces
        them for this base."""
        self._ddim.set_timesteps(steps)
        return [int(step) for step in self._ddim.timesteps]

    def alphas_of(self, steps: int) -> tuple[list[float], list[float]]:
        """Share of signal before and after each of ``steps`` DDIM steps (Song et al. 2021, eq. 12,
        with eta 0)."""
        table = self._ddim.alphas_cumprod
        # As in diffusers' DDIM, the last step ends at the first trained timestep or fully clean.
        spacing = len(table) // steps
        now = self.timesteps(steps)
        before = [float(table[step]) for step in now]
        after = [
            float(table[step - spacing])
            if step - spacing >= 0
            else float(self._ddim.final_alpha_cumprod)
            for step in now
        ]
        return before, after

    @property
    def scale(self) -> int:
        """Pixels of a picture per side of a latent."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return int(self.unet.config.in_channels)

    @property
    def default_size(self) -> int:
        """Width and height, in pixels, that the base was trained for."""
        return int(self.unet.config.sample_size) * self.scale

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this, in pixels: the UNet halves latents once per
        level but the last."""
        return int(self.scale * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """The text encoders' output for each prompt. Prompts too long for the tokenizer are cut, as
        in diffusers."""
        if self.is_xl:
            states, _, pooled, _ = self.pipeline.encode_prompt(
                list(prompts),
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
            return [Conditioning(s, p) for s, p in zip(states, pooled, strict=True)]
        states, _ = self.pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return [Conditioning(state) for state in states]

    @torch.no_grad()
    def unconditional(self) -> Conditioning:
        """The conditioning that guidance leads away from by default: the empty prompt, or SDXL's
        zeros."""
        (empty,) = self.encode([""])
        if (
            self.is_xl
            and self.pipeline.config.force_zeros_for_empty_prompt
            and empty.pooled is not None
        ):
            return Conditioning(torch.zeros_like(empty.states), torch.zeros_like(empty.pooled))
        return empty

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditioning: Sequence[Conditioning],
        size: tuple[int, int],
    ) -> Tensor:
        """The UNet's prediction for a batch.

        Args:
            latents: (n, channels, height, width).
            timesteps: (n,), each sample's own.
            conditioning: n of them.
            size: width and height of the pictures in pixels, for SDXL's size conditioning.
        """
        states = torch.stack([item.states for item in conditioning])
        added: dict[str, Tensor] | None = None
        if self.is_xl:
            width, height = size
            # Original size, crop, target size: https://arxiv.org/abs/2307.01952, section 2.2.
            ids = torch.tensor(
                [[height, width, 0, 0, height, width]], dtype=self.dtype, device=self.device
            )
            pooled = torch.stack([item.pooled for item in conditioning if item.pooled is not None])
            added = {"text_embeds": pooled, "time_ids": ids.expand(len(conditioning), -1)}
        prediction: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=states,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return prediction

    @torch.no_grad()
    def to_latents(self, images: Tensor) -> Tensor:
        """The mean latents (n, channels, h, w) of images (n, 3, height, width) in -1…1."""
        vae = self.pipeline.vae
        posterior = vae.encode(images.to(self.device, vae.dtype)).latent_dist
        latents: Tensor = (posterior.mode() * vae.config.scaling_factor).to(self.dtype)
        return latents

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """The pictures of latents (n, channels, h, w) as uint8 (n, height, width, 3), on the
        CPU."""
        vae = self.pipeline.vae
        decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[
            0
        ]
        pixels: Tensor = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu()


def load_base(source: str = TINY, *, device: str | None = None, dtype: str | None = None) -> Base:
    """Load a base.

    Args:
        source: ``tiny``, an ``s3://bucket/prefix`` or a folder with a saved diffusers pipeline, or
            a hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5`` (fetched, or found in
            the hub's cache).
        device: ``cuda``, ``cpu``, …; by default a GPU where there is one.
        dtype: ``fp32``, ``fp16`` or ``bf16``; by default bf16 on CUDA and fp32 elsewhere.

    Raises:
        UnusableBaseError: the base does not exist, is not a Stable Diffusion pipeline, or a setting
            is invalid.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = dtype or ("bf16" if chosen.type == "cuda" else "fp32")
    if name not in DTYPES:
        raise UnusableBaseError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    folder = folder_of(source)
    pipeline = _pipeline(folder, source, DTYPES[name])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(chosen)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    base = Base(source, digest_of_weights(folder), pipeline, chosen, DTYPES[name])
    if name == "fp16" and base.is_xl and pipeline.vae.config.force_upcast:
        # SDXL's autoencoder exceeds the range of half precision, and its configuration says so. Its
        # pictures would be black.
        pipeline.vae.to(torch.float32)
    return base


def _pipeline(folder: Path, source: str, dtype: torch.dtype) -> Any:
    from transformers.utils import logging as transformers_logging

    # Silence the libraries. Their loading messages would clutter the container's log, and their
    # warning about a cut prompt would write a tenant's words to it.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    import diffusers
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    kind = _class_of(folder, source)
    quiet = (
        {"safety_checker": None, "requires_safety_checker": False}
        if kind == "StableDiffusionPipeline"
        else {}
    )
    try:
        # Pickled weights are refused: use_safetensors=True raises where there are no others.
        return getattr(diffusers, kind).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **quiet
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableBaseError(
            f"base {source!r} is no diffusers pipeline with safetensors weights: {error}"
        ) from error


def _class_of(folder: Path, source: str) -> str:
    """The pipeline's class, from ``model_index.json``."""
    try:
        document = json.loads((folder / "model_index.json").read_bytes())
        kind = document["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableBaseError(
            f"base {source!r} has no model_index.json as diffusers writes it: {error}"
        ) from error
    if kind not in KINDS:
        raise UnusableBaseError(
            f"base {source!r} is a {str(kind)[:60]}; one of {', '.join(KINDS)} is needed"
        )
    return str(kind)


def folder_of(source: str) -> Path:
    """The folder of a source's pipeline (see `load_base`), fetched if necessary. Raises
    `UnusableBaseError`."""
    if source == TINY:
        return TINY_FOLDER
    if source.startswith("s3://"):
        return _fetch_from_s3(source)
    if Path(source).is_dir():
        return Path(source)
    if source.startswith(("/", ".")) or not _HUB_ID.fullmatch(source):
        raise UnusableBaseError(
            f"base {source!r} is no folder, no s3:// prefix and no hub id; {TINY!r} is always there"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub's client raises a dozen types when it has no base
        raise UnusableBaseError(
            f"base {source!r} cannot be had from the hub or its cache: {error}"
        ) from error


def _fetch_from_s3(source: str) -> Path:
    """Fetch a saved pipeline from S3, once for this process's scratch folder."""
    import boto3

    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/"
    cache = Path(os.environ.get("TENANTRY_BASE_CACHE") or tempfile.gettempdir()).absolute()
    name = f"tenantry-base-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    folder = cache / name
    if (folder / "model_index.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    s3 = boto3.client("s3")
    found = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            relative = entry["Key"].removeprefix(prefix)
            if not re.fullmatch(r"([A-Za-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*", relative):
                continue
            target = partial / relative
            target.parent.mkdir(exist_ok=True)
            s3.download_file(bucket, entry["Key"], str(target))
            found += 1
    if not found:
        partial.rmdir()
        raise UnusableBaseError(
            f"base {source!r}: there is nothing under this prefix; copy a saved pipeline there"
        )
    try:
        partial.rename(folder)
    except OSError:  # another process on this machine was quicker
        return folder
    return folder


def digest_of_weights(folder: Path) -> str:
    """SHA-256 (hexadecimal) over the names and contents of all weights of a saved pipeline.

    An adapter names this digest. A base with another digest refuses the adapter, because low-rank
    corrections of one set of weights mean nothing to others.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob(f"*/{WEIGHTS}")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
