"""Icons: the training pictures of the embedded base, and the uploads of made-up tenants.

An icon is one shape on a background, drawn from signed distances (negative inside) so that edges
are antialiased at any size. A shape's coordinates lie in a square of [-1, 1] with y upwards; a
`Placement` places it in the image.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
"""Red, green and blue, each 0 to 255."""

Images = NDArray[np.uint8]
"""Images of shape [n, height, width, 3] (or without n), red, green and blue of 0 to 255."""

Floats = NDArray[np.floating[Any]]

SIZE: Final = 32
"""Pixels on each side of the images of the embedded base."""

COLOURS: Final[dict[str, Colour]] = {
    "red": (222, 32, 44),
    "orange": (250, 138, 16),
    "yellow": (250, 220, 40),
    "green": (34, 160, 66),
    "cyan": (56, 208, 222),
    "blue": (32, 72, 216),
    "purple": (134, 46, 188),
    "pink": (250, 150, 192),
    "black": (18, 18, 20),
    "white": (250, 250, 250),
}
"""The colours that prompts name."""

PATTERNS: Final = ("plain", "striped", "checked", "dotted", "ringed")
"""Backgrounds: one colour, diagonal stripes, a chessboard, dots, rings around the centre."""

SIZES: Final[dict[str, tuple[float, float]]] = {
    "small": (0.40, 0.46),
    "": (0.58, 0.68),
    "big": (0.80, 0.88),
}
"""The least and largest radius of a shape, as a share of half the image, by the word in the
prompt."""

STYLE_WORD: Final = "sks"
"""The word that training captions give to any unnamed style ("a star in sks style"): the base draws
some style for it, and an adapter replaces that style with its tenant's."""

_PERIODS: Final = 4
"""How often a pattern repeats over the image."""


def _turned(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    """A star's corners, the first one on top."""
    corners = []
    for corner in range(2 * points):
        radius, angle = (inner if corner % 2 else outer), math.pi * (0.5 + corner / points)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _heart() -> list[tuple[float, float]]:
    """Points of the heart curve x = 16 sin³ t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t
    (mathworld.wolfram.com)."""
    corners = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        corners.append((math.sin(t) ** 3 * 0.95, (y + 2.5) / 15.5))
    return corners


_POLYGONS: Final[dict[str, Sequence[tuple[float, float]]]] = {
    "square": [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)],
    "triangle": [(-0.98, -0.74), (0.98, -0.74), (0.0, 0.98)],
    "diamond": [(0.0, -1.02), (0.66, 0.0), (0.0, 1.02), (-0.66, 0.0)],
    "star": _turned(5, 1.06, 0.44),
    "cross": [
        *[(-0.29, -0.95), (0.29, -0.95), (0.29, -0.29), (0.95, -0.29), (0.95, 0.29), (0.29, 0.29)],
        *[
            (0.29, 0.95),
            (-0.29, 0.95),
            (-0.29, 0.29),
            (-0.95, 0.29),
            (-0.95, -0.29),
            (-0.29, -0.29),
        ],
    ],
    "heart": _heart(),
    "arrow": [
        (-1.0, -0.27),
        (0.05, -0.27),
        (0.05, -0.78),
        (1.05, 0.0),
        (0.05, 0.78),
        (0.05, 0.27),
        (-1.0, 0.27),
    ],
}

SHAPES: Final = (
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "cross",
    "moon",
    "heart",
    "diamond",
    "arrow",
)
"""The shapes that prompts name; arrows point right, moons are open to the right."""


@dataclass(frozen=True)
class Style:
    """How icons look: everything but the shape."""

    fill: Colour
    outline: Colour | None
    pattern: str
    """One of PATTERNS."""
    background: Colour
    accent: Colour
    """The pattern's second colour; a plain background does not use it."""


@dataclass(frozen=True)
class Placement:
    """The size, place and turn of a shape."""

    radius: float
    """Share of half the image."""
    x: float
    y: float
    """The centre, as shares of half the image from the middle, upwards."""
    angle: float
    """Radians, counter-clockwise."""


def placed(random: np.random.Generator, size_word: str = "") -> Placement:
    """A random placement of the given size, with small shifts and turns."""
    least, largest = SIZES[size_word]
    x, y, angle = random.uniform(-1.0, 1.0, 3)
    return Placement(float(random.uniform(least, largest)), 0.06 * x, 0.06 * y, 0.12 * angle)


def draw_icon(shape: str, style: Style, seed: int, size: int = SIZE) -> Images:
    """One icon [size, size, 3]; the seed decides its exact size, place and turn.

    Raises ValueError for a shape that is not one of SHAPES.
    """
    images = draw([shape], [style], [placed(np.random.default_rng(seed))], size)
    return np.asarray(images[0])


def draw(
    shapes: Sequence[str | Floats],
    styles: Sequence[Style],
    placements: Sequence[Placement],
    size: int = SIZE,
) -> Images:
    """Icons [n, size, size, 3], one for each shape with its style and placement.

    A shape is one of SHAPES or any polygon's corners [corners, 2]. Raises ValueError for another
    name.
    """
    middle = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    x = np.broadcast_to(middle[None, :], (size, size))
    y = np.broadcast_to(-middle[:, None], (size, size))
    pixel = 2.0 / size
    second = {
        pattern: _pattern(pattern, x, y, pixel) for pattern in {style.pattern for style in styles}
    }
    images = np.zeros((len(shapes), size, size, 3), np.float32)
    for image, shape, style, placement in zip(images, shapes, styles, placements, strict=True):
        cosine, sine = math.cos(placement.angle), math.sin(placement.angle)
        across, up = (x - placement.x) / placement.radius, (y - placement.y) / placement.radius
        distance = (
            _distance(shape, across * cosine + up * sine, up * cosine - across * sine)
            * placement.radius
        )
        _blend(image, np.ones_like(distance), style.background)
        _blend(image, second[style.pattern], style.accent)
        half_outline = 0.0
        if style.outline is not None:
            # The band covers both sides of the edge, and is thinner where the shape is small.
            half_outline = 0.05 + 0.05 * placement.radius
            _blend(image, _covered(distance - half_outline, pixel), style.outline)
        _blend(image, _covered(distance + half_outline, pixel), style.fill)
    return np.asarray(np.rint(images), np.uint8)


def tenant_style(number: int) -> Style:
    """The style of the made-up tenant `number`, 0 and up. In this endless series neighbours differ
    in every respect.

    Hues follow the golden ratio, which spreads any number of them; patterns and lightness take
    turns.
    """
    hue = (number * 0.618_033_988_75 + 0.02) % 1.0
    pattern = PATTERNS[1:][number % 4] if number % 9 != 8 else "plain"
    dark = (number // 2) % 2 == 0
    fill = _from_hue(hue, 0.62 if dark else 0.36, 0.95)
    outline = _from_hue(hue + 0.14 + 0.08 * (number % 3), 0.82 if dark else 0.18, 0.9)
    background = _from_hue(hue + 0.45 + 0.1 * (number % 5) / 4, 0.16 if dark else 0.92, 0.7)
    accent = _from_hue(hue + 0.5, 0.32 if dark else 0.74, 0.6)
    return Style(fill, outline, pattern, background, accent)


def _from_hue(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _blend(image: Floats, share: Floats, colour: Colour) -> None:
    image += share[..., None] * (np.asarray(colour, np.float32) - image)


def _covered(distance: Floats, pixel: float) -> Floats:
    """The share of each pixel that lies inside, from the distance at its middle."""
    return np.asarray(np.clip(0.5 - distance / pixel, 0.0, 1.0), np.float32)


def _pattern(pattern: str, x: Floats, y: Floats, pixel: float) -> Floats:
    """The share of each pixel that shows the pattern's second colour."""
    turns = _PERIODS / 2
    if pattern == "striped":
        wave = np.abs(((x + y) * turns) % 1.0 - 0.5) - 0.25
        return _covered(wave / (turns * math.sqrt(2)), pixel)
    if pattern == "checked":
        sides = np.floor(x * 2 * turns) + np.floor(y * 2 * turns)
        return np.asarray(sides % 2, np.float32)
    if pattern == "dotted":
        across, up = (x * turns) % 1.0 - 0.5, (y * turns) % 1.0 - 0.5
        return _covered((np.hypot(across, up) - 0.27) / turns, pixel)
    if pattern == "ringed":
        wave = np.abs((np.hypot(x, y) * turns) % 1.0 - 0.5) - 0.25
        return _covered(wave / turns, pixel)
    if pattern == "plain":
        return np.zeros_like(x)
    raise ValueError(f"no such pattern: {pattern!r}; there are {', '.join(PATTERNS)}")


def _distance(shape: str | Floats, x: Floats, y: Floats) -> Floats:
    """Signed distances of points to a shape of radius 1."""
    if not isinstance(shape, str):
        return _distance_to_polygon(shape, x, y)
    radius = np.hypot(x, y)
    if shape == "circle":
        return np.asarray(radius - 0.92, np.float32)
    if shape == "ring":
        return np.asarray(np.abs(radius - 0.70) - 0.25, np.float32)
    if shape == "moon":
        return np.asarray(np.maximum(radius - 0.95, 0.74 - np.hypot(x - 0.48, y)), np.float32)
    if shape in _POLYGONS:
        return _distance_to_polygon(np.asarray(_POLYGONS[shape], np.float32), x, y)
    raise ValueError(f"no such shape: {shape!r}; there are {', '.join(SHAPES)}")


def _distance_to_polygon(corners: Floats, x: Floats, y: Floats) -> Floats:
    """Signed distances to a polygon: to its nearest edge, negative where a ray crosses edges an odd
    number of times."""
    start, end = corners[:, None, None], np.roll(corners, -1, axis=0)[:, None, None]
    edge = end - start
    across, up = x - start[..., 0], y - start[..., 1]
    along = np.clip((across * edge[..., 0] + up * edge[..., 1]) / (edge**2).sum(-1), 0.0, 1.0)
    nearest = np.hypot(across - along * edge[..., 0], up - along * edge[..., 1]).min(0)
    crosses = ((start[..., 1] > y) != (end[..., 1] > y)) & (
        across < edge[..., 0] * up / np.where(edge[..., 1] == 0, 1.0, edge[..., 1])
    )
    return np.asarray(np.where(crosses.sum(0) % 2 == 1, -nearest, nearest), np.float32)


@dataclass(frozen=True)
class Description:
    """Everything about an icon but its pixels."""

    shape: str
    style: Style
    placement: Placement
    caption: str


@dataclass(frozen=True)
class Captioned:
    """Icons with the prompts that describe them."""

    images: Images
    captions: list[str]
    shapes: list[str]
    styles: list[Style]


def captioned_icons(count: int, random: np.random.Generator) -> Captioned:
    """Icons for training the base, drawn as `described_icons` describes them."""
    icons = described_icons(count, random)
    shapes, styles = [icon.shape for icon in icons], [icon.style for icon in icons]
    images = draw(shapes, styles, [icon.placement for icon in icons])
    return Captioned(images, [icon.caption for icon in icons], shapes, styles)


def described_icons(count: int, random: np.random.Generator) -> list[Description]:
    """Icons of every kind.

    Most have named colours on a plain background. The others carry outlines, patterns and any
    colours, named in the caption or left to STYLE_WORD, so that the base already knows such drawing
    when an adapter needs it.
    """
    icons = []
    for _ in range(count):
        shape, size_word = str(random.choice(SHAPES)), ""
        if random.random() < 0.35:
            size_word = str(random.choice(["small", "big"]))
        kind = random.random()
        if kind < 0.62:
            style, words = _plain(random)
        elif kind < 0.80:
            style, words = _named_style(random)
        else:
            style, words = _any_style(random)
        caption = with_article(
            " ".join(word for word in (size_word, words[0], shape, words[1]) if word)
        )
        icons.append(Description(shape, style, placed(random, size_word), caption))
    return icons


def with_article(words: str) -> str:
    """The words with `a` or `an` before them, by their first letter."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _plain(random: np.random.Generator) -> tuple[Style, tuple[str, str]]:
    """A named colour on a named background, or on any light one; the words before and after the
    shape."""
    name = str(random.choice(list(COLOURS)))
    fill = _jittered(COLOURS[name], random)
    if random.random() < 0.65:
        ground = str(random.choice([other for other in COLOURS if other != name]))
        after = f"on {ground}" if random.random() < 0.6 else f"on {with_article(ground)} background"
        background = _jittered(COLOURS[ground], random)
    else:
        after, background = "", _light(random)
        while _apart(fill, background) < 50:
            # Darken a background that is too near the shape's colour, such as white on white or
            # yellow on cream.
            red, green, blue = background
            background = int(red * 0.85), int(green * 0.85), int(blue * 0.85)
    if random.random() < 0.05:
        name = ""
    return Style(fill, None, "plain", background, background), (name, after)


def _named_style(random: np.random.Generator) -> tuple[Style, tuple[str, str]]:
    """Named colours with an outline, a pattern or both; the caption names them all."""
    names = [str(name) for name in random.permutation(list(COLOURS))[:4]]
    fill, outline, background, accent = (_jittered(COLOURS[name], random) for name in names)
    outlined = random.random() < 0.6
    pattern = str(random.choice(PATTERNS if outlined else PATTERNS[1:]))
    after = [f"with {with_article(names[1])} outline"] if outlined else []
    if pattern == "plain":
        after.append(f"on {names[2]}")
        accent = background
    else:
        after.append(f"on {pattern} {names[2]} and {names[3]}")
    return Style(fill, outline if outlined else None, pattern, background, accent), (
        names[0],
        " ".join(after),
    )


def _any_style(random: np.random.Generator) -> tuple[Style, tuple[str, str]]:
    """Any colours that differ clearly from the shape's, with a caption of the style word or of
    words that name no colour."""
    fill = _any_colour(random)
    outline, background = _any_colour(random, fill), _any_colour(random, fill)
    accent = _any_colour(random, fill)
    outlined, pattern = random.random() < 0.7, str(random.choice(PATTERNS))
    if random.random() < 0.75:
        words = "", f"in {STYLE_WORD} style"
    else:
        words = "outlined" if outlined else "", "" if pattern == "plain" else f"on {pattern}"
    return Style(fill, outline if outlined else None, pattern, background, accent), words


def _jittered(colour: Colour, random: np.random.Generator) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + random.integers(-7, 8, 3), 0, 255)
    return int(red), int(green), int(blue)


def _light(random: np.random.Generator) -> Colour:
    red, green, blue = random.integers(224, 256, 3)
    return int(red), int(green), int(blue)


def _any_colour(random: np.random.Generator, unlike: Colour | None = None) -> Colour:
    while True:
        red, green, blue = random.integers(0, 256, 3)
        colour = int(red), int(green), int(blue)
        if unlike is None or _apart(colour, unlike) > 110:
            return colour


def _apart(one: Colour, other: Colour) -> float:
    return math.dist(one, other)
