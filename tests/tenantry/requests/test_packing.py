"""The distribution of requests to jobs, and of a job's tasks to instances."""

from __future__ import annotations

import itertools
import json
from typing import Any, get_args

import boto3
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from pipes_sagemaker.errors import FailureClass
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Tier
from tenantry.training import jobs
from tenantry.training.jobs import (
    NO_MACHINE,
    Ladder,
    Rung,
    TrainingTask,
    balance,
    create_training_job_request,
    instance_count,
    rungs,
    slowest,
    volume_gigabytes,
)
from tenantry.workloads.schema import Workload, read_workloads

NAME = ids.workload_name("energy")
ENERGY = read_workloads()["energy"]
ON_DEMAND = Rung("ml.c5.xlarge", 0.23, spot=False)
TIERS: tuple[Tier, ...] = get_args(Tier)


def energy(**changes: Any) -> Workload:
    """The workload, with other figures for its training."""
    return Workload.model_validate(
        {**ENERGY.model_dump(), "training": {**ENERGY.training.model_dump(), **changes}},
        strict=False,
    )


@given(weights=st.lists(st.integers(1, 20).map(float), max_size=6), shards=st.integers(1, 3))
def test_the_longest_shard_is_within_grahams_bound_of_the_best_there_is(
    weights: list[float], shards: int
) -> None:
    best = min(
        slowest(weights, every) for every in itertools.product(range(shards), repeat=len(weights))
    )
    bound = 4 / 3 - 1 / (3 * shards)
    assert slowest(weights, balance(weights, shards)) <= bound * best + 1e-9


@given(weights=st.lists(st.floats(0, 1e6), max_size=60), shards=st.integers(1, 8))
def test_every_task_has_a_shard_and_the_shares_are_no_worse_than_dealing_in_turn(
    weights: list[float], shards: int
) -> None:
    weights = sorted(weights, reverse=True)
    placed = balance(weights, shards)
    assert len(placed) == len(weights)
    assert set(placed) <= set(range(shards))
    dealt = [number % shards for number in range(len(weights))]
    assert slowest(weights, placed) <= slowest(weights, dealt) * (1 + 1e-9)
    assert len(weights) < shards or set(placed) == set(range(shards)) or 0.0 in weights


def test_a_pack_gets_as_many_instances_as_it_needs_and_no_more_than_there_may_be() -> None:
    relaxed = energy(deadline_seconds=None)
    counts = [
        instance_count(relaxed, [1.0] * tasks, learned=True)
        for tasks in (0, 1, 100, 101, 200, 10_000)
    ]
    assert counts == [1, 1, 1, 2, 2, 2]


@given(
    seconds=st.lists(st.floats(0.001, 1000), min_size=1, max_size=40),
    deadline=st.floats(1, 5000),
    most=st.integers(1, 8),
)
def test_a_pack_gets_the_fewest_instances_that_are_expected_to_meet_the_deadline(
    seconds: list[float], deadline: float, most: int
) -> None:
    workload = energy(
        deadline_seconds=deadline,
        max_instances=most,
        tenants_per_instance=10,
        pack={"max_tenants": most, "wait_seconds": 0},
    )
    count = instance_count(workload, seconds, learned=True)
    fewest = min(most, -(-len(seconds) // 10))
    assert fewest <= count <= max(fewest, min(most, len(seconds)))
    if count > fewest:
        assert slowest(seconds, balance(seconds, count - 1)) > deadline, (
            "one less would have met it"
        )
    if slowest(seconds, balance(seconds, count)) > deadline:
        assert count == max(fewest, min(most, len(seconds))), "more might have met it"
    assert set(balance(seconds, count)) == set(range(count)), "every instance has a task"
    assert instance_count(workload, seconds, learned=False) == fewest, (
        "what was not learned is not held to a deadline"
    )


# ---- machines ------------------------------------------------------------------------------------

SPOT = {"spot": True, "max_wait_seconds": 7200, "other_instance_types": {"ml.m5.xlarge": 0.257}}


def test_spot_machines_of_every_type_come_before_those_on_demand() -> None:
    assert [str(rung) for rung in rungs(energy(**SPOT))] == [
        "ml.c5.xlarge spot",
        "ml.m5.xlarge spot",
        "ml.c5.xlarge on demand",
        "ml.m5.xlarge on demand",
    ]
    assert [rung.usd_per_hour for rung in rungs(energy(**SPOT))] == [0.23, 0.257] * 2
    assert rungs(energy(other_instance_types={})) == (ON_DEMAND,)


@given(ends=st.lists(st.sampled_from(get_args(FailureClass))), count=st.integers(1, 5))
def test_what_jobs_ended_with_decides_which_comes_next_and_under_which_name(
    ends: list[FailureClass], count: int
) -> None:
    steps = [Rung(f"ml.m{number}.large", 1.0, spot=False) for number in range(count)]

    def climb(ends: list[FailureClass]) -> list[tuple[int, Rung]]:
        ladder = Ladder(steps)
        jobs = [(ladder.number, ladder.rung)]
        for end in ends:
            if not ladder.climb(end):
                break
            jobs.append((ladder.number, ladder.rung))
        return jobs

    jobs = climb(ends)
    assert jobs == climb(ends), "a run that takes the pack up again walks the same way"
    assert [number for number, _ in jobs] == list(range(1, len(jobs) + 1)), "no name is used twice"
    assert len(jobs) <= count + 1, "all machines, and one more try"
    for end, (_, before), (_, after) in zip(ends, jobs, jobs[1:], strict=False):
        assert (end in NO_MACHINE) == (steps.index(after) == steps.index(before) + 1)
        assert end in NO_MACHINE or (end == "internal" and after == before)
    if len(jobs) <= len(ends):
        last = ends[len(jobs) - 1]
        assert last not in NO_MACHINE or jobs[-1][1] == steps[-1], "there were more machines to try"
        assert last != "internal" or "internal" in ends[: len(jobs) - 1], (
            "SageMaker's own failure is tried once more"
        )


@given(sizes=st.lists(st.integers(1, 16_382), min_size=2, max_size=2), tiers=st.permutations(TIERS))
def test_volumes_of_different_tiers_never_have_the_same_size(
    sizes: list[int], tiers: list[Tier]
) -> None:
    one, other = (
        volume_gigabytes(energy(volume_gigabytes=size), tier)
        for size, tier in zip(sizes, tiers, strict=False)
    )
    assert one != other
    assert 0 <= one - sizes[0] <= 2
    assert one <= 16_384, "API_ResourceConfig: SageMaker takes no larger one"


def test_machines_are_kept_for_shared_packs_of_the_workloads_own_tier_alone() -> None:
    warm = energy(keep_alive_seconds=900)
    spot = Rung("ml.c5.xlarge", 0.23, spot=True)

    def resources(workload: Workload, tier: Tier, rung: Rung) -> dict[str, Any]:
        tenant = ids.tenant_id("acme") if tier == "silo" else None
        return dict(
            create_training_job_request(NOWHERE, workload, tier, PACK, 1, tenant, rung)[
                "ResourceConfig"
            ]
        )

    assert resources(warm, "bridge", ON_DEMAND)["KeepAlivePeriodInSeconds"] == 900
    assert "KeepAlivePeriodInSeconds" not in resources(warm, "pool", ON_DEMAND)
    assert "KeepAlivePeriodInSeconds" not in resources(warm, "silo", ON_DEMAND)
    assert "KeepAlivePeriodInSeconds" not in resources(ENERGY, "bridge", ON_DEMAND)
    assert "KeepAlivePeriodInSeconds" not in resources(
        energy(**SPOT, keep_alive_seconds=900), "bridge", spot
    )
    silo = warm.model_copy(update={"tier": "silo"})
    assert "KeepAlivePeriodInSeconds" not in resources(silo, "silo", ON_DEMAND)
    assert len({resources(warm, tier, ON_DEMAND)["VolumeSizeInGB"] for tier in TIERS}) == 3


def test_a_spot_job_says_how_long_it_waits_and_shares_the_packs_checkpoints() -> None:
    workload = energy(**SPOT)
    first, *_, last = rungs(workload)
    spot = create_training_job_request(NOWHERE, workload, "bridge", PACK, 1, None, first)
    assert spot["EnableManagedSpotTraining"]
    assert spot["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    demand = create_training_job_request(NOWHERE, workload, "bridge", PACK, 1, None, last, 4)
    assert "EnableManagedSpotTraining" not in demand
    assert demand["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert demand["ResourceConfig"]["InstanceType"] == "ml.m5.xlarge"
    assert demand["TrainingJobName"] == f"{spot['TrainingJobName']}-4"
    for shared in ("CheckpointConfig", "InputDataConfig", "OutputDataConfig"):
        assert spot[shared] == demand[shared]


# ---- the job's documents -------------------------------------------------------------------------

PACK = ids.pack_id("p-0123456789abcdef")
NOWHERE = Deployment(
    prefix="tenantry",
    uploads_bucket="uploads",
    data_bucket="data",
    uploads_queue_url="q",
    uploads_dead_letters_url="d",
    notices_queue_url="n",
    requests_table="r",
    models_table="m",
    tenants_topic="t",
    operators_topic="o",
    async_success_topic="as",
    async_error_topic="ae",
    async_failures_queue_url="af",
    training_role="arn:aws:iam::123456789012:role/training",
    serving_role="s",
    async_role="a",
    batch_role="b",
    processing_role="p",
    pipeline_role="pi",
    tenant_client_role="c",
    silo_roles="arn:aws:iam::123456789012:role/tenantry/silo/eu-west-1",
    silo_policy="s",
    image_repositories="123456789012.dkr.ecr.eu-west-1.amazonaws.com/tenantry",
)


@pytest.mark.parametrize(
    ("tier", "count", "tenant"),
    [("bridge", 1, None), ("pool", 2, None), ("silo", 1, ids.tenant_id("acme"))],
)
def test_the_request_for_a_job_is_one_sagemaker_takes_and_the_same_each_time(
    tier: Tier, count: int, tenant: ids.TenantId | None
) -> None:
    made = create_training_job_request(NOWHERE, ENERGY, tier, PACK, count, tenant, ON_DEMAND)
    shape = (
        boto3.client("sagemaker", region_name="eu-west-1")
        .meta.service_model.operation_model("CreateTrainingJob")
        .input_shape
    )
    assert shape is not None
    faults = ParamValidator().validate(made, shape)
    assert not faults.has_errors(), faults.generate_report()
    assert made == create_training_job_request(
        NOWHERE, ENERGY, tier, PACK, count, tenant, ON_DEMAND
    )
    assert made["ResourceConfig"]["InstanceCount"] == count
    assert made["EnableInterContainerTrafficEncryption"] == (count > 1)
    tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    assert tags["tenantry:pack"] == PACK
    assert tags.get("tenantry:tenant") == tenant
    whose = "tenantry/silo/eu-west-1/energy/tenantry-energy-silo-" if tenant else "training"
    assert made["RoleArn"].startswith(f"arn:aws:iam::123456789012:role/{whose}")
    # That member chains the caller's session tags. The caller has none, so the member would have no
    # effect.
    assert "SessionChainingConfig" not in made


def test_what_a_job_is_to_do_is_written_down_and_read_again(deployment: Deployment) -> None:
    assert jobs.written_pack(deployment, ENERGY, PACK) is None
    version = ids.version_name("20260101t000000-aaaaaaaa")
    tasks = [
        TrainingTask(
            ids.request_id(f"{n:032x}"),
            ids.tenant_id(f"t{n}"),
            version,
            version,
            (ids.file_name("data.csv"), ids.file_name("series.json")),
            1.0 + n,
            {"timezone": "UTC"},
        )
        for n in range(150)
    ]
    jobs.write_job_inputs(deployment, ENERGY, "bridge", PACK, tasks, 2)
    written = jobs.written_pack(deployment, ENERGY, PACK)
    versions = {task.request: version for task in tasks}
    assert written == jobs.WrittenPack(versions, 2, "FullyReplicated")
    assert jobs.written_pack(deployment, ENERGY, ids.pack_id("p-other")) is None

    def read(name: str) -> list[object] | dict[str, object]:
        key = s3_keys.job_file(NAME, PACK, ids.file_name(name))
        content = deployment.s3.get_object(Bucket=deployment.data_bucket, Key=key)["Body"].read()
        found: list[object] | dict[str, object] = json.loads(content)
        return found

    document = read("tasks.json")
    assert isinstance(document, dict)
    listed = document["tasks"]
    assert isinstance(listed, list)
    assert {task["shard"] for task in listed} == {0, 1}
    assert listed[3] == {
        "task": tasks[3].request,
        "tenant": "t3",
        "version": version,
        "tier": "bridge",
        "shard": listed[3]["shard"],
        "data": f"t3/{version}",
        "parameters": {"timezone": "UTC"},
    }
    manifest = read("training.manifest")
    assert isinstance(manifest, list)
    assert manifest[0] == {"prefix": f"s3://{deployment.data_bucket}/training-data/energy/"}
    assert manifest[1:3] == [f"t0/{version}/data.csv", f"t0/{version}/series.json"]
    assert len(manifest) == 1 + 2 * len(tasks)
