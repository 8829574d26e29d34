"""How long a workload's tasks take, learned from those that ended: a line through seconds over
rows.

Each workload has one item of five sums, which is all that least squares needs. A pack adds its
tasks to it by one atomic ADD, without a read. So any number of runs may do so at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from tenantry.names import ids, table_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_SUMS: Final = ("n", "rows", "seconds", "rows_rows", "rows_seconds")
# Before the first task has ended: a task costs something by itself and something for its data. Only
# the proportions count then.
_PRIOR_SECONDS: Final = 1.0
_PRIOR_SECONDS_PER_ROW: Final = 0.001
LEAST_SECONDS: Final = 0.001
"""No task is expected to take less: tasks of no duration at all could not be balanced."""
# Rows that differ by less, relative to their size, say nothing about a slope; their sums'
# difference is rounding.
_LEAST_SPREAD: Final = 1e-9
_EXACT: Final = Decimal("1e-6")


@dataclass(frozen=True)
class Durations:
    """The learned sums over ``n`` tasks: of rows, seconds, rows² and rows·seconds."""

    n: int = 0
    rows: float = 0.0
    seconds: float = 0.0
    rows_rows: float = 0.0
    rows_seconds: float = 0.0

    @property
    def learned(self) -> bool:
        """Whether any task has ended. Before that, expectations are good as proportions, not as
        seconds."""
        return self.n > 0

    def line(self) -> tuple[float, float]:
        """Seconds of a task without rows, and seconds for each row, neither of them negative.

        Least squares under that condition (Lawson & Hanson, "Solving Least Squares Problems", 1974,
        chapter 23). With two unknowns the best point is the free one or lies on one of the two
        edges. With rows and seconds ≥ 0 it is plain on which.
        """
        if self.n == 0:
            return _PRIOR_SECONDS, _PRIOR_SECONDS_PER_ROW
        spread = self.n * self.rows_rows - self.rows**2
        if spread <= _LEAST_SPREAD * self.n * self.rows_rows:
            return self.seconds / self.n, 0.0
        slope = (self.n * self.rows_seconds - self.rows * self.seconds) / spread
        if slope <= 0:
            return self.seconds / self.n, 0.0
        base = (self.seconds - slope * self.rows) / self.n
        if base < 0:
            return 0.0, self.rows_seconds / self.rows_rows
        return base, slope

    def expected_seconds(self, rows: float) -> float:
        """How long a task with so many rows is expected to take; at least ``LEAST_SECONDS``."""
        base, slope = self.line()
        return max(base + slope * rows, LEAST_SECONDS)

    def with_tasks(self, tasks: Iterable[tuple[float, float]]) -> Durations:
        """The sums with further tasks, each given as its rows and its seconds."""
        added = _sums(tasks)
        return Durations(
            self.n + added.n,
            self.rows + added.rows,
            self.seconds + added.seconds,
            self.rows_rows + added.rows_rows,
            self.rows_seconds + added.rows_seconds,
        )


def _sums(tasks: Iterable[tuple[float, float]]) -> Durations:
    pairs = list(tasks)
    return Durations(
        len(pairs),
        sum(rows for rows, _ in pairs),
        sum(seconds for _, seconds in pairs),
        sum(rows * rows for rows, _ in pairs),
        sum(rows * seconds for rows, seconds in pairs),
    )


def learned_durations(deployment: Deployment, workload: ids.WorkloadName) -> Durations:
    """The durations learned from a workload's tasks so far."""
    row = deployment.requests.get(table_keys.durations_item(workload), consistent=False) or {}
    found: dict[str, Any] = {name: float(row[name]) for name in _SUMS if name in row}
    return Durations(n=int(found.pop("n", 0)), **found)


def learn_durations(
    deployment: Deployment, workload: ids.WorkloadName, tasks: Iterable[tuple[float, float]]
) -> None:
    """Add ended tasks to the sums, each given as its rows and its seconds, in one atomic write."""
    added = _sums(tasks)
    if not added.n:
        return
    values = {name: Decimal(getattr(added, name)).quantize(_EXACT).normalize() for name in _SUMS}
    deployment.requests.update(table_keys.durations_item(workload), adding=values)
