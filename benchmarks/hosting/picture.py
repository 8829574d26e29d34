"""Cost against latency, as PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

COLOURS: Final = {
    "single_model": "#8c564b",
    "multi_model": "#d94801",
    "multi_container": "#9467bd",
    "serverless": "#2ca02c",
}
WIDTH, HEIGHT = 900, 480
LEFT, RIGHT, UPPER, LOWER = 80, 870, 60, 420


def draw(rows: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw each shape's line from its p50 to its p99, a dot at the p95, over what an hour costs.

    Both axes are logarithmic.
    """
    shown = {name: row for name, row in rows.items() if row["usd_per_hour"] > 0 and row["p50_ms"]}
    latencies = [row[key] for row in shown.values() for key in ("p50_ms", "p99_ms")]
    costs = [row["usd_per_hour"] for row in shown.values()]
    across, down = _scale(latencies, LEFT, RIGHT), _scale(costs, LOWER, UPPER)
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    canvas.rectangle((LEFT, UPPER, RIGHT, LOWER), outline="black")
    for value in _round_values(latencies):
        canvas.line((across(value), UPPER, across(value), LOWER), fill="#e0e0e0")
        canvas.text((across(value), LOWER + 6), f"{value:g}", fill="black", font=font, anchor="mt")
    for value in _round_values(costs):
        canvas.line((LEFT, down(value), RIGHT, down(value)), fill="#e0e0e0")
        canvas.text((LEFT - 6, down(value)), f"{value:g}", fill="black", font=font, anchor="rm")
    canvas.text((LEFT, 10), title, fill="black", font=font)
    canvas.text((LEFT, 34), "USD an hour", fill="black", font=font)
    said = "latency in ms: a line from p50 to p99, a dot at p95"
    canvas.text((RIGHT, LOWER + 26), said, fill="black", font=font, anchor="rt")
    for place, (name, row) in enumerate(shown.items()):
        height, colour = down(row["usd_per_hour"]), COLOURS[name]
        ends = (across(row["p50_ms"]), height, across(row["p99_ms"]), height)
        canvas.line(ends, fill=colour, width=4)
        middle = across(row["p95_ms"])
        canvas.ellipse((middle - 6, height - 6, middle + 6, height + 6), fill=colour)
        # Every other name stands below its line: two shapes may cost the same.
        above, anchor = (8, "ls") if place % 2 else (-8, "lt")
        canvas.text((ends[0], height - above), name, fill=colour, font=font, anchor=anchor)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def _scale(values: list[float], first: float, last: float) -> Callable[[float], float]:
    """A logarithmic scale with some room around the values."""
    low, high = math.log(min(values) / 1.6), math.log(max(values) * 1.6)

    def place(value: float) -> float:
        return first + (last - first) * (math.log(value) - low) / (high - low)

    return place


def _round_values(values: list[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten within a scale."""
    low, high = min(values) / 1.6, max(values) * 1.6
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [value for value in every if low <= value <= high]
