"""Read a drawn icon back: its shape and its two colours, to tell whether an image follows its
prompt.

Rules read the colours: the background is the most frequent colour in the image's frame, the
foreground the one that differs most from it. A small convolutional network reads the shape. It is
trained on drawings of every style, also with noise and blur. It has a class for images without an
icon (blobs, two shapes in one), so that a smear does not count as the nearest shape.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from containers.diffusion.tiny_base import MODEL_FOLDER
from containers.diffusion.tiny_base.drawing import (
    COLOURS,
    SHAPES,
    SIZE,
    Captioned,
    Colour,
    Floats,
    Images,
    Placement,
    captioned_icons,
    draw,
    placed,
)

READER_FILE: Final = "reader.safetensors"
"""The reader's file in the folder of the model."""

READER_STEPS: Final = 800
_BATCH: Final = 64
_PEAK_RATE: Final = 3e-3
_UNCLEAR: Final = len(SHAPES)
"""The class of images without a clear shape."""

_NAMES: Final = tuple(COLOURS)
_NAMED: Final = np.asarray([COLOURS[name] for name in _NAMES], np.float32)

_OUTSIDE: Final = Placement(0.5, 9.0, 9.0, 0.0)
"""A placement outside the image, which leaves the image empty."""


@dataclass(frozen=True)
class Reading:
    """The shape and colours in an image."""

    shape: str | None
    """One of SHAPES; None where the shape is unclear."""
    foreground: str
    background: str
    """The names of the nearest of COLOURS. A patterned background reads as either of its
    colours."""


class ShapeNetwork(nn.Sequential):
    """Tells shapes apart: float images [n, 3, 32, 32] in [-1, 1] become scores [n, shapes + 1], the
    last for no shape."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        before = 3
        for channels, stride in ((16, 1), (32, 2), (48, 2), (64, 2)):
            layers += [
                nn.Conv2d(before, channels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            before = channels
        side = SIZE // 8
        layers += [
            nn.Conv2d(before, 32, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * side * side, len(SHAPES) + 1),
        ]
        super().__init__(*layers)


class Reader:
    """Reads images [n, 32, 32, 3]."""

    def __init__(self, network: ShapeNetwork) -> None:
        self._network = network.eval()

    @classmethod
    def load(cls, folder: Path = MODEL_FOLDER) -> "Reader":
        """The reader that was trained with the base in `folder`, by default the shipped one."""
        network = ShapeNetwork()
        network.load_state_dict(
            {name: value.float() for name, value in load_file(folder / READER_FILE).items()}
        )
        return cls(network)

    def save(self, folder: Path) -> None:
        """Write the network's weights into the folder of a model, as float16."""
        state = self._network.state_dict()
        save_file({name: value.half() for name, value in state.items()}, folder / READER_FILE)

    def read(self, images: Images) -> list[Reading]:
        """The reading of each image."""
        return [
            Reading(shape, *colours(image))
            for shape, image in zip(self.shapes(images), images, strict=True)
        ]

    def shapes(self, images: Images) -> list[str | None]:
        """The shape of each image; None where it is unclear."""
        with torch.inference_mode():
            best = self._network(_as_tensor(images)).argmax(1)
        return [None if number == _UNCLEAR else SHAPES[number] for number in best.tolist()]

    def accuracy(self, icons: Captioned) -> float:
        """The share of icons whose shape is read as it was drawn."""
        return float(
            np.mean(
                [
                    read == drawn
                    for read, drawn in zip(self.shapes(icons.images), icons.shapes, strict=True)
                ]
            )
        )


def colours(image: Images) -> tuple[str, str]:
    """The names of an image's foreground and background colours."""
    pixels = image.astype(np.float32)
    frame = np.concatenate(
        [
            pixels[:2].reshape(-1, 3),
            pixels[-2:].reshape(-1, 3),
            pixels[:, :2].reshape(-1, 3),
            pixels[:, -2:].reshape(-1, 3),
        ]
    )
    background = np.median(frame, axis=0)
    away = np.linalg.norm(pixels - background, axis=-1)
    # Pixels on the edge mix both colours, and are therefore nearer to the background than those
    # inside.
    foreground = np.median(pixels[away >= 0.75 * np.quantile(away, 0.97)], axis=0)
    return nearest_name(foreground), nearest_name(background)


def nearest_name(colour: Colour | np.ndarray) -> str:
    """The name of the nearest of COLOURS."""
    return _NAMES[int(np.linalg.norm(_NAMED - np.asarray(colour, np.float32), axis=1).argmin())]


def train_reader(seed: int, steps: int = READER_STEPS) -> Reader:
    """A reader trained only on drawings, in about a minute of one core."""
    torch.manual_seed(seed)
    network = ShapeNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps)
    network.train()
    for step in range(steps):
        images, classes = _examples(np.random.default_rng((seed, step)))
        loss = nn.functional.cross_entropy(network(images), classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return Reader(network)


def _examples(random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy drawings [n, 3, 32, 32] and their classes [n]: icons of every style, blobs, backgrounds
    alone, noise alone."""
    icons = captioned_icons(_BATCH, random)
    blobs, empty, noisy = 6, 2, 2
    placements = [placed(random) for _ in range(blobs)] + [_OUTSIDE] * empty
    shapeless = draw(
        [_blob(random) for _ in placements], icons.styles[: len(placements)], placements
    )
    noise = random.integers(0, 256, (noisy, SIZE, SIZE, 3), np.uint8)
    images = _as_tensor(np.concatenate([icons.images, shapeless, noise]))
    classes = [SHAPES.index(shape) for shape in icons.shapes] + [_UNCLEAR] * (blobs + empty + noisy)
    blurred = nn.functional.avg_pool2d(
        nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1
    )
    # Half of them stay sharp.
    blur = 0.7 * random.random(len(images), np.float32) * (random.random(len(images)) < 0.5)
    images = torch.lerp(
        images, blurred, torch.from_numpy(blur.astype(np.float32))[:, None, None, None]
    )
    strength = 0.12 * random.random((len(images), 1, 1, 1), np.float32)
    return images + torch.from_numpy(
        strength * random.standard_normal(images.shape, np.float32)
    ), torch.tensor(classes)


def _blob(random: np.random.Generator) -> Floats:
    """The corners of a smooth shape without a name: a circle bent by a few waves."""
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    radius = np.full(36, 0.75)
    for waves in range(2, 7):
        radius += random.normal(0, 0.3 / waves) * np.cos(
            waves * angles + random.uniform(0, 2 * np.pi)
        )
    radius = np.clip(radius, 0.15, 1.1)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1).astype(np.float32)


def _as_tensor(images: Images) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
