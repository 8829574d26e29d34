"""Random bases, loaded once for all tests, and adapters for them."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from containers.diffusion.adapters.adapter import Adapter, AdapterCard, write_adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, load_base
from containers.runtime.archives.archive import write_archive
from tests.containers.diffusion.random_base import save_random_base

TARGETS = "attention+convolutions"
RANK = 4

# The tests' networks are so small that threads would only wait for each other.
torch.set_num_threads(1)

Weights = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of SD 1.5's shape with random weights."""
    return save_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of SDXL's shape with random weights."""
    return save_random_base(tmp_path_factory.mktemp("xl-base"), xl=True)


@pytest.fixture(scope="session")
def loaded_base(base_folder: Path) -> Base:
    return load_base(str(base_folder), device="cpu")


@pytest.fixture
def layers(loaded_base: Base) -> Iterator[LoraLayers]:
    """Eight slots besides the base's, on the base that all tests share; they are removed
    afterwards."""
    layers = LoraLayers(loaded_base.unet, TARGETS, 9, RANK)
    yield layers
    layers.remove()


def random_weights(layers: LoraLayers, seed: int, rank: int = RANK, scale: float = 0.2) -> Weights:
    """Weights of an adapter that changes the base's pictures, different for each seed."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    return {
        name: (drawn(rank, *shape.down), drawn(shape.up, rank))
        for name, shape in layers.shapes().items()
    }


def card(base: Base, **fields: Any) -> AdapterCard:
    return AdapterCard(
        **{
            "base": base.name,
            "base_digest": base.digest,
            "targets": TARGETS,
            "rank": RANK,
            **fields,
        }
    )


@pytest.fixture
def adapter(loaded_base: Base, layers: LoraLayers) -> Callable[..., Adapter]:
    """Makes adapters: `adapter(seed)`, in memory."""

    def made(seed: int, scale: float = 0.2) -> Adapter:
        return Adapter(card(loaded_base), f"v{seed}", random_weights(layers, seed, scale=scale))

    return made


def write_model(
    folder: Path, weights: Mapping[str, tuple[Tensor, Tensor]], card: AdapterCard, **more: Any
) -> Path:
    """An adapter's files, as training leaves them in an archive."""
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter(folder, weights)
    (folder / "card.json").write_text(json.dumps({**card.to_json(), "version": "v1", **more}))
    return folder


def archived(folder: Path) -> Path:
    """The archive of a model's folder."""
    path = folder.with_suffix(".tar.gz")
    write_archive(folder, path)
    return path
