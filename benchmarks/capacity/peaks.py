"""A planned and an unplanned peak, as the figures of article 002 show them: what a timetable and
the usage rate make of the wait.

    python -m benchmarks.capacity.peaks --picture peaks.png

Six hours of requests before instances of the capacity benchmark. The planned peak is in the third
hour, and the timetable raises the minimum a start time before it. The unplanned one is half an hour
in the fifth. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.capacity.rivals import Constant, usage_rate
from benchmarks.capacity.simulator import (
    MICROSECONDS,
    Bounds,
    Instance,
    Policy,
    Run,
    View,
    simulate,
)

HOUR: Final = 3600
HOURS: Final = 6
USUAL: Final = 6.0  # requests a second
PLANNED: Final = (2 * HOUR, 3 * HOUR, 24.0)
UNPLANNED: Final = (4 * HOUR, 4 * HOUR + HOUR // 2, 20.0)
PLANNED_MINIMUM: Final = 4
WINDOW: Final = 120
SEED: Final = 20_260_101
GOAL: Final = 10.0  # seconds: the single digit that the article accepts
COLOURS: Final = {
    "fixed": "#999999",
    "usage_rate": "#9467bd",
    "usage_rate_and_timetable": "#d94801",
}
WIDTH, HEIGHT = 1200, 620
LEFT, RIGHT = 70, 1180
UPPER_PANEL, LOWER_PANEL = (50, 300), (350, 580)


@dataclass
class Timetabled:
    """A policy whose minimum the timetable raises for the planned peak."""

    inner: Policy
    start_seconds: float

    @property
    def interval(self) -> float:
        """Seconds between two decisions."""
        return self.inner.interval

    def decide(self, view: View) -> int:
        """What the policy says, and the timetable's minimum at least."""
        begin, end, _ = PLANNED
        planned = begin - self.start_seconds <= view.now < end
        return max(self.inner.decide(view), PLANNED_MINIMUM if planned else 1)


def arrivals() -> np.ndarray:
    """The requests, in microseconds."""
    random = np.random.default_rng(SEED)
    rates = np.full(HOURS * HOUR, USUAL)
    for begin, end, rate in (PLANNED, UNPLANNED):
        rates[begin:end] = rate
    counts = random.poisson(rates)
    seconds = np.repeat(np.arange(len(rates)), counts) + random.random(int(counts.sum()))
    return np.sort(np.round(seconds * MICROSECONDS).astype(np.int64))


def waits_by_window(came: np.ndarray, run: Run) -> list[float]:
    """The wait of the 95th percentile of the requests of each window, in seconds."""
    windows = came // (WINDOW * MICROSECONDS)
    return [
        float(np.quantile(run.waits[windows == number], 0.95)) / MICROSECONDS
        for number in range(HOURS * HOUR // WINDOW)
    ]


def figures(waits: Sequence[float], peak: tuple[int, int, float]) -> dict[str, float]:
    """The largest wait from a peak's beginning to an hour after it, and the minutes in which it was
    above the goal."""
    begin, end, _ = peak
    seen = waits[begin // WINDOW : (end + HOUR) // WINDOW]
    over = sum(value > GOAL for value in seen) * WINDOW / 60
    return {"largest_p95_s": round(max(seen), 1), "minutes_above_10_s": over}


def draw(came: np.ndarray, runs: Mapping[str, Run], path: Path) -> None:
    """Instances against demand above, waits below."""
    instance = Instance()
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    across = (RIGHT - LEFT) / (HOURS * HOUR)

    def place(
        panel: tuple[int, int], second: float, value: float, most: float
    ) -> tuple[float, float]:
        upper, lower = panel
        return LEFT + min(second, HOURS * HOUR) * across, lower - (lower - upper) * min(
            value / most, 1.0
        )

    demand = np.bincount(came // (60 * MICROSECONDS), minlength=HOURS * 60) / 60 / instance.rate
    for minute, value in enumerate(demand.tolist()):
        box = (*place(UPPER_PANEL, minute * 60, value, 7), LEFT + (minute + 1) * 60 * across, 300)
        canvas.rectangle(box, fill="#c6dbef")
    for name, run in runs.items():
        points = []
        for (begin, _, serving), (end, _, _) in zip(
            run.changes, [*run.changes[1:], (HOURS * HOUR, 0, 0)], strict=True
        ):
            points += [place(UPPER_PANEL, begin, serving, 7), place(UPPER_PANEL, end, serving, 7)]
        canvas.line(points, fill=COLOURS[name], width=2)
        waits = waits_by_window(came, run)
        line = [place(LOWER_PANEL, n * WINDOW, value, 600) for n, value in enumerate(waits)]
        canvas.line(line, fill=COLOURS[name], width=2)
    for (upper, lower), most, every, title in (
        (UPPER_PANEL, 7, 1, "instances; shaded: those that the demand keeps busy"),
        (LOWER_PANEL, 600, 100, "wait in seconds, 95th percentile of two minutes"),
    ):
        canvas.rectangle((LEFT, upper, RIGHT, lower), outline="black")
        canvas.text((LEFT, upper - 20), title, fill="black", font=font)
        for value in range(0, most + 1, every):
            _, down = place((upper, lower), 0, value, most)
            canvas.text((LEFT - 8, down), str(value), fill="black", font=font, anchor="rm")
    for hour in range(HOURS + 1):
        where = (LEFT + hour * HOUR * across, 590)
        canvas.text(where, f"{hour} h", fill="black", font=font, anchor="mt")
    end = RIGHT
    for name in runs:
        end -= int(font.getlength(name)) + 30
        canvas.rectangle((end, 12, end + 14, 22), fill=COLOURS[name])
        canvas.text((end + 18, 8), name, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(64).save(path, optimize=True)


def replayed(came: np.ndarray, instance: Instance) -> dict[str, Run]:
    """One instance all the time; the usage rate; and that with the timetable."""
    bounds = Bounds(1, 10)
    planned = Timetabled(usage_rate(instance, bounds), instance.start_seconds)
    policies: dict[str, Policy] = {
        "fixed": Constant(1),
        "usage_rate": usage_rate(instance, bounds),
        "usage_rate_and_timetable": planned,
    }
    return {
        name: simulate(came, HOURS * HOUR, policy, bounds, instance)
        for name, policy in policies.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all three, and draw them if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--picture", type=Path, help="where to draw instances and waits, as PNG")
    chosen = parser.parse_args(arguments)
    instance, came = Instance(), arrivals()
    runs = replayed(came, instance)
    found = {
        name: {
            "cost": round(run.instance_seconds / HOUR, 2),
            "planned": figures(waits_by_window(came, run), PLANNED),
            "unplanned": figures(waits_by_window(came, run), UNPLANNED),
        }
        for name, run in runs.items()
    }
    if chosen.picture is not None:
        draw(came, runs, chosen.picture)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
