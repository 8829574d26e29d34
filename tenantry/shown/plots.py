"""Small pictures for the metadata of an asset, drawn from the preview a container sends along.

They live in Dagster's event log, so they are kept to a few kilobytes each.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, Final

_STEP: Final = {"h": timedelta(hours=1), "D": timedelta(days=1)}
_LARGEST: Final = 1e15  # the largest value that an axis can be drawn for
_MAX_POINTS: Final = 2000
_RANGES: Final = 20
_WIDTH: Final = 560  # pixels
_HEIGHT: Final = 210  # pixels
_FRAME: Final = (46, 552, 24, 188)  # left, right, upper and lower edge of the axes, pixels
_FINER: Final = 2  # plots are drawn this many times larger and reduced, for smooth lines
_BAND: Final = "#9ecae1"
_TRUTH: Final = "#333333"
_MEAN: Final = "#d94801"


def plot_of_preview(preview: Mapping[str, Any], title: str) -> bytes | None:
    """The picture a preview asks for, as PNG; None for a preview that asks for none.

    A preview of kind ``forecast`` shows the held-out truth beside mean and 80 % interval.

    Raises:
        ValueError: it claims a kind known here, but lacks a field of that kind.
    """
    if preview.get("kind") != "forecast":
        return None
    try:
        start = datetime.fromisoformat(str(preview["local_start"]))
        step = _STEP[str(preview["frequency"])]
        truth = [float("nan") if value is None else float(value) for value in preview["truth"]]
        mean, low, high = (
            [float(value) for value in preview[name]] for name in ("mean", "q10", "q90")
        )
        unit = str(preview["unit"])
        times = [start + step * number for number in range(len(mean))]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a forecast preview lacks or malforms {error}") from error
    if len(times) < 2 or not len(truth) == len(mean) == len(low) == len(high):
        raise ValueError(
            "a forecast preview needs truth, mean, q10 and q90 of one length, at least two points"
        )
    # The truth may have gaps; a forecast has none.
    if not all(
        abs(value) <= _LARGEST
        for value in (*mean, *low, *high, *(v for v in truth if not math.isnan(v)))
    ):
        raise ValueError(
            f"a forecast preview holds a value that is no number or beyond {_LARGEST:g}"
        )
    return plot_of_series(times, mean, low, high, unit, title, truth)


def plot_of_losses(points: Any, title: str) -> bytes:
    """The curve of a training: ``points`` are pairs of step and loss, as PNG.

    Raises:
        ValueError: they are not at least two pairs of finite numbers, in order of step.
    """
    try:
        steps, losses = zip(*((float(step), float(loss)) for step, loss in points), strict=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a loss curve needs pairs of step and loss: {error}") from error
    if not 2 <= len(steps) <= _MAX_POINTS or any(
        after <= before for before, after in pairwise(steps)
    ):
        raise ValueError(f"a loss curve needs 2 to {_MAX_POINTS} points in order of step")
    if not all(abs(value) <= _LARGEST for value in (*steps, *losses)):
        raise ValueError(f"a loss curve holds a value that is no number or beyond {_LARGEST:g}")
    axes = _Axes(min(0.0, *losses), max(losses))
    across = [(step - steps[0]) / (steps[-1] - steps[0]) for step in steps]
    axes.draw.line(
        [axes.place(x, y) for x, y in zip(across, losses, strict=True)], fill=_MEAN, width=_FINER
    )
    axes.frame(title, "loss")
    for value in _ticks(steps[0], steps[-1]):
        axes.tick((value - steps[0]) / (steps[-1] - steps[0]), f"{value:g}")
    return axes.png()


def plot_of_counts(values: Sequence[float], title: str) -> bytes | None:
    """How many of some finite values lie in each of twenty equal ranges, as PNG; None without a
    value, or where one is too large to draw."""
    if not values or not all(abs(value) <= _LARGEST for value in values):
        return None
    low, high = min(values), max(values)
    width = (high - low) / _RANGES or 1.0
    counts = [0] * _RANGES
    for value in values:
        counts[min(int((value - low) / width), _RANGES - 1)] += 1
    axes = _Axes(0.0, max(counts))
    for number, count in enumerate(counts):
        if count:
            left, upper = axes.place((number + 0.1) / _RANGES, count)
            right, lower = axes.place((number + 0.9) / _RANGES, 0)
            axes.draw.rectangle((left, upper, right, lower), fill=_BAND)
    axes.frame(title, "tenants")
    for value in _ticks(low, low + width * _RANGES):
        axes.tick((value - low) / (width * _RANGES), f"{value:g}")
    return axes.png()


def plot_of_series(
    times: Sequence[datetime],
    mean: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    unit: str,
    title: str,
    truth: Sequence[float] = (),
) -> bytes:
    """Two or more finite values in time, as PNG. Their interval is drawn if ``low`` and ``high``
    are not empty. The truth is drawn with its gaps, which are NaN."""
    shown = (*truth, *low, *high) if low else (*truth, *mean)
    seen = [value for value in shown if not math.isnan(value)]
    axes = _Axes(min(0.0, *seen), max(seen))
    draw = axes.draw

    def place(number: int, value: float) -> tuple[float, float]:
        return axes.place(number / (len(times) - 1), value)

    if low:
        draw.polygon(
            [place(n, v) for n, v in enumerate(low)]
            + [place(n, v) for n, v in reversed(list(enumerate(high)))],
            fill=_BAND,
        )
    for run in _runs_of_numbers(truth):
        draw.line([place(n, truth[n]) for n in run], fill=_TRUTH, width=_FINER)
    draw.line([place(n, v) for n, v in enumerate(mean)], fill=_MEAN, width=_FINER)
    axes.frame(title, unit)
    days = (times[-1] - times[0]).total_seconds() / 86_400
    for day in range(0, int(days) + 1, max(1, round(days / 8))):
        axes.tick(day / days, f"{times[0] + timedelta(days=day):%d %b}")
    legend = {"80 % interval": (low, _BAND), "held-out truth": (truth, _TRUTH)}
    entries = [(name, colour) for name, (values, colour) in legend.items() if values]
    axes.legend([*entries, ("forecast", _MEAN)])
    return axes.png()


def plot_of_capacity(
    times: Sequence[datetime], instances: Sequence[float], demand: Sequence[float], title: str
) -> bytes:
    """Instances in time, over the demand as an area, as PNG. The largest demand is as high as the
    most instances; ``title`` says how much it is."""
    axes, last = _Axes(0.0, max(1.0, *instances)), len(times) - 1
    highest = max(demand, default=0.0)
    if highest > 0:
        scale = max(1.0, *instances) / highest
        outline = [axes.place(n / last, value * scale) for n, value in enumerate(demand)]
        axes.draw.polygon([axes.place(0, 0), *outline, axes.place(1, 0)], fill=_BAND)
    steps = []
    for number, value in enumerate(instances):
        steps += [axes.place(number / last, value), axes.place(min(1, (number + 1) / last), value)]
    axes.draw.line(steps, fill=_MEAN, width=_FINER)
    axes.frame(title, "instances")
    for number in range(0, last + 1, max(1, last // 6)):
        axes.tick(number / last, f"{times[number]:%H:%M}")
    axes.legend([("requests", _BAND), ("instances", _MEAN)])
    return axes.png()


class _Axes:
    """An empty plot whose vertical axis goes from ``bottom`` to a little above ``top``; drawn with
    Pillow.

    A pack draws hundreds of plots, and a plotting library takes twenty times as long for each.
    """

    def __init__(self, bottom: float, top: float) -> None:
        from PIL import Image, ImageDraw

        self._picture = Image.new("RGB", (_WIDTH * _FINER, _HEIGHT * _FINER), "white")
        self.draw = ImageDraw.Draw(self._picture)
        self._bottom = bottom
        self._top = bottom + ((top - bottom) * 1.15 or 1.0)
        self._left, self._right, self._upper, self._lower = (edge * _FINER for edge in _FRAME)

    def place(self, across: float, value: float) -> tuple[float, float]:
        """Where a value lies, a share ``across`` of the way from left to right."""
        down = self._lower - (self._lower - self._upper) * (value - self._bottom) / (
            self._top - self._bottom
        )
        return self._left + (self._right - self._left) * across, down

    def frame(self, title: str, unit: str) -> None:
        """Draw frame, vertical ticks, title and unit over the plot so far."""
        self.draw.rectangle(
            (self._left, self._upper, self._right, self._lower), outline="black", width=_FINER // 2
        )
        for value in _ticks(self._bottom, self._top):
            left, down = self.place(0, value)
            self.draw.line((left - 3 * _FINER, down, left, down), fill="black", width=_FINER // 2)
            self.draw.text(
                (left - 5 * _FINER, down), f"{value:g}", font=_font(9), fill="black", anchor="rm"
            )
        middle = (self._left + self._right) / 2
        self.draw.text((middle, 6 * _FINER), title[:100], font=_font(11), fill="black", anchor="mt")
        self.draw.text(
            (4 * _FINER, 6 * _FINER), unit[:20], font=_font(10), fill="black", anchor="lt"
        )

    def tick(self, across: float, label: str) -> None:
        """A tick on the horizontal axis."""
        x, _ = self.place(across, 0.0)
        self.draw.line(
            (x, self._lower, x, self._lower + 3 * _FINER), fill="black", width=_FINER // 2
        )
        self.draw.text(
            (x, self._lower + 5 * _FINER), label, font=_font(9), fill="black", anchor="mt"
        )

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """The meaning of the colours, in the upper right corner."""
        across: float = self._right - 8 * _FINER
        for name, colour in reversed(entries):
            self.draw.text(
                (across, self._upper + 5 * _FINER), name, font=_font(9), fill="black", anchor="rt"
            )
            across -= self.draw.textlength(name, font=_font(9)) + 4 * _FINER
            patch = (
                across - 14 * _FINER,
                self._upper + 7 * _FINER,
                across,
                self._upper + 11 * _FINER,
            )
            self.draw.rectangle(patch, fill=colour)
            across -= 24 * _FINER

    def png(self) -> bytes:
        """The picture."""
        from PIL import Image

        compressed = io.BytesIO()
        small = self._picture.reduce(_FINER).quantize(palette=_palette(), dither=Image.Dither.NONE)
        small.save(compressed, format="png", bits=4)
        return compressed.getvalue()


@cache
def _palette() -> Any:
    """Every plot's sixteen colours: those that lines and areas have, and the blends at their edges.

    Finding the best colours of a picture takes longer than drawing it.
    """
    from PIL import Image, ImageColor

    white, band, truth, mean, black = (
        ImageColor.getrgb(c)[:3] for c in ("white", _BAND, _TRUTH, _MEAN, "black")
    )
    colours: list[tuple[int, ...]] = [white, band, truth, mean, black]
    colours += [_blend(white, black, share) for share in (0.2, 0.4, 0.6, 0.8)]
    colours += [
        _blend(*pair, 0.5)
        for pair in ((white, band), (white, mean), (band, truth), (band, mean), (truth, mean))
    ]
    colours += [_blend(band, mean, 0.25), _blend(band, truth, 0.25)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in colours for value in colour])
    return palette


def _blend(one: Sequence[int], other: Sequence[int], share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _runs_of_numbers(values: Sequence[float]) -> Iterator[range]:
    """The stretches of two or more values that are numbers: a gap is not drawn over."""
    start = 0
    for number, value in enumerate([*values, math.nan]):
        if math.isnan(value):
            if number - start > 1:
                yield range(start, number)
            start = number + 1


def _ticks(bottom: float, top: float) -> Iterator[float]:
    """Four to nine round values (1, 2 or 5 times a power of ten apart) within an axis."""
    rough = (top - bottom) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.99)
    first = math.ceil(bottom / step)
    for number in range(first, first + 12):
        if number * step <= top:
            yield number * step


@cache
def _font(points: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=points * _FINER)


def as_markdown(picture: bytes, alt: str) -> str:
    """A PNG or JPEG as Markdown that carries the picture itself."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"![{alt}](data:image/{kind};base64,{base64.b64encode(picture).decode()})"
