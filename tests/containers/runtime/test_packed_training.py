"""A packed training job as in SageMaker: a process, its folders, its signals, its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containers.runtime.archives.archive import digest_of, extract_archive
from containers.runtime.training import packed_training
from containers.runtime.training.packed_training import Progress, Refused, Task, Trained, Underway
from tests.containers.runtime.tiny_family import TinyTrainer

ROOT = Path(__file__).resolve().parents[3]
TRAIN = [sys.executable, "-m", "tests.containers.runtime.tiny_family", "train"]


class Job:
    """The folders of one job on one instance."""

    def __init__(
        self,
        base: Path,
        hosts: Sequence[str] = ("algo-1",),
        host: str = "algo-1",
        distribution: str = "FullyReplicated",
    ) -> None:
        self.base = base
        self.config = base / "input" / "config"
        self.config.mkdir(parents=True)
        (base / "input" / "data" / "tasks").mkdir(parents=True)
        (base / "input" / "data" / "training").mkdir()
        self.write("input/config/resourceconfig.json", {"current_host": host, "hosts": list(hosts)})
        self.write("input/config/hyperparameters.json", {"batch_size": "10"})
        channels = {"training": {"S3DistributionType": distribution}}
        self.write("input/config/inputdataconfig.json", channels)
        self.entries: list[dict[str, Any]] = []

    def write(self, path: str, document: Any) -> None:
        (self.base / path).write_text(json.dumps(document))

    def task(self, tenant: str, numbers: list[float] | None, **fields: Any) -> None:
        """Add a task; without numbers, its data are missing."""
        data = f"{tenant}/v1"
        if numbers is not None:
            folder = self.base / "input" / "data" / "training" / data
            folder.mkdir(parents=True)
            (folder / "numbers.json").write_text(json.dumps(numbers))
        entry = {
            "task": f"t-{tenant}",
            "tenant": tenant,
            "version": "v1",
            "tier": "bridge",
            "shard": 0,
            "data": data,
        }
        self.entries.append({**entry, **fields})
        self.write(
            "input/data/tasks/tasks.json",
            {"format": 1, "workload": "energy", "pack": "p-1", "tasks": self.entries},
        )

    def misbehaving(self, tenant: str, way: str) -> None:
        self.task(tenant, [1, 2, 3], parameters={"misbehave": way})

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(self.base)}
        return subprocess.Popen(
            TRAIN,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> tuple[int, str]:
        with self.start() as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def outcome(self, tenant: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            (self.base / "checkpoints" / tenant / "v1.json").read_bytes()
        )
        return document

    def summary(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.base / "model" / "summary.json").read_bytes())
        return document

    def batches(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.base / "batches.log").read_text().splitlines()]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "ml")


def test_each_task_leaves_an_archive_and_an_outcome(job: Job, tmp_path: Path) -> None:
    job.task("acme", [1, 2, 3])
    job.task("bolt", [5])
    status, output = job.run()
    assert status == 0, output
    archive = job.base / "checkpoints" / "acme" / "v1.tar.gz"
    outcome = job.outcome("acme")
    seconds = outcome.pop("seconds"), outcome.pop("cpu_seconds")
    assert all(value >= 0 for value in seconds)
    digest = digest_of(archive)
    assert outcome == {
        "format": 1,
        "task": "t-acme",
        "tenant": "acme",
        "version": "v1",
        "status": "succeeded",
        "reason": None,
        "retryable": False,
        "archive": {"bytes": digest.bytes, "sha256": digest.sha256},
        "metrics": {"error": 1.0},
        "card": {"model": "mean"},
        "preview": {"numbers": [1, 2, 3]},
    }
    (tmp_path / "extracted").mkdir()
    extract_archive(archive, tmp_path / "extracted")
    assert json.loads((tmp_path / "extracted" / "model.json").read_bytes()) == {"mean": 2.0}
    assert json.loads((tmp_path / "extracted" / "card.json").read_bytes()) == {
        "format": 1,
        "family": "tiny",
        "workload": "energy",
        "tenant": "acme",
        "version": "v1",
        "metrics": {"error": 1.0},
        "model": "mean",
    }
    summary = job.summary()
    assert (summary["tasks"], summary["succeeded"], summary["failed"], summary["not_started"]) == (
        2,
        2,
        0,
        0,
    )
    assert not list(job.base.glob("workspace-*"))
    assert not (job.base / "output" / "failure").exists()


def test_archives_are_the_same_bytes_when_trained_again(job: Job, tmp_path: Path) -> None:
    again = Job(tmp_path / "again")
    for each in (job, again):
        each.task("acme", [1, 2, 3])
        assert each.run()[0] == 0
    assert job.outcome("acme")["archive"] == again.outcome("acme")["archive"]


@pytest.mark.parametrize(
    ("way", "reason", "retryable"),
    [
        ("raise", "RuntimeError: cannot digest 3 numbers", True),
        ("exit", "SystemExit: a library gave up", True),
        ("memory", "MemoryError: the data are too large", True),
        ("silent", "the trainer gave no result for this task", True),
        ("nan", "the model could not be stored: metric error is nan, not a finite number", False),
        (
            "link",
            (
                "the model could not be stored: 'model.json' is not a plain file; "
                "links and devices are refused"
            ),
            False,
        ),
        ("large card", "the model could not be stored: the card is larger than 65536 bytes", False),
    ],
)
def test_what_goes_wrong_with_one_tenant_fails_that_tenant_alone(
    job: Job, way: str, reason: str, retryable: bool
) -> None:
    job.task("acme", [1])
    job.misbehaving("bad", way)
    job.task("bolt", [2])
    status, output = job.run()
    assert status == 0, output
    bad = job.outcome("bad")
    assert (bad["status"], bad["reason"], bad["retryable"]) == ("failed", reason, retryable)
    assert "archive" not in bad
    assert not (job.base / "checkpoints" / "bad" / "v1.tar.gz").exists()
    assert job.outcome("acme")["status"] == job.outcome("bolt")["status"] == "succeeded"
    assert job.summary()["failed"] == 1


def test_after_a_batch_that_raised_only_what_was_not_yielded_is_tried_again_one_by_one(
    job: Job,
) -> None:
    job.task("acme", [1])
    job.misbehaving("bad", "raise")
    job.task("bolt", [2])
    job.run()
    assert job.batches() == [["t-acme", "t-bad", "t-bolt"], ["t-bad"], ["t-bolt"]]


def test_a_folder_that_is_not_there_fails_its_task(job: Job) -> None:
    job.misbehaving("bad", "no folder")
    assert job.run()[0] == 0
    assert job.outcome("bad")["status"] == "failed"


def test_a_task_the_family_refuses_fails_with_the_familys_reason(job: Job) -> None:
    job.task("empty", [])
    assert job.run()[0] == 0
    outcome = job.outcome("empty")
    assert (outcome["reason"], outcome["retryable"]) == ("the upload has no numbers", False)


def test_a_task_whose_data_are_missing_fails_and_may_be_tried_again(job: Job) -> None:
    job.task("acme", None)
    assert job.run()[0] == 0
    assert "did not reach the training job" in job.outcome("acme")["reason"]
    assert job.outcome("acme")["retryable"] is True


def test_a_second_result_for_a_task_changes_nothing(job: Job) -> None:
    job.misbehaving("acme", "twice")
    job.task("bolt", [2])
    status, output = job.run()
    assert status == 0
    assert "result_ignored" in output
    assert job.outcome("acme")["status"] == "succeeded"


def test_a_preview_that_is_too_large_is_dropped_and_the_model_kept(job: Job) -> None:
    job.misbehaving("acme", "large preview")
    status, output = job.run()
    assert status == 0
    assert "preview_dropped tenant=acme" in output
    assert job.outcome("acme")["preview"] == {}
    assert job.outcome("acme")["status"] == "succeeded"


def test_files_stand_beside_the_archive_before_the_job_ends(job: Job) -> None:
    job.task("acme", [1], parameters={"pictures": ["00.png", "01.png"]})
    job.misbehaving("bolt", "wait")
    with job.start() as process:
        await_path(job.base / "waiting")
        outcome = job.outcome("acme")
        folder = job.base / "checkpoints" / "acme" / "v1"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "00.png": b"00.png",
            "01.png": b"01.png",
        }
        (job.base / "go on").touch()
        process.communicate(timeout=30)
    digest = digest_of(folder / "00.png")
    assert outcome["files"]["00.png"] == {"bytes": digest.bytes, "sha256": digest.sha256}
    assert list(outcome["files"]) == ["00.png", "01.png"]
    assert "files" not in job.outcome("bolt")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["../00.png"], "is no file's name"),
        (["00.png/"], "is no file's name"),
        ([".hidden"], "is no file's name"),
        (["link.png"], "link.png is not a plain file"),
        (["absent.png"], "absent.png is not a plain file"),
        (["large.png"], "large.png has 20971520 bytes; at most 16777216"),
        ([f"{number}.png" for number in range(65)], "65 files beside the archive; at most 64"),
    ],
)
def test_files_of_other_names_kinds_and_sizes_fail_their_task_and_nothing_is_put_in_place(
    job: Job, names: list[str], reason: str
) -> None:
    job.task("bad", [1], parameters={"pictures": names})
    job.task("acme", [1], parameters={"pictures": ["00.png"]})
    assert job.run()[0] == 0
    assert reason in job.outcome("bad")["reason"]
    assert [path.name for path in (job.base / "checkpoints" / "bad").iterdir()] == ["v1.json"]
    assert job.outcome("acme")["status"] == "succeeded"


def test_files_that_are_damaged_or_left_over_are_made_again(job: Job) -> None:
    for tenant in ("whole", "damaged", "cut"):
        job.task(tenant, [1], parameters={"pictures": ["00.png"]})
    job.run()
    checkpoints = job.base / "checkpoints"
    (checkpoints / "damaged" / "v1" / "00.png").write_bytes(b"cut")
    # A run that ended between files and outcome leaves its files behind.
    (checkpoints / "cut" / "v1.json").unlink()
    (checkpoints / "cut" / "v1" / "old.png").write_bytes(b"old")
    (job.base / "batches.log").unlink()
    assert job.run()[0] == 0
    assert job.batches() == [["t-damaged", "t-cut"]]
    for tenant in ("whole", "damaged", "cut"):
        assert {
            path.name: path.read_bytes() for path in (checkpoints / tenant / "v1").iterdir()
        } == {"00.png": b"00.png"}


def test_files_of_a_task_that_fails_the_second_time_are_taken_away(job: Job) -> None:
    job.task("acme", [1], parameters={"pictures": ["00.png"]})
    job.run()
    (job.base / "checkpoints" / "acme" / "v1.json").unlink()
    (job.base / "input/data/training/acme/v1/numbers.json").write_text("[]")
    assert job.run()[0] == 0
    assert [path.name for path in (job.base / "checkpoints" / "acme").iterdir()] == ["v1.json"]


def test_batches_have_the_size_that_was_asked_for_and_silo_tasks_are_alone(job: Job) -> None:
    job.write("input/config/hyperparameters.json", {"batch_size": "2"})
    for tenant in ("a", "b", "c"):
        job.task(tenant, [1])
    job.task("s1", [1], tier="silo")
    job.task("s2", [1], tier="silo")
    job.run()
    assert job.batches() == [["t-a", "t-b"], ["t-c"], ["t-s1"], ["t-s2"]]


def test_instances_share_the_tasks(tmp_path: Path) -> None:
    jobs = [
        Job(tmp_path / host, hosts=("algo-2", "algo-1"), host=host) for host in ("algo-1", "algo-2")
    ]
    for job in jobs:
        job.task("acme", [1], shard=0)
        job.task("bolt", [1], shard=1)
        assert job.run()[0] == 0
    assert [job.batches() for job in jobs] == [[["t-acme"]], [["t-bolt"]]]
    assert (jobs[1].base / "model" / "summary-algo-2.json").exists()


def test_what_an_earlier_run_left_is_not_done_again(job: Job) -> None:
    for tenant in ("whole", "failed", "damaged", "other", "unreadable"):
        job.task(tenant, [] if tenant == "failed" else [1])
    job.run()
    kept = {tenant: job.outcome(tenant) for tenant in ("whole", "failed")}
    checkpoints = job.base / "checkpoints"
    (checkpoints / "damaged" / "v1.tar.gz").write_bytes(b"cut")
    (checkpoints / "unreadable" / "v1.json").write_bytes(b"{")
    job.write("checkpoints/other/v1.json", {**job.outcome("other"), "task": "another"})
    (job.base / "batches.log").unlink()
    status, output = job.run()
    assert status == 0
    assert job.batches() == [["t-damaged", "t-other", "t-unreadable"]]
    assert {tenant: job.outcome(tenant) for tenant in kept} == kept
    assert "task_finished task=t-whole" in output
    assert job.summary()["resumed"] == 2
    assert all(
        job.outcome(tenant)["status"] == "succeeded"
        for tenant in ("damaged", "other", "unreadable")
    )


def await_path(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_ends_the_job_after_the_task_in_hand_and_the_next_run_does_the_rest(
    job: Job, number: signal.Signals
) -> None:
    job.misbehaving("acme", "wait")
    job.task("bolt", [2])
    with job.start() as process:
        await_path(job.base / "waiting")
        process.send_signal(number)
        (job.base / "go on").touch()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    assert job.outcome("acme")["status"] == "succeeded"
    assert not (job.base / "checkpoints" / "bolt").exists()
    assert job.summary()["not_started"] == 1
    assert not list(job.base.glob("workspace-*"))
    assert job.run()[0] == 0
    assert job.batches() == [["t-acme", "t-bolt"], ["t-bolt"]]


def test_sigterm_ends_what_is_under_way(job: Job) -> None:
    job.task("acme", [1])
    job.misbehaving("bolt", "under way for ever")
    with job.start() as process:
        await_path(job.base / "waiting")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    assert job.outcome("acme")["status"] == "succeeded"
    assert not (job.base / "checkpoints" / "bolt").exists()
    assert not list(job.base.glob("workspace-*"))


def test_what_is_done_together_is_told_and_counted_to_all_of_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Together:
        family = "tiny"

        def train(
            self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
        ) -> Iterator[Trained | Refused | Underway]:
            spent = time.process_time() + 0.2
            while time.process_time() < spent:
                pass
            yield Underway(tasks, 1, 2, {"loss": 0.5})
            for task in tasks:
                yield Refused(task, "no model")

    messages: list[Mapping[str, Any]] = []

    @contextmanager
    def open_progress() -> Iterator[Progress]:
        yield messages.append

    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(job.base))
    monkeypatch.setattr(packed_training, "PROGRESS_SECONDS", 0.0)
    for tenant in ("acme", "bolt"):
        job.task(tenant, [1])
    assert packed_training.main(Together(), open_progress) == 0
    assert [message for message in messages if message["event"] == "task_progress"] == [
        {"event": "task_progress", "task": f"t-{tenant}", "step": 1, "steps": 2}
        for tenant in ("acme", "bolt")
    ]
    # A process's clock has ticks of 10 ms; without sharing, one of the two tasks would cost
    # nothing.
    assert all(job.outcome(tenant)["cpu_seconds"] >= 0.07 for tenant in ("acme", "bolt"))


def test_a_killed_job_has_kept_what_it_had_done(job: Job) -> None:
    job.task("acme", [1])
    job.misbehaving("bolt", "wait")
    with job.start() as process:
        await_path(job.base / "waiting")
        process.kill()
    assert job.outcome("acme")["status"] == "succeeded"
    (job.base / "go on").touch()
    assert job.run()[0] == 0
    assert job.batches() == [["t-acme", "t-bolt"], ["t-bolt"]]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda job: (job.base / "input/data/tasks/tasks.json").unlink(),
            "tasks.json cannot be read",
        ),
        (
            lambda job: job.write("input/data/tasks/tasks.json", {"format": 9}),
            "tasks.json: 'format' must be 1",
        ),
        (
            lambda job: job.write("input/config/hyperparameters.json", {"batch_size": "many"}),
            "'batch_size' must be",
        ),
        (
            lambda job: job.write("input/config/hyperparameters.json", {"average": "mode"}),
            "'average' must be 'mean'",
        ),
        (
            lambda job: job.write("input/config/resourceconfig.json", {}),
            "resourceconfig.json: 'hosts'",
        ),
        (
            lambda job: (job.base / "checkpoints").write_text("a file"),
            "the training loop stopped: ",
        ),
    ],
)
def test_a_loop_that_cannot_run_fails_the_job_with_the_reason(
    job: Job, spoil: Callable[[Job], None], reason: str
) -> None:
    job.task("acme", [1])
    spoil(job)
    status, output = job.run()
    assert status == 1, output
    failure = (job.base / "output" / "failure").read_text()
    assert reason in failure
    assert len(failure) <= 1024


def test_the_log_names_tenants_and_tasks_and_shows_no_content(job: Job) -> None:
    job.task("acme", [271828, 271828])
    _, output = job.run()
    assert "task_started task=t-acme tenant=acme version=v1" in output
    assert "task_finished task=t-acme tenant=acme version=v1 status=succeeded" in output
    assert "271828" not in output


def test_progress_is_told_as_it_happens(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Mapping[str, Any]] = []

    @contextmanager
    def open_progress() -> Iterator[Progress]:
        yield messages.append

    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(job.base))
    job.task("acme", [1])
    job.task("empty", [])
    assert packed_training.main(TinyTrainer(), open_progress) == 0
    assert messages[:2] == [
        {"event": "task_started", "task": f"t-{tenant}", "tenant": tenant, "version": "v1"}
        for tenant in ("acme", "empty")
    ]
    assert messages[2:] == [
        {"event": "task_finished", "outcome": job.outcome(tenant)} for tenant in ("acme", "empty")
    ]


def test_progress_that_fails_costs_no_result(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_progress() -> Iterator[Progress]:
        def tell(payload: Mapping[str, Any]) -> None:
            raise ConnectionError("no way out")

        yield tell

    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(job.base))
    job.task("acme", [1])
    assert packed_training.main(TinyTrainer(), open_progress) == 0
    assert job.outcome("acme")["status"] == "succeeded"


def test_a_disk_that_refuses_fails_the_job_and_not_the_tenant(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hostile:
        family = "tiny"

        def train(
            self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
        ) -> Iterator[Trained | Refused]:
            folder = workspace / "m"
            folder.mkdir()
            # Put a file in the place of the tenant's folder of checkpoints.
            (workspace.parent.parent / "checkpoints").mkdir()
            (workspace.parent.parent / "checkpoints" / "acme").write_text("in the way")
            yield Trained(tasks[0], folder, {}, {}, {})

    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(job.base))
    job.task("acme", [1])
    assert packed_training.main(Hostile()) == 1
    assert (
        "the training loop stopped: FileExistsError"
        in (job.base / "output" / "failure").read_text()
    )
