"""The modules to compile. They take only tensors of fixed shapes, as the Neuron compiler requires.

A tenant's adapter is an input like the latents. A graph is therefore compiled once for a base, and
no tenant ever waits for a compiler. All adapters of a call are one tensor with a row for each
sample, so that moving them to the device is one copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from containers.diffusion.adapters.lora import LoraLayers


@dataclass(frozen=True)
class AdapterRow:
    """The layout of an adapter in a row of numbers: each layer's A, then its B, in the order of
    ``LoraLayers.layers``."""

    parts: tuple[tuple[str, tuple[int, ...]], ...]
    """Name of each stack in the UNet, as ``{layer}.down`` and ``{layer}.up``, and its shape in one
    slot."""

    @classmethod
    def of(cls, layers: LoraLayers) -> "AdapterRow":
        """The row of adapters on ``layers``."""
        return cls(
            tuple(
                (f"{name}.{part}", tuple(getattr(layer, part).shape[1:]))
                for name, layer in layers.layers.items()
                for part in ("down", "up")
            )
        )

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(prod(shape) for _, shape in self.parts)

    def stacks(self, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each stack's name and its view (n, *shape) of ``rows`` (n, width)."""
        start = 0
        for name, shape in self.parts:
            end = start + prod(shape)
            yield name, rows[:, start:end].view(rows.shape[0], *shape)
            start = end


def keep_in_rows(layers: LoraLayers) -> Tensor:
    """Move the slots of ``layers`` into rows (slots, width), which the layers then fill. Returns
    the rows."""
    row = AdapterRow.of(layers)
    parameters = list(layers.parameters())
    rows = parameters[0].new_zeros(layers.slots, row.width)
    for parameter, (_, view) in zip(parameters, row.stacks(rows), strict=True):
        view.copy_(parameter)
        parameter.data = view
    return rows


class AdaptedUnet(nn.Module):
    """A UNet in which each sample comes with its own adapter.

    It removes the slots of ``layers``; the layers then compute with the adapters of each call.
    """

    def __init__(self, unet: nn.Module, layers: LoraLayers, samples: int) -> None:
        """Wrap ``unet``, which ``layers`` adapts, for batches of ``samples``."""
        super().__init__()
        self.unet = unet
        self._row = AdapterRow.of(layers)
        self._stacks = [
            (layer, part) for layer in layers.layers.values() for part in ("down", "up")
        ]
        for layer, part in self._stacks:
            # Tracing would turn a parameter into a constant.
            delattr(layer, part)
        # Sample i uses slot i, slot 0 included, so that the stacks are used in place.
        layers.routing.only, layers.routing.run, layers.routing.slots = (
            None,
            slice(0, samples),
            None,
        )

    def forward(
        self, latents: Tensor, timesteps: Tensor, states: Tensor, adapters: Tensor, *added: Tensor
    ) -> Tensor:
        """The prediction for a batch.

        Args:
            latents: (samples, channels, height, width).
            timesteps: (samples,).
            states: the text encoders' states (samples, tokens, width).
            adapters: a row for each sample (samples, row width).
            added: for SDXL, pooled text states (samples, width) and sizes (samples, 6).
        """
        for (layer, part), (_, stack) in zip(self._stacks, self._row.stacks(adapters), strict=True):
            setattr(layer, part, stack)
        conditions = dict(zip(("text_embeds", "time_ids"), added, strict=True)) if added else None
        prediction: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=states,
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return prediction


class TextStates(nn.Module):
    """A CLIP text encoder, for one prompt."""

    def __init__(self, encoder: nn.Module) -> None:
        """Wrap a CLIPTextModel or a CLIPTextModelWithProjection."""
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The two outputs that diffusers' pipelines use, for ``tokens`` (1, length): the first
        output and the last hidden state but one."""
        answer: Any = self.encoder(tokens, output_hidden_states=True)
        return answer[0], answer.hidden_states[-2]


class PictureOfLatents(nn.Module):
    """An autoencoder's decoder, for one picture."""

    def __init__(self, vae: Any) -> None:
        """Wrap an AutoencoderKL."""
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        """The picture (1, 3, height, width) of scaled latents (1, channels, h, w)."""
        picture: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return picture
