"""How the best batch is looked for, whatever the throughputs are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tenantry.tuning.batches import NOISE, Measured, best_of, sizes, until_it_falls
from tenantry.tuning.load import Load

THROUGHPUTS = st.lists(st.floats(0.1, 1e5), min_size=1, max_size=11)


def measured(size: int, per_second: float) -> Measured:
    return Measured(size, Load(per_second, 1.0, 2.0), 1.0)


@given(clients=st.integers(4, 5000))
def test_sizes_double_up_to_half_of_the_clients(clients: int) -> None:
    tried = sizes(clients)
    assert tried[0] == 1
    assert all(larger == 2 * size for size, larger in pairwise(tried))
    assert tried[-1] <= clients / 2
    assert tried[-1] > clients / 4 or tried[-1] == 1024


@given(throughputs=THROUGHPUTS)
def test_it_ends_with_the_second_fall_and_the_best_costs_least_latency(
    throughputs: list[float],
) -> None:
    of = {1 << power: one for power, one in enumerate(throughputs)}
    found = list(until_it_falls(of, lambda size: measured(size, of[size])))
    rates = [one.load.per_second for one in found]
    assert [one.max_batch for one in found] == list(of)[: len(found)]
    fell = [
        number > 0 and rate < (1 - NOISE) * max(rates[:number]) for number, rate in enumerate(rates)
    ]
    twice = [number for number in range(1, len(fell)) if fell[number - 1] and fell[number]]
    assert twice in ([], [len(rates) - 1])
    assert twice or len(found) == len(of)
    best = best_of(found)
    assert best.load.per_second >= (1 - NOISE) * max(rates)
    assert all(
        one.load.per_second < (1 - NOISE) * max(rates)
        for one in found
        if one.max_batch < best.max_batch
    )


def test_one_fall_alone_ends_nothing() -> None:
    of = {1: 100.0, 2: 50.0, 4: 150.0, 8: 149.0, 16: 90.0, 32: 80.0, 64: 900.0}
    found = list(until_it_falls(of, lambda size: measured(size, of[size])))
    assert [one.max_batch for one in found] == [1, 2, 4, 8, 16, 32]
    assert best_of(found).max_batch == 4
