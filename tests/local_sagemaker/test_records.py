"""Sharding, splitting, batching, assembling, filtering and rates, without a process."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_sagemaker.account.rates import InstanceQuota, Machine, TokenBucket
from local_sagemaker.account.storage import name_below, shard
from local_sagemaker.errors import ServiceError
from local_sagemaker.transform.records import (
    DataProcessing,
    RecordError,
    assemble,
    batches,
    parse_path,
    select,
    split_lines,
)

lines = st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line)


@given(st.lists(st.integers()), st.integers(1, 20))
def test_every_item_is_in_one_shard_and_shards_are_even(items: list[int], count: int) -> None:
    shards = [shard(items, count, number) for number in range(count)]
    assert sorted(item for part in shards for item in part) == sorted(items)
    sizes = [len(part) for part in shards]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(lines), st.booleans(), st.lists(st.integers(1, 7), min_size=1))
def test_lines_survive_any_cut_of_the_stream(
    records: list[bytes], ended: bool, cuts: list[int]
) -> None:
    stream = b"\n".join(records) + (b"\n" if ended and records else b"")
    chunks, position, turn = [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        chunks.append(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert list(split_lines(chunks)) == records


@given(st.lists(lines), st.integers(21, 100), st.booleans())
def test_batches_keep_all_records_in_order_within_the_limit(
    records: list[bytes], limit: int, single: bool
) -> None:
    made = list(batches(records, limit, single=single))
    assert [record for batch in made for record in batch] == records
    assert all(sum(len(record) + 1 for record in batch) <= limit for batch in made)
    if single:
        assert all(len(batch) == 1 for batch in made)
    else:
        # No batch has room for the first record of the next.
        for batch, following in itertools.pairwise(made):
            assert sum(len(record) + 1 for record in [*batch, following[0]]) > limit


def test_a_record_larger_than_the_payload_is_refused() -> None:
    with pytest.raises(RecordError, match="record 2 has 30 bytes"):
        list(batches([b"a", b"b" * 30], 20, single=False))


@given(st.lists(lines, min_size=1))
def test_assembling_by_line_ends_every_answer_with_one_newline(answers: list[bytes]) -> None:
    assembled = b"".join(assemble(answer, by_line=True) for answer in answers)
    assert list(split_lines([assembled])) == answers
    assert b"".join(assemble(answer + b"\n", by_line=True) for answer in answers) == assembled
    assert assemble(answers[0], by_line=False) == answers[0]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", {"a": {"b": [1, 2, 3]}, "c": 4}),
        ("$.a.b", [1, 2, 3]),
        ("$['a']['b'][0]", 1),
        ("$.a.b[0,-1]", [1, 3]),
        ("$.a.b[1:]", [2, 3]),
        ("$.a.b[0,2:]", [1, 3]),
        ("$.a.b[2,:2]", [3, 1, 2]),
        ("$.a.b[:2]", [1, 2]),
        ("$['c','a']", {"c": 4, "a": {"b": [1, 2, 3]}}),
        ("$.a.*", [[1, 2, 3]]),
    ],
)
def test_json_paths_find_what_the_documentation_says(path: str, found: Any) -> None:
    assert select({"a": {"b": [1, 2, 3]}, "c": 4}, parse_path(path)) == found


@pytest.mark.parametrize("path", ["a", "$..a", "$[?(@.a)]", "$.a[", "$[]", "$[1:2:3]", "$[-]"])
def test_other_json_paths_are_refused(path: str) -> None:
    with pytest.raises(RecordError, match="JSONPath"):
        parse_path(path)


def test_a_path_that_finds_nothing_fails_the_record() -> None:
    with pytest.raises(RecordError, match="finds nothing"):
        select({"a": 1}, parse_path("$.b"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner),
    max_leaves=5,
)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.dictionaries(st.text(), json_values), json_values), min_size=1))
def test_a_json_join_keeps_the_input_and_adds_the_output(
    pairs: list[tuple[dict[str, Any], Any]],
) -> None:
    processing = DataProcessing.parse({"JoinSource": "Input"}, "application/jsonlines")
    assert processing is not None
    joined = processing.output(
        [json.dumps(record).encode() for record, _ in pairs],
        [json.dumps(output).encode() for _, output in pairs],
    )
    assert [json.loads(line) for line in joined] == [
        {**record, "SageMakerOutput": output} for record, output in pairs
    ]


def test_a_join_needs_one_output_per_record() -> None:
    processing = DataProcessing.parse({"JoinSource": "Input"}, "text/csv")
    assert processing is not None
    with pytest.raises(RecordError, match="cannot join 2 input records with 1"):
        processing.output([b"1,2", b"3,4"], [b"5"])


@pytest.mark.parametrize(
    ("prefix", "key", "name"),
    [
        ("data/", "data/a/b.csv", "a/b.csv"),
        ("data", "data/a/b.csv", "a/b.csv"),
        ("data/a/b.csv", "data/a/b.csv", "b.csv"),
        ("data/a", "data/abc/d.csv", "abc/d.csv"),
        ("", "a/b.csv", "a/b.csv"),
    ],
)
def test_a_key_below_its_prefix_has_the_rest_as_name(prefix: str, key: str, name: str) -> None:
    assert name_below(prefix, key) == name


@given(st.floats(0.1, 50), st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_a_token_bucket_never_gives_more_than_burst_and_rate(
    rate: float, burst: int, pauses: list[float]
) -> None:
    now = 0.0
    bucket = TokenBucket(rate, burst, lambda: now)
    taken: list[float] = []
    for pause in pauses:
        now += pause
        try:
            bucket.take()
        except ServiceError as error:
            # A refusal is one of two correct outcomes.
            assert error.code == "ThrottlingException"  # noqa: PT017
        else:
            taken.append(now)
    for start, first in enumerate(taken):
        for end in range(start, len(taken)):
            assert end - start + 1 <= burst + (taken[end] - first) * rate + 1e-6


@given(st.integers(1, 10))
def test_a_token_bucket_gives_its_burst_and_then_one_per_refill(burst: int) -> None:
    now = 0.0
    bucket = TokenBucket(2.0, burst, lambda: now)
    for _ in range(burst):
        bucket.take()
    with pytest.raises(ServiceError):
        bucket.take()
    now = 0.5
    bucket.take()


def test_a_quota_counts_what_each_owner_holds() -> None:
    quota = InstanceQuota("endpoint", within=Machine(5))
    quota.hold("a", {"ml.m5.large": 3})
    quota.hold("a", {"ml.m5.large": 2})
    quota.hold("b", {"ml.m5.large": 3})
    with pytest.raises(
        ServiceError, match="current utilization of 5 Instances and a request delta of 1"
    ):
        quota.hold("b", {"ml.m5.large": 4})
    quota.release("a")
    quota.hold("b", {"ml.m5.large": 5})
    assert quota.used == 5
