"""Article 002's figure in shape: the wait holds through a planned peak, and comes back after one
that nobody planned."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.capacity import peaks
from benchmarks.capacity.simulator import Instance


def test_the_wait_holds_through_a_planned_peak_and_comes_back_after_another(tmp_path: Path) -> None:
    came = peaks.arrivals()
    runs = peaks.replayed(came, Instance())
    waits = {name: peaks.waits_by_window(came, run) for name, run in runs.items()}
    planned = {name: peaks.figures(found, peaks.PLANNED) for name, found in waits.items()}
    unplanned = {name: peaks.figures(found, peaks.UNPLANNED) for name, found in waits.items()}
    both = "usage_rate_and_timetable"
    assert planned[both]["largest_p95_s"] < peaks.GOAL < planned["usage_rate"]["largest_p95_s"]
    assert 0 < unplanned[both]["minutes_above_10_s"] < 15
    assert unplanned["fixed"]["minutes_above_10_s"] == 90, "which is until the end"
    peaks.draw(came, runs, tmp_path / "peaks.png")
    with Image.open(tmp_path / "peaks.png") as picture:
        assert picture.size == (peaks.WIDTH, peaks.HEIGHT)
