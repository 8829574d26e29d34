"""Small pictures for the metadata of an asset, drawn from the preview a container sends along.

They live in Dagster's event log, so they are kept to a few kilobytes each.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

_STEP: Final = {"h": timedelta(hours=1), "D": timedelta(days=1)}
_LARGEST: Final = 1e15  # what an axis can still be drawn for
_WIDTH: Final = 560  # pixels
_HEIGHT: Final = 210  # pixels
_FRAME: Final = (46, 552, 24, 188)  # left, right, upper and lower edge of the axes, pixels
_FINER: Final = 2  # drawn so many times as large and reduced, for smooth lines
_BAND: Final = "#9ecae1"
_TRUTH: Final = "#333333"
_MEAN: Final = "#d94801"


def plot_of_preview(preview: Mapping[str, Any], title: str) -> bytes | None:
    """The picture a preview asks for, as PNG; None for a preview that asks for none.

    A preview of kind ``forecast`` shows the held-out truth beside mean and 80 % interval.

    Raises:
        ValueError: it says it is of a kind known here and lacks what that kind needs.
    """
    if preview.get("kind") != "forecast":
        return None
    try:
        start = datetime.fromisoformat(str(preview["local_start"]))
        step = _STEP[str(preview["frequency"])]
        truth = [float("nan") if value is None else float(value) for value in preview["truth"]]
        mean, low, high = ([float(value) for value in preview[name]] for name in ("mean", "q10", "q90"))
        unit = str(preview["unit"])
        times = [start + step * number for number in range(len(mean))]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a forecast preview lacks or malforms {error}") from error
    if len(times) < 2 or not len(truth) == len(mean) == len(low) == len(high):
        raise ValueError("a forecast preview needs truth, mean, q10 and q90 of one length, at least two points")
    # The truth may have gaps; a forecast has none.
    if not all(abs(value) <= _LARGEST for value in (*mean, *low, *high, *(v for v in truth if not math.isnan(v)))):
        raise ValueError(f"a forecast preview holds a value that is no number or beyond {_LARGEST:g}")
    return _draw(times, truth, mean, low, high, unit, title)


def _draw(
    times: list[datetime],
    truth: list[float],
    mean: list[float],
    low: list[float],
    high: list[float],
    unit: str,
    title: str,
) -> bytes:
    """Draw with Pillow: a pack draws hundreds of these, and a plotting library takes twenty times as long for each."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (_WIDTH * _FINER, _HEIGHT * _FINER), "white")
    draw = ImageDraw.Draw(picture)
    seen = [value for value in (*truth, *low, *high) if not math.isnan(value)]
    bottom = min(0.0, *seen)
    top = bottom + ((max(seen) - bottom) * 1.15 or 1.0)
    left, right, upper, lower = (edge * _FINER for edge in _FRAME)

    def place(number: int, value: float) -> tuple[float, float]:
        across = left + (right - left) * number / (len(times) - 1)
        return across, lower - (lower - upper) * (value - bottom) / (top - bottom)

    draw.polygon(
        [place(n, v) for n, v in enumerate(low)] + [place(n, v) for n, v in reversed(list(enumerate(high)))], fill=_BAND
    )
    for run in _runs_of_numbers(truth):
        draw.line([place(n, truth[n]) for n in run], fill=_TRUTH, width=_FINER)
    draw.line([place(n, v) for n, v in enumerate(mean)], fill=_MEAN, width=_FINER)
    draw.rectangle((left, upper, right, lower), outline="black", width=_FINER // 2)
    for value in _ticks(bottom, top):
        _, down = place(0, value)
        draw.line((left - 3 * _FINER, down, left, down), fill="black", width=_FINER // 2)
        draw.text((left - 5 * _FINER, down), f"{value:g}", font=_font(9), fill="black", anchor="rm")
    days = (times[-1] - times[0]).total_seconds() / 86_400
    for day in range(0, int(days) + 1, max(1, round(days / 8))):
        across = left + (right - left) * day / days
        draw.line((across, lower, across, lower + 3 * _FINER), fill="black", width=_FINER // 2)
        label = f"{times[0] + timedelta(days=day):%d %b}"
        draw.text((across, lower + 5 * _FINER), label, font=_font(9), fill="black", anchor="mt")
    draw.text(((left + right) / 2, 6 * _FINER), title[:100], font=_font(11), fill="black", anchor="mt")
    draw.text((4 * _FINER, 6 * _FINER), unit[:20], font=_font(10), fill="black", anchor="lt")
    across = right - 8 * _FINER
    for name, colour in reversed((("80 % interval", _BAND), ("held-out truth", _TRUTH), ("forecast", _MEAN))):
        draw.text((across, upper + 5 * _FINER), name, font=_font(9), fill="black", anchor="rt")
        across -= draw.textlength(name, font=_font(9)) + 4 * _FINER
        draw.rectangle((across - 14 * _FINER, upper + 7 * _FINER, across, upper + 11 * _FINER), fill=colour)
        across -= 24 * _FINER
    compressed = io.BytesIO()
    picture.reduce(_FINER).quantize(32).save(compressed, format="png")
    return compressed.getvalue()


def _runs_of_numbers(values: list[float]) -> Iterator[range]:
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
    """A PNG as Markdown that carries the picture itself."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(picture).decode()})"
