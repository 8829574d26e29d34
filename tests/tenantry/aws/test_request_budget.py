"""A rate limit that several processes share through the table."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.aws.deployment import Deployment
from tenantry.aws.request_budget import BudgetSpentError, RequestBudget

numbers = itertools.count()


@dataclass
class Clock:
    """A clock that moves only when a test moves it."""

    at: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


def max_within(turns: list[float], seconds: float) -> int:
    """The most turns that begin within this many seconds."""
    return max(sum(start <= turn <= start + seconds for turn in turns) for start in turns)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([0.5, 1.0, 3.0, 7.0]),
    burst=st.integers(1, 4),
    rounds=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5)), min_size=1, max_size=3),
    window=st.floats(0, 20),
)
def test_callers_together_never_exceed_the_rate_and_the_burst(
    deployment: Deployment, rate: float, burst: int, rounds: list[tuple[float, int]], window: float
) -> None:
    clock, operation = Clock(), f"Operation{next(numbers)}"
    turns: list[float] = []
    with ThreadPoolExecutor(4) as callers:
        for pause, calls in rounds:
            clock.at += pause
            # Each caller has its own budget, like each process.
            budgets = [
                RequestBudget(deployment, operation, rate, burst, clock=clock) for _ in range(calls)
            ]
            taken = list(callers.map(lambda budget: budget.take(), budgets))
            assert min(taken) >= clock.at - 1e-3
            turns += taken
    assert max_within(turns, window) <= burst + rate * window + 1e-3 * len(turns)
    assert max(turns) <= clock.at + len(turns) / rate, (
        "nobody waits longer than those before it take"
    )


def test_after_a_quiet_time_a_burst_goes_at_once_and_the_next_wait(deployment: Deployment) -> None:
    clock = Clock()
    budget = RequestBudget(deployment, "CreateTrainingJob", 2.0, 3, clock=clock)
    assert [round(budget.take() - clock.at, 3) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    clock.at += 100
    assert [round(budget.take() - clock.at, 3) for _ in range(4)] == [0, 0, 0, 0.5]
    assert RequestBudget(deployment, "CreateModel", 2.0, 1, clock=clock).take() == clock.at, (
        "each operation has its own"
    )


def test_whoever_would_wait_too_long_is_told_and_takes_no_turn(deployment: Deployment) -> None:
    clock = Clock()
    budget = RequestBudget(deployment, "CreateTrainingJob", 1.0, 1, longest_wait=2.0, clock=clock)
    assert [budget.take() - clock.at for _ in range(3)] == pytest.approx([0, 1, 2], abs=1e-3)
    for _ in range(2):
        with pytest.raises(
            BudgetSpentError,
            match="CreateTrainingJob is called 1 times a second, and 3 s of calls are waiting",
        ):
            budget.wait()
    clock.at += 1
    assert budget.take() == pytest.approx(clock.at + 2, abs=1e-3)


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_budget_that_would_let_nobody_through_is_refused(
    deployment: Deployment, rate: float, burst: int
) -> None:
    with pytest.raises(ValueError, match="a rate above 0 and a burst of at least 1"):
        RequestBudget(deployment, "CreateTrainingJob", rate, burst)
