"""Compile a base for Inferentia2, ahead of time: `python -m containers.diffusion.neuron.compile
FOLDER`.

FOLDER holds a saved diffusers pipeline. The graphs go into its subfolder `neuron`; `TENANTRY_BASE`
then names the whole folder. Run the command where the Neuron SDK is installed (the image of this
folder's Dockerfile). For a base of Stable Diffusion's size it takes tens of minutes, once for all
tenants. `--compiler torchscript` records the same graphs without a compiler.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import DTYPES, Base, UnusableBaseError, load_base
from containers.diffusion.neuron.artifacts import DECODER, FOLDER, TEXT_ENCODERS, UNET, CompiledCard
from containers.diffusion.neuron.graphs import AdaptedUnet, AdapterRow, PictureOfLatents, TextStates

Trace = Callable[[nn.Module, tuple[Tensor, ...], Sequence[str]], Any]
"""Compiles a module for inputs of these shapes, with these arguments for the compiler. The result
suits ``torch.jit.save``."""

# https://awsdocs-neuron.readthedocs-hosted.com/en/latest/compiler/neuronx-cc/api-reference-guide/neuron-compiler-cli-reference-guide.html
_CONVOLUTIONS: Final = ("--model-type=unet-inference",)


def neuron_trace(module: nn.Module, inputs: tuple[Tensor, ...], arguments: Sequence[str]) -> Any:
    """Compile with Neuron's compiler. Raises `UnusableBaseError` where there is none."""
    try:
        import torch_neuronx
    except ImportError as error:
        raise UnusableBaseError(
            "torch_neuronx is not installed: compile in the image of "
            "containers/diffusion/neuron/Dockerfile"
        ) from error
    return torch_neuronx.trace(module, inputs, compiler_args=list(arguments))


def torchscript_trace(
    module: nn.Module, inputs: tuple[Tensor, ...], _arguments: Sequence[str]
) -> Any:
    """Record with PyTorch alone: the graph runs on this machine's CPU."""
    return torch.jit.trace(module, inputs, check_trace=False)  # type: ignore[no-untyped-call]


@torch.no_grad()
def compile_base(base: Base, folder: Path, card: CompiledCard, trace: Trace) -> None:
    """Compile ``base`` as ``card`` says, into the subfolder `neuron` of ``folder``.

    The base cannot draw afterwards. Raises `UnusableBaseError` when the base cannot draw pictures
    of that size.
    """
    if card.size % base.size_multiple:
        raise UnusableBaseError(
            f"size {card.size} is not a multiple of {base.size_multiple} pixels, as this base "
            f"needs; ask for one"
        )
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    side = card.size // base.scale
    encoders = [(name, getattr(base.pipeline, name, None)) for name in TEXT_ENCODERS]
    for name, encoder in encoders:
        if encoder is not None:
            tokens = torch.zeros(1, base.pipeline.tokenizer.model_max_length, dtype=torch.int64)
            torch.jit.save(trace(TextStates(encoder), (tokens,), ()), target / f"{name}.pt")
    latents = torch.zeros(1, base.channels, side, side, dtype=base.dtype)
    torch.jit.save(
        trace(PictureOfLatents(base.pipeline.vae), (latents,), _CONVOLUTIONS), target / DECODER
    )
    layers = LoraLayers(base.unet, card.targets, 1, card.rank)
    inputs = example_inputs(base, layers, card)
    torch.jit.save(
        trace(AdaptedUnet(base.unet, layers, card.samples), inputs, _CONVOLUTIONS), target / UNET
    )
    card.write(target)


def example_inputs(base: Base, layers: LoraLayers, card: CompiledCard) -> tuple[Tensor, ...]:
    """Inputs of ``AdaptedUnet``, of the shapes and types it is compiled for."""
    count, side = card.samples, card.size // base.scale
    (word,) = base.encode(["a picture"])

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(count, *shape, dtype=base.dtype)

    added = () if word.pooled is None else (zeros(*word.pooled.shape), zeros(6))
    return (
        zeros(base.channels, side, side),
        torch.zeros(count),
        zeros(*word.states.shape),
        zeros(AdapterRow.of(layers).width),
        *added,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile as the command line says. Returns 1 when that fails, with the reason on standard
    error."""
    parser = argparse.ArgumentParser(
        prog="python -m containers.diffusion.neuron.compile", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="a saved Stable Diffusion pipeline")
    parser.add_argument("--targets", choices=TARGETS, default="attention+convolutions")
    parser.add_argument("--rank", type=int, default=8, help="the highest rank of an adapter")
    parser.add_argument(
        "--samples", type=int, default=8, help="samples of a call; a guided picture is two"
    )
    parser.add_argument("--size", type=int, help="pixels a side; the base's own when not given")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--compiler", choices=("neuron", "torchscript"), default="neuron")
    given = parser.parse_args(arguments)
    try:
        base = load_base(str(given.folder), device="cpu", dtype=given.dtype)
        size = given.size or base.default_size
        card = CompiledCard(
            given.compiler, base.digest, given.targets, given.rank, given.samples, size, given.dtype
        )
        compile_base(
            base,
            given.folder,
            card,
            neuron_trace if given.compiler == "neuron" else torchscript_trace,
        )
    except UnusableBaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
