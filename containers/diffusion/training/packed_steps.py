"""Training several tenants' adapters in one batch over a frozen base: every step takes some samples
of each tenant, runs the UNet once for all, and changes each tenant's slot by its own gradient.

A tenant's neighbours affect only the order in which sums are rounded:

- each tenant's samples come from its own generator;
- the loss is a sum of one loss for each tenant, so that slot i's gradient is that of tenant i's
  loss;
- each tenant's gradient is clipped separately;
- Adam works element by element.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, Conditioning
from containers.diffusion.training.settings import Settings

FIRST_SLOT: Final = 1
"""Lesson i trains slot ``FIRST_SLOT + i``; the slot before the first is the base's."""

FP16_SCALE: Final = 2.0**12
"""The factor of losses in fp16, where small gradients would otherwise vanish (Micikevicius et al.
2017, section 3.2)."""

STEPS_BEFORE_GROWTH: Final = 200
MAX_OVERFLOWS: Final = 20
"""Consecutive steps with a gradient that is not finite, after which a tenant's training is
abandoned."""

_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Examples:
    """Latents (n, channels, h, w) and the text encoders' output for each one's caption."""

    latents: Tensor
    words: Sequence[Conditioning]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.words)


@dataclass(frozen=True)
class Lesson:
    """The training data of one tenant's adapter. Lessons of one batch have latents of one size.

    ``prior`` holds the base's own pictures of the class prompt, which the adapter must not unlearn.
    ``seed`` decides every random choice of this tenant's training.
    """

    own: Examples
    seed: int
    prior: Examples | None = None


@dataclass(frozen=True)
class _Draw:
    """A tenant's samples of one step: latents and noise (m, channels, h, w), timesteps (m)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    words: list[Conditioning]


class _Sampling:
    """One tenant's random choices, made on the CPU so that they are the same on every device."""

    def __init__(
        self, lesson: Lesson, settings: Settings, nothing: Conditioning, timesteps: int
    ) -> None:
        self._lesson = lesson
        self._settings = settings
        self._nothing = nothing
        self._timesteps = timesteps
        self.generator = torch.Generator().manual_seed(lesson.seed)
        self._own_order: list[int] = []
        self._prior_order: list[int] = []
        self._time = float(torch.rand((), generator=self.generator))

    def draw(self) -> _Draw:
        """The samples of the next step: the tenant's own, then equally many of the base's if there
        are any."""
        parts = [self._of(self._lesson.own, self._own_order)]
        if self._lesson.prior is not None:
            parts.append(self._of(self._lesson.prior, self._prior_order))
        return _Draw(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat([part.timesteps for part in parts]),
            [words for part in parts for words in part.words],
        )

    def _of(self, examples: Examples, order: list[int]) -> _Draw:
        count = self._settings.images_per_step
        chosen = [self._next(examples, order) for _ in range(count)]
        noise = torch.randn(count, *examples.latents.shape[1:], generator=self.generator)
        dropped = torch.rand(count, generator=self.generator) < self._settings.caption_dropout
        return _Draw(
            examples.latents[chosen],
            noise,
            torch.tensor([self._next_timestep() for _ in range(count)]),
            [
                self._nothing if drop else examples.words[number]
                for number, drop in zip(chosen, dropped.tolist(), strict=True)
            ],
        )

    def _next(self, examples: Examples, order: list[int]) -> int:
        """The next example. Each round uses every example once, in a new order; ``order`` holds the
        rest of this round."""
        if not order:
            order += torch.randperm(len(examples), generator=self.generator).tolist()
        return order.pop()

    def _next_timestep(self) -> int:
        """The next timestep, by steps of the golden ratio. Any run of them is spread evenly over
        all timesteps; a few hundred independent draws are not."""
        self._time = (self._time + _GOLDEN) % 1.0
        return int(self._time * self._timesteps)


class PackedSteps:
    """The training of several lessons in one batch. After `run`, ``snapshots`` and ``losses`` hold
    the results."""

    def __init__(
        self,
        base: Base,
        layers: LoraLayers,
        lessons: Sequence[Lesson],
        settings: Settings,
        nothing: Conditioning,
    ) -> None:
        """Prepare slots ``FIRST_SLOT`` and up for the lessons.

        Args:
            base: the frozen base.
            layers: its adapters, in fp32, with a slot for each lesson.
            lessons: one for each tenant.
            settings: steps, learning rate and the rest.
            nothing: the conditioning of a sample without a caption (`Base.unconditional`).
        """
        self._base = base
        self._layers = layers
        self._settings = settings
        count = len(lessons)
        table = base.alphas_cumprod.to(torch.float32)
        self._signal, self._noise = table.sqrt(), (1 - table).sqrt()
        self._sampling = [_Sampling(lesson, settings, nothing, len(table)) for lesson in lessons]
        self._own = settings.images_per_step
        self._each = settings.images_per_step * (1 if lessons[0].prior is None else 2)
        for number, sampling in enumerate(self._sampling):
            layers.initialise(FIRST_SLOT + number, sampling.generator)
        self._optimizer = _optimizer(list(layers.parameters()), settings)
        self._scales = torch.full(
            (count,), FP16_SCALE if base.dtype == torch.float16 else 1.0, device=base.device
        )
        self._good_steps = [0] * count
        self._overflows = [0] * count
        self.failures: dict[int, str] = {}
        """Abandoned lessons, each with the reason as a sentence."""
        self.losses: list[list[float]] = []
        """By step, the loss of each lesson without the base's own pictures; NaN after the lesson
        was abandoned."""
        self.snapshots: list[tuple[int, list[dict[str, tuple[Tensor, Tensor]]]]] = []
        """Pairs of the steps done and, by lesson, the adapter (A and B by layer, in half precision
        as stored)."""

    def run(self) -> Generator[int, None, None]:
        """Take every step and yield the number of steps done after each. Closing the generator
        restores the UNet."""
        settings = self._settings
        kept_after = {max(1, round(share * settings.steps)) for share in settings.snapshots}
        if settings.gradient_checkpointing:
            self._base.unet.enable_gradient_checkpointing()
        try:
            with self._layers.trainable():
                for step in range(settings.steps):
                    self._step(step)
                    if len(self.failures) == len(self._sampling):
                        return
                    if step + 1 in kept_after:
                        self._keep(step + 1)
                    yield step + 1
        finally:
            if settings.gradient_checkpointing:
                self._base.unet.disable_gradient_checkpointing()

    def _step(self, step: int) -> None:
        base, count = self._base, len(self._sampling)
        draws = [sampling.draw() for sampling in self._sampling]
        latents = torch.cat([draw.latents for draw in draws]).float()
        noise = torch.cat([draw.noise for draw in draws]).to(base.device)
        timesteps = torch.cat([draw.timesteps for draw in draws]).to(base.device)
        signal_share, noise_share = (
            table[timesteps][:, None, None, None] for table in (self._signal, self._noise)
        )
        noisy = signal_share * latents + noise_share * noise
        slots = [FIRST_SLOT + number for number in range(count) for _ in range(self._each)]
        self._layers.routing.route(slots, base.device)
        size = (latents.shape[-1] * base.scale, latents.shape[-2] * base.scale)
        words = [each for draw in draws for each in draw.words]
        predicted = base.predict(noisy.to(base.dtype), timesteps, words, size).float()
        # The velocity of Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
        velocity = signal_share * noise - noise_share * latents
        target = noise if base.predicts == "epsilon" else velocity
        # Every timestep has equal weight, as in the base's training. Weights by the signal-to-noise
        # ratio (Hang et al. 2023) would favour the less noisy timesteps. The noisy ones decide
        # colours and backgrounds, in which tenants differ.
        losses = (predicted - target).square().flatten(1).mean(1).reshape(count, self._each)
        own = losses[:, : self._own].mean(1)
        total = own
        if self._each > self._own:
            total = own + self._settings.prior_preservation * losses[:, self._own :].mean(1)
        torch.autograd.backward((total * self._scales).sum())
        self.losses.append(own.tolist())
        self._gate_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * self._pace(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _pace(self, step: int) -> float:
        """The share of the learning rate at a step: rising in the warm-up, then falling to a tenth
        along a cosine."""
        settings = self._settings
        if step < settings.warmup:
            return (step + 1) / settings.warmup
        along = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * along))

    def _gate_gradients(self) -> None:
        """Undo the scale and clip each tenant's gradient by itself; a tenant whose gradient is not
        finite stays unchanged."""
        count = len(self._sampling)
        gradients = [each.grad for each in self._layers.parameters() if each.grad is not None]
        parts = torch.stack(
            [gradient[FIRST_SLOT:].flatten(1).norm(dim=1) for gradient in gradients]
        )
        norms = parts.norm(dim=0) / self._scales
        factors = (self._settings.clip / norms.clamp(min=1e-12)).clamp(max=1.0) / self._scales
        finite = torch.isfinite(norms).tolist()
        for number in range(count):
            self._watch(number, finite[number])
        still = [number for number in range(count) if not finite[number] or number in self.failures]
        factors[still] = 0.0
        factors = torch.cat([factors.new_zeros(FIRST_SLOT), factors])
        for gradient in gradients:
            for number in still:
                # NaN stays NaN under any factor.
                gradient[FIRST_SLOT + number].zero_()
            gradient.mul_(factors.reshape(-1, *[1] * (gradient.ndim - 1)))

    def _watch(self, number: int, finite: bool) -> None:
        """Abandon a lesson whose loss is not finite or whose gradient overflowed too often; adjust
        its scale in fp16."""
        if number in self.failures:
            self.losses[-1][number] = math.nan
            return
        if not math.isfinite(self.losses[-1][number]):
            self._give_up(number, f"the loss was no finite number at step {len(self.losses)}")
        elif finite:
            self._overflows[number] = 0
            self._good_steps[number] += 1
            if (
                self._base.dtype == torch.float16
                and self._good_steps[number] % STEPS_BEFORE_GROWTH == 0
            ):
                self._scales[number] *= 2
        else:
            self._overflows[number] += 1
            self._good_steps[number] = 0
            if self._base.dtype == torch.float16:
                self._scales[number] /= 2
            if self._overflows[number] >= MAX_OVERFLOWS:
                self._give_up(
                    number, f"its gradient was no finite number for {MAX_OVERFLOWS} steps in a row"
                )

    def _give_up(self, number: int, reason: str) -> None:
        self.failures[number] = reason
        # The slot's values may not be finite either. With zeros the slot draws like the base.
        self._layers.put(FIRST_SLOT + number, {})

    def _keep(self, step: int) -> None:
        kept = []
        for number in range(len(self._sampling)):
            taken = self._layers.take(FIRST_SLOT + number)
            kept.append({name: (a.half(), b.half()) for name, (a, b) in taken.items()})
        self.snapshots.append((step, kept))


def _optimizer(parameters: list[torch.nn.Parameter], settings: Settings) -> Any:
    # There is no weight decay: the low rank limits the weights enough, and decay would pull rarely
    # changed weights back to the base.
    if settings.optimizer == "adamw8bit":
        import bitsandbytes  # type: ignore[import-not-found,unused-ignore]

        # It quantises its states in blocks of 256 numbers. A block may span two tenants, who then
        # share its rounding.
        return bitsandbytes.optim.AdamW8bit(parameters, lr=settings.learning_rate, weight_decay=0.0)
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True)
