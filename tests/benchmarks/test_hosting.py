"""The benchmark of hosting shapes: a short run of it, and the queues of its arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hosting.instances import FLEET, Simulation, latencies
from tests.conftest import ROOT

COMMAND = (sys.executable, "-m", "benchmarks.hosting")


@pytest.mark.slow
def test_two_shapes_are_billed_and_lose_no_request_while_they_are_updated(tmp_path: Path) -> None:
    picture = tmp_path / "shapes.png"
    shapes = ("--shapes", "single_model", "multi_model")
    arguments = ("--quick", "--tenants", "2", "--rate", "5", *shapes)
    done = subprocess.run(
        [*COMMAND, *arguments, "--picture", str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failed_requests_during_updates"] == 0, report["failures"]
    # Two instances beside one, by the local cloud's meter.
    assert report["single_over_multi_model_cost_at_2"] == pytest.approx(2, rel=0.2)
    assert report["multi_model_cost_10000_over_2"] == pytest.approx(1, rel=0.2)
    single, multi = (report["shapes"][name] for name in ("single_model", "multi_model"))
    assert single["requests"] == multi["requests"] > 0
    assert (single["containers"], multi["containers"]) == (2, 1)
    assert single["requests_during_update"] > 0
    assert multi["cold_starts"]["first requests"] == 2
    assert single["without_price"] == ["requests"]
    many = report["many"]
    assert many["failed"] == 0
    assert many["requests"] == multi["requests"]
    assert 0 < many["loads"] <= many["requests"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_requests_wait_for_the_first_free_instance() -> None:
    arrivals, service = np.array([0.0, 0.0, 0.5, 5.0]), np.array([1.0, 3.0, 1.0, 1.0])
    assert latencies(arrivals, service, 1).tolist() == [1.0, 4.0, 4.5, 1.0]
    assert latencies(arrivals, service, 2).tolist() == [1.0, 3.0, 1.5, 1.0]


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 5)), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_another_instance_makes_no_request_later(
    requests: list[tuple[float, float]], instances: int
) -> None:
    arrivals = np.cumsum([gap for gap, _ in requests])
    service = np.array([seconds for _, seconds in requests])
    fewer, more = (latencies(arrivals, service, count) for count in (instances, instances + 1))
    assert (more <= fewer + 1e-9).all()
    assert (more >= service - 1e-9).all()


def test_shared_instances_are_as_quick_as_an_instance_for_each_tenant() -> None:
    simulation = Simulation(warm=0.1, cold=0.11)
    assert simulation.shared_instances(0.1, 10) == 1
    busy = simulation.shared_instances(50.0, 10)
    assert 5 < busy <= 10


def test_a_fleet_that_loads_each_model_first_needs_more_instances() -> None:
    rate, alike = Simulation(warm=0.1, cold=0.1).fleets()
    assert rate > 0
    assert alike == FLEET
    _, slower = Simulation(warm=0.1, cold=0.11).fleets()
    assert slower is not None
    assert FLEET < slower <= 1.25 * FLEET


def test_loads_that_outlast_the_p95_are_told_as_such() -> None:
    _, fleet = Simulation(warm=0.1, cold=0.5).fleets()
    assert fleet is None
