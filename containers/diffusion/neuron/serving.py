"""The compiled base, which the engine uses like any other base. Slots of adapters lie in host
memory; each step passes their rows to the graph."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from containers.diffusion.adapters.lora import LoraLayers, Routing
from containers.diffusion.base.pipeline import Base, UnusableBaseError, folder_of, load_base
from containers.diffusion.neuron.artifacts import DECODER, FOLDER, TEXT_ENCODERS, UNET, CompiledCard
from containers.diffusion.neuron.graphs import keep_in_rows
from containers.diffusion.serving.predictor import ServingSettings

_log = logging.getLogger(__name__)


class CompiledUnet:
    """A compiled UNet behind the call of a ``UNet2DConditionModel``, for batches of any number of
    samples."""

    def __init__(
        self, graph: Any, config: Any, rows: Tensor, routing: Routing, samples: int
    ) -> None:
        """Use ``graph`` for ``samples`` at a time. ``rows`` (slots, width) are the adapters;
        ``routing`` gives each sample its row.

        ``config`` is the UNet's own.
        """
        self.config = config
        self._graph = graph
        self.rows = rows
        self._routing = routing
        self._samples = samples

    def __call__(
        self,
        latents: Tensor,
        timesteps: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = False,  # noqa: ARG002 - the UNet's own call has it
    ) -> tuple[Tensor]:
        """The prediction for ``latents`` (n, channels, height, width) at ``timesteps`` (n,)."""
        adapters = self.rows.index_select(0, slots_of_samples(self._routing, len(latents)))
        added = (
            ()
            if added_cond_kwargs is None
            else (added_cond_kwargs["text_embeds"], added_cond_kwargs["time_ids"])
        )
        inputs = (latents, timesteps.float(), encoder_hidden_states, adapters, *added)
        answers = []
        for start in range(0, len(latents), self._samples):
            part = [tensor[start : start + self._samples] for tensor in inputs]
            answers.append(
                self._graph(*(_filled_up(tensor, self._samples) for tensor in part))[: len(part[0])]
            )
        return (torch.cat(answers),)


def slots_of_samples(routing: Routing, count: int) -> Tensor:
    """The slot of each of ``count`` samples, according to ``routing``."""
    if routing.only is not None:
        return torch.full((count,), routing.only)
    slots = (
        torch.arange(routing.run.start, routing.run.stop)
        if routing.run is not None
        else routing.slots
    )
    if slots is None:
        raise RuntimeError("no sample was given a slot; call Routing.route before the batch")
    return slots.repeat_interleave(count // len(slots))


def _filled_up(tensor: Tensor, samples: int) -> Tensor:
    """``tensor`` with its last sample repeated until there are ``samples``."""
    missing = samples - len(tensor)
    return (
        tensor.contiguous()
        if not missing
        else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
    )


class _TextAnswer(tuple[Tensor, ...]):
    """The part of a text encoder's answer that a pipeline uses: the first output and the last
    hidden state but one."""

    @property
    def hidden_states(self) -> tuple[Tensor, Tensor]:
        return (self[1], self[1])


class CompiledTextEncoder(nn.Module):
    """A compiled text encoder in its pipeline's place."""

    def __init__(self, graph: Any, encoder: Any) -> None:
        """Use ``graph`` for one prompt at a time; the graph was compiled from ``encoder``."""
        super().__init__()
        self.config = encoder.config
        self.dtype = encoder.dtype
        self._graph = graph

    def forward(self, tokens: Tensor, **_: Any) -> Any:
        """The encoder's answer for ``tokens`` (n, length)."""
        parts = [self._graph(row[None]) for row in tokens]
        return _TextAnswer(torch.cat(part) for part in zip(*parts, strict=True))


class CompiledDecoder(nn.Module):
    """A compiled decoder in the place of its pipeline's autoencoder; it does not encode."""

    def __init__(self, graph: Any, vae: Any) -> None:
        """Use ``graph`` for one picture at a time; the graph was compiled from ``vae``."""
        super().__init__()
        self.config = vae.config
        self.dtype = vae.dtype
        self._graph = graph

    # The signature is that of diffusers.
    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:  # noqa: ARG002
        """The pictures (n, 3, height, width) of scaled latents (n, channels, h, w)."""
        return (torch.cat([self._graph(one[None]) for one in latents]),)


class CompiledBase(Base):
    """A base whose networks are compiled graphs, for pictures of one size."""

    def __init__(self, base: Base, unet: CompiledUnet, size: int) -> None:
        """Take the place of ``base``; ``size`` is in pixels a side."""
        super().__init__(base.name, base.digest, base.pipeline, base.device, base.dtype)
        self._unet = unet
        self._size = size

    @property
    def unet(self) -> Any:
        """The compiled UNet."""
        return self._unet

    @property
    def default_size(self) -> int:
        """The only size, in pixels a side."""
        return self._size

    @property
    def size_multiple(self) -> int:
        """The only size, because requests may ask for no other."""
        return self._size


def load_compiled(settings: ServingSettings) -> tuple[Base, LoraLayers]:
    """The base that ``settings`` name, compiled, and the slots of its adapters, in host memory.

    Raises:
        UnusableBaseError: the base is not compiled, or it is compiled for another rank, other
            targets or other weights; the message gives the remedy.
    """
    folder = folder_of(settings.base)
    card = CompiledCard.read(folder)
    for variable, wanted, compiled in (
        ("TENANTRY_RANK", settings.rank, card.rank),
        ("TENANTRY_LORA_TARGETS", settings.targets, card.targets),
        ("TENANTRY_DTYPE", settings.dtype or card.dtype, card.dtype),
    ):
        if wanted != compiled:
            raise UnusableBaseError(
                f"{variable} is {wanted!r}, and the base was compiled for {compiled!r}; set it so "
                f"or compile again"
            )
    base = load_base(settings.base, device="cpu", dtype=card.dtype)
    if base.digest != card.base_digest:
        raise UnusableBaseError("the base was compiled from other weights; compile it again")
    layers = LoraLayers(base.unet, card.targets, settings.slots + 1, card.rank)
    rows = keep_in_rows(layers)
    config, pipeline = base.unet.config, base.pipeline
    # The graphs hold the networks' weights, and a second copy would fill a small instance's memory.
    pipeline.unet = None
    for layer in layers.layers.values():
        layer.layer.to("meta")
    load = _loader(card, folder / FOLDER)
    for name in TEXT_ENCODERS:
        if (encoder := getattr(pipeline, name, None)) is not None:
            setattr(pipeline, name, CompiledTextEncoder(load(f"{name}.pt"), encoder))
    pipeline.vae = CompiledDecoder(load(DECODER), pipeline.vae)
    unet = CompiledUnet(load(UNET), config, rows, layers.routing, card.samples)
    _log.info(
        "compiled_base compiler=%s samples=%d size=%d row=%d",
        card.compiler,
        card.samples,
        card.size,
        rows.shape[1],
    )
    return CompiledBase(base, unet, card.size), layers


def _loader(card: CompiledCard, folder: Path) -> Callable[[str], Any]:
    """A function that loads the graphs of ``folder``."""
    if card.compiler == "neuron":
        try:
            # The import registers the operator that runs compiled graphs.
            import torch_neuronx  # noqa: F401
        except ImportError as error:
            raise UnusableBaseError(
                "the base is compiled for Neuron, and torch_neuronx is not installed: serve it on "
                "Inferentia2 in the image"
                " of containers/diffusion/neuron/Dockerfile"
            ) from error

    def load(name: str) -> Any:
        try:
            return torch.jit.load(folder / name)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, RuntimeError) as error:
            raise UnusableBaseError(
                f"{FOLDER}/{name} cannot be loaded; compile the base again: {error}"
            ) from error

    return load
