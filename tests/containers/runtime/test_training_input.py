"""Every instance of a job reads the same files, and together they train each task once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.runtime.training.training_input import (
    InvalidTrainingInputError,
    Task,
    batch_size_of,
    batches,
    check_distribution,
    parse_hyperparameters,
    parse_resource_config,
    parse_tasks,
    tasks_of_instance,
)

TRAINING = Path("/opt/ml/input/data/training")
ENTRY: dict[str, Any] = {
    "task": "t-1",
    "tenant": "acme",
    "version": "v1",
    "tier": "bridge",
    "data": "acme/v1",
}


def document(*entries: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(
        {"format": 1, "workload": "energy", "pack": "p-1", "tasks": list(entries), **fields}
    ).encode()


def entries(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {**ENTRY, "task": f"t-{i}", "tenant": f"tenant-{i}", "data": f"tenant-{i}/v1", **fields}
        for i in range(count)
    ]


def test_a_task_list_is_read() -> None:
    parameters = {"timezone": "Europe/London"}
    workload, pack, tasks = parse_tasks(
        document({**ENTRY, "shard": 1, "parameters": parameters}), TRAINING, 2
    )
    assert (workload, pack) == ("energy", "p-1")
    assert tasks == [(Task("t-1", "acme", "v1", "bridge", TRAINING / "acme/v1", parameters), 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tenant": "../acme"}, r"tasks\[0\].tenant"),
        ({"tenant": "Acme"}, r"tasks\[0\].tenant"),
        ({"tenant": "acme\n"}, r"tasks\[0\].tenant"),
        ({"tenant": "a" * 64}, r"tasks\[0\].tenant"),
        ({"version": "v1/.."}, r"tasks\[0\].version"),
        ({"version": None}, r"tasks\[0\].version"),
        ({"task": ""}, r"tasks\[0\].task"),
        ({"tier": "gold"}, r"tasks\[0\].tier"),
        ({"shard": 2}, r"tasks\[0\].shard must be from 0 to 1"),
        ({"shard": -1}, r"tasks\[0\].shard"),
        ({"shard": True}, r"tasks\[0\].shard"),
        ({"data": "/etc"}, r"tasks\[0\].data"),
        ({"data": "acme/../bolt"}, r"tasks\[0\].data"),
        ({"data": "."}, r"tasks\[0\].data"),
        ({"data": ""}, r"tasks\[0\].data"),
        ({"parameters": []}, r"tasks\[0\].parameters"),
        ({"parameters": {"x": "y" * 20_000}}, r"tasks\[0\].parameters is larger"),
    ],
)
def test_a_malformed_task_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTrainingInputError, match=message):
        parse_tasks(document({**ENTRY, **change}), TRAINING, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        document(ENTRY, format=2),
        document(ENTRY, workload="a/b"),
        document(ENTRY, pack=None),
        document(),
        document(ENTRY, ENTRY),
        document(ENTRY, {**ENTRY, "task": "t-2"}),
        document({**ENTRY, "parameters": {"x": float("nan")}}),
        json.dumps([ENTRY]).encode(),
    ],
    ids=range(13),
)
def test_a_malformed_list_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidTrainingInputError, match=r"tasks\.json"):
        parse_tasks(content, TRAINING, 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
)


@given(
    json_values,
    st.sampled_from(["format", "workload", "pack", "tasks", *ENTRY, "shard", "parameters"]),
)
def test_any_value_in_any_field_is_read_or_refused_and_never_leaves_the_channel(
    value: Any, field: str
) -> None:
    whole: dict[str, Any] = {
        "format": 1,
        "workload": "energy",
        "pack": "p-1",
        "tasks": [dict(ENTRY)],
    }
    (whole if field in whole else whole["tasks"][0])[field] = value
    try:
        _, _, tasks = parse_tasks(json.dumps(whole).encode(), TRAINING, 2)
    except InvalidTrainingInputError:
        return
    for task, _ in tasks:
        assert task.data.is_relative_to(TRAINING)
        assert ".." not in task.data.parts


@given(
    shards=st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=30),
    instances=st.integers(1, 7),
    data=st.data(),
)
def test_every_task_is_done_by_exactly_one_instance(
    shards: list[int | None],
    instances: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    base = tmp_path_factory.mktemp("instances")
    shards = [None if shard is None else shard % instances for shard in shards]
    homes = [data.draw(st.integers(0, instances - 1)) for _ in shards]
    listed = [
        entry if shard is None else {**entry, "shard": shard}
        for entry, shard in zip(entries(len(shards)), shards, strict=True)
    ]
    done = []
    for number in range(instances):
        training = base / str(number)
        for place, (entry, home) in enumerate(zip(listed, homes, strict=True)):
            if home == number and place % 2:
                (training / entry["data"]).mkdir(parents=True)
            elif home == number:
                archive = training / f"{entry['data']}.tar"
                archive.parent.mkdir(parents=True, exist_ok=True)
                archive.write_bytes(b"")
        _, _, tasks = parse_tasks(document(*listed), training, instances)
        done += [(task.task, number) for task in tasks_of_instance(tasks, number, instances)]
    expected = [
        (entry["task"], home if shard is None else shard)
        for entry, shard, home in zip(listed, shards, homes, strict=True)
    ]
    assert sorted(done) == sorted(expected)


@pytest.mark.parametrize("said", ["FullyReplicated", "ShardedByS3Key"])
@pytest.mark.parametrize("shards", [[0, 1], [None, None], [0, None]])
def test_tasks_have_shards_only_where_every_instance_gets_all_data(
    said: str, shards: list[int | None]
) -> None:
    content = json.dumps({"training": {"S3DistributionType": said}}).encode()
    if shards == ([0, 1] if said == "FullyReplicated" else [None, None]):
        check_distribution(content, shards)
        return
    with pytest.raises(InvalidTrainingInputError, match=r"tasks\.json: tasks\[\d\] has \w+ shard"):
        check_distribution(content, shards)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"training": "ShardedByS3Key"}'])
def test_channels_that_cannot_be_read_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidTrainingInputError, match=r"inputdataconfig\.json"):
        check_distribution(content, [0])


@given(st.lists(st.sampled_from(["silo", "bridge", "pool"]), max_size=40), st.integers(1, 10))
def test_batches_hold_every_task_once_and_never_mix_tiers(tiers: list[str], size: int) -> None:
    tasks = [Task(f"t-{i}", "acme", f"v{i}", tier, TRAINING) for i, tier in enumerate(tiers)]
    groups = batches(tasks, size)
    assert sorted(task.task for group in groups for task in group) == sorted(
        task.task for task in tasks
    )
    for group in groups:
        assert len({task.tier for task in group}) == 1
        assert len(group) <= (1 if group[0].tier == "silo" else size)


def test_hyperparameters_are_strings_within_sagemakers_limits() -> None:
    assert parse_hyperparameters(b'{"epochs": "3", "levels": "[0.1, 0.9]"}') == {
        "epochs": "3",
        "levels": "[0.1, 0.9]",
    }
    for content in (
        b"",
        b"[]",
        b'{"epochs": 3}',
        b'{"x": null}',
        json.dumps({"x": "y" * 2501}).encode(),
    ):
        with pytest.raises(InvalidTrainingInputError, match=r"hyperparameters\.json"):
            parse_hyperparameters(content)
    with pytest.raises(InvalidTrainingInputError, match="SageMaker allows 100"):
        parse_hyperparameters(json.dumps({str(i): "" for i in range(101)}).encode())


def test_the_batch_size_is_a_hyperparameter_with_a_default() -> None:
    assert batch_size_of({}) == 64
    assert batch_size_of({"batch_size": "7"}) == 7
    for text in ("0", "-1", "", "7.5", "10001", "٣", "many"):
        with pytest.raises(InvalidTrainingInputError, match="batch_size"):
            batch_size_of({"batch_size": text})


def test_instances_are_numbered_by_their_sorted_names() -> None:
    config = (
        b'{"current_host": "algo-1", "hosts": ["algo-2", "algo-1"], '
        b'"network_interface_name": "eth0"}'
    )
    assert parse_resource_config(config) == ("algo-1", ["algo-1", "algo-2"])
    for content in (
        b"{}",
        b'{"hosts": []}',
        b'{"current_host": "b", "hosts": ["a"]}',
        b'{"current_host": "a", "hosts": ["a", "a"]}',
        b'{"hosts": [1]}',
    ):
        with pytest.raises(InvalidTrainingInputError, match=r"resourceconfig\.json"):
            parse_resource_config(content)
