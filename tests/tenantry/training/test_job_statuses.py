"""One shared list of the running training jobs, against real jobs on the local cloud."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud, local_sagemaker_running
from tenantry.aws.deployment import Deployment
from tenantry.training.job_statuses import TrainingJobStatuses

ROOT: Final = Path(__file__).resolve().parents[3]
POLL: Final = 15.0


@dataclass
class Clock:
    """A clock that moves only when a test moves it."""

    at: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Runs:
    """Several runs, each like a separate process, and their views of their jobs."""

    deployment: Deployment
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.jobs = [f"tenantry-energy-p-{uuid.uuid4().hex[:8]}" for _ in range(4)]
        self.each = [replace(self.deployment, aws_calls=Counter()) for _ in self.jobs]
        self.watches = [TrainingJobStatuses(one, POLL, clock=self.clock) for one in self.each]

    def look(self) -> list[str | None]:
        """Each run asks about its job, all at the same time."""
        with ThreadPoolExecutor(len(self.jobs)) as runs:
            return list(runs.map(lambda watch, job: watch(job), self.watches, self.jobs))

    def calls(self, operation: str) -> int:
        """The number of their calls of a SageMaker operation."""
        return sum(one.aws_calls[f"sagemaker:{operation}"] for one in self.each)


@pytest.fixture(scope="module")
def endpoint(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A separate SageMaker, whose only image counts and waits."""
    folder = tmp_path_factory.mktemp("sagemaker")
    image = folder / "containers/counting"
    image.mkdir(parents=True)
    (image / "train").symlink_to(ROOT / "tests/pipes_sagemaker/containers/counting/train")
    (image / "containers").symlink_to(ROOT / "containers")
    burst = ("--create-training-job-burst", "100")
    with local_sagemaker_running(folder, folder / "containers", *burst) as url:
        yield url


@pytest.fixture
def runs(deployment: Deployment, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", endpoint)
    return Runs(deployment)


@pytest.fixture
def start(runs: Runs) -> Iterator[Callable[[str], None]]:
    """Starts a job that runs until the end of the test."""
    sagemaker, bucket = runs.deployment.sagemaker, runs.deployment.data_bucket
    started: list[str] = []

    def start(name: str) -> None:
        sagemaker.create_training_job(
            TrainingJobName=name,
            AlgorithmSpecification={
                "TrainingImage": "registry/counting:1",
                "TrainingInputMode": "File",
            },
            HyperParameters={"count": "1", "wait_for": f"{bucket}/never"},
            RoleArn="arn:aws:iam::123456789012:role/training",
            OutputDataConfig={"S3OutputPath": f"s3://{bucket}/output"},
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 300},
        )
        started.append(name)

    yield start
    for name in started:
        sagemaker.stop_training_job(TrainingJobName=name)


def test_four_running_jobs_cost_one_call_a_poll_and_not_four(
    runs: Runs, start: Callable[[str], None]
) -> None:
    for job in (*runs.jobs, "another-product-energy-p-1"):
        start(job)
    runs.clock.at += POLL
    runs.look()  # a run that came too late to list may know nothing yet
    polls = round(60 / POLL)
    for _ in range(polls):
        seen = runs.look()
        assert None not in seen, "every run knows that its job is still in progress"
        assert set(seen) <= {"Starting", "Downloading", "Training"}
        runs.clock.at += POLL
    listed, described = runs.calls("ListTrainingJobs"), runs.calls("DescribeTrainingJob")
    assert (listed, described) == (polls, 0)

    runs.look()
    before = runs.calls("DescribeTrainingJob")
    for _ in range(polls):  # the number without the list
        for one, job in zip(runs.each, runs.jobs, strict=True):
            one.sagemaker.describe_training_job(TrainingJobName=job)
    assert runs.calls("DescribeTrainingJob") - before == 4 * listed


def test_a_job_that_is_not_in_progress_is_not_known(
    runs: Runs, start: Callable[[str], None]
) -> None:
    start(runs.jobs[0])
    runs.look()
    watch = runs.watches[0]
    assert watch(runs.jobs[0]) is not None
    assert watch(runs.jobs[1]) is None
    start(runs.jobs[1])
    assert watch(runs.jobs[1]) is None, "it is newer than the list"
    runs.clock.at += POLL
    assert watch(runs.jobs[1]) is not None


def test_a_list_that_grew_old_says_nothing_and_a_dead_listers_lease_ends(
    runs: Runs, start: Callable[[str], None]
) -> None:
    start(runs.jobs[0])
    broken, other = runs.watches[0], runs.watches[1]
    assert other(runs.jobs[0]) is not None

    def fail(**_: object) -> None:
        raise ClientError(
            {"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}},
            "ListTrainingJobs",
        )

    runs.each[0].sagemaker.meta.events.register("before-send.sagemaker.ListTrainingJobs", fail)
    runs.clock.at += POLL
    assert broken(runs.jobs[0]) is None, "whoever cannot list describes its job itself"
    assert other(runs.jobs[0]) is not None, "the list is one interval old"
    runs.clock.at += 2.5 * POLL
    lists = runs.calls("ListTrainingJobs")
    assert other(runs.jobs[0]) is not None
    assert runs.calls("ListTrainingJobs") == lists + 1, "the lease had ended"


def test_while_nobody_can_list_an_old_list_is_not_believed(
    runs: Runs, start: Callable[[str], None]
) -> None:
    start(runs.jobs[0])
    watch = runs.watches[0]
    assert watch(runs.jobs[0]) is not None

    def fail(**_: object) -> None:
        raise ClientError(
            {"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "ListTrainingJobs"
        )

    for one in runs.each:
        one.sagemaker.meta.events.register("before-send.sagemaker.ListTrainingJobs", fail)
    runs.clock.at += 3.5 * POLL
    assert watch(runs.jobs[0]) is None, "its lister failed"
    assert runs.watches[1](runs.jobs[0]) is None, "another has the lease, and the list is too old"
