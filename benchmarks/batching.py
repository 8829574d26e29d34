"""Dynamic batching of the churn server, on beside off: how many small requests it answers.

`tenantry tune-batching` has the container and the load: a server as a process, and clients that ask
again as soon as they are answered. Off is a batch of 1, on is the workload's own setting. Each
measurement has a server of its own, and both ways take turns.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final

from tenantry.tuning.batches import Measured, Trial
from tenantry.workloads.schema import Workload

CLIENTS: Final = 32
"""So many ask at once."""


def measure(workload: Workload, archive: Path, seconds: float, rounds: int) -> dict[str, object]:
    """The figures of ``rounds`` rounds; each way is measured for ``seconds`` in each.

    Raises:
        ValueError: the workload has no dynamic batching.
        ContainerFailedError: a server does not start, or does not answer.
    """
    batching = workload.serving.batching
    if batching is None:
        raise ValueError(f"{workload.name} has no batching in its section serving")
    trial = Trial(
        workload.serving_container,
        workload.serving.environment,
        archive,
        workload.serving.smoke_request,
        CLIENTS,
        seconds,
        batching.max_wait_ms,
    )
    off, on = list[Measured](), list[Measured]()
    for _ in range(rounds):
        off.append(trial.measure(1))
        on.append(trial.measure(batching.max_batch))
        print(
            f"batching off: {off[-1].load.per_second:.0f} requests/s; on: "
            f"{on[-1].load.per_second:.0f} in calls of {on[-1].mean_batch:.1f}",
            flush=True,
        )
    gains = [
        one.load.per_second / other.load.per_second for one, other in zip(on, off, strict=True)
    ]
    return {
        "dynamic_batching_gain": round(statistics.median(gains), 2),
        "dynamic_batching_gains": [round(gain, 2) for gain in gains],
        "batching_clients": CLIENTS,
        "batching_max_batch": batching.max_batch,
        "batching_mean_batch": round(statistics.median(one.mean_batch for one in on), 1),
        **_of_load("on", on),
        **_of_load("off", off),
    }


def _of_load(way: str, measured: list[Measured]) -> dict[str, float]:
    loads = [one.load for one in measured]
    return {
        f"batching_{way}_requests_per_s": round(statistics.median(x.per_second for x in loads)),
        f"batching_{way}_p50_ms": round(statistics.median(x.p50_ms for x in loads), 1),
        f"batching_{way}_p95_ms": round(statistics.median(x.p95_ms for x in loads), 1),
    }
