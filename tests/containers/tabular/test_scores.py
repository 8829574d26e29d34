"""Scores of told probabilities, against figures made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.tabular.scores import (
    area_under_curve,
    calibration,
    calibration_error,
    log_loss,
    worst_decile,
)


def test_the_loss_is_that_of_the_truths_probability() -> None:
    truth, told = np.array([1.0, 0.0]), np.array([0.8, 0.4])
    assert log_loss(truth, told) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert log_loss(truth, np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-5)
    wrong = log_loss(truth, np.array([0.0, 1.0]))
    assert wrong == pytest.approx(-math.log(1e-6), abs=1e-4), "a certain fault costs a finite loss"


def test_the_area_counts_pairs_in_the_right_order_and_equal_ones_half() -> None:
    truth = np.array([1.0, 0.0, 1.0, 0.0])
    assert area_under_curve(truth, np.array([0.9, 0.1, 0.8, 0.2])) == 1
    assert area_under_curve(truth, np.array([0.1, 0.9, 0.2, 0.8])) == 0
    assert area_under_curve(truth, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert area_under_curve(truth, np.array([0.9, 0.5, 0.5, 0.1])) == 3.5 / 4
    assert area_under_curve(np.zeros(3), np.zeros(3)) is None
    assert area_under_curve(np.ones(3), np.zeros(3)) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_the_area_is_what_counting_all_pairs_gives(pairs: list[tuple[bool, int]]) -> None:
    of_true = [told for true, told in pairs if true]
    of_false = [told for true, told in pairs if not true]
    found = area_under_curve(
        np.array([float(true) for true, _ in pairs]), np.array([told / 5 for _, told in pairs])
    )
    if not of_true or not of_false:
        assert found is None
        return
    right = sum((one > other) + (one == other) / 2 for one in of_true for other in of_false)
    assert found == pytest.approx(right / (len(of_true) * len(of_false)))


def test_bins_have_as_many_rows_and_their_distance_is_the_error() -> None:
    told = np.repeat(np.linspace(0.05, 0.95, 10), 20)
    truth = np.concatenate(
        [np.arange(20) < round(20 * share) for share in np.linspace(0.05, 0.95, 10)]
    )
    bins = calibration(truth.astype(float), told)
    assert [count for *_, count in bins] == [20] * 10
    assert calibration_error(bins) == pytest.approx(0, abs=1e-9)
    assert calibration_error(calibration(truth.astype(float), np.clip(told + 0.03, 0, 1))) == (
        pytest.approx(0.03)
    )
    assert [count for *_, count in calibration(np.ones(3), np.ones(3))] == [1, 1, 1]


def test_the_worst_tenth_is_of_the_tenants_where_the_model_helps_least() -> None:
    rows_of = [100] * 20 + [10]
    loss = np.repeat([*np.linspace(0.1, 0.29, 20), 9.0], rows_of)
    baseline = np.repeat([*[0.3] * 20, 0.1], rows_of)
    found = worst_decile(rows_of, loss, baseline)
    assert found is not None
    assert found == pytest.approx((0.285, 0.3)), "the two worst; the tenant of ten rows is left out"
    assert worst_decile([100] * 9, np.ones(900), np.ones(900)) is None
