"""Small pictures for the metadata of an asset, drawn from the preview a container sends along.

They live in Dagster's event log, so they are kept to a few kilobytes each.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEP: Final = {"h": timedelta(hours=1), "D": timedelta(days=1)}
_drawing: Final = threading.Lock()  # the figure below is reused: making one costs more than drawing on it
_figure: Figure | None = None


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
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a forecast preview lacks or malforms {error}") from error
    times = [start + step * number for number in range(len(mean))]
    return _draw(times, truth, mean, low, high, unit, title)


def _draw(
    times: list[datetime], truth: list[float], mean: list[float], low: list[float], high: list[float], unit: str, title: str
) -> bytes:
    global _figure  # noqa: PLW0603 - see above
    from matplotlib.dates import DateFormatter, DayLocator
    from matplotlib.figure import Figure

    with _drawing:
        if _figure is None:
            _figure = Figure(figsize=(6.4, 2.4), dpi=80, layout="constrained")
        _figure.clear()
        axes = _figure.add_subplot()
        axes.fill_between(times, low, high, color="#9ecae1", linewidth=0, label="80 % interval")  # type: ignore[arg-type]  # dates are converted
        axes.plot(times, truth, color="#333333", linewidth=0.9, label="held-out truth")  # type: ignore[arg-type]  # the same
        axes.plot(times, mean, color="#d94801", linewidth=0.9, label="forecast")  # type: ignore[arg-type]  # the same
        axes.set_title(title, fontsize=8)
        axes.set_ylabel(unit, fontsize=7)
        axes.tick_params(labelsize=6)
        axes.margins(x=0)
        axes.xaxis.set_major_locator(DayLocator(interval=max(1, len({t.date() for t in times}) // 8)))
        axes.xaxis.set_major_formatter(DateFormatter("%d %b"))
        axes.legend(fontsize=6, loc="upper right", frameon=False, ncols=3)
        sink = io.BytesIO()
        _figure.savefig(sink, format="png", pil_kwargs={"optimize": False})
    return sink.getvalue()


def as_markdown(picture: bytes, alt: str) -> str:
    """A PNG as Markdown that carries the picture itself."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(picture).decode()})"
