"""Instances of one job that each get the data of their own tasks (ShardedByS3Key)."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.containers.runtime.test_packed_training import Job

HOSTS = ("algo-1", "algo-2", "algo-3")
TENANTS = ("acme", "bolt", "cog")


def archive(job: Job, tenant: str, numbers: list[float], name: str = "numbers.json") -> Path:
    """Put the archive of a tenant's data where SageMaker would put it."""
    path = job.base / "input" / "data" / "training" / tenant / "v1.tar"
    path.parent.mkdir(parents=True)
    content = json.dumps(numbers).encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def instances(tmp_path: Path) -> list[Job]:
    """Three instances of one job with three tasks. No data have reached them yet."""
    jobs = [Job(tmp_path / host, HOSTS, host, "ShardedByS3Key") for host in HOSTS]
    for job in jobs:
        for tenant in TENANTS:
            job.task(tenant, None, shard=None)
    return jobs


def trained(job: Job) -> list[list[str]]:
    return job.batches() if (job.base / "batches.log").exists() else []


def test_the_instance_that_has_a_tasks_archive_does_it_and_one_without_data_does_nothing(
    instances: list[Job],
) -> None:
    first, second, third = instances
    archive(first, "acme", [1, 2, 3])
    archive(first, "bolt", [5])
    archive(second, "cog", [7])
    for job in instances:
        status, output = job.run()
        assert status == 0, output
    assert [trained(job) for job in instances] == [[["t-acme", "t-bolt"]], [["t-cog"]], []]
    assert first.outcome("acme")["preview"] == {"numbers": [1, 2, 3]}
    assert second.outcome("cog")["status"] == "succeeded"
    assert not list(third.base.rglob("checkpoints/*/*"))
    assert not list(first.base.rglob("workspace-*")), "what was unpacked is deleted"


def test_tasks_that_ended_are_not_done_again_wherever_their_data_lie_in_the_next_run(
    instances: list[Job],
) -> None:
    first, second, _ = instances
    archive(first, "acme", [1])
    first.run()
    shutil.copytree(first.base / "checkpoints", second.base / "checkpoints")
    archive(second, "acme", [1])
    archive(second, "bolt", [2])
    status, output = second.run()
    assert status == 0, output
    assert trained(second) == [["t-bolt"]]
    assert "task_finished task=t-acme" in output


def test_an_archive_that_cannot_be_unpacked_fails_its_task_alone(instances: list[Job]) -> None:
    first = instances[0]
    archive(first, "acme", [1], name="../../numbers.json")
    archive(first, "bolt", [2]).write_bytes(b"cut")
    archive(first, "cog", [3])
    assert first.run()[0] == 0
    for tenant, said in (("acme", "not a name inside"), ("bolt", "not a whole tar archive")):
        outcome = first.outcome(tenant)
        assert (outcome["status"], outcome["retryable"]) == ("failed", True)
        assert "cannot be unpacked" in outcome["reason"]
        assert said in outcome["reason"]
    assert first.outcome("cog")["status"] == "succeeded"


def test_a_job_that_would_do_every_task_on_every_instance_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path / "algo-1", HOSTS, "algo-1", "FullyReplicated")
    job.task("acme", [1], shard=None)
    status, output = job.run()
    assert status == 1, output
    failure = (job.base / "output" / "failure").read_text()
    assert "tasks[0] has no shard" in failure
    assert "not ShardedByS3Key" in failure
