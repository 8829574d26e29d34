"""When an alarm is in ALARM: M of the last N periods, with a rule for periods without data.

Rules: docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html and
…/alarms-and-missing-data.html, whose examples look at two periods more than are needed.
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

    @property
    def range(self) -> int:
        """Periods that are looked at: two more than are needed, in case some lack data."""
        return self.periods + 2

    def state(self, values: Sequence[float | None], before: State) -> State:
        """Its state by the latest values, the oldest first, and its state before.

        The latest values that are there count. Only where the range has too few of them, `missing`
        says what stands for the others.
        """
        compare = _COMPARED[self.comparison]
        there = [
            (age, compare(value, self.threshold))
            for age, value in enumerate(reversed(values[-self.range :]), 1)
            if value is not None
        ][: self.periods]
        breaches = sum(breaching for _, breaching in there)
        absent = self.periods - len(there)
        if self.missing == "breaching":
            breaches += absent
        elif self.missing != "notBreaching" and absent and breaches < self.datapoints:
            if not there:
                return before if self.missing == "ignore" else "INSUFFICIENT_DATA"
            # "Avoiding premature transitions": what is there breaches, and is old enough.
            if breaches == len(there) and there[-1][0] >= self.datapoints:
                return before if self.missing == "ignore" else "ALARM"
        return "ALARM" if breaches >= self.datapoints else "OK"
