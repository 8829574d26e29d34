"""Pictures of forecasts: they are small, and malformed previews are not drawn."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.shown.plots import as_markdown, plot_of_preview

HOURS = 168


def preview(**changed: Any) -> dict[str, Any]:
    chance = random.Random(7)
    mean = [10 + 5 * math.sin(hour / 24 * 2 * math.pi) + chance.random() for hour in range(HOURS)]
    return {
        "kind": "forecast",
        "local_start": "2026-01-01T00:00:00",
        "frequency": "h",
        "unit": "kWh",
        "truth": [
            None if hour == 5 else value + chance.gauss(0, 1) for hour, value in enumerate(mean)
        ],
        "mean": mean,
        "q10": [value - 2 for value in mean],
        "q90": [value + 2 for value in mean],
        **changed,
    }


@pytest.fixture(scope="module")
def drawn() -> bytes:
    picture = plot_of_preview(preview(), "acme")
    assert picture is not None
    return picture


def test_a_forecast_is_drawn_in_a_few_kilobytes() -> None:
    picture = plot_of_preview(preview(), "acme, v1")
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 15_000
    assert as_markdown(picture, "a week").startswith("![a week](data:image/png;base64,iVBOR")


def test_two_forecasts_make_two_pictures_and_the_same_one_makes_the_same() -> None:
    first, again = plot_of_preview(preview(), "acme"), plot_of_preview(preview(), "acme")
    other = plot_of_preview(preview(frequency="D"), "acme")
    assert first == again != other


def test_the_wildest_forecast_is_still_small() -> None:
    chance = random.Random(3)
    noise = [chance.uniform(0, 1000) for _ in range(HOURS)]
    wild = preview(
        truth=noise,
        mean=noise[::-1],
        q10=[value / 2 for value in noise],
        q90=[value * 2 for value in noise],
    )
    picture = plot_of_preview(wild, "acme" * 15)
    assert picture is not None
    assert len(picture) < 25_000


@pytest.mark.parametrize("other", [{}, {"kind": "picture"}, {"kind": None, "mean": []}])
def test_a_preview_of_another_kind_asks_for_no_picture(other: dict[str, Any]) -> None:
    assert plot_of_preview(other, "acme") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"local_start": "today"},
        {"local_start": "9999-12-31T00:00:00"},
        {"frequency": "minute"},
        {"frequency": ["h"]},
        {"mean": []},
        {"mean": [1.0], "truth": [1.0], "q10": [1.0], "q90": [1.0]},
        {"mean": 5},
        {"mean": ["a"] * HOURS},
        {"mean": [None] * HOURS},
        {"mean": [math.nan] * HOURS},
        {"q90": [math.inf] * HOURS},
        {"q10": [1.0] * (HOURS - 1)},
        {"truth": [1.0] * (HOURS + 1)},
        {"truth": [math.inf] * HOURS},
        {"truth": None},
        {"mean": [10**400] * HOURS},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_malformed_preview_is_refused_and_spoils_no_other_drawing(
    drawn: bytes, changed: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="a forecast preview"):
        plot_of_preview(preview(**changed), "acme")
    assert plot_of_preview(preview(), "acme") == drawn


@pytest.mark.parametrize(
    "field", ["local_start", "frequency", "truth", "mean", "q10", "q90", "unit"]
)
def test_a_preview_that_lacks_a_field_is_told_which(field: str) -> None:
    lacking = preview()
    del lacking[field]
    with pytest.raises(ValueError, match=field):
        plot_of_preview(lacking, "acme")


VALUES = st.lists(st.floats() | st.none() | st.integers(), max_size=3)


@settings(max_examples=30)
@given(
    document=st.fixed_dictionaries(
        {
            "kind": st.just("forecast"),
            "local_start": st.sampled_from(["2026-01-01", "x"]),
            "frequency": st.sampled_from(["h", "D"]),
            "unit": st.text(max_size=5),
            "truth": VALUES,
            "mean": VALUES,
            "q10": VALUES,
            "q90": VALUES,
        }
    )
)
def test_whatever_a_container_sends_is_drawn_or_refused(document: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a unit in a script the font lacks
        try:
            plot_of_preview(document, "acme")
        except ValueError:
            return
