"""How far the simulator is from an endpoint that runs: the same arrivals and policy in both.

An asynchronous endpoint of the local cloud serves a compressed trace: `lapse` of its seconds pass
in one of this machine, as the local cloud's `--time-lapse` has it. Its container is a real process,
which sleeps an inference's compressed time. Its queue gives each instance `slots` requests at a
time. Application Auto Scaling tracks its backlog per instance. The bill is `GET /_local/bill`, and
a wait ends with the container's own stamp.

The simulator is told how long a start and an inference really take there. Both are measured on the
endpoint before the replay: a container needs a while after its provisioning, and each inference has
a call of HTTP around it.

An inference takes 2 s here and not the 0.5 s of the other benchmarks. Compressed, 0.5 s would be so
short that the milliseconds of HTTP on this machine would count as inference.
"""

import json
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import boto3
import numpy as np
from botocore.config import Config
from numpy.typing import NDArray

from benchmarks.capacity import rivals
from benchmarks.capacity.rivals import MINUTE
from benchmarks.capacity.simulator import MICROSECONDS, Bounds, Instance, Run, View, simulate
from benchmarks.capacity.traces import HOUR, SEED, SHARE, Trace, poisson
from infrastructure.local_cloud import ACCOUNT, REGION, LocalCloud, running
from local_sagemaker.scaling import policies as scaling

CONTAINERS: Final = Path(__file__).resolve().parent / "containers"
LAPSE: Final = 15
INSTANCE: Final = Instance(seconds_per_inference=2.0)
QUIET_RATE: Final = 1.0
HOURS: Final = {
    "two_bursts": (4, ((8, 14, 5.0), (38, 42, 4.0))),
    "slight_overload": (12, ((8, 20, 2.4), (38, 48, 3.0))),
}
"""The most instances, and the bursts: the first minute, the minute after the last, and requests a
second. The second hour depends on the policy's rounding, and so on single requests."""
PATIENCE: Final = 120.0
_ROUNDS: Final = 20
"""Inferences of each slot that are measured."""
_NAME: Final = "capacity"
_VARIANT: Final = "all"
_THREADS: Final = 8
_LOOKS: Final = 4
"""The local cloud looks so many times a minute whether a minute has ended."""


class ReplayError(RuntimeError):
    """The local cloud did not serve the trace; the message says what was left."""


@dataclass(frozen=True)
class Figures:
    """Instance-seconds billed, and the wait in seconds that 95 % of the requests do not exceed."""

    instance_seconds: float
    p95_wait: float


@dataclass(frozen=True)
class Comparison:
    """The same trace in both. `instance` is the one that was measured, and that the simulator has.
    `late_p95` is how late the client sent its requests: the seconds, of the trace's time, that 95 %
    of them do not exceed."""

    instance: Instance
    simulated: Figures
    measured: Figures
    late_p95: float

    @property
    def cost_error(self) -> float:
        """The simulator's instance-seconds over those of the local cloud, less 1."""
        return self.simulated.instance_seconds / self.measured.instance_seconds - 1

    @property
    def p95_error(self) -> float:
        """The same of the waits."""
        return self.simulated.p95_wait / self.measured.p95_wait - 1


@dataclass
class BacklogTracking:
    """Target tracking on the backlog per instance as the local cloud runs it.

    The backlog has the requests under way. A minute's mean is there when the minute has ended. The
    decision comes half a look later, because the local cloud looks `_LOOKS` times a minute. While
    the endpoint is updating, its capacity stays.
    """

    policy: scaling.TargetTracking
    bounds: Bounds
    interval: float = MINUTE / (2 * _LOOKS)
    _values: list[float | None] = field(default_factory=list)
    _cooldowns: scaling.Cooldowns = field(default_factory=scaling.Cooldowns)

    def decide(self, view: View) -> int:
        """See `Policy`."""
        if view.now < MINUTE or view.now % MINUTE != self.interval:
            return view.capacity
        minute = slice(-1 - 2 * _LOOKS, -1)
        backlogs = zip(view.waiting[minute], view.busy[minute], view.serving[minute], strict=True)
        self._values.append(fmean((one + two) / max(count, 1) for one, two, count in backlogs))
        if view.starting:
            return view.capacity
        decision = self.policy.decide(
            self._values[-scaling.LOW_PERIODS :],
            view.capacity,
            scaling.Bounds(self.bounds.least, self.bounds.most),
            self._cooldowns,
            view.now,
        )
        if decision is None:
            return view.capacity
        scaling.note(self._cooldowns, decision, view.now)
        return decision.capacity


def hour(name: str = "two_bursts") -> Trace:
    """A quiet hour with bursts that one instance cannot serve; one of `HOURS`."""
    most, bursts = HOURS[name]
    rates = np.full(HOUR, QUIET_RATE)
    for first, end, rate in bursts:
        rates[first * 60 : end * 60] = rate
    arrivals = poisson(rates, 1, np.random.default_rng((SEED, 4)))
    return Trace(name, arrivals, float(HOUR), 600.0, Bounds(1, most))


def compare(
    trace: Trace, instance: Instance = INSTANCE, lapse: int = LAPSE, patience: float = PATIENCE
) -> Comparison:
    """Replay a trace in the simulator and on a local cloud.

    Args:
        trace: its bounds must have one instance at least.
        instance: what the endpoint is made with.
        lapse: seconds of the trace in one of this machine, 60 at most.
        patience: seconds of this machine without a start, after the trace's end, until the replay
            is given up.

    Raises:
        ReplayError: the local cloud did not serve all requests.
    """
    with tempfile.TemporaryDirectory(prefix="capacity-") as scratch:
        folder = Path(scratch)
        arguments = {
            "--time-lapse": lapse,
            "--endpoint-provisioning-seconds": instance.start_seconds,
            "--metrics-seconds": MINUTE / (2 * _LOOKS) / lapse,
        }
        words = tuple(str(word) for pair in arguments.items() for word in pair)
        with running(folder / "cloud", CONTAINERS, words) as cloud:
            replay = _Replay(cloud, trace, instance, lapse, patience, folder / "starts")
            measured = replay.measured_instance()
            figures, late = replay.run()
    run = simulated(trace, measured)
    return Comparison(measured, Figures(run.instance_seconds, run.wait(SHARE)), figures, late)


def simulated(trace: Trace, instance: Instance) -> Run:
    """The run of the policy in the simulator."""
    target = scaling.TargetTracking(rivals.BACKLOG_TARGET, *rivals.BACKLOG_COOLDOWNS)
    policy = BacklogTracking(target, trace.bounds)
    return simulate(trace.arrivals, trace.duration, policy, trace.bounds, instance)


class _Replay:
    """A trace on a local cloud."""

    def __init__(
        self,
        cloud: LocalCloud,
        trace: Trace,
        instance: Instance,
        lapse: int,
        patience: float,
        starts: Path,
    ) -> None:
        self._cloud, self._trace, self._instance = cloud, trace, instance
        self._lapse, self._patience, self._starts = lapse, patience, starts
        starts.touch()
        self._session: Any = boto3.Session("test", "test", region_name=REGION)
        self._create_endpoint()

    def measured_instance(self) -> Instance:
        """How long a start takes here, and an inference in a full instance, in the trace's time."""
        begin = time.monotonic()
        self._scale(self._trace.bounds.least + 1)
        started = (time.monotonic() - begin) * self._lapse
        self._scale(1)
        slots = self._instance.slots
        self._send(np.full(_ROUNDS * slots, time.time()))
        stamps = np.sort(self._wait_for_starts(_ROUNDS * slots))
        # Each round of the slots begins when the one before has ended.
        rounds = stamps[slots:] - stamps[:-slots]
        self._starts.write_bytes(b"")  # the container appends to this very file
        self._scale(self._trace.bounds.least)
        return Instance(slots, float(np.median(rounds)) * self._lapse, started)

    def run(self) -> tuple[Figures, float]:
        """The figures, and `late_p95` of the comparison."""
        self._register_policy()
        minute = MINUTE / self._lapse
        begin = (time.time() // minute + 2) * minute  # the metrics' minutes begin then, too
        time.sleep(begin - time.time())
        before = self._billed()
        planned = begin + self._trace.arrivals / MICROSECONDS / self._lapse
        late = self._send(planned)
        time.sleep(max(begin + self._trace.duration / self._lapse - time.time(), 0))
        starts = self._wait_for_starts(len(planned))
        billed = self._billed() - before
        waits = (starts - planned) * self._lapse
        return Figures(billed, _p95(waits)), _p95(late * self._lapse)

    def _client(self, service: str) -> Any:
        config = Config(max_pool_connections=_THREADS, retries={"mode": "standard"})
        return self._session.client(service, endpoint_url=self._cloud.sagemaker_url, config=config)

    def _create_endpoint(self) -> None:
        sagemaker = self._client("sagemaker")
        seconds = self._instance.seconds_per_inference / self._lapse
        container = {
            "Image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/sleeper:1",
            "Environment": {"SLEEPER_SECONDS": str(seconds), "SLEEPER_STARTS": str(self._starts)},
        }
        role = f"arn:aws:iam::{ACCOUNT}:role/execution"
        sagemaker.create_model(ModelName=_NAME, PrimaryContainer=container, ExecutionRoleArn=role)
        variant = {
            "VariantName": _VARIANT,
            "ModelName": _NAME,
            "InitialInstanceCount": self._trace.bounds.least,
            "InstanceType": "ml.m5.large",
        }
        sagemaker.create_endpoint_config(
            EndpointConfigName=_NAME,
            ProductionVariants=[variant],
            AsyncInferenceConfig={
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": self._instance.slots},
                "OutputConfig": {},
            },
        )
        sagemaker.create_endpoint(EndpointName=_NAME, EndpointConfigName=_NAME)
        self._wait_for_instances(self._trace.bounds.least)

    def _scale(self, count: int) -> None:
        """Give the endpoint so many instances, and wait for them."""
        self._client("sagemaker").update_endpoint_weights_and_capacities(
            EndpointName=_NAME,
            DesiredWeightsAndCapacities=[{"VariantName": _VARIANT, "DesiredInstanceCount": count}],
        )
        self._wait_for_instances(count)

    def _wait_for_instances(self, count: int) -> None:
        sagemaker, begin = self._client("sagemaker"), time.monotonic()
        while time.monotonic() < begin + PATIENCE:
            endpoint = sagemaker.describe_endpoint(EndpointName=_NAME)
            variants = endpoint.get("ProductionVariants", [{}])
            there = variants[0].get("CurrentInstanceCount")
            if (endpoint["EndpointStatus"], there) == ("InService", count):
                return
            time.sleep(0.02)
        raise ReplayError(f"the endpoint has not {count} instances after {PATIENCE:g} s")

    def _register_policy(self) -> None:
        scaler = self._client("application-autoscaling")
        target = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{_NAME}/variant/{_VARIANT}",
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }
        bounds = self._trace.bounds
        scaler.register_scalable_target(**target, MinCapacity=bounds.least, MaxCapacity=bounds.most)
        out, into = rivals.BACKLOG_COOLDOWNS
        scaler.put_scaling_policy(
            **target,
            PolicyName="backlog",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration={
                "TargetValue": rivals.BACKLOG_TARGET,
                "CustomizedMetricSpecification": {
                    "MetricName": "ApproximateBacklogSizePerInstance",
                    "Namespace": "AWS/SageMaker",
                    "Dimensions": [{"Name": "EndpointName", "Value": _NAME}],
                    "Statistic": "Average",
                },
                "ScaleOutCooldown": round(out),
                "ScaleInCooldown": round(into),
            },
        )

    def _send(self, planned: NDArray[np.float64]) -> NDArray[np.float64]:
        """Send the requests at their moments; how many seconds late each was."""
        runtime = self._client("sagemaker-runtime")

        def send(number: int, moment: float) -> float:
            late = time.time() - moment
            runtime.invoke_endpoint_async(EndpointName=_NAME, Body=str(number).encode())
            return late

        with ThreadPoolExecutor(_THREADS) as pool:
            sent = []
            for number, moment in enumerate(planned.tolist()):
                time.sleep(max(moment - time.time(), 0))
                sent.append(pool.submit(send, number, moment))
            return np.array([one.result() for one in sent])

    def _wait_for_starts(self, count: int) -> NDArray[np.float64]:
        """When each of so many requests started, in seconds since 1970, once the last one has."""
        seen, moved = 0, time.monotonic()
        while len(starts := self._stamps()) < count:
            if len(starts) > seen:
                seen, moved = len(starts), time.monotonic()
            if time.monotonic() > moved + self._patience:
                raise ReplayError(
                    f"{count - len(starts)} of {count} requests have not started, and none did "
                    f"in the last {self._patience:g} s; give the machine fewer other tasks, or "
                    "take a smaller lapse"
                )
            time.sleep(0.1)
        return np.array([starts[number] for number in range(count)])

    def _stamps(self) -> dict[int, float]:
        """The stamps of the requests that have started, by number."""
        rows = (line.split() for line in self._starts.read_text().splitlines())
        return {int(number): float(moment) for number, moment in rows}

    def _billed(self) -> float:
        """Instance-seconds so far, in the trace's time."""
        url = f"{self._cloud.sagemaker_url}/_local/bill"
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - a loopback address
            return float(json.load(answer)["instance_seconds"])


def _p95(values: NDArray[np.float64]) -> float:
    return float(np.quantile(values, SHARE, method="inverted_cdf"))


def report(comparison: Comparison) -> dict[str, float]:
    """Print a comparison; its two errors under their names in the JSON."""
    one, other = comparison.simulated, comparison.measured
    print(
        f"simulator / local cloud: {one.instance_seconds / HOUR:.3f} / "
        f"{other.instance_seconds / HOUR:.3f} instance-hours ({comparison.cost_error:+.1%}), p95 "
        f"wait {one.p95_wait:.1f} / {other.p95_wait:.1f} s ({comparison.p95_error:+.1%}); the "
        f"client was {comparison.late_p95:.2f} s late in p95; a start took "
        f"{comparison.instance.start_seconds:.1f} s, an inference "
        f"{comparison.instance.seconds_per_inference:.3f} s",
        flush=True,
    )
    return {
        "simulator_cost_error": round(comparison.cost_error, 4),
        "simulator_p95_error": round(comparison.p95_error, 4),
    }
