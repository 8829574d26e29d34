"""What each scaling policy costs, and how long requests wait: `python -m benchmarks.capacity`.

The benchmark replays traces of demand against policies, in an exact simulation. `cost` is
instance-hours times the price of one, from the asking for an instance until its release. A trace's
service level is about the wait of 95 % of its requests. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.capacity import (
    against_local_cloud,
    fleet,
    oracle,
    pictures,
    rivals,
    synthetic,
    traces,
)
from benchmarks.capacity.ours import Ours
from benchmarks.capacity.simulator import Bounds, Instance, Policy, Run, simulate
from benchmarks.capacity.traces import HOUR, SHARE, Trace, TraceError
from infrastructure.local_cloud import LocalCloudError

INSTANCE: Final = Instance()
POLICIES: Final = (
    "fixed_for_peak",
    "target_tracking",
    "backlog",
    "usage_rate",
    "knative",
    "keda",
    "oracle",
    "ours",
)
OVER_ORACLE: Final = 1.15
OVER_FIXED: Final = {"day_night": 0.7, "spike": 0.6, "intermittent": 0.6}
"""The goals: the most that ours may cost over others, on every trace and on these."""
QUICK_DAYS: Final = 2
NOT_MEASURED: Final = ("hot_p95_over_quiet", "simulator_cost_error", "simulator_p95_error")
FLEET_TENANTS: Final = 100_000
FLEET_RATES: Final = (100.0, 300.0, 500.0)
FLEET_SLO: Final = 2.0


@dataclass
class Replays:
    """The runs of a trace, each made once."""

    trace: Trace
    _runs: dict[str, Run] = field(default_factory=dict)
    doubts: list[tuple[float, str]] = field(default_factory=list)

    def run(self, name: str) -> Run:
        """The run of a policy."""
        if name not in self._runs:
            self._runs[name] = self._made(name)
        return self._runs[name]

    def _made(self, name: str) -> Run:
        trace = self.trace
        if name == "fixed_for_peak":
            return rivals.fixed_for_peak(trace, INSTANCE)
        if name == "oracle":
            return oracle.foresee(trace, INSTANCE, self.run("fixed_for_peak"))
        bounds = trace.bounds
        policy: Policy
        if name == "target_tracking":
            bounds = Bounds(max(bounds.least, 1), bounds.most)
            policy = rivals.target_tracking(INSTANCE, bounds)
        elif name == "backlog":
            policy = rivals.backlog(INSTANCE, bounds)
        elif name == "usage_rate":
            policy = rivals.usage_rate(INSTANCE, bounds)
        elif name == "knative":
            policy = rivals.Knative(INSTANCE)
        elif name == "keda":
            policy = rivals.Keda()
        else:
            policy = Ours(INSTANCE, bounds, trace.slo, doubts=self.doubts)
        return simulate(trace.arrivals, trace.duration, policy, bounds, INSTANCE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures."""
    options = _options(arguments)
    result: dict[str, Any] = {}
    if options.fleet:
        result["fleet"] = fleet.measure(options.tenants, FLEET_RATES, FLEET_SLO)
        print(json.dumps(result))
        return 0
    try:
        chosen = _chosen(options)
    except TraceError as error:
        print(error, file=sys.stderr)
        return 2
    result["traces"] = {
        trace.name: _measured(trace, options.price, options.pictures) for trace in chosen
    }
    try:
        name: str | None = options.against_local_cloud
        result |= _not_measured() if name is None else _on_local_cloud(name)
    except (against_local_cloud.ReplayError, LocalCloudError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


def _on_local_cloud(name: str) -> dict[str, float]:
    """The figures that need a local cloud, on a named hour; takes eight minutes."""
    from benchmarks import hot_models

    comparison = against_local_cloud.compare(against_local_cloud.hour(name))
    figures = against_local_cloud.report(comparison)
    hot = hot_models.measure("drift_check")
    print(f"hot models beside the drift check: {json.dumps(hot)}")
    return {"hot_p95_over_quiet": hot["hot_p95_over_quiet"], **figures}


def _not_measured() -> dict[str, None]:
    for name in NOT_MEASURED:
        print(f"{name} is null: --against-local-cloud measures it on the local cloud")
    return dict.fromkeys(NOT_MEASURED)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--only", nargs="+", help="traces to replay, by name; all")
    parser.add_argument(
        "--quick", action="store_true", help=f"the first {QUICK_DAYS} days of day_night only"
    )
    parser.add_argument("--trace", type=Path, help="a further trace: Parquet or CSV, column second")
    parser.add_argument("--slo", type=float, help="its service level: seconds that 95 %% may wait")
    parser.add_argument("--least", type=int, default=1, help="its fewest instances (1)")
    parser.add_argument(
        "--bursty",
        type=int,
        nargs="+",
        metavar="SEED",
        help="made-up bursty hours of these seeds instead of the traces; needs --slo",
    )
    parser.add_argument(
        "--data-folder", type=Path, default=traces.DATA, help=f"where data lie ({traces.DATA})"
    )
    parser.add_argument("--pictures", type=Path, help="a folder for a picture of each trace")
    parser.add_argument("--price", type=float, default=1.0, help="of an instance-hour (1)")
    parser.add_argument(
        "--against-local-cloud",
        nargs="?",
        const="two_bursts",
        choices=tuple(against_local_cloud.HOURS),
        help="compare the simulator with a local cloud as well, on this hour (two_bursts); eight "
        "minutes more",
    )
    parser.add_argument("--fleet", action="store_true", help="size multi-model fleets instead")
    parser.add_argument(
        "--tenants", type=int, default=FLEET_TENANTS, help=f"of a fleet ({FLEET_TENANTS})"
    )
    options = parser.parse_args(arguments)
    if (options.trace is None and options.bursty is None) != (options.slo is None):
        parser.error("--slo goes with --trace or --bursty; give both")
    if options.slo is not None and options.slo <= 0:
        parser.error(f"--slo is {options.slo:g}; give seconds above 0")
    if not 0 <= options.least <= traces.MOST:
        parser.error(f"--least is {options.least}; give a number from 0 to {traces.MOST}")
    return options


def _chosen(options: argparse.Namespace) -> list[Trace]:
    if options.bursty:
        return [
            synthetic.bursty(name, seed, options.slo)
            for name in synthetic.HOURS
            for seed in options.bursty
        ]
    data: Path = options.data_folder
    days = QUICK_DAYS if options.quick else traces.DAYS
    makers: dict[str, Callable[[], Trace]] = {
        "spike": traces.spike,
        "intermittent": traces.intermittent,
        "bursty_hour": lambda: traces.bursty_hour(data),
        "day_night": lambda: traces.day_night(data, days),
    }
    if options.trace is not None:
        makers[options.trace.stem] = lambda: traces.from_file(
            options.trace, options.slo, options.least
        )
    unknown = set(options.only or ()) - set(makers)
    if unknown:
        raise TraceError(
            f"--only names {', '.join(sorted(unknown))}; there are {', '.join(makers)}"
        )
    if not (data / traces.CONVERSATION).is_file():
        print(f"NO {data / traces.CONVERSATION}: bursty_hour is left out; give --data-folder")
        makers.pop("bursty_hour")
    if not (data / traces.HOUSEHOLDS).is_file():
        print(
            f"NO {data / traces.HOUSEHOLDS}: day_night has the shape of made-up households; "
            "give --data-folder"
        )
    return [make() for name, make in makers.items() if not options.only or name in options.only]


def _measured(trace: Trace, price: float, folder: Path | None) -> dict[str, Any]:
    """The figures of a trace."""
    print(
        f"\n{trace.name}: {len(trace.arrivals):,} requests in {trace.duration / HOUR:.2f} h, "
        f"95 % to wait {trace.slo:g} s at most, {trace.bounds.least} to {trace.bounds.most} "
        f"instances\nSHA-256 {trace.checksum}{_compared(trace)}"
    )
    print(f"{'policy':16}     cost    p50 s    p95 s    p99 s       late   lost  kept")
    replays = Replays(trace)
    policies: dict[str, dict[str, Any]] = {}
    for name in POLICIES:
        begin = time.monotonic()
        run = replays.run(name)
        p50, p95, p99 = run.waits_of((0.5, SHARE, 0.99))
        kept = not run.lost and p95 <= trace.slo
        policies[name] = {
            "cost": round(run.instance_seconds / HOUR * price, 4),
            "p50_wait_s": round(p50, 3),
            "p95_wait_s": round(p95, 3),
            "p99_wait_s": round(p99, 3),
            "late": run.late(trace.slo),
            "lost": run.lost,
            "kept_slo": kept,
        }
        print(
            f"{name:16} {policies[name]['cost']:8.2f} {p50:8.2f} {p95:8.2f} {p99:8.2f} "
            f"{policies[name]['late']:10,} {run.lost:6,}  {'yes' if kept else 'NO':4}"
            f" ({time.monotonic() - begin:.1f} s)",
            flush=True,
        )
    for moment, doubt in replays.doubts[:3]:
        print(f"ours, after {moment / HOUR:.1f} h: {doubt}")
    if folder is not None:
        runs = {name: replays.run(name) for name in POLICIES}
        print(pictures.draw(trace, runs, INSTANCE, folder))
    bound = oracle.lower_bound(trace, INSTANCE) / HOUR * price
    return {
        "slo_p95_s": trace.slo,
        "checksum": trace.checksum,
        "no_plan_below": round(bound, 4),
        "policies": policies,
        "goals": _goals(trace.name, policies),
    }


def _compared(trace: Trace) -> str:
    known = traces.KNOWN.get(trace.name)
    if known is None:
        return ""
    return ", as documented" if trace.checksum == known else f", DOCUMENTED IS {known}"


def _goals(name: str, policies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which goals ours reached on a trace, with the figures behind them; printed."""
    ours = policies["ours"]
    over_oracle = ours["cost"] / policies["oracle"]["cost"]
    over_fixed = ours["cost"] / policies["fixed_for_peak"]["cost"]
    cheaper = [
        rival
        for rival, figures in policies.items()
        if rival not in ("ours", "oracle")
        and figures["kept_slo"]
        and figures["cost"] < ours["cost"]
    ]
    goals = {
        "nothing_lost": not ours["lost"],
        "kept_slo": ours["kept_slo"],
        "within_oracle": over_oracle <= OVER_ORACLE,
        "no_rival_cheaper": not cheaper,
    }
    if name in OVER_FIXED:
        goals["within_fixed"] = over_fixed <= OVER_FIXED[name]
    missed = [goal for goal, reached in goals.items() if not reached]
    print(
        f"ours: {over_oracle:.3f} of the oracle, {over_fixed:.3f} of fixed for peak; "
        + (f"MISSED: {', '.join(missed)}" if missed else "all goals reached")
        + (f"; cheaper and in time: {', '.join(cheaper)}" if cheaper else "")
    )
    return {
        "cost_over_oracle": round(over_oracle, 4),
        "cost_over_fixed": round(over_fixed, 4),
        **goals,
    }


if __name__ == "__main__":
    sys.exit(main())
