"""The oracle keeps the service level; each rival decides as its documentation's example does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity import fleet, oracle, rivals, synthetic, traces
from benchmarks.capacity.__main__ import POLICIES, Replays, main
from benchmarks.capacity.ours import forecast_of
from benchmarks.capacity.simulator import Bounds, Instance, Policy, View, simulate
from benchmarks.capacity.traces import SHARE, Trace, TraceError

INSTANCE = Instance()


class Seen(View):
    """A view with a given history."""

    def __init__(
        self, interval: float, waiting: list[int], busy: list[int], serving: list[int]
    ) -> None:
        self.interval = interval
        self.waiting, self.busy, self.serving = waiting, busy, serving
        self.starting = ()
        self.now = (len(waiting) - 1) * interval


def test_the_oracle_keeps_the_level_and_lies_between_its_bound_and_a_constant() -> None:
    trace = synthetic.bursty("modulated", 1, 300.0).first(1200.0)
    constant = rivals.fixed_for_peak(trace, INSTANCE)
    run = oracle.foresee(trace, INSTANCE, constant)
    assert run.lost == 0
    assert run.wait(SHARE) <= trace.slo
    assert oracle.lower_bound(trace, INSTANCE) <= run.instance_seconds <= constant.instance_seconds


def test_fixed_for_peak_is_the_fewest_that_keep_the_level() -> None:
    trace = synthetic.bursty("modulated", 1, 2.0)
    run = rivals.fixed_for_peak(trace, INSTANCE)
    assert run.wait(SHARE) <= trace.slo
    fewer = round(run.changes[0][1]) - 1
    less = simulate(
        trace.arrivals, trace.duration, rivals.Constant(fewer), Bounds(fewer, fewer), INSTANCE
    )
    assert less.wait(SHARE) > trace.slo


def _capacities(policy: Policy, rates: list[float], bounds: Bounds, initial: int) -> list[int]:
    """What serves at the end of each minute under so many evenly spaced requests a second."""
    arrivals = np.concatenate(
        [
            np.arange(round(rate * 60)) * 60_000_000 // max(round(rate * 60), 1)
            + minute * 60_000_000
            for minute, rate in enumerate(rates)
        ]
    ).astype(np.int64)
    quick = Instance(start_seconds=1.0)
    run = simulate(arrivals, len(rates) * 60.0, policy, bounds, quick, initial)
    times = np.array([change[0] for change in run.changes])
    return [
        run.changes[int(np.searchsorted(times, (minute + 1) * 60.0 - 1, side="right")) - 1][2]
        for minute in range(len(rates))
    ]


def test_target_tracking_scales_out_after_three_minutes_and_in_after_fifteen() -> None:
    # 8 requests a second at most, safety factor 0.5: 240 a minute. 12 a second are 720: three.
    bounds = Bounds(1, 10)
    found = _capacities(
        rivals.target_tracking(INSTANCE, bounds), [3.9] * 2 + [12.0] * 8 + [3.9] * 24, bounds, 1
    )
    assert found[:5] == [1] * 5  # the third minute above the target is seen a minute late
    assert found[6:20] == [3] * 14
    assert found[-1] == 1


def test_the_usage_rate_is_of_what_the_instances_could_do() -> None:
    # Two instances could do 960 a minute. 900 are 94 %, above 75 %: three instances have 63 %.
    bounds = Bounds(0, 10)
    found = _capacities(rivals.usage_rate(INSTANCE, bounds), [15.0] * 8, bounds, 2)
    assert found[0] == 2
    assert found[-1] == 3


def test_a_backlog_without_capacity_adds_the_first_instance() -> None:
    bounds = Bounds(0, 10)
    found = _capacities(rivals.backlog(INSTANCE, bounds), [0.05] * 8, bounds, 0)
    assert found[1] == 0
    assert found[4] == 1


def test_knative_follows_its_documents_example() -> None:
    # 10 slots at 70 %: a hundred concurrent requests need 100 / 7, rounded up.
    knative = rivals.Knative(Instance(slots=10))
    assert knative.decide(Seen(2.0, [20] * 40, [80] * 40, [15] * 40)) == 15
    # Twice as many as there are in six seconds are a panic, and nothing scales in during one.
    assert knative.decide(Seen(2.0, [0] * 37 + [400] * 3, [80] * 40, [15] * 40)) == 69
    assert knative.decide(Seen(2.0, [0] * 40, [0] * 40, [69] * 40)) == 69


def test_knative_keeps_the_last_instance_for_the_grace_period() -> None:
    knative = rivals.Knative(INSTANCE)
    wanted = [
        knative.decide(Seen(2.0, [0] * count, [0] * count, [1] * count)) for count in range(31, 51)
    ]
    assert wanted[:15] == [1] * 15
    assert wanted[15:] == [0] * 5


def test_keda_divides_the_queue_and_keeps_the_highest_of_five_minutes() -> None:
    keda = rivals.Keda()
    assert keda.decide(Seen(30.0, [48], [2], [0])) == 10
    assert keda.decide(Seen(30.0, [0, 0], [0, 1], [10, 10])) == 10
    calm = [
        keda.decide(Seen(30.0, [0] * count, [0] * count, [10] * count)) for count in range(3, 14)
    ]
    assert calm[:8] == [10] * 8
    assert calm[-1] == 0


def test_ours_loses_nothing_and_costs_no_more_than_a_constant_number() -> None:
    for name, seed in (("heavy_tailed", 1), ("log_normal", 1), ("modulated", 1)):
        replays = Replays(synthetic.bursty(name, seed, 300.0))
        ours, constant = replays.run("ours"), replays.run("fixed_for_peak")
        assert ours.lost == 0
        assert ours.wait(SHARE) <= 300.0
        assert ours.instance_seconds <= constant.instance_seconds


def test_the_forecaster_learns_the_shape_of_a_day_from_its_third_day_on() -> None:
    day = 20 + 10 * np.sin(np.arange(24) / 24 * 2 * np.pi)
    assert forecast_of(np.tile(day, 2)) is None
    forecast = forecast_of(np.tile(day, 6))
    assert forecast is not None
    assert forecast.at(6 * 24 + 6, 0.5) == pytest.approx(30.0, abs=1.0)


def test_small_instances_load_faster_and_share_worse() -> None:
    throttled = fleet.cuts(2000, 0.2, fleet.Machine(models=50, load_seconds=2.0), (1, 4))
    assert throttled[4].p95 < throttled[1].p95
    evenly = fleet.cuts(2000, 0.6, fleet.Machine(load_seconds=0.01), (1, 16))
    assert evenly[1].p99 < evenly[16].p99


def test_traces_are_what_their_checksums_say() -> None:
    for trace in (traces.spike(), traces.intermittent()):
        assert trace.checksum == traces.KNOWN[trace.name]


def test_the_last_line_has_every_policy_of_a_trace_of_the_callers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hour.csv"
    path.write_text("second\n" + "\n".join(str(place * 0.2) for place in range(3000)))
    nowhere = tmp_path / "nowhere"
    arguments = ["--trace", str(path), "--slo", "30", "--only", "hour"]
    folders = ["--data-folder", str(nowhere), "--pictures", str(tmp_path / "pictures")]
    assert main([*arguments, *folders]) == 0
    said = capsys.readouterr().out
    assert "bursty_hour is left out" in said
    assert "made-up households" in said
    figures = json.loads(said.splitlines()[-1])
    assert set(figures["traces"]["hour"]["policies"]) == set(POLICIES)
    assert figures["traces"]["hour"]["slo_p95_s"] == 30
    assert figures["traces"]["hour"]["policies"]["ours"]["kept_slo"] is True
    assert figures["simulator_cost_error"] is None
    assert (tmp_path / "pictures" / "hour.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "moment\n1\n", "column second is missing; the file has moment"),
        ("a.csv", "second\nsoon\n", "column second holds string"),
        ("a.csv", "second\n1\n-2\n", "column second, row 2, is -2"),
        ("a.csv", "second\n", "column second is empty"),
        ("a.parquet", "second\n1\n", "it cannot be read as parquet"),
        ("a.txt", "second\n1\n", "name a file that ends in .parquet or .csv"),
        ("a.csv", None, "there is no such file"),
    ],
)
def test_a_bad_trace_is_refused_with_file_field_and_cure(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(TraceError, match=said) as raised:
        traces.from_file(path, 2.0)
    assert str(path) in str(raised.value)


def test_an_unknown_trace_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "day_nigth"]) == 2
    assert "there are spike, intermittent, bursty_hour, day_night" in capsys.readouterr().err


def test_the_made_up_households_have_days_and_nights() -> None:
    shape = traces.synthetic_shape()
    assert len(shape) == 4 * 7 * 24
    assert shape.max() > 1.2 * shape.min()


def test_a_trace_without_late_requests_needs_no_more_than_its_own_instances() -> None:
    trace = Trace("one", np.array([0], dtype=np.int64), 60.0, 2.0, Bounds(1, 5))
    assert Replays(trace).run("ours").instance_seconds == 60.0
