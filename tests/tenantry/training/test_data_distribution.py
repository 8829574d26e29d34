"""Packs whose instances each get the data of their own tasks (ShardedByS3Key)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.runtime.archives.archive import extract_tar
from local_sagemaker.account.storage import host_share, source_objects
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.training import TrainingStage
from tenantry.requests.queue import RequestQueue
from tenantry.shown.report import AssetName
from tenantry.training import jobs
from tenantry.training.jobs import TrainingTask, dealt, slowest
from tenantry.training.packed_job import FinishedJob
from tenantry.uploads.training_data import TrainingData
from tenantry.workloads.schema import Workload, read_workloads
from tests.tenantry.onboarding.test_onboarding import Heard

NAME = ids.workload_name("energy")
PACK = ids.pack_id("p-0123456789abcdef")
ENERGY = read_workloads()["energy"]
RUNG = jobs.rungs(ENERGY)[0]


def energy(**changes: Any) -> Workload:
    training = ENERGY.training.model_copy(
        update={"data_distribution": "ShardedByS3Key", "max_instances": 7, **changes}
    )
    return ENERGY.model_copy(update={"training": training})


def prepared(deployment: Deployment, counts: list[int]) -> list[TrainingTask]:
    """Tasks of tenants with so many prepared files each."""
    tasks = []
    version = ids.version_name("20260101t000000-aaaaaaaa")
    for number, count in enumerate(counts):
        tenant = ids.tenant_id(f"t{number}")
        files = tuple(ids.file_name(f"{file} {'ü' * 124}.csv") for file in range(count))
        for file in files:
            key = s3_keys.training_data_file(NAME, tenant, version, file)
            content = f"{tenant} {file}".encode() * 1000
            objects.write_bytes(deployment.s3, deployment.data_bucket, key, content)
        request = ids.request_id(f"{number:032x}")
        tasks.append(TrainingTask(request, tenant, version, version, files, 1.0 + number))
    return tasks


def channel(deployment: Deployment, distribution: jobs.Distribution | None = None) -> Any:
    request = jobs.create_training_job_request(
        deployment, energy(), "bridge", PACK, 2, None, RUNG, distribution=distribution
    )
    tasks, training = request["InputDataConfig"]
    assert tasks["DataSource"]["S3DataSource"]["S3DataDistributionType"] == "FullyReplicated"
    return training["DataSource"]["S3DataSource"]


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 1, 3, 2, 2], [4], [2] * 12])
def test_all_files_of_a_task_are_on_one_instance_however_many_there_are(
    deployment: Deployment, counts: list[int]
) -> None:
    tasks = prepared(deployment, counts)
    jobs.write_job_inputs(deployment, energy(), "bridge", PACK, tasks, 2)
    written = jobs.written_pack(deployment, ENERGY, PACK)
    versions = {task.request: task.version for task in tasks}
    assert written == jobs.WrittenPack(versions, 2, "ShardedByS3Key")
    source = channel(deployment)
    assert source["S3DataDistributionType"] == "ShardedByS3Key"
    every = source_objects(deployment.s3, source)
    names = [f"{task.folder}.tar" for task in tasks]
    if set(counts) == {1}:
        names = [next(task.paths()) for task in tasks]
    assert [item.name for item in every] == names[::-1], "one object a task, the longest first"
    for instances in (1, 2, 3, 7):
        shares = [host_share(every, source, instances, number) for number in range(instances)]
        assert sorted(item.name for share in shares for item in share) == sorted(names)


@pytest.mark.parametrize("count", [1, 2])
def test_data_that_two_tasks_share_reach_one_instance(deployment: Deployment, count: int) -> None:
    (one,) = prepared(deployment, [count])
    other = replace(one, request=ids.request_id("f" * 32), version=ids.version_name("v2"))
    jobs.write_job_inputs(deployment, energy(), "bridge", PACK, [one, other], 2)
    assert len(source_objects(deployment.s3, channel(deployment))) == 1


def test_an_archive_has_a_tasks_files_and_is_the_same_each_time(
    deployment: Deployment, tmp_path: Path
) -> None:
    tasks = prepared(deployment, [2, 3])
    s3, bucket = deployment.s3, deployment.data_bucket
    made = []
    for _ in range(2):
        jobs.write_job_inputs(deployment, energy(), "bridge", PACK, tasks, 2)
        keys = [s3_keys.job_data_archive(NAME, PACK, t.tenant, t.data_version) for t in tasks]
        made.append([objects.read_bytes(s3, bucket, key, 1_000_000) for key in keys])
    assert made[0] == made[1]
    (tmp_path / "v1.tar").write_bytes(made[0][1])
    folder = tmp_path / "data"
    folder.mkdir()
    extract_tar(tmp_path / "v1.tar", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: f"t1 {name}".encode() * 1000 for name in tasks[1].files
    }


def test_nothing_is_written_down_when_a_prepared_file_is_gone(deployment: Deployment) -> None:
    tasks = prepared(deployment, [2, 2])
    gone = s3_keys.training_data_file(NAME, tasks[0].tenant, tasks[0].version, tasks[0].files[1])
    deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=gone)
    with pytest.raises(objects.ObjectMissingError, match=r"t0/.*/1 ü+\.csv is not there"):
        jobs.write_job_inputs(deployment, energy(), "bridge", PACK, tasks, 2)
    assert jobs.written_pack(deployment, ENERGY, PACK) is None


@given(weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=60), shards=st.integers(1, 8))
def test_no_instance_is_expected_to_work_longer_than_its_share_and_one_task(
    weights: list[float], shards: int
) -> None:
    placed = dealt(weights, shards)
    counts = [placed.count(shard) for shard in range(shards)]
    assert max(counts) - min(counts) <= 1
    bound = sum(weights) / shards + max(weights)
    assert slowest(weights, placed) <= bound * (1 + 1e-9)


class KilledError(BaseException):
    """The end of a launcher's process."""


def test_a_killed_launchers_pack_asks_for_the_same_job_whatever_the_file_says_by_then(
    deployment: Deployment,
) -> None:
    queue, version = RequestQueue(deployment), ids.version_name("v1")
    tasks = prepared(deployment, [2, 2, 2])
    for task in tasks:
        key = f"uploads/{task.tenant}/energy/u/manifest.json"
        queue.accept(NAME, task.tenant, task.request, key, "bridge", first=True)
    rows = queue.claim(queue.due(NAME), PACK)
    files = tasks[0].files
    facts = {"training_data": TrainingData(tasks[0].version, files, 100, "f").to_json()}
    asked: list[Any] = []

    def train(request: Any, *_: Any) -> FinishedJob:
        asked.append(request)
        raise KilledError

    stages = frozenset[AssetName](["fine_tuned_artifact"])
    sharded = energy(tenants_per_instance=1)
    replicated = energy(tenants_per_instance=1, data_distribution="FullyReplicated")
    for workload in (sharded, replicated):
        at_work = PackAtWork(deployment, workload, PACK, "bridge", Heard(), stages)
        members = [
            Member(replace(row, facts=facts), row.version or version, owed=True) for row in rows
        ]
        with pytest.raises(KilledError):
            TrainingStage(at_work, train, lambda _: None).run(members)
    first, second = asked
    assert first == second
    assert first["ResourceConfig"]["InstanceCount"] == 3
    source = first["InputDataConfig"][1]["DataSource"]["S3DataSource"]
    assert source["S3DataDistributionType"] == "ShardedByS3Key"
    key = s3_keys.job_file(NAME, PACK, jobs.TASKS)
    listed = json.loads(objects.read_bytes(deployment.s3, deployment.data_bucket, key, 1_000_000))
    assert listed["instances"] == 3
    assert not any("shard" in task for task in listed["tasks"])
