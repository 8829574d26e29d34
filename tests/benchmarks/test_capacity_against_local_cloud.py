"""The simulator and an endpoint of the local cloud agree on the same arrivals and policy."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capacity.against_local_cloud import (
    INSTANCE,
    ReplayError,
    compare,
    hour,
    report,
    simulated,
)
from benchmarks.capacity.simulator import Bounds, Instance
from benchmarks.capacity.traces import Trace, poisson

LAPSE = 60


def test_six_minutes_cost_and_wait_alike_in_both(capsys: pytest.CaptureFixture[str]) -> None:
    rates = np.full(360, 0.5)
    rates[:150] = 3.0
    arrivals = poisson(rates, 1, np.random.default_rng(1))
    trace = Trace("six_minutes", arrivals, 360.0, 600.0, Bounds(1, 3))
    instance = Instance(seconds_per_inference=4.0, start_seconds=60.0)
    most = max(serving for _, _, serving in simulated(trace, instance).changes)
    assert most == 3, "a trace that needs no scaling would show nothing"
    comparison = compare(trace, instance, LAPSE)
    # At this lapse, a container's start and the calls of this machine count sixtyfold.
    assert abs(comparison.cost_error) < 0.2
    assert abs(comparison.p95_error) < 0.4
    errors = report(comparison)
    assert errors["simulator_cost_error"] == pytest.approx(comparison.cost_error, abs=1e-4)
    assert "instance-hours" in capsys.readouterr().out


def test_a_replay_that_stands_still_is_given_up() -> None:
    arrivals = np.array([0, 1_000_000], dtype=np.int64)
    trace = Trace("stuck", arrivals, 2.0, 600.0, Bounds(1, 1))
    instance = Instance(slots=1, seconds_per_inference=600.0, start_seconds=6.0)
    with pytest.raises(ReplayError, match="19 of 20 requests have not started"):
        compare(trace, instance, LAPSE, patience=1.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_hour_stays_within_the_goals_on_a_machine_that_others_use() -> None:
    comparison = compare(hour(), INSTANCE)
    assert abs(comparison.cost_error) < 0.05
    assert abs(comparison.p95_error) < 0.1
