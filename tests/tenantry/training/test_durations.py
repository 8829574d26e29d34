"""The expected durations of tasks, learned from earlier ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.training.durations import LEAST_SECONDS, Durations, learn_durations, learned_durations

ENERGY, PORTRAITS = ids.workload_name("energy"), ids.workload_name("portraits")
TASKS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), max_size=30)


@given(tasks=TASKS, rows=st.lists(st.floats(0, 1e7), min_size=2, max_size=2))
def test_whatever_was_seen_a_task_takes_some_time_and_more_data_no_less(
    tasks: list[tuple[float, float]], rows: list[float]
) -> None:
    durations = Durations().with_tasks(tasks)
    fewer, more = sorted(rows)
    assert (
        LEAST_SECONDS
        <= durations.expected_seconds(fewer)
        <= durations.expected_seconds(more)
        < float("inf")
    )


@given(
    base=st.floats(0, 100),
    slope=st.floats(1e-4, 10),
    rows=st.lists(st.integers(0, 20_000), min_size=2, max_size=20, unique=True),
)
def test_tasks_that_lie_on_a_line_are_foretold_exactly(
    base: float, slope: float, rows: list[int]
) -> None:
    durations = Durations().with_tasks((float(x), base + slope * x) for x in rows)
    assert durations.expected_seconds(12_345) == pytest.approx(
        base + slope * 12_345, rel=1e-4, abs=1e-3
    )


@given(tasks=TASKS.filter(len), base=st.floats(0, 1e5), slope=st.floats(0, 10))
def test_no_other_line_without_negative_parts_fits_better(
    tasks: list[tuple[float, float]], base: float, slope: float
) -> None:
    tasks = [(round(rows), round(seconds)) for rows, seconds in tasks]

    def squares(base: float, slope: float) -> float:
        return sum((base + slope * rows - seconds) ** 2 for rows, seconds in tasks)

    best = squares(*Durations().with_tasks(tasks).line())
    assert best <= squares(base, slope) * (1 + 1e-6) + 1e-3


def test_before_anything_was_learned_more_data_take_longer_and_nothing_is_promised() -> None:
    nothing = Durations()
    assert not nothing.learned
    assert nothing.expected_seconds(0) > 0
    assert nothing.expected_seconds(17_520) > nothing.expected_seconds(8_760)
    assert nothing.with_tasks([(1.0, 1.0)]).learned


def test_packs_that_end_at_the_same_time_teach_together_and_each_workload_its_own(
    deployment: Deployment,
) -> None:
    assert learned_durations(deployment, ENERGY) == Durations()
    packs = [[(float(8760 + pack), 0.5 + pack / 10), (24.0 * pack, 1 / 3)] for pack in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tasks: learn_durations(deployment, ENERGY, tasks), packs))
    learned = learned_durations(deployment, ENERGY)
    expected = Durations().with_tasks(task for pack in packs for task in pack)
    assert learned.n == expected.n == 16
    for rows in (0.0, 8760.0):
        assert learned.expected_seconds(rows) == pytest.approx(
            expected.expected_seconds(rows), rel=1e-5
        )
    assert learned_durations(deployment, PORTRAITS) == Durations()


def test_a_pack_costs_one_call_and_one_without_results_none(deployment: Deployment) -> None:
    _ = deployment.dynamodb
    before = deployment.aws_calls.total()
    learn_durations(deployment, ENERGY, [(1.0, 2.0)] * 500)
    assert deployment.aws_calls.total() == before + 1
    learn_durations(deployment, ENERGY, [])
    assert deployment.aws_calls.total() == before + 1
