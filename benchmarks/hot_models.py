"""Hot models beside a sweep over all models: `python -m benchmarks.hot_models`.

The tenants of a multi-model endpoint are asked by Zipf's law, more of them than fit in memory. Then
something asks every tenant's model, three calls each: the nightly drift check, or a re-training
whose calls are of new versions, which the tenants use from then on.

1. A simulation compares policies of eviction. The policy of the local cloud is the class that its
   instances use. It reports the share of the hot tenants' calls that found their model loaded, and
   the loads. Its p95 takes `WARM_MS` for a call, and `LOAD_MS` more for one that loads its model.
2. Unless `--simulated`, such traffic goes to the forecast container on the local cloud, and the
   latencies of the hot tenants' calls are measured. The sweep comes in parts, so that other load on
   the machine meets both phases.

The last line is JSON. `hot_p95_over_quiet` is the p95 of the hot tenants' calls during the drift
check's sweep, over their p95 otherwise; `measured` tells whether it was measured or simulated.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import boto3
from botocore.config import Config

from benchmarks.serving import REQUEST, write_models
from containers.forecast.serving.predictor import ForecastPredictor
from infrastructure.local_cloud import running
from local_sagemaker.endpoints.eviction import DecayingUses

ROOT: Final = Path(__file__).resolve().parents[1]
WARM_MS: Final = 10.0
LOAD_MS: Final = 200.0
CALLS_EACH: Final = 3
Sweep = Literal["drift_check", "retraining"]
Phase = Literal["quiet", "sweep"]
SWEEPS: Final[tuple[Sweep, ...]] = ("drift_check", "retraining")


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


# ---- policies ------------------------------------------------------------------------------------


class Policy(Protocol):
    """Which model to unload."""

    def use(self, model: str, loaded: int) -> None:
        """A call of a model that is loaded, or is now, as one of so many."""
        ...

    def victim(self, models: Collection[str]) -> str:
        """The one of the loaded models that is unloaded."""
        ...


class Lru:
    """The least recently used model goes."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, None] = OrderedDict()

    def use(self, model: str, loaded: int) -> None:  # noqa: ARG002 - it needs no number
        """See `Policy`."""
        self._used[model] = None
        self._used.move_to_end(model)

    def victim(self, models: Collection[str]) -> str:  # noqa: ARG002 - it keeps the loaded models
        """See `Policy`."""
        return self._used.popitem(last=False)[0]


class Sieve:
    """A hand goes over the models in the order of their loads, and takes the first that was not
    used since it passed (Y. Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024)."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._visited: dict[str, bool] = {}
        self._hand = 0

    def use(self, model: str, loaded: int) -> None:  # noqa: ARG002 - it needs no number
        """See `Policy`."""
        if model not in self._visited:
            self._order.append(model)
        self._visited[model] = model in self._visited

    def victim(self, models: Collection[str]) -> str:  # noqa: ARG002 - it keeps the loaded models
        """See `Policy`."""
        while True:
            self._hand %= len(self._order)
            model = self._order[self._hand]
            if not self._visited[model]:
                del self._order[self._hand], self._visited[model]
                return model
            self._visited[model] = False
            self._hand += 1


class S3Fifo:
    """New models wait in a short queue, and reach the long one when they are used twice more, or
    come back soon (J. Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023).
    """

    def __init__(self) -> None:
        self._small: OrderedDict[str, int] = OrderedDict()
        self._main: OrderedDict[str, int] = OrderedDict()
        self._ghosts: OrderedDict[str, None] = OrderedDict()

    def use(self, model: str, loaded: int) -> None:  # noqa: ARG002 - it needs no number
        """See `Policy`."""
        for queue in (self._small, self._main):
            if model in queue:
                queue[model] = min(queue[model] + 1, 3)
                return
        known = model in self._ghosts
        self._ghosts.pop(model, None)
        (self._main if known else self._small)[model] = 0

    def victim(self, models: Collection[str]) -> str:
        """See `Policy`."""
        while True:
            if len(self._small) >= len(models) / 10 or not self._main:
                model, uses = self._small.popitem(last=False)
                if uses <= 1:
                    self._ghosts[model] = None
                    while len(self._ghosts) > len(models):
                        self._ghosts.popitem(last=False)
                    return model
                self._main[model] = 0
            else:
                model, uses = self._main.popitem(last=False)
                if not uses:
                    return model
                self._main[model] = uses - 1


POLICIES: Final[dict[str, type[Policy]]] = {
    "local_cloud": DecayingUses,
    "lru": Lru,
    "sieve": Sieve,
    "s3_fifo": S3Fifo,
}


# ---- traffic -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """Tenants by Zipf's law (exponent 1), `rate` calls a second; after `quiet` seconds a sweep asks
    `sweep_rate` tenants a second, in `parts` with `pause` seconds between two. The `hot` most asked
    tenants are measured. The first half of `quiet` fills the memory and is left out."""

    tenants: int
    hot: int
    rate: float
    quiet: float
    sweep_rate: float
    parts: int = 1
    pause: float = 0.0

    def moment(self, place: int) -> float:
        """When the sweep asks the tenant at a place of its order, in seconds."""
        part = place * self.parts // self.tenants
        return self.quiet + place / self.sweep_rate + part * self.pause

    def phase(self, second: float) -> Phase | None:
        """What a call is counted to."""
        if second < self.quiet / 2:
            return None
        length = self.tenants / self.parts / self.sweep_rate
        since = (second - self.quiet) % (length + self.pause)
        return "sweep" if second >= self.quiet and since < length else "quiet"

    def calls(self, sweep: Sweep) -> Iterator[Call]:
        """All calls, in their order."""
        draw = random.Random(7)  # the same calls in each run
        weights = list(itertools.accumulate(1 / rank for rank in range(1, self.tenants + 1)))
        swept = list(range(self.tenants))
        draw.shuffle(swept)
        when = {tenant: self.quiet + place / self.sweep_rate for place, tenant in enumerate(swept)}
        calls = [
            Call(when[tenant] + 0.2 * number, tenant, in_sweep=True)
            for tenant in swept
            for number in range(CALLS_EACH)
        ]
        moment = 0.0
        while (moment := moment + draw.expovariate(self.rate)) < max(when.values()):
            (tenant,) = draw.choices(range(self.tenants), cum_weights=weights)
            calls.append(Call(moment, tenant, in_sweep=False))
        for call in sorted(calls, key=lambda call: call.second):
            new = sweep == "retraining" and call.second >= when[call.tenant]
            yield Call(call.second, call.tenant, call.in_sweep, version=int(new))


@dataclass(frozen=True)
class Call:
    """A call of a tenant's model; `second` is its moment."""

    second: float
    tenant: int
    in_sweep: bool
    version: int = 0

    @property
    def model(self) -> str:
        """The model's name."""
        return f"{self.tenant:05}/{self.version}"


# ---- the simulation ------------------------------------------------------------------------------

SIMULATED: Final = Traffic(tenants=2_000, hot=100, rate=10.0, quiet=2_400.0, sweep_rate=1.0)
CAPACITY: Final = 200


def simulate(
    policy: Policy, sweep: Sweep, traffic: Traffic = SIMULATED, capacity: int = CAPACITY
) -> dict[str, float]:
    """Figures of one policy, with memory for `capacity` models."""
    loaded: dict[str, None] = {}
    latencies: dict[Phase, list[float]] = {"quiet": [], "sweep": []}
    loads = Counter[Phase | None]()
    for call in traffic.calls(sweep):
        phase = traffic.phase(call.second)
        hit = call.model in loaded
        if not hit:
            loads[phase] += 1
            if len(loaded) >= capacity:
                del loaded[policy.victim(loaded.keys())]
            loaded[call.model] = None
        policy.use(call.model, len(loaded))
        if phase and not call.in_sweep and call.tenant < traffic.hot:
            latencies[phase].append(WARM_MS + (0 if hit else LOAD_MS))
    hits = {
        phase: round(found.count(WARM_MS) / len(found), 4) for phase, found in latencies.items()
    }
    return {
        "quiet_hot_hits": hits["quiet"],
        "hot_hits": hits["sweep"],
        "loads": loads["sweep"],
        **_compared(latencies),
    }


def _compared(latencies: dict[Phase, list[float]]) -> dict[str, float]:
    quiet, sweep = p95(latencies["quiet"]), p95(latencies["sweep"])
    return {
        "quiet_p95_ms": round(quiet, 2),
        "sweep_p95_ms": round(sweep, 2),
        "hot_p95_over_quiet": round(sweep / quiet, 3),
    }


# ---- the real local cloud ------------------------------------------------------------------------

REAL: Final = Traffic(
    tenants=150, hot=15, rate=15.0, quiet=30.0, sweep_rate=2.5, parts=15, pause=4.0
)
REAL_CAPACITY: Final = 30
BUCKET: Final = "hot-models"
ENDPOINT: Final = "hot-models"
_THREADS: Final = 16


def measure(sweep: Sweep) -> dict[str, float]:
    """The p95 of the hot tenants' calls before and during a sweep, in milliseconds."""
    with (
        tempfile.TemporaryDirectory(prefix="hot-models-") as scratch,
        running(Path(scratch) / "cloud", ROOT / "containers") as cloud,
    ):
        os.environ.update(cloud.environment)
        size = _put_models(boto3.client("s3"), Path(scratch))
        _create_endpoint(boto3.client("sagemaker"), size)
        pool = Config(max_pool_connections=_THREADS)
        return _drive(boto3.client("sagemaker-runtime", config=pool), sweep)


def _put_models(s3: Any, scratch: Path) -> int:
    """Put two versions of each tenant's model; returns the bytes of one in memory."""
    (name,) = write_models(scratch / "model", 1)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for file in sorted((scratch / "model" / name).iterdir()):
            tar.add(file, arcname=file.name)
    place = {"LocationConstraint": s3.meta.region_name}
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)

    def put(model: tuple[int, int]) -> None:
        key = f"models/{Call(0, model[0], in_sweep=False, version=model[1]).model}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=sink.getvalue())

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(put, itertools.product(range(REAL.tenants), (0, 1))))
    predictor = ForecastPredictor()
    return predictor.size(predictor.load(scratch / "model" / name))


def _create_endpoint(sagemaker: Any, size: int) -> None:
    """An endpoint of one instance with memory for `REAL_CAPACITY` models of `size` bytes."""
    role = "arn:aws:iam::123456789012:role/execution"
    container = {
        "Image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tenantry/forecast:1",
        "Mode": "MultiModel",
        "ModelDataUrl": f"s3://{BUCKET}/models/",
        "Environment": {"TENANTRY_MODEL_MEMORY_BYTES": str(size * REAL_CAPACITY)},
    }
    sagemaker.create_model(ModelName=ENDPOINT, PrimaryContainer=container, ExecutionRoleArn=role)
    variant = {
        "VariantName": "all",
        "ModelName": ENDPOINT,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    sagemaker.create_endpoint_config(EndpointConfigName=ENDPOINT, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=ENDPOINT)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=ENDPOINT, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


def _drive(runtime: Any, sweep: Sweep) -> dict[str, float]:
    """Make the calls at their moments."""
    began = time.perf_counter()

    def ask(call: Call) -> float:
        runtime.invoke_endpoint(
            EndpointName=ENDPOINT,
            TargetModel=call.model,
            Body=REQUEST.encode(),
            ContentType="application/json",
        )["Body"].read()
        return 1000 * (time.perf_counter() - began - call.second)

    answers: list[tuple[Call, Future[float]]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for call in REAL.calls(sweep):
            time.sleep(max(0.0, began + call.second - time.perf_counter()))
            answers.append((call, pool.submit(ask, call)))
    latencies: dict[Phase, list[float]] = {"quiet": [], "sweep": []}
    for call, answer in answers:
        latency = answer.result()
        phase = REAL.phase(call.second)
        if phase and not call.in_sweep and call.tenant < REAL.hot:
            latencies[phase].append(latency)
    return {"calls": len(answers), **_compared(latencies)}


def main() -> int:
    """Simulate, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_models", description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="without the local cloud")
    options = parser.parse_args()
    simulated = {
        sweep: {name: simulate(policy(), sweep) for name, policy in POLICIES.items()}
        for sweep in SWEEPS
    }
    for sweep, policies in simulated.items():
        for name, figures in policies.items():
            sys.stdout.write(f"{sweep:12} {name:12} {json.dumps(figures)}\n")
    measured: dict[str, dict[str, float]] = {}
    if not options.simulated:
        measured = {sweep: measure(sweep) for sweep in SWEEPS}
    shown = measured["drift_check"] if measured else simulated["drift_check"]["local_cloud"]
    report = {
        "simulated": simulated,
        "local_cloud": measured,
        "measured": bool(measured),
        "hot_p95_over_quiet": shown["hot_p95_over_quiet"],
    }
    sys.stdout.write(f"{json.dumps(report)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
