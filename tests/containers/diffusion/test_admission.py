"""The order of waiting pictures: tenants get equal shares of the drawing, however much they ask
for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.diffusion.serving.admission import FairQueue, QueueFullError

TENANTS = ("ant", "bee", "cow", "dog")
costs = st.sampled_from([1.0, 2.0, 10.0, 333.0])


def emptied(queue: FairQueue[str, int]) -> list[str]:
    return [queue.take()[0] for _ in range(len(queue))]


def test_tenants_take_turns_whatever_they_ask_for() -> None:
    queue: FairQueue[str, int] = FairQueue(100, 100)
    queue.put("ant", [1, 2, 3, 4, 5, 6], 1.0)
    queue.put("bee", [7, 8], 1.0)
    queue.put("cow", [9], 1.0)
    assert emptied(queue) == ["ant", "bee", "cow", "ant", "bee", "ant", "ant", "ant", "ant"]


def test_who_asks_for_more_at_a_time_comes_less_often() -> None:
    queue: FairQueue[str, int] = FairQueue(100, 100)
    queue.put("ant", list(range(3)), 3.0)
    queue.put("bee", list(range(9)), 1.0)
    order = emptied(queue)
    assert [order[:4].count("ant"), order[:8].count("ant"), order.count("ant")] == [1, 2, 3]


def test_who_comes_late_is_next_and_not_before_its_own_debt() -> None:
    queue: FairQueue[str, int] = FairQueue(100, 100)
    queue.put("ant", list(range(20)), 1.0)
    assert [queue.take()[0] for _ in range(5)] == ["ant"] * 5
    queue.put("bee", [1], 5.0)
    assert [queue.take()[0] for _ in range(2)].count("bee") == 1
    # Bee's picture costs as much as five of ant's, so bee's next request does not come first.
    queue.put("bee", [2], 5.0)
    order = [queue.take()[0] for _ in range(6)]
    assert order.index("bee") >= 3


def test_when_nothing_waits_no_debt_is_left() -> None:
    queue: FairQueue[str, int] = FairQueue(100, 100)
    queue.put("ant", [1], 1000.0)
    queue.take()
    queue.put("ant", [2], 1.0)
    queue.put("bee", [3], 1.0)
    assert queue.take() == ("ant", 2)


def test_no_more_waits_than_may_and_what_does_not_fit_leaves_no_trace() -> None:
    queue: FairQueue[str, int] = FairQueue(5, 3)
    queue.put("ant", [1, 2], 1.0)
    with pytest.raises(QueueFullError) as full:
        queue.put("ant", [3, 4], 1.0)
    assert (full.value.of_tenant, full.value.waiting) == (True, 2)
    queue.put("bee", [5, 6, 7], 1.0)
    with pytest.raises(QueueFullError) as full:
        queue.put("cow", [8], 1.0)
    assert (full.value.of_tenant, full.value.waiting) == (False, 5)
    assert [queue.take() for _ in range(5)] == [
        ("ant", 1),
        ("bee", 5),
        ("ant", 2),
        ("bee", 6),
        ("bee", 7),
    ]
    assert queue.next() is None
    with pytest.raises(IndexError):
        queue.take()


def test_what_nobody_wants_leaves_the_line_and_costs_nothing() -> None:
    queue: FairQueue[str, int] = FairQueue(100, 100)
    queue.put("ant", [1, 2, 3, 4], 1.0)
    queue.put("bee", [5, 6], 1.0)
    assert queue.remove("ant", lambda item: item in (1, 3)) == [1, 3]
    assert queue.remove("cow") == []
    assert (len(queue), queue.waiting_of("ant"), queue.waiting_of("cow")) == (4, 2, 0)
    assert [queue.take() for _ in range(2)] == [("ant", 2), ("bee", 5)]
    assert queue.forget("ant") == [4]
    assert [queue.take() for _ in range(1)] == [("bee", 6)]


@given(
    st.dictionaries(st.sampled_from(TENANTS), st.lists(costs, min_size=1, max_size=12), min_size=2)
)
def test_tenants_that_wait_together_get_equal_shares(asked: dict[str, list[float]]) -> None:
    """Goyal, Vin and Cheng 1996, theorem 1: shares differ by at most the largest item of each."""
    queue: FairQueue[str, float] = FairQueue(1000, 1000)
    for tenant, items in asked.items():
        for cost in items:
            queue.put(tenant, [cost], max(items))
    got = dict.fromkeys(asked, 0.0)
    while all(queue.waiting_of(tenant) for tenant in asked):
        tenant, _ = queue.take()
        got[tenant] += max(asked[tenant])
        for one, other in itertools.combinations(asked, 2):
            assert abs(got[one] - got[other]) <= max(asked[one]) + max(asked[other])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from(TENANTS), st.integers(1, 5), costs),
            st.tuples(st.just("take"), st.just(""), st.just(0), st.just(0.0)),
            st.tuples(st.just("remove"), st.sampled_from(TENANTS), st.integers(1, 3), st.just(0.0)),
        ),
        max_size=60,
    )
)
def test_every_item_comes_out_once_in_its_tenants_order(
    commands: list[tuple[str, str, int, float]],
) -> None:
    queue: FairQueue[str, int] = FairQueue(40, 12)
    expected: dict[str, list[int]] = {tenant: [] for tenant in TENANTS}
    numbers = itertools.count()
    for command, tenant, count, cost in commands:
        waiting = sum(map(len, expected.values()))
        if command == "put":
            items = [next(numbers) for _ in range(count)]
            fits = len(expected[tenant]) + count <= 12 and waiting + count <= 40
            try:
                queue.put(tenant, items, cost)
            except QueueFullError:
                assert not fits
            else:
                assert fits
                expected[tenant] += items
        elif command == "remove":
            removed = queue.remove(tenant, lambda item, count=count: item % count == 0)  # type: ignore[misc]
            assert removed == [item for item in expected[tenant] if item % count == 0]
            expected[tenant] = [item for item in expected[tenant] if item % count]
        elif waiting:
            following = queue.next()
            taken = queue.take()
            assert taken == following
            assert taken[1] == expected[taken[0]].pop(0)
        else:
            assert queue.next() is None
        assert len(queue) == sum(map(len, expected.values()))
        assert all(queue.waiting_of(name) == len(items) for name, items in expected.items())


@given(st.lists(st.integers(1, 10), min_size=1, max_size=3), st.integers(0, 20))
def test_a_newcomer_waits_for_one_item_of_each_who_waits_at_most(
    others: list[int], before: int
) -> None:
    queue: FairQueue[str, int] = FairQueue(1000, 1000)
    for tenant, count in zip(TENANTS, others, strict=False):
        queue.put(tenant, list(range(count)), 1.0)
    for _ in range(min(before, len(queue) - 1)):
        queue.take()
    waiting = sum(1 for tenant in TENANTS if queue.waiting_of(tenant))
    queue.put("newcomer", [0], 1.0)
    order = emptied(queue)
    assert order.index("newcomer") <= waiting
