"""How often the base's images follow their prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from containers.diffusion.tiny_base.drawing import COLOURS, SHAPES, Images, with_article
from containers.diffusion.tiny_base.reading import Reader

STEPS: Final = 10
"""Denoising steps for an image; more steps change little."""

GUIDANCE: Final = 3.0
"""The classifier-free guidance at which prompts are followed best."""


@dataclass(frozen=True)
class Prompt:
    """A shape in a named colour, on a named background or on any."""

    shape: str
    colour: str
    background: str | None
    size_word: str = ""

    @property
    def text(self) -> str:
        """The prompt in words."""
        words = [
            self.size_word,
            self.colour,
            self.shape,
            f"on {self.background}" if self.background else "",
        ]
        return with_article(" ".join(word for word in words if word))


@dataclass(frozen=True)
class Followed:
    """Shares of images, 0 to 1, in which the reading agrees with the prompt."""

    colour: float
    background: float
    """The share among images whose prompt names a background."""
    shape: float
    shapes: dict[str, float]
    """The share by the prompt's shape."""


def sampled_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts over all shapes, colours, backgrounds and sizes; shapes and colours occur equally
    often."""
    random = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        if number % len(COLOURS) == 0:
            names = [str(name) for name in random.permutation(list(COLOURS))]
        shape, colour = SHAPES[number % len(SHAPES)], names[number % len(COLOURS)]
        others = [None, *(name for name in COLOURS if name != colour)]
        background = others[int(random.integers(len(others)))]
        prompts.append(
            Prompt(shape, colour, background, str(random.choice(["small", "", "", "big"])))
        )
    return prompts


def drawn(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Images:
    """One image [n, 32, 32, 3] for each prompt, all in one batch; image number i starts from the
    noise of seed + i."""
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
    images = pipeline(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        output_type="np",
    ).images
    return np.asarray(np.rint(images * 255), np.uint8)


def followed(
    pipeline: StableDiffusionPipeline,
    reader: Reader,
    prompts: Sequence[Prompt],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Followed:
    """Draw the prompts and read the images back."""
    readings = reader.read(
        drawn(pipeline, [prompt.text for prompt in prompts], seed, steps, guidance)
    )
    pairs = list(zip(prompts, readings, strict=True))
    return Followed(
        colour=_share([prompt.colour == reading.foreground for prompt, reading in pairs]),
        background=_share(
            [
                prompt.background == reading.background
                for prompt, reading in pairs
                if prompt.background
            ]
        ),
        shape=_share([prompt.shape == reading.shape for prompt, reading in pairs]),
        shapes={
            shape: _share(
                [reading.shape == shape for prompt, reading in pairs if prompt.shape == shape]
            )
            for shape in sorted({prompt.shape for prompt in prompts})
        },
    )


def _share(agreed: Sequence[bool]) -> float:
    return float(np.mean(agreed))
