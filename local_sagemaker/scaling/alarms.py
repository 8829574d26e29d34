"""When an alarm is in ALARM: M of the last N periods, with a rule for periods without data.

Rules: docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html, "Evaluating
an alarm" and "Configuring how CloudWatch alarms treat missing data".
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Missing = Literal["missing", "breaching", "notBreaching", "ignore"]

_COMPARED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}


@dataclass(frozen=True)
class Alarm:
    """A static threshold over the latest periods.

    `datapoints` of the last `periods` have to breach it. `missing` says what a period without data
    counts as.
    """

    threshold: float
    comparison: str
    periods: int
    datapoints: int
    missing: Missing = "missing"

    def state(self, values: Sequence[float | None], before: State) -> State:
        """Its state by the latest values, the oldest first, and its state before."""
        compare = _COMPARED[self.comparison]
        latest: list[float | None] = [None] * max(0, self.periods - len(values))
        latest += values[-self.periods :]
        breaches = [value is not None and compare(value, self.threshold) for value in latest]
        there = [value is not None for value in latest]
        if self.missing == "breaching":
            breaches = [breach or not has for breach, has in zip(breaches, there, strict=True)]
        elif not any(there):
            if self.missing == "notBreaching":
                return "OK"
            return before if self.missing == "ignore" else "INSUFFICIENT_DATA"
        if sum(breaches) >= self.datapoints:
            return "ALARM"
        if self.missing == "ignore":
            return before if sum(there) < self.datapoints else "OK"
        return "OK"
