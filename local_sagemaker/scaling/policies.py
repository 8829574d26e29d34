"""What a scaling policy makes of a metric: target tracking and step scaling, as functions of values
and a clock that is passed in.

Sources: docs.aws.amazon.com/autoscaling/application/userguide/ (target-tracking-scaling-policy-
overview.html, step-scaling-policy-overview.html) and …/APIReference/
API_TargetTrackingScalingPolicyConfiguration.html.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from local_sagemaker.monitoring.alarm_states import Alarm

HIGH_PERIODS: Final = 3
"""Minutes above the target before target tracking scales out."""
LOW_PERIODS: Final = 15
"""Minutes below `LOW_SHARE` of the target before it scales in."""
LOW_SHARE: Final = 0.9
DEFAULT_COOLDOWN: Final = 300.0
"""Seconds, of SageMaker's variants."""


@dataclass(frozen=True)
class Bounds:
    """The least and the most that a target's capacity may be."""

    least: int
    most: int

    def within(self, capacity: int) -> int:
        """The nearest capacity that they allow."""
        return min(max(capacity, self.least), self.most)


@dataclass
class Cooldowns:
    """When the last scale-out and scale-in of a policy began, in seconds; and the capacity that
    the scale-out came from and led to."""

    out_at: float = -math.inf
    out_from: int = 0
    out_to: int = 0
    in_at: float = -math.inf


@dataclass(frozen=True)
class Decision:
    """Another capacity, and why."""

    capacity: int
    alarm: Literal["AlarmHigh", "AlarmLow"]


@dataclass(frozen=True)
class TargetTracking:
    """Keeps a metric at a target. The metric falls as capacity grows."""

    target: float
    out_cooldown: float = DEFAULT_COOLDOWN
    in_cooldown: float = DEFAULT_COOLDOWN
    scale_in: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.target < math.inf:
            raise ValueError(f"TargetValue is {self.target:g}; it must be above 0")

    @property
    def high(self) -> Alarm:
        """The alarm that scales out."""
        return Alarm(self.target, "GreaterThanThreshold", HIGH_PERIODS, HIGH_PERIODS)

    @property
    def low(self) -> Alarm:
        """The alarm that scales in."""
        return Alarm(LOW_SHARE * self.target, "LessThanThreshold", LOW_PERIODS, LOW_PERIODS)

    def decide(
        self,
        values: Sequence[float | None],
        capacity: int,
        bounds: Bounds,
        cooldowns: Cooldowns,
        now: float,
    ) -> Decision | None:
        """The capacity that the metric asks for; None to leave it.

        A scale-out within the cooldown of another counts what that one added. A scale-in waits for
        both cooldowns, and keeps the metric below the target by the highest of its minutes.

        Args:
            values: one a minute, the oldest first.
            capacity: instances now, those on their way included.
            bounds: of the target.
            cooldowns: of this policy; `note` brings them up to date.
            now: seconds.
        """
        if self.high.state(values, "OK") == "ALARM" and values[-1] is not None:
            wanted = bounds.within(math.ceil(max(capacity, 1) * values[-1] / self.target))
            cooling = now < cooldowns.out_at + self.out_cooldown
            if wanted > (max(capacity, cooldowns.out_to) if cooling else capacity):
                return Decision(wanted, "AlarmHigh")
            return None
        if not self.scale_in or self.low.state(values, "OK") != "ALARM":
            return None
        if now < max(cooldowns.out_at + self.out_cooldown, cooldowns.in_at + self.in_cooldown):
            return None
        highest = max(value for value in values[-LOW_PERIODS:] if value is not None)
        wanted = bounds.within(math.ceil(capacity * highest / self.target))
        return Decision(wanted, "AlarmLow") if wanted < capacity else None


def note(cooldowns: Cooldowns, decision: Decision, now: float, before: int = 0) -> None:
    """Begin the cooldown of a change that was made; `before` is the capacity until then."""
    if decision.alarm == "AlarmHigh":
        cooldowns.out_at, cooldowns.out_from, cooldowns.out_to = now, before, decision.capacity
    else:
        cooldowns.in_at = now


@dataclass(frozen=True)
class Step:
    """A change for breaches from `lower` to below `upper`, which are relative to the alarm's
    threshold; None has no end on its side."""

    lower: float | None
    upper: float | None
    change: float

    def holds(self, breach: float, *, above: bool) -> bool:
        """Whether a breach is in it; its inner end belongs to it, its outer one does not."""
        if above:
            return (self.lower is None or breach >= self.lower) and (
                self.upper is None or breach < self.upper
            )
        return (self.lower is None or breach > self.lower) and (
            self.upper is None or breach <= self.upper
        )


@dataclass(frozen=True)
class StepScaling:
    """Changes capacity by the size of a breach."""

    kind: Literal["ChangeInCapacity", "PercentChangeInCapacity", "ExactCapacity"]
    steps: tuple[Step, ...]
    least_change: int = 0
    cooldown: float = DEFAULT_COOLDOWN

    def capacity_for(self, breach: float, capacity: int, bounds: Bounds) -> int:
        """The capacity after a breach of so much: above 0 over the threshold, below 0 under it."""
        above = breach >= 0
        step = next((one for one in self.steps if one.holds(breach, above=above)), None)
        if step is None:
            return capacity
        if self.kind == "ExactCapacity":
            return bounds.within(int(step.change))
        if self.kind == "ChangeInCapacity":
            return bounds.within(capacity + int(step.change))
        return bounds.within(capacity + self._of_percent(step.change * capacity / 100))

    def decide(
        self, breach: float, capacity: int, bounds: Bounds, cooldowns: Cooldowns, now: float
    ) -> Decision | None:
        """The capacity after a breach; None to leave it.

        Within the cooldown of a scale-out, a further one counts from the capacity before the first,
        so only a larger step adds more. A scale-in waits for the cooldowns.
        """
        cooling = now < cooldowns.out_at + self.cooldown
        wanted = self.capacity_for(breach, cooldowns.out_from if cooling else capacity, bounds)
        if wanted > capacity:
            return Decision(wanted, "AlarmHigh")
        if cooling or wanted == capacity or now < cooldowns.in_at + self.cooldown:
            return None
        return Decision(wanted, "AlarmLow")

    def _of_percent(self, change: float) -> int:
        """A share of the capacity as instances: towards 0 beyond one, else one; at least
        `least_change`."""
        if change == 0:
            return 0
        whole = math.trunc(change) if abs(change) >= 1 else round(math.copysign(1, change))
        return round(math.copysign(max(abs(whole), self.least_change), change))
