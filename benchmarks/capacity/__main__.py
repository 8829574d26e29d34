"""What each scaling policy costs and how long requests wait: `python -m benchmarks.capacity`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.capacity import oracle, rivals, traces
from benchmarks.capacity.ours import Ours
from benchmarks.capacity.simulator import Bounds, Instance, Policy, Run, simulate
from benchmarks.capacity.traces import SHARE, Trace

INSTANCE: Final = Instance()


def _simulated(policy: Callable[[Trace], Policy], least: int = 0) -> Callable[[Trace], Run]:
    def run(trace: Trace) -> Run:
        bounds = Bounds(max(trace.bounds.least, least), trace.bounds.most)
        return simulate(trace.arrivals, trace.duration, policy(trace), bounds, INSTANCE)

    return run


POLICIES: Final[dict[str, Callable[[Trace], Run]]] = {
    "fixed_for_peak": lambda trace: rivals.fixed_for_peak(trace, INSTANCE),
    "target_tracking": _simulated(lambda t: rivals.target_tracking(INSTANCE, t.bounds), 1),
    "backlog": _simulated(lambda t: rivals.backlog(INSTANCE, t.bounds)),
    "usage_rate": _simulated(lambda t: rivals.usage_rate(INSTANCE, t.bounds)),
    "knative": _simulated(lambda _: rivals.Knative(INSTANCE)),
    "keda": _simulated(lambda _: rivals.Keda()),
    "ours": _simulated(lambda t: Ours(INSTANCE, t.bounds, t.slo)),
    "oracle": lambda trace: oracle.foresee(trace, INSTANCE),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures; the last line is JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--data", type=Path, default=traces.DATA)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--policies", nargs="*")
    parser.add_argument("--days", type=int, default=14)
    options = parser.parse_args(arguments)
    chosen = [
        traces.spike(), traces.intermittent(), traces.bursty_hour(options.data),
        traces.day_night(options.data, options.days),
    ]
    result: dict[str, Any] = {}
    for trace in chosen:
        if options.only and trace.name not in options.only:
            continue
        figures: dict[str, Any] = {}
        for name, run_of in POLICIES.items():
            if options.policies and name not in options.policies:
                continue
            begin = time.monotonic()
            run = run_of(trace)
            p50, p95, p99 = run.waits_of((0.5, SHARE, 0.99))
            figures[name] = {
                "cost": round(run.instance_seconds / 3600, 3),
                "p50_wait_s": round(p50, 3), "p95_wait_s": round(p95, 3), "p99_wait_s": round(p99, 3),
                "late": run.late(trace.slo), "lost": run.lost,
                "kept_slo": not run.lost and p95 <= trace.slo,
            }
            print(trace.name, name, figures[name], f"{time.monotonic() - begin:.1f} s", flush=True)
        result[trace.name] = {"slo_p95_s": trace.slo, "policies": figures}
    print(json.dumps({"traces": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
