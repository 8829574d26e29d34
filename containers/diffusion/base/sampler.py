"""One deterministic DDIM step for a batch whose samples are each at their own step, and the noise
that a picture begins from. Source: Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12, with
eta 0.

The result equals that of diffusers' ``DDIMScheduler.step``, which takes one timestep for all
samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from containers.diffusion.base.pipeline import Base, UnusableBaseError

# The six numbers of one sample's step: the shares of latents and prediction in the clean picture,
# the same shares in the noise, and the shares of clean picture and noise in the next latents.
_Step = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Schedule:
    """A generation's steps, from noise to picture: the UNet's timestep and the numbers of the DDIM
    step at each."""

    timesteps: tuple[int, ...]
    steps: tuple[_Step, ...]


class Sampler:
    """DDIM for one base. It keeps the schedules it made, one for each number of steps asked for."""

    def __init__(self, base: Base) -> None:
        """Raises `UnusableBaseError` when the sampler does not support the base's kind of
        prediction."""
        if base.predicts not in ("epsilon", "v_prediction"):
            raise UnusableBaseError(
                f"base {base.name!r} predicts {base.predicts!r}; epsilon or v_prediction is needed"
            )
        self._base = base
        self._schedules: dict[int, Schedule] = {}

    def schedule(self, steps: int) -> Schedule:
        """The schedule of a generation in ``steps`` steps."""
        if steps not in self._schedules:
            before, after = self._base.alphas_of(steps)
            if self._base.predicts == "epsilon" and min(before) <= 0:
                raise UnusableBaseError(
                    f"base {self._base.name!r} predicts noise at a step where there is nothing else"
                )
            made = tuple(self._step(*pair) for pair in zip(before, after, strict=True))
            self._schedules[steps] = Schedule(tuple(self._base.timesteps(steps)), made)
        return self._schedules[steps]

    def _step(self, before: float, after: float) -> _Step:
        signal, noise = before**0.5, (1 - before) ** 0.5
        if self._base.predicts == "epsilon":
            clean, rest = (1 / signal, -noise / signal), (0.0, 1.0)
        else:
            # Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
            clean, rest = (signal, -noise), (noise, signal)
        return (*clean, *rest, after**0.5, (1 - after) ** 0.5)

    def step(self, latents: Tensor, prediction: Tensor, steps: Sequence[_Step]) -> Tensor:
        """The next latents (n, channels, h, w) of samples at ``steps``, given the UNet's prediction
        of the same shape."""
        table = torch.tensor(steps, dtype=latents.dtype, device=latents.device)[
            ..., None, None, None
        ]
        (
            of_latents,
            of_prediction,
            noise_of_latents,
            noise_of_prediction,
            next_signal,
            next_noise,
        ) = table.unbind(1)
        clean = of_latents * latents + of_prediction * prediction
        noise = noise_of_latents * latents + noise_of_prediction * prediction
        if self._base.clips is not None:
            clean = clean.clamp(-self._base.clips, self._base.clips)
        return next_signal * clean + next_noise * noise


LATENT_DTYPE: Final = torch.float32
"""Latents stay in single precision even when the UNet computes in half, so that rounding errors do
not add up over the steps."""


def noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """The latents (channels, h, w) a picture begins from.

    The picture's own generator draws them on the CPU, so that a seed gives the same noise on every
    device and beside any neighbours.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=LATENT_DTYPE)
