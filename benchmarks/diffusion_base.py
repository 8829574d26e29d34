"""The inputs of the benchmarks of portraits: a base of either size, and archives of tenants'
models."""

import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from containers.diffusion.adapters.adapter import Adapter, AdapterCard, read_adapter, write_adapter
from containers.diffusion.adapters.lora import LoraLayers, Shape
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import DTYPES, TINY, TINY_FOLDER, Base, load_base
from containers.diffusion.serving.engine import Engine, EngineSettings, Pixels
from containers.diffusion.serving.predictor import ServingSettings
from containers.diffusion.serving.request import Drawing
from containers.diffusion.training.settings import Settings, parse_settings
from containers.runtime.archives.archive import extract_archive, write_archive

Size = Literal["tiny", "sd15"]
SIZES: Final[tuple[Size, ...]] = ("tiny", "sd15")
PROMPTS: Final = ("a star", "a red heart", "a moon on blue", "a big ring")
QUICK_STEPS: Final = 2
UP_DEVIATION: Final = 0.05
"""Standard deviation of the numbers in made-up adapters' B."""


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks."""

    size: Size
    source: str
    """The base, as `load_base` takes it."""
    pipeline: Path
    """A complete saved pipeline with the base's weights as shipped; a tenant without adapters would
    need one of its own."""
    device: str
    dtype: str
    """The base's number type."""
    pixels: int
    """Width and height of pictures."""
    quick: bool
    """Use so few of everything that the figures mean nothing, to see that it runs."""
    threads: int
    training: Settings
    serving: ServingSettings
    scratch: Path

    def count(self, full: int, quick: int) -> int:
        """The count for a full or a quick run."""
        return quick if self.quick else full

    def load(self) -> Base:
        """A copy of the base."""
        torch.set_num_threads(self.threads)
        return load_base(self.source, device=self.device, dtype=self.dtype)

    def layers(self, base: Base, slots: int | None = None) -> LoraLayers:
        """Slots for adapters on ``base``, as in the server, besides the base's own."""
        serving = self.serving
        return LoraLayers(base.unet, serving.targets, (slots or serving.slots) + 1, serving.rank)

    def engine(self, base: Base, layers: LoraLayers) -> Engine:
        """An engine that the caller turns, with the server's settings except for the queue, which
        never refuses."""
        settings = self.serving.engine
        engine = Engine(
            base,
            layers,
            EngineSettings(settings.places, 1_000_000, 1_000_000, settings.prompt_cache_bytes),
        )
        nobody = Adapter(adapter_card(base, self.training), "", {})
        drawn(engine, [(nobody, self.drawing(number)) for number in range(2)])
        return engine

    def drawing(self, number: int) -> Drawing:
        """Picture ``number``, with the server's default steps and guidance."""
        serving = self.serving
        return Drawing(
            PROMPTS[number % len(PROMPTS)],
            None,
            number,
            serving.steps,
            serving.guidance,
            self.pixels,
            self.pixels,
        )

    def synchronise(self) -> None:
        """Wait for the device's pending work."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize()


def make_bench(
    size: Size, device: str, pixels: int | None, threads: int, scratch: Path, *, quick: bool
) -> Bench:
    """Prepare a run. For ``sd15``, write the base into ``scratch``. ``pixels`` are by default the
    base's own.

    The process's TENANTRY_ variables override the server's default settings.
    """
    torch.set_num_threads(threads)
    pipeline = scratch / "pipeline"
    if size == "tiny":
        # The folder's other files do not belong to the pipeline.
        shutil.copytree(TINY_FOLDER, pipeline, ignore=shutil.ignore_patterns("reader*"))
        source = TINY
    else:
        print("writing a base of Stable Diffusion 1.5's shape with random weights", flush=True)
        save_random_sd15(pipeline)
        source = str(pipeline)
    training = parse_settings({"base": source})
    environment: dict[str, str] = {}
    if size == "sd15":
        # Make slots as wide as training's adapters, because the server's defaults have room for any
        # adapter of such a base.
        environment |= {
            "TENANTRY_LORA_TARGETS": training.targets,
            "TENANTRY_RANK": str(training.rank),
        }
    if quick:
        environment["TENANTRY_STEPS"] = str(QUICK_STEPS)
        training = replace(training, steps=QUICK_STEPS, warmup=1)
    return Bench(
        size=size,
        source=source,
        pipeline=pipeline,
        device=device,
        dtype="bf16" if device.startswith("cuda") else "fp32",
        pixels=pixels or (32 if size == "tiny" else 512),
        quick=quick,
        threads=threads,
        training=training,
        serving=ServingSettings.of_environment(
            {**environment, **os.environ, "TENANTRY_BASE": source}
        ),
        scratch=scratch,
    )


def save_random_sd15(folder: Path) -> None:
    """Save a pipeline of Stable Diffusion 1.5's shape with random weights in bf16.

    UNet, autoencoder and text encoder follow that model's own config.json files
    (https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5). The pipeline has no safety
    checker, and its tokenizer has no merges, so that nothing need be fetched.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from diffusers.utils import logging
    from transformers import CLIPTextConfig, CLIPTextModel
    from transformers.utils import logging as transformers_logging

    tokenizer = _tokenizer(folder)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet = UNet2DConditionModel(
            sample_size=64,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            sample_size=512,
            latent_channels=4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                max_position_embeddings=77,
                projection_dim=768,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    finally:
        torch.set_default_dtype(before)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    nothing: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        **nothing,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def _tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer without merges: every byte is a token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = folder / "vocabulary"
    vocabulary.mkdir(parents=True)
    (vocabulary / "vocab.json").write_text(
        json.dumps({word: number for number, word in enumerate(words)})
    )
    (vocabulary / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"))
    shutil.rmtree(vocabulary)
    tokenizer.model_max_length = 77
    return tokenizer


def write_tenants(bench: Bench, base: Base, layers: LoraLayers, count: int) -> list[Path]:
    """Archives of ``count`` tenants' models, each with its own numbers and in the default shape of
    training."""
    folder = bench.scratch / "tenants"
    folder.mkdir(exist_ok=True)
    rank, endings = bench.training.rank, TARGETS[bench.training.targets]
    shapes = {name: shape for name, shape in layers.shapes().items() if name.endswith(endings)}
    archives = [folder / f"tenant-{number:04}.tar.gz" for number in range(count)]
    for number, archive in enumerate(archives):
        if archive.exists():
            continue
        generator = torch.Generator().manual_seed(number)
        weights = {}
        for name, shape in shapes.items():
            # A has its initial values; B makes pictures visibly differ from the base's.
            bound = math.prod(shape.down) ** -0.5
            down = (torch.rand(rank, *shape.down, generator=generator) * 2 - 1) * bound
            weights[name] = (down, torch.randn(shape.up, rank, generator=generator) * UP_DEVIATION)
        with tempfile.TemporaryDirectory(dir=bench.scratch) as temporary:
            write_adapter(Path(temporary), weights)
            card = {**adapter_card(base, bench.training).to_json(), "version": "v1"}
            write_archive(Path(temporary), archive, {"card.json": json.dumps(card).encode()})
    return archives


def adapter_card(base: Base, settings: Settings) -> AdapterCard:
    """The card of an adapter of training with default settings."""
    return AdapterCard(base.name, base.digest, settings.targets, settings.rank)


def read_tenant(bench: Bench, base: Base, shapes: Mapping[str, Shape], archive: Path) -> Adapter:
    """Read a tenant's archive like the model server: extract it within limits, check it, and remove
    the folder.

    ``shapes`` are those of the bank's layers, which the server also reads only once.
    """
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=bench.scratch))
    try:
        extract_archive(archive, folder)
        return read_adapter(folder, shapes, base.digest, bench.serving.rank, DTYPES[bench.dtype])
    finally:
        shutil.rmtree(folder)


def drawn(engine: Engine, asked: Sequence[tuple[Adapter, Drawing]]) -> list[Pixels]:
    """Draw pictures, all submitted at once, in the caller's thread."""
    jobs = [engine.submit(adapter, [drawing]) for adapter, drawing in asked]
    while not all(job.answer.done() for job in jobs):
        engine.turn()
    return [job.answer.result()[0] for job in jobs]


def median(values: Sequence[float] | npt.NDArray[np.float64], digits: int = 3) -> float:
    """The middle of ``values``, rounded."""
    return round(float(np.median(values)), digits)


def percentile(values: Sequence[float], percent: float, digits: int = 3) -> float:
    """The value that ``percent`` of ``values`` are at or below, rounded."""
    return round(float(np.percentile(values, percent)), digits)


def alternated(names: Sequence[str], rounds: int, seed: int = 0) -> list[list[str]]:
    """An order for each round, so that no way always comes first."""
    shuffled = random.Random(seed)
    return [shuffled.sample(names, len(names)) for _ in range(rounds)]
