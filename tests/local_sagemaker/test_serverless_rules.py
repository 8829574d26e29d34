"""The rules of serverless variants, and of the bill, without a process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local_sagemaker.account.billing import (
    DATA_OUT,
    SERVERLESS,
    SERVERLESS_COMPUTE,
    Account,
    Item,
    Meter,
)
from local_sagemaker.account.prices import TABLE, Prices, read_discount
from local_sagemaker.account.rates import ENDPOINT, TRAINING, USAGES
from local_sagemaker.account.state import Store
from local_sagemaker.clock import MACHINE
from local_sagemaker.serverless.cold_starts import ColdStarts
from local_sagemaker.serverless.pool import Pool, TooManyInvocationsError

GIBIBYTE = 1024**3
ARN = "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/acme"


class Requests(RuleBasedStateMachine):
    """Requests that come and end, environments that die and expire, and limits that change."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.pool = Pool(3, 1, self.new)
        self.in_progress: list[int] = []
        self.gone: set[int] = set()

    def new(self) -> int:
        self.made += 1
        return self.made

    @rule()
    def request(self) -> None:
        was_idle, made = list(self.pool.idle), self.made
        try:
            environment = self.pool.take()
        except TooManyInvocationsError:
            assert len(self.in_progress) >= self.pool.limit
            return
        assert len(self.in_progress) < self.pool.limit
        assert environment not in self.in_progress
        assert environment not in self.gone
        assert environment in was_idle if was_idle else environment == made + 1
        self.in_progress.append(environment)

    @precondition(lambda self: self.in_progress)
    @rule(data=st.data(), dies=st.booleans())
    def answer(self, data: st.DataObject, *, dies: bool) -> None:
        environment = data.draw(st.sampled_from(self.in_progress))
        self.in_progress.remove(environment)
        if dies:
            self.pool.lose(environment)
            self.gone.add(environment)
        elif not self.pool.give_back(environment):
            assert len(self.pool.all) >= self.pool.limit
            self.gone.add(environment)

    @precondition(lambda self: self.pool.idle)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        environment = data.draw(st.sampled_from(self.pool.idle))
        if self.pool.expire(environment):
            self.gone.add(environment)
            assert len(self.pool.all) >= self.pool.keep_warm
        else:
            assert len(self.pool.all) <= self.pool.keep_warm

    @rule()
    def warm_up(self) -> None:
        self.pool.warm_up()
        assert len(self.pool.all) >= self.pool.keep_warm

    @rule(limit=st.integers(1, 5), data=st.data())
    def resize(self, limit: int, data: st.DataObject) -> None:
        self.gone |= set(self.pool.resize(limit, data.draw(st.integers(0, limit))))

    @invariant()
    def one_request_in_each_and_none_above_the_limit(self) -> None:
        assert sorted(self.pool.busy) == sorted(self.in_progress)
        assert len(set(self.pool.all)) == len(self.pool.all)
        assert len(self.pool.all) <= max(self.pool.limit, len(self.in_progress))
        assert not self.gone & set(self.pool.all)


TestRequests = Requests.TestCase


@given(st.floats(0, 20), st.floats(0, 20), st.floats(0, 1), st.integers(0, 9), st.integers(0, 99))
def test_cold_starts_are_drawn_again_by_their_seed_and_grow_with_size(
    base: float, more: float, sigma: float, size: int, seed: int
) -> None:
    draws = [
        [ColdStarts(base, more, sigma, seed).draw(bytes_) for _ in range(2)]
        for bytes_ in (size * GIBIBYTE, (size + 1) * GIBIBYTE)
    ]
    assert all(one == other for one, other in draws)
    assert 0 <= draws[0][0] <= draws[1][0]
    assert ColdStarts(base, more, 0.0).draw(size * GIBIBYTE) == pytest.approx(base + more * size)


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
def test_cold_starts_without_a_length_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        ColdStarts(wrong, 0.0, 0.0)


def test_each_price_of_the_table_has_a_source_with_a_date() -> None:
    known = {*USAGES, SERVERLESS}
    for source, prices in TABLE:
        assert source.date[:2] == "20"
        assert "github.com" in source.document
        for name, price in prices.items():
            assert price > 0
            assert name.partition(" for ")[2] in {*known, ""}


def test_the_callers_price_comes_first_and_another_currency_has_no_other() -> None:
    found = Prices(None, "eu-west-1", "USD").of("ml.m5.xlarge", ENDPOINT)
    assert found is not None
    assert (found.amount, "2023-12" in found.source) == (0.257, True)
    assert Prices(None, "eu-north-1", "USD").of("ml.m5.xlarge", ENDPOINT) is None
    assert Prices(None, "eu-west-1", "EUR").of("ml.m5.xlarge", ENDPOINT) is None
    mine = Prices({"ml.m5.xlarge": 1.0, "ml.m5.xlarge for endpoint": 2.0}, "eu-west-1", "EUR")
    assert [mine.of("ml.m5.xlarge", usage) for usage in (TRAINING, ENDPOINT)] == [
        type(found)(1.0, "the caller's prices"),
        type(found)(2.0, "the caller's prices"),
    ]


def test_a_savings_plan_takes_its_share_of_instances_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given_prices = Prices({"ml.m5.large": 3600.0, "storage": 2_592_000.0}, "eu-west-1", "USD")
    discounts = dict([read_discount("endpoint=0.25")])
    meter = Meter(store, MACHINE, given_prices, "eu-west-1", "USD", discounts)
    running = meter.begin(Account(ENDPOINT, ARN, "ml.m5.large", 10))
    time.sleep(0.01)
    running.end()
    meter.count(Item(SERVERLESS_COMPUTE, SERVERLESS, "1024 MB", "GB-second", ARN), 1000.0)
    meter.count(Item(DATA_OUT, SERVERLESS, "", "GB", ARN), 2.0)
    lines = {line.what: line for line in meter.bill().lines}
    seconds = lines["instance"].quantity * 3600
    assert lines["instance"].discount == 0.25
    assert lines["instance"].cost == pytest.approx(seconds * 0.75)
    assert lines["storage"].cost == pytest.approx(seconds * 10)
    assert (lines["storage"].discount, lines["storage"].unit) == (0, "GB-month")
    assert lines[SERVERLESS_COMPUTE].cost == pytest.approx(0.02)
    assert lines[DATA_OUT].cost == pytest.approx(0.032)
    store.close()


@pytest.mark.parametrize("text", ["endpoint", "=0.1", "endpoint=2", "endpoint=-1", "endpoint=x"])
def test_a_discount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no discount"):
        read_discount(text)
