"""A meter's running total and consumption are distinguished; neither counts as the other."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from containers.forecast.consumption.meter_totals import is_total
from containers.forecast.consumption.preparation import RefusedDataError, prepare

CHECKS = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def outcome(folder: Path, minutes: int, values: NDArray[np.float64], step: int = 1) -> str:
    """The code of the refusal, or an empty text."""
    at = pd.date_range("2025-02-01", periods=len(values), freq=f"{minutes}min")[::step]
    lines = [
        f"{t:%Y-%m-%dT%H:%M:%SZ},{value!r}"
        for t, value in zip(at, values[::step].tolist(), strict=True)
    ]
    (folder / "a.csv").write_text("timestamp,consumption\n" + "\n".join(lines) + "\n")
    try:
        prepare([folder / "a.csv"], folder / "out", {})
    except RefusedDataError as refused:
        return refused.code
    return ""


def household(minutes: int, days: int, seed: int) -> NDArray[np.float64]:
    """kWh per interval with a daily shape, a standby load and chance."""
    hours = np.arange(days * 1440 // minutes) * minutes / 60
    shape = 0.3 + np.maximum(0, np.sin((hours % 24 - 6) / 24 * 2 * np.pi))
    return shape * np.random.default_rng(seed).lognormal(0, 0.4, len(hours)) * minutes / 60


@CHECKS
@given(
    minutes=st.sampled_from([5, 10, 15, 20, 30, 60, 1440]),
    unit=st.sampled_from([1.0, 1000.0, 0.001]),
    start=st.sampled_from([0.0, 12.3, 18_232.0, 91_000.5]),
    decimals=st.integers(0, 6),
    exchanged=st.none() | st.floats(0.05, 0.95),
    holiday=st.booleans(),
    lost=st.booleans(),
    newest_first=st.booleans(),
    seed=st.integers(0, 999),
)
@example(60, 1.0, 18_232.0, 3, None, False, False, False, 0)
@example(15, 1.0, 0.0, 3, 0.5, True, False, True, 1)
def test_a_meters_totals_are_refused(
    tmp_path: Path,
    minutes: int,
    unit: float,
    start: float,
    decimals: int,
    exchanged: float | None,
    holiday: bool,
    lost: bool,
    newest_first: bool,
    seed: int,
) -> None:
    used = household(minutes, 80 if minutes == 1440 else 30, seed)
    if holiday:
        used[len(used) // 3 : len(used) // 2] = 0
    totals = start + np.cumsum(used)
    if exchanged is not None:
        at = int(exchanged * len(used))
        totals[at:] -= totals[at]
    # A display has few digits, but shows use within the day.
    totals = np.round(totals * unit, decimals + (3 if unit < 1 else 0))
    if lost:
        totals[len(used) // 4] = 0
    if newest_first:
        at_times = pd.date_range("2025-02-01", periods=len(used), freq=f"{minutes}min")
        assert is_total(
            at_times.to_numpy().astype("datetime64[s]").astype(np.int64)[::-1],
            totals[::-1],
            minutes == 1440,
        )
    assert outcome(tmp_path, minutes, totals) == "meter_totals"


@CHECKS
@given(
    minutes=st.sampled_from([5, 15, 30, 60, 1440]),
    kind=st.sampled_from(
        ["household", "solar", "holiday", "steps", "rising", "whole", "night heating"]
    ),
    level=st.sampled_from([0.001, 1.0, 500.0]),
    seed=st.integers(0, 999),
)
def test_consumption_is_never_taken_for_totals(
    tmp_path: Path, minutes: int, kind: str, level: float, seed: int
) -> None:
    days = 80 if minutes == 1440 else 30
    used = household(minutes, days, seed) * level
    hour = np.arange(len(used)) * minutes / 60 % 24
    if kind == "solar":
        used[(hour > 8) & (hour < 19)] = 0
    elif kind == "holiday":
        used[10 : len(used) - 10] = 0
    elif kind == "steps":
        used = np.round(used / level * 4) * level
    elif kind == "rising":
        used *= np.linspace(1, 20, len(used))
    elif kind == "whole":
        used = np.round(used / level) * level
    elif kind == "night heating":
        used = np.where(hour < 6, used * 50, 0) if minutes < 1440 else used
    assert outcome(tmp_path, minutes, used) in ("", "consumption_constant", "consumption_spike")


@pytest.mark.parametrize(
    ("values", "daily"),
    [
        (np.linspace(8, 25, 40), True),
        (np.sort(household(1440, 50, 1)), True),
        (np.linspace(1, 2, 72), False),
        (np.array([1.0, 2.0, 4.0]), True),
        (np.array([5.0]), True),
        (np.zeros(700), False),
        (np.concatenate([np.zeros(600), np.ones(100)]), False),
        (np.arange(700) % 24 + 1.0, False),
        (np.arange(2700) % 96 / 4, False),
        (np.linspace(20, 5, 700), False),
    ],
    ids=range(10),
)
def test_consumption_that_only_rises_for_a_while_is_consumption(
    values: NDArray[np.float64], daily: bool
) -> None:
    times = np.arange(len(values), dtype=np.int64) * (86_400 if daily else 3600)
    assert not is_total(times, values, daily)


@pytest.mark.parametrize("daily", [False, True])
def test_a_short_stretch_of_totals_is_told_by_its_level(daily: bool) -> None:
    used = household(1440 if daily else 60, 20 if daily else 3, 5)
    times = np.arange(len(used), dtype=np.int64) * (86_400 if daily else 3600)
    assert is_total(times, 18_232 + np.cumsum(used), daily)
