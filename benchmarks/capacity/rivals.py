"""The policies that ours is compared with, each with the settings of its own documentation.

CloudWatch's metrics are of whole minutes, and a policy sees a minute's metric `CLOUDWATCH_DELAY`
seconds after it has ended. Knative and KEDA read the present state. A policy that cannot leave zero
by itself has AWS's step policy on `HasBacklogWithoutCapacity` beside it, or keeps one instance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from benchmarks.capacity.simulator import Bounds, Instance, Policy, Run, View, simulate
from benchmarks.capacity.traces import SHARE, Trace
from local_sagemaker.scaling import policies as scaling

MINUTE: Final = 60.0
CLOUDWATCH_DELAY: Final = 60.0
"""Seconds from the end of a minute until an alarm has read its metric. An assumption: AWS promises
no figure."""
SAFETY_FACTOR: Final = 0.5
"""The share of the most requests a minute that InvocationsPerInstance should have as its target:
docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-loadtest.html."""
BACKLOG_TARGET: Final = 5.0
BACKLOG_COOLDOWNS: Final = (300.0, 600.0)
"""Seconds, out and in: docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html."""
FROM_ZERO_PERIODS: Final = 2
FROM_ZERO_COOLDOWN: Final = 300.0
USAGE_TARGET: Final = 0.75
USAGE_COOLDOWNS: Final = (60.0, 120.0)
"""Seconds, out and in; capability C132."""


@dataclass(frozen=True)
class Constant:
    """The same number of instances all the time."""

    count: int
    interval: float = 3600.0

    def decide(self, view: View) -> int:  # noqa: ARG002 - it looks at nothing
        """See `Policy`."""
        return self.count


def fixed_for_peak(trace: Trace, instance: Instance) -> Run:
    """The fewest constant instances with which 95 % of the trace's requests wait for no longer than
    its service level, found by bisection; they serve from the trace's beginning on.

    A twentieth of the requests may be late in the busiest hour, so that this can be fewer than that
    hour alone would need. Where not even the most instances keep the level, it is the most.
    """

    def run(count: int) -> Run:
        return simulate(
            trace.arrivals, trace.duration, Constant(count), Bounds(count, count), instance
        )

    low, high = 0, trace.bounds.most
    best = run(high)
    while high - low > 1:
        middle = (low + high) // 2
        found = run(middle)
        if not found.lost and found.wait(SHARE) <= trace.slo:
            high, best = middle, found
        else:
            low = middle
    return best


@dataclass
class FromZero:
    """AWS's step policy that adds an instance where a backlog has none."""

    asked_at: float = -math.inf

    def asks(self, view: View) -> bool:
        """Whether `HasBacklogWithoutCapacity` was 1 for the latest minutes."""
        if view.capacity or view.now < self.asked_at + FROM_ZERO_COOLDOWN:
            return False
        for minute in range(FROM_ZERO_PERIODS):
            waiting, serving = (
                _minute(view, view.waiting, minute),
                _minute(view, view.serving, minute),
            )
            # The statistic is an average; it is 1 where the backlog lasted for the whole minute.
            if not waiting or not all(
                one > 0 and not other for one, other in zip(waiting, serving, strict=True)
            ):
                return False
        self.asked_at = view.now
        return True


@dataclass
class Tracking:
    """Application Auto Scaling's target tracking on a metric of CloudWatch.

    `metric` gives the value of a minute from its requests, and from samples of waiting requests and
    serving instances; None for a minute without a datum.
    """

    policy: scaling.TargetTracking
    metric: Callable[[int, list[int], list[int]], float | None]
    bounds: Bounds
    from_zero: FromZero | None
    interval: float = 10.0
    _values: list[float | None] = field(default_factory=list)
    _cooldowns: scaling.Cooldowns = field(default_factory=scaling.Cooldowns)

    def decide(self, view: View) -> int:
        """See `Policy`."""
        if view.now < MINUTE + CLOUDWATCH_DELAY or view.now % MINUTE:
            return view.capacity
        end = view.now - CLOUDWATCH_DELAY
        self._values.append(
            self.metric(
                view.arrived(end - MINUTE, end),
                _minute(view, view.waiting, 0),
                _minute(view, view.serving, 0),
            )
        )
        if self.from_zero is not None and self.from_zero.asks(view):
            return view.capacity + 1
        # The metric is per instance that served in its minute, not per instance now: AWS counts
        # what a scale-out added as part of the next.
        served = _minute(view, view.serving, 0)
        decision = self.policy.decide(
            self._values[-scaling.LOW_PERIODS :],
            round(fmean(served)) if served else 0,
            scaling.Bounds(self.bounds.least, self.bounds.most),
            self._cooldowns,
            view.now,
        )
        if decision is None or (decision.capacity > view.capacity) != (
            decision.alarm == "AlarmHigh"
        ):
            return view.capacity
        scaling.note(self._cooldowns, decision, view.now)
        return decision.capacity


def _minute(view: View, samples: list[int], age: int) -> list[int]:
    """The samples of the latest minute that CloudWatch shows, or of one `age` minutes older."""
    per_minute = round(MINUTE / view.interval)
    end = len(samples) - 1 - round((CLOUDWATCH_DELAY + age * MINUTE) / view.interval)
    return samples[max(end - per_minute, 0) : max(end, 0)]


def target_tracking(instance: Instance, bounds: Bounds) -> Policy:
    """Target tracking on InvocationsPerInstance; at least one instance, because the metric has no
    data without."""

    def invocations(requests: int, _waiting: list[int], serving: list[int]) -> float | None:
        return requests / max(round(fmean(serving)), 1) if any(serving) else None

    target = instance.rate * SAFETY_FACTOR * MINUTE
    least = Bounds(max(bounds.least, 1), bounds.most)
    return Tracking(scaling.TargetTracking(target), invocations, least, None)


def backlog(_instance: Instance, bounds: Bounds) -> Policy:
    """Target tracking on ApproximateBacklogSizePerInstance, and the step from zero."""

    def per_instance(_requests: int, waiting: list[int], serving: list[int]) -> float | None:
        there = [one / other for one, other in zip(waiting, serving, strict=True) if other]
        return fmean(there) if there else None

    policy = scaling.TargetTracking(BACKLOG_TARGET, *BACKLOG_COOLDOWNS)
    return Tracking(policy, per_instance, bounds, FromZero())


def usage_rate(instance: Instance, bounds: Bounds) -> Policy:
    """Article 002's usage rate (C128 to C133): requests a minute over the most that the instances
    could do, which a count of the samples of CPUUtilization tells; and the step from zero."""

    def usage(requests: int, _waiting: list[int], serving: list[int]) -> float | None:
        samples = serving[-1] if serving else 0  # one sample per instance and minute
        if not samples:
            return None
        capacity = samples * MINUTE / instance.seconds_per_inference * instance.slots
        return requests / capacity

    policy = scaling.TargetTracking(USAGE_TARGET, *USAGE_COOLDOWNS)
    return Tracking(policy, usage, bounds, FromZero())


@dataclass
class Knative:
    """Knative's pod autoscaler on concurrency, with the defaults of `config-autoscaler`.

    Rules: github.com/knative/serving, pkg/autoscaler/scaling/autoscaler.go and
    knative.dev/docs/serving/autoscaling/. A request that waits counts as concurrent, because the
    activator and the queue proxies hold it.
    """

    instance: Instance
    interval: float = 2.0
    stable_window: float = 60.0
    panic_window: float = 6.0
    panic_threshold: float = 2.0
    utilisation: float = 0.7
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_to_zero_grace: float = 30.0
    _panic_since: float | None = None
    _panic_pods: int = 0
    _idle_since: float | None = None

    def decide(self, view: View) -> int:
        """See `Policy`."""
        target = self.instance.slots * self.utilisation
        stable = self._concurrency(view, self.stable_window)
        panic = self._concurrency(view, self.panic_window)
        ready = max(view.serving[-1], 1)
        most = math.ceil(self.max_scale_up_rate * ready)
        least = math.floor(view.serving[-1] / self.max_scale_down_rate)
        wanted = min(max(math.ceil(stable / target), least), most)
        wanted_in_panic = min(max(math.ceil(panic / target), least), most)
        over = math.ceil(panic / target) / ready >= self.panic_threshold
        if over:
            if self._panic_since is None:
                self._panic_pods = view.serving[-1]
            self._panic_since = view.now
        elif self._panic_since is not None and view.now > self._panic_since + self.stable_window:
            self._panic_since = None
        if self._panic_since is not None:
            self._panic_pods = max(self._panic_pods, wanted_in_panic)
            wanted = max(self._panic_pods, wanted)
        if wanted:
            self._idle_since = None
            return wanted
        if self._idle_since is None:
            self._idle_since = view.now
        idle = view.now - self._idle_since >= self.scale_to_zero_grace
        return 0 if idle else min(view.capacity, 1)

    def _concurrency(self, view: View, window: float) -> float:
        count = round(window / self.interval)
        return fmean(view.waiting[-count:]) + fmean(view.busy[-count:])


@dataclass
class Keda:
    """KEDA with its default queue target: ceil(metric / target), every 30 s.

    The metric is the length of the queue, inferences under way included. From one instance on, the
    Horizontal Pod Autoscaler takes the highest recommendation of the last 300 s before it scales in
    (its default stabilisation). To zero takes 300 s without activity. Sources:
    keda.sh/docs/latest/reference/scaledobject-spec, keda.sh/docs/latest/scalers/aws-sqs,
    kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale.
    """

    target: float = 5.0
    interval: float = 30.0
    cooldown: float = 300.0
    stabilisation: float = 300.0
    _wanted: list[int] = field(default_factory=list)
    _active_at: float = -math.inf

    def decide(self, view: View) -> int:
        """See `Policy`."""
        metric = view.waiting[-1] + view.busy[-1]
        if metric:
            self._active_at = view.now
        self._wanted.append(math.ceil(metric / self.target))
        recent = self._wanted[-round(self.stabilisation / self.interval) :]
        wanted = max(self._wanted[-1], min(max(recent), view.capacity))
        if wanted:
            return wanted
        cooling = view.now < self._active_at + self.cooldown
        return min(view.capacity, 1) if cooling else 0
