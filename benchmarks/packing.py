"""How evenly a packed training job distributes its tasks: `python -m benchmarks.packing [--real
N]`.

The figure is the slowest shard's time over the mean shard's. 1 is perfect; any excess is time in
which paid instances wait for the last one. The benchmark distributes tasks in four ways:

- longest processing time first, with times learned from the previous pack, as Tenantry does;
- the same before any times are known;
- in turn, the longest first, as `data_distribution: ShardedByS3Key` has it;
- in turn (round-robin), in the order in which they came.

In simulated packs, rows are log-normal like the sizes of customers (median 8,760, a year of hours).
A task takes a base time and a time for each row; log-normal noise, independent of the rows,
multiplies both. In real packs, the forecast container's trainer trains histories of such lengths in
this process, each alone, and the benchmark times them. One half of them teaches the times; the
other half is distributed. The last line is JSON.
"""

# ruff: noqa: E402 - BLAS reads its number of threads when numpy is first imported

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

# Before numpy is imported.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np

from containers.forecast.consumption.preparation import prepare
from containers.forecast.consumption.synthetic import generate, last_midnight
from containers.forecast.training.trainer import ForecastTrainer
from containers.runtime.training.packed_training import Task, Trained
from tenantry.training.durations import Durations
from tenantry.training.jobs import balance, dealt, slowest

MEDIAN_ROWS: Final = 8_760.0
# standard deviation of their logarithm: the largest of 200 customers has some ten times the median
SPREAD_OF_ROWS: Final = 0.9
MAX_ROWS: Final = 5 * 8_760.0
BASE_SECONDS: Final = 0.2
SECONDS_PER_ROW: Final = 5e-5
NOISE: Final = 0.25  # of the logarithm of a task's seconds
PACKS: Final = 100
FEWEST_HOURS: Final = 60 * 24


@dataclass(frozen=True)
class TimedTask:
    """A task, and its real duration."""

    rows: float
    seconds: float


Share = Callable[[Sequence[TimedTask], int], Sequence[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=__doc__)
    parser.add_argument("--tasks", type=int, default=200, help="tasks in a pack (200)")
    parser.add_argument("--shards", type=int, default=4, help="instances that share them (4)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--real",
        type=int,
        default=96,
        help="so many real forecasts, half of them to learn from; 0 for none",
    )
    options = parser.parse_args(arguments)
    random = np.random.default_rng(options.seed)

    packs = [_simulated(random, options.tasks) for _ in range(PACKS + 1)]
    learned = Durations().with_tasks((task.rows, task.seconds) for task in packs[0])
    _show(f"simulated, {PACKS} packs of {options.tasks}", packs[1:], options.shards, learned)
    result: dict[str, object] = {
        "tasks": options.tasks,
        "shards": options.shards,
        "packs": PACKS,
        "slowest_over_mean": _unevenness(packs[1:], options.shards, by_durations(learned)),
        "slowest_over_mean_nothing_learned": _unevenness(
            packs[1:], options.shards, by_durations(Durations())
        ),
        "slowest_over_mean_sharded_by_key": _unevenness(
            packs[1:], options.shards, by_durations(learned, dealt)
        ),
        "slowest_over_mean_round_robin": _unevenness(packs[1:], options.shards, in_turn),
    }
    if options.real:
        timed = _real(random, options.real)
        teaching, pack = timed[::2], timed[1::2]
        learned = Durations().with_tasks((task.rows, task.seconds) for task in teaching)
        _show(f"real forecasts, {len(pack)} after {len(teaching)}", [pack], options.shards, learned)
        base, slope = learned.line()
        result["real"] = {
            "tasks": len(pack),
            "learned_from": len(teaching),
            "learned_base_seconds": round(base, 4),
            "learned_seconds_per_1000_rows": round(1000 * slope, 4),
            "slowest_over_mean": _unevenness([pack], options.shards, by_durations(learned)),
            "slowest_over_mean_sharded_by_key": _unevenness(
                [pack], options.shards, by_durations(learned, dealt)
            ),
            "slowest_over_mean_round_robin": _unevenness([pack], options.shards, in_turn),
        }
    print(json.dumps(result))
    return 0


def by_durations(
    known: Durations, share: Callable[[Sequence[float], int], Sequence[int]] = balance
) -> Share:
    """Longest expected time first."""
    return lambda pack, shards: share([known.expected_seconds(task.rows) for task in pack], shards)


def in_turn(pack: Sequence[TimedTask], shards: int) -> Sequence[int]:
    """Round-robin, in the order of the tasks."""
    return [number % shards for number in range(len(pack))]


def _unevenness(packs: Sequence[Sequence[TimedTask]], shards: int, share: Share) -> float:
    """The slowest shard's time over the mean shard's, averaged over the packs."""
    found = []
    for pack in packs:
        seconds = [task.seconds for task in pack]
        found.append(slowest(seconds, share(pack, shards)) / (sum(seconds) / shards))
    return round(statistics.fmean(found), 4)


def _show(
    title: str, packs: Sequence[Sequence[TimedTask]], shards: int, learned: Durations
) -> None:
    ways = {
        "by learned durations": by_durations(learned),
        "nothing learned yet": by_durations(Durations()),
        "sharded by key": by_durations(learned, dealt),
        "in turn": in_turn,
    }
    print(f"{title}, on {shards} instances: the slowest over the mean")
    for name, share in ways.items():
        print(f"  {name:<22} {_unevenness(packs, shards, share):.3f}")


def _simulated(random: np.random.Generator, tasks: int) -> list[TimedTask]:
    rows = np.minimum(
        random.lognormal(math.log(MEDIAN_ROWS), SPREAD_OF_ROWS, tasks), MAX_ROWS
    ).round()
    seconds = (BASE_SECONDS + SECONDS_PER_ROW * rows) * random.lognormal(0.0, NOISE, tasks)
    return [TimedTask(float(r), float(s)) for r, s in zip(rows, seconds, strict=True)]


def _real(random: np.random.Generator, tasks: int) -> list[TimedTask]:
    """Forecasts of histories of various lengths, timed."""
    end = last_midnight()
    hours = np.clip(
        random.lognormal(math.log(MEDIAN_ROWS), SPREAD_OF_ROWS, tasks), FEWEST_HOURS, MAX_ROWS
    )
    timed: list[TimedTask] = []
    with tempfile.TemporaryDirectory(prefix="packing-benchmark-") as name:
        folder = Path(name)
        # Warm up first, because a container imports and compiles only once, outside any task's own
        # time.
        _train(_task(folder, 0, end, FEWEST_HOURS), folder)
        for number, length in enumerate(hours, start=1):
            task = _task(folder, number, end, int(length))
            timed.append(TimedTask(float(int(length)), _train(task, folder)))
    return timed


def _task(folder: Path, number: int, end: datetime, hours: int) -> Task:
    """A forecast task of this many hours, prepared like an upload."""
    raw, data = folder / f"{number}.csv", folder / "data" / str(number)
    generate(1, end - timedelta(hours=hours), end, seed=number).to_csv(raw, index=False)
    data.mkdir(parents=True)
    prepare([raw], data, {"timezone": "Europe/London"})
    return Task(
        f"{number:032x}", f"tenant-{number}", "v1", "bridge", data, {"timezone": "Europe/London"}
    )


def _train(task: Task, folder: Path) -> float:
    """Seconds of the forecast container's trainer for one task."""
    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        started = time.perf_counter()
        for result in ForecastTrainer().train([task], {"frequency": "auto"}, Path(workspace)):
            if not isinstance(result, Trained):
                raise SystemExit(f"{task.tenant} could not be trained: {result}")
        return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
