"""Small pictures for the metadata of an asset, drawn from the preview a container sends along.

They live in Dagster's event log, so they are kept to a few kilobytes each.
"""

from __future__ import annotations

import base64
import io
import math
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D

_STEP: Final = {"h": timedelta(hours=1), "D": timedelta(days=1)}
_LARGEST: Final = 1e15  # what an axis can still be drawn for
_drawing: Final = threading.Lock()  # one canvas is shared by all drawings of the process


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
    from PIL import Image

    with _drawing:
        axes, truth_line, mean_line, band = _canvas()
        hours = [(at - times[0]).total_seconds() / 86_400 for at in times]
        truth_line.set_data(hours, truth)
        mean_line.set_data(hours, mean)
        band.set_verts([[*zip(hours, low, strict=True), *reversed(list(zip(hours, high, strict=True)))]])
        seen = [value for value in (*truth, *low, *high) if value == value]
        axes.set_xlim(hours[0], hours[-1])
        axes.set_ylim(min(0.0, *seen), max(seen) * 1.15 or 1.0)
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_ylabel(unit, fontsize=7, parse_math=False)
        every = max(1, round(hours[-1] / 8))
        days = range(0, int(hours[-1]) + 1, every)
        axes.set_xticks(list(days), [f"{times[0] + timedelta(days=day):%d %b}" for day in days])
        figure = axes.get_figure(root=True)
        assert figure is not None  # noqa: S101 - the axes were made on it
        sink = io.BytesIO()
        figure.savefig(sink, format="raw")
        width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
    picture = Image.frombuffer("RGBA", (width, height), sink.getvalue()).convert("RGB").quantize(32)
    compressed = io.BytesIO()
    picture.save(compressed, format="png")
    return compressed.getvalue()


@cache
def _canvas() -> tuple[Axes, Line2D, Line2D, PolyCollection]:
    """The axes every forecast is drawn on: making new ones costs several times what moving their lines does."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.4), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.075, 0.11, 0.915, 0.79))
    band = PolyCollection([], facecolor="#9ecae1", edgecolor="none", label="80 % interval")
    axes.add_collection(band, autolim=False)
    (truth,) = axes.plot([], [], color="#333333", linewidth=0.9, label="held-out truth")
    (mean,) = axes.plot([], [], color="#d94801", linewidth=0.9, label="forecast")
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6, loc="upper right", frameon=False, ncols=3)
    return axes, truth, mean, band


def as_markdown(picture: bytes, alt: str) -> str:
    """A PNG as Markdown that carries the picture itself."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(picture).decode()})"
