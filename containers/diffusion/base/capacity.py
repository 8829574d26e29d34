"""How much memory a base and a tenant's slot take, counted from configurations alone: `python -m
containers.diffusion.base.capacity`.

The networks are built without weights (on PyTorch's meta device), so SDXL is counted in a second on
any machine.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import DTYPES, TINY, TINY_FOLDER

GIB: Final = 1 << 30

Configurations = Mapping[str, Mapping[str, Any]]
"""A pipeline's networks: each component's name, and the configuration in its ``config.json``."""

_CLIP_L: Final[Mapping[str, Any]] = {
    "projection_dim": 768,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_CLIP_BIG_G: Final[Mapping[str, Any]] = {
    "projection_dim": 1280,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}
_VAE: Final[Mapping[str, Any]] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}

PUBLISHED: Final[Mapping[str, Configurations]] = {
    # https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5
    "sd15": {
        "unet": {
            "sample_size": 64,
            "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        },
        "vae": _VAE,
        "text_encoder": _CLIP_L,
    },
    # https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0
    "sdxl": {
        "unet": {
            "sample_size": 128,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": _VAE,
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_BIG_G,
    },
}
"""The networks of two well-known bases, where they differ from the defaults of diffusers and
transformers."""


@dataclass(frozen=True)
class Memory:
    """The memory of a base and of the adapters on it, in bytes."""

    base: int
    slot: int
    """One adapter of full rank, on the device; it takes as much in the host's memory."""

    @property
    def slots_per_gib(self) -> int:
        """Adapters that fit in a GiB."""
        return GIB // self.slot


def configurations_of(folder: Path) -> Configurations:
    """The configurations of a saved pipeline's networks. Raises `OSError` where one is missing."""
    names = [
        "unet",
        "vae",
        "text_encoder",
        *(["text_encoder_2"] if (folder / "text_encoder_2").is_dir() else []),
    ]
    return {name: json.loads((folder / name / "config.json").read_bytes()) for name in names}


def networks(configurations: Configurations) -> dict[str, Any]:
    """The networks of a pipeline without weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    makers: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
        "text_encoder_2": lambda config: CLIPTextModelWithProjection(
            CLIPTextConfig.from_dict(config)
        ),
    }
    with torch.device("meta"):
        return {
            name: makers[name](dict(configuration))
            for name, configuration in configurations.items()
        }


def parameters_of(network: Any) -> int:
    """How many numbers a network holds."""
    return sum(parameter.numel() for parameter in network.parameters())


def memory_of(made: Mapping[str, Any], targets: str, rank: int, dtype: str) -> Memory:
    """The memory of a base of these networks in ``dtype``, and of an adapter of ``rank`` on
    ``targets``."""
    kind = DTYPES[dtype]
    base = sum(parameters_of(network) for network in made.values()) * kind.itemsize
    layers = LoraLayers(made["unet"], targets, 1, rank, kind)
    slot = layers.bytes_per_slot
    layers.remove()
    return Memory(base, slot)


@dataclass(frozen=True)
class Row:
    """A line of the table: a base, and adapters on it."""

    name: str
    dtype: str
    targets: str
    rank: int


def table(bases: Mapping[str, Configurations], rows: Sequence[Row]) -> str:
    """A Markdown table of the memory of bases and adapters."""
    made = {name: networks(configurations) for name, configurations in bases.items()}
    lines = [
        "| base | precision | adapters on | rank | base | a slot | slots in a GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = memory_of(made[row.name], row.targets, row.rank, row.dtype)
        figures = (
            f"{memory.base / 1e6:,.1f} MB | {memory.slot / 1e6:,.2f} MB | {memory.slots_per_gib:,}"
        )
        lines.append(
            f"| {row.name} | {row.dtype} | {row.targets.replace('+', ' and ')} | {row.rank} | "
            f"{figures} |"
        )
    return "\n".join(lines)


def usual_table() -> str:
    """The shipped base as it is served on a CPU, and two well-known ones as on a GPU."""
    rows = [Row(TINY, "fp32", targets, 8) for targets in TARGETS]
    rows += [
        Row(name, "bf16", targets, rank)
        for name in PUBLISHED
        for targets in TARGETS
        for rank in (8, 32)
    ]
    return table({TINY: configurations_of(TINY_FOLDER), **PUBLISHED}, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, of one base when the command line names one."""
    parser = argparse.ArgumentParser(
        prog="python -m containers.diffusion.base.capacity", description=__doc__
    )
    parser.add_argument(
        "base", nargs="?", help=f"a folder with a saved pipeline, {TINY}, or {', '.join(PUBLISHED)}"
    )
    parser.add_argument("--targets", choices=TARGETS, default="attention+convolutions")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    given = parser.parse_args(arguments)
    if given.base is None:
        sys.stdout.write(usual_table() + "\n")
        return 0
    try:
        found = PUBLISHED.get(given.base) or configurations_of(
            TINY_FOLDER if given.base == TINY else Path(given.base)
        )
    except OSError as error:
        parser.error(f"{given.base} is no saved pipeline: {error}")
    row = Row(given.base, given.dtype, given.targets, given.rank)
    sys.stdout.write(table({given.base: found}, [row]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
