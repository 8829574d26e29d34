"""The tables' reader and writer, on a real table: compared with a model, and with partial answers
and refusals of DynamoDB."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.conditions import Attr, Key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.aws import tables
from tenantry.aws.deployment import Deployment
from tenantry.aws.tables import (
    MISSING,
    ConditionNotMetError,
    ItemTooLargeError,
    Table,
    TableBusyError,
)
from tenantry.names import ids, table_keys
from tenantry.names.table_keys import ItemKey

# DynamoDB's reserved words, and characters of its expressions.
ATTRIBUTES = st.sampled_from(["status", "name", "size", "day", "add", "with space", "a-b", "#x"])
NUMBERS = st.integers(-(10**30), 10**30).map(Decimal)
VALUES = (
    NUMBERS
    | st.text(max_size=9)
    | st.booleans()
    | st.lists(st.text(max_size=3) | NUMBERS, max_size=3)
    | st.dictionaries(st.text("abc.", min_size=1, max_size=3), NUMBERS, max_size=2)
)


@pytest.fixture
def table(deployment: Deployment) -> Table:
    return deployment.requests


def a_key() -> ItemKey:
    return ItemKey(uuid.uuid4().hex, "item")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has its own item
)
@given(
    before=st.dictionaries(ATTRIBUTES, VALUES, max_size=4),
    setting=st.dictionaries(ATTRIBUTES, VALUES | st.none(), max_size=4),
    appended=st.lists(VALUES, min_size=1, max_size=3),
    added=st.sets(st.text(min_size=1, max_size=3), min_size=1, max_size=3),
    # The local cloud adds numbers as floats.
    number=st.integers(-(10**12), 10**12).map(Decimal),
)
def test_an_item_changes_as_a_dict_would(
    deployment: Deployment,
    before: dict[str, Any],
    setting: dict[str, Any],
    appended: list[Any],
    added: set[str],
    number: Decimal,
) -> None:
    table, key = deployment.requests, a_key()
    table.put(key, {**before, "list": [1], "set": {"x"}, "gone": None}, only_if=MISSING)
    same = {"tenant": key.partition, "request": "item"}
    assert table.get(key) == {**before, "list": [1], "set": {"x"}, **same}
    changed = {**before, **setting}
    expected = {
        **{name: value for name, value in changed.items() if value is not None},
        "list": [1, *appended],
        "set": ({"x"} | added) - {"x"} or {"x"},
        "sum": number,
        **same,
    }
    table.update(key, setting, appending={"list": appended}, adding={"set": added, "sum": number})
    found = table.update(key, deleting={"set": {"x"} if added - {"x"} else {"never"}})
    assert found == table.get(key) == expected


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has its own item
)
@given(
    left=st.integers(-3, 3),
    right=st.integers(-3, 3),
    has=st.booleans(),
    names=st.tuples(ATTRIBUTES, ATTRIBUTES).filter(lambda pair: pair[0] != pair[1]),
)
def test_a_write_happens_just_when_its_condition_holds(
    deployment: Deployment, left: int, right: int, has: bool, names: tuple[str, str]
) -> None:
    table, key, (one, other) = deployment.requests, a_key(), names
    row = {one: left, **({other: "x"} if has else {})}
    table.put(key, row)
    holds = left <= right or (left == 3 and not has)
    condition = Attr(one).lte(right) | (Attr(one).eq(3) & Attr(other).not_exists())
    refused: Any = nullcontext() if holds else pytest.raises(ConditionNotMetError)
    with refused as told:
        found = table.update(key, {one: left, "written": True}, only_if=condition)
        assert found["written"] is True
    if not holds:
        assert told.value.found == {**row, "tenant": key.partition, "request": key.sort}
    assert ("written" in (table.get(key) or {})) == holds
    with pytest.raises(ConditionNotMetError):
        table.put(key, row, only_if=MISSING)


def test_an_item_that_is_not_there_is_none_and_conditions_on_it_say_so(table: Table) -> None:
    key = a_key()
    assert table.get(key) is None
    table.delete(key)
    with pytest.raises(ConditionNotMetError) as refused:
        table.update(key, {"a": 1}, only_if=Attr("a").eq(1))
    assert refused.value.found is None
    assert table.get(key) is None


def test_an_item_that_would_grow_too_large_is_refused_and_stays_as_it_is(table: Table) -> None:
    key = a_key()
    table.put(key, {"text": "x" * 300_000})
    with pytest.raises(ItemTooLargeError):
        table.update(key, {"more": "y" * 200_000})
    with pytest.raises(ItemTooLargeError):
        table.put(a_key(), {"text": "x" * 500_000})
    assert "more" not in (table.get(key) or {})


@pytest.fixture
def unanswered(deployment: Deployment) -> Iterator[Callable[[Callable[[int], int]], list[int]]]:
    """Removes items from DynamoDB's answers to batch reads, as happens under load. Its argument
    gives the number of answered keys for a number of asked keys. It returns the list of each call's
    number of keys."""
    events, calls, hooks = deployment.dynamodb.meta.events, list[int](), list[Any]()

    def limit(answered: Callable[[int], int]) -> list[int]:
        def after_call(parsed: dict[str, Any], **_: Any) -> None:
            found = parsed["Responses"][deployment.requests_table]
            calls.append(len(found))
            left = found[answered(len(found)) :]
            del found[answered(len(found)) :]
            if left:
                keys = [{name: item[name] for name in ("tenant", "request")} for item in left]
                parsed["UnprocessedKeys"] = {deployment.requests_table: {"Keys": keys}}

        hooks.append(after_call)
        events.register("after-call.dynamodb.BatchGetItem", after_call)
        return calls

    yield limit
    for hook in hooks:
        events.unregister("after-call.dynamodb.BatchGetItem", hook)


def test_what_a_batch_read_leaves_unanswered_is_asked_for_again_until_all_is_there(
    table: Table, unanswered: Callable[[Callable[[int], int]], list[int]]
) -> None:
    keys = [ItemKey(uuid.uuid4().hex, "item") for _ in range(130)]
    for key in keys[:120]:
        table.put(key, {"of": key.partition})
    calls = unanswered(lambda asked: (asked + 1) // 2)
    found = [row["of"] for row in table.get_many([*keys, *keys])]
    assert sorted(found) == sorted(key.partition for key in keys[:120])
    assert max(calls) == 100
    assert len(calls) > 4


def test_a_table_that_answers_nothing_is_given_up_after_pauses_that_grow(
    table: Table,
    unanswered: Callable[[Callable[[int], int]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    table.put(key := a_key(), {"a": 1})
    unanswered(lambda _: 0)
    with pytest.raises(TableBusyError, match="read capacity"):
        list(table.get_many([key]))
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < pauses[-1] <= 2


def test_a_partition_is_read_in_order_by_its_beginning_and_up_to_a_number(table: Table) -> None:
    partition = uuid.uuid4().hex
    for name in ("b#2", "a#1", "b#1", "b", "c"):
        table.put(ItemKey(partition, name), {})
    table.put(ItemKey(f"{partition}x", "b#0"), {})

    def names(**options: Any) -> list[str]:
        return [row["request"] for row in table.query(partition, **options)]

    assert names() == ["a#1", "b", "b#1", "b#2", "c"]
    assert names(beginning="b#") == ["b#1", "b#2"]
    assert names(most=2) == ["a#1", "b"]
    assert names(beginning="b", most=1) == ["b"]


def test_an_index_is_read_page_by_page_counted_and_read_in_part(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ROWS_A_PAGE", 3)
    queue = uuid.uuid4().hex
    for number in range(10):
        row = {"queue": queue, "due": f"2026-01-{number + 1:02}", "status": "pending", "big": "x"}
        table.put(ItemKey(uuid.uuid4().hex, "item"), row)
    early = Key("queue").eq(queue) & Key("due").lte("2026-01-07")
    found = list(table.query_index("queue", early, ("due", "status")))
    assert [row["due"] for row in found] == [f"2026-01-0{number}" for number in range(1, 8)]
    assert {frozenset(row) for row in found} == {frozenset({"due", "status"})}
    assert table.count("queue", early) == 7


def test_the_items_of_tenants_are_told_from_the_workloads_own(deployment: Deployment) -> None:
    workload, tenant = ids.workload_name("churn"), ids.tenant_id(f"t{uuid.uuid4().hex[:8]}")
    request = ids.request_id("0" * 32)
    of_tenant = {
        table_keys.request_item(tenant, workload, request),
        table_keys.history_item(tenant, workload, request, "2026"),
        table_keys.daily_uploads_item(tenant, workload),
    }
    others = {
        table_keys.controls_item(workload),
        table_keys.durations_item(workload),
        table_keys.request_item(tenant, ids.workload_name("churned"), request),
        table_keys.WORKLOADS_ITEM,
    }
    for key in of_tenant | others:
        deployment.requests.put(key, {})
    found = set(deployment.requests.keys_where(Attr("tenant").contains("#churn")))
    assert of_tenant < found
    assert {key for key in found if table_keys.is_of_a_tenant(key, workload)} == of_tenant
    for key in of_tenant | others:
        deployment.requests.delete(key)
