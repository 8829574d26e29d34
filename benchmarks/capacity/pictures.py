"""Capacity against demand, as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.capacity.simulator import MICROSECONDS, Instance, Run
from benchmarks.capacity.traces import HOUR, Trace

COLOURS: Final = {
    "fixed_for_peak": "#999999",
    "target_tracking": "#8c564b",
    "backlog": "#e377c2",
    "usage_rate": "#9467bd",
    "knative": "#17becf",
    "keda": "#bcbd22",
    "oracle": "#2ca02c",
    "ours": "#d94801",
}
DEMAND: Final = "#c6dbef"
DRAWN: Final = ("fixed_for_peak", "usage_rate", "oracle", "ours")
WIDTH, HEIGHT = 1200, 420
LEFT, RIGHT, UPPER, LOWER = 60, 1180, 50, 380


def draw(trace: Trace, runs: Mapping[str, Run], instance: Instance, folder: Path) -> Path:
    """Draw the instances that served under some of the policies, and the instances that the demand
    of each moment would have kept busy.

    Returns:
        the file, which has the trace's name.
    """
    end = max(run.changes[-1][0] for run in runs.values())
    step = end / (RIGHT - LEFT)
    edges = np.arange(RIGHT - LEFT + 1) * step
    came = np.searchsorted(trace.arrivals, np.round(edges * MICROSECONDS).astype(np.int64))
    demand = np.diff(came) / step / instance.rate
    lines = {name: _serving(runs[name], edges[:-1]) for name in DRAWN if name in runs}
    highest = max(
        [1.0, float(np.quantile(demand, 0.995)), *(float(v.max()) for v in lines.values())]
    )
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)

    def down(value: float) -> float:
        return LOWER - (LOWER - UPPER) * min(value / (highest * 1.05), 1.0)

    for place, value in enumerate(demand.tolist()):
        canvas.line((LEFT + place, LOWER, LEFT + place, down(value)), fill=DEMAND)
    for name, values in lines.items():
        heights = [down(value) for value in values.tolist()]
        points = [
            point
            for place, height in enumerate(heights)
            for point in ((LEFT + place, height), (LEFT + place + 1, height))
        ]
        canvas.line(points, fill=COLOURS[name], width=2)
    canvas.rectangle((LEFT, UPPER, RIGHT, LOWER), outline="black")
    every = max(1, round(highest / 6))
    for value in range(0, int(highest) + 1, every):
        canvas.line((LEFT - 5, down(value), LEFT, down(value)), fill="black")
        canvas.text((LEFT - 8, down(value)), str(value), fill="black", font=font, anchor="rm")
    hours = end / HOUR
    unit, size = ("day", 24.0) if hours > 72 else ("hour", 1.0)
    apart = max(1, round(hours / size / 8))
    for number in range(0, int(hours / size) + 1, apart):
        across = LEFT + number * size / hours * (RIGHT - LEFT)
        canvas.line((across, LOWER, across, LOWER + 5), fill="black")
        canvas.text((across, LOWER + 8), f"{unit} {number}", fill="black", font=font, anchor="mt")
    canvas.text((LEFT, 8), f"{trace.name}: instances that serve", fill="black", font=font)
    across = RIGHT
    for name, colour in (*((name, COLOURS[name]) for name in lines), ("demand", DEMAND)):
        across -= int(font.getlength(name)) + 30
        canvas.rectangle((across, 12, across + 14, 22), fill=colour)
        canvas.text((across + 18, 8), name, fill="black", font=font)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trace.name}.png"
    picture.save(path, optimize=True)
    return path


def _serving(run: Run, moments: np.ndarray) -> np.ndarray:
    """Serving instances at each moment."""
    times = np.array([change[0] for change in run.changes])
    serving = np.array([change[2] for change in run.changes])
    return serving[np.maximum(np.searchsorted(times, moments, side="right") - 1, 0)]
