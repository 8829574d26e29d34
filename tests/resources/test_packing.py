"""Which requests share a job, and how a job's tasks are shared out."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime

import boto3
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from resources import keys, training
from resources.deployment import Deployment
from resources.training import TrainingTask, balance, create_training_job_request, instance_count
from workloads.schema import read_workloads

NAME = keys.workload_name("energy")
ENERGY = read_workloads()["energy"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def longest(weights: list[float], placed: list[int], shards: int) -> float:
    return max(
        sum(weight for weight, at in zip(weights, placed, strict=True) if at == shard) for shard in range(shards)
    )


@given(weights=st.lists(st.integers(1, 20).map(float), max_size=6), shards=st.integers(1, 3))
def test_the_longest_shard_is_within_grahams_bound_of_the_best_there_is(weights: list[float], shards: int) -> None:
    best = min(longest(weights, list(every), shards) for every in itertools.product(range(shards), repeat=len(weights)))
    bound = 4 / 3 - 1 / (3 * shards)
    assert longest(weights, balance(weights, shards), shards) <= bound * best + 1e-9


@given(weights=st.lists(st.floats(0, 1e6), max_size=60), shards=st.integers(1, 8))
def test_every_task_has_a_shard_and_the_shares_are_no_worse_than_dealing_in_turn(
    weights: list[float], shards: int
) -> None:
    weights = sorted(weights, reverse=True)
    placed = balance(weights, shards)
    assert len(placed) == len(weights)
    assert set(placed) <= set(range(shards))
    dealt = [number % shards for number in range(len(weights))]
    assert longest(weights, placed, shards) <= longest(weights, dealt, shards) * (1 + 1e-9)
    assert len(weights) < shards or set(placed) == set(range(shards)) or 0.0 in weights


def test_a_pack_gets_as_many_instances_as_it_needs_and_no_more_than_there_may_be() -> None:
    assert [instance_count(ENERGY, tasks) for tasks in (0, 1, 100, 101, 200, 10_000)] == [1, 1, 1, 2, 2, 2]


# ---- the job's documents ----------------------------------------------------------------------------------------------------

PACK = keys.pack_id("p-0123456789abcdef")
NOWHERE = Deployment(
    prefix="tenantry", uploads_bucket="uploads", data_bucket="data", uploads_queue_url="q", uploads_dead_letters_url="d", notices_queue_url="n",
    requests_table="r", models_table="m", tenants_topic="t", operators_topic="o",
    async_success_topic="as", async_error_topic="ae", async_failures_queue_url="af",
    training_role="arn:aws:iam::123456789012:role/training", serving_role="s", async_role="a", batch_role="b",
    image_repositories="123456789012.dkr.ecr.eu-west-1.amazonaws.com/tenantry",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tier", "tasks", "tenant"), [("bridge", 1, None), ("pool", 200, None), ("silo", 1, keys.tenant_id("acme"))]
)
def test_the_request_for_a_job_is_one_sagemaker_takes_and_the_same_each_time(
    tier: keys.Tier, tasks: int, tenant: keys.TenantId | None
) -> None:
    made = create_training_job_request(NOWHERE, ENERGY, tier, PACK, tasks, tenant)
    shape = boto3.client("sagemaker", region_name="eu-west-1").meta.service_model.operation_model("CreateTrainingJob").input_shape  # fmt: skip
    assert shape is not None
    faults = ParamValidator().validate(made, shape)
    assert not faults.has_errors(), faults.generate_report()
    assert made == create_training_job_request(NOWHERE, ENERGY, tier, PACK, tasks, tenant)
    count = math.ceil(tasks / 100)
    assert made["ResourceConfig"]["InstanceCount"] == count
    assert made["EnableInterContainerTrafficEncryption"] == (count > 1)
    tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    assert tags["tenantry:pack"] == PACK
    if tenant is None:
        assert "tenant" not in tags
        assert "SessionChainingConfig" not in made
    else:
        assert tags["tenant"] == tenant
        assert made["SessionChainingConfig"] == {"EnableSessionTagChaining": True}


def test_what_a_job_is_to_do_is_written_down_and_read_again(deployment: Deployment) -> None:
    assert training.written_tasks(deployment, ENERGY, PACK) == {}
    version = keys.version_name("20260101t000000-aaaaaaaa")
    tasks = [
        TrainingTask(keys.request_id(f"{n:032x}"), keys.tenant_id(f"t{n}"), version, version,
                     (keys.file_name("data.csv"), keys.file_name("series.json")), float(n), {"timezone": "UTC"})
        for n in range(150)
    ]  # fmt: skip
    training.write_job_inputs(deployment, ENERGY, "bridge", PACK, tasks)
    assert training.written_tasks(deployment, ENERGY, PACK) == {task.request: version for task in tasks}
    assert training.written_tasks(deployment, ENERGY, keys.pack_id("p-other")) == {}

    def read(name: str) -> list[object] | dict[str, object]:
        key = keys.job_file(NAME, PACK, keys.file_name(name))
        content = deployment.s3.get_object(Bucket=deployment.data_bucket, Key=key)["Body"].read()
        found: list[object] | dict[str, object] = json.loads(content)
        return found

    document = read("tasks.json")
    assert isinstance(document, dict)
    listed = document["tasks"]
    assert isinstance(listed, list)
    assert {task["shard"] for task in listed} == {0, 1}
    assert listed[3] == {
        "task": tasks[3].request, "tenant": "t3", "version": version, "tier": "bridge", "shard": listed[3]["shard"],
        "data": f"t3/{version}", "parameters": {"timezone": "UTC"},
    }  # fmt: skip
    manifest = read("training.manifest")
    assert isinstance(manifest, list)
    assert manifest[0] == {"prefix": f"s3://{deployment.data_bucket}/training-data/energy/"}
    assert manifest[1:3] == [f"t0/{version}/data.csv", f"t0/{version}/series.json"]
    assert len(manifest) == 1 + 2 * len(tasks)
