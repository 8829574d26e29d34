"""Reads SageMaker's files for a training container into typed values, and selects the tasks of this
instance.

The layout is that of "How Amazon SageMaker Provides Training Information"
(docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html);
tasks.json is this project's own (contracts/tasks.py).
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from containers.runtime.errors import ContainerError
from contracts.errors import MalformedDocumentError
from contracts.limits import TASKS_BYTES
from contracts.tasks import ARCHIVE_SUFFIX, TASKS_FILE, TaskList
from contracts.trace_context import trace_id_of

# CreateTrainingJob accepts 100 hyperparameters with values of up to 2,500 characters (botocore's
# model of the API).
HYPERPARAMETERS: Final = 100
HYPERPARAMETER_CHARACTERS: Final = 2500
CONFIG_BYTES: Final = 1024 * 1024
DEFAULT_BATCH_SIZE: Final = 64
LARGEST_BATCH_SIZE: Final = 10_000


# The job's FailureReason begins with its sentence.
class InvalidTrainingInputError(ContainerError, ValueError):
    """The container cannot start its loop, because a file of /opt/ml/input is missing or malformed;
    the message names file and field."""


@dataclass(frozen=True)
class Task:
    """One model to train: for `tenant`, as `version`, from the files in the folder `data`.

    `data` is an absolute path below the `training` channel; a file of this name and
    `ARCHIVE_SUFFIX` may lie in its place. `parameters` are the upload's own.
    `trace_id` is the upload's trace, "" for none.
    """

    task: str
    tenant: str
    version: str
    tier: str
    data: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str = ""

    @property
    def archive(self) -> Path:
        """The path of the archive that may lie in place of the folder `data`."""
        return self.data.with_name(f"{self.data.name}{ARCHIVE_SUFFIX}")

    @property
    def is_here(self) -> bool:
        """Whether its data reached this instance."""
        return self.data.is_dir() or self.archive.is_file()


@dataclass(frozen=True)
class TrainingInput:
    """The work of this instance. `tasks` are those of this instance; `hosts` is sorted."""

    workload: str
    pack: str
    tasks: Sequence[Task]
    hyperparameters: Mapping[str, str]
    batch_size: int
    current_host: str
    hosts: Sequence[str]

    @property
    def instance_number(self) -> int:
        """This instance's place in `hosts`, from 0."""
        return self.hosts.index(self.current_host)


def base_folder() -> Path:
    """The root of the /opt/ml layout: `SAGEMAKER_BASE_DIR`, which AWS's own toolkits also read, or
    /opt/ml."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml").absolute()


def read_training_input(base: Path) -> TrainingInput:
    """Read hyperparameters, resource configuration and task list below `base`; raises
    `InvalidTrainingInputError`."""
    config = base / "input" / "config"
    hyperparameters = parse_hyperparameters(
        _bytes_of(config / "hyperparameters.json", CONFIG_BYTES)
    )
    current_host, hosts = parse_resource_config(
        _bytes_of(config / "resourceconfig.json", CONFIG_BYTES)
    )
    channels = base / "input" / "data"
    workload, pack, sharded = parse_tasks(
        _bytes_of(channels / "tasks" / TASKS_FILE, TASKS_BYTES),
        channels / "training",
        instances=len(hosts),
    )
    if len(hosts) > 1:
        check_distribution(
            _bytes_of(config / "inputdataconfig.json", CONFIG_BYTES),
            [shard for _, shard in sharded],
        )
    return TrainingInput(
        workload=workload,
        pack=pack,
        tasks=tasks_of_instance(sharded, hosts.index(current_host), len(hosts)),
        hyperparameters=hyperparameters,
        batch_size=batch_size_of(hyperparameters),
        current_host=current_host,
        hosts=hosts,
    )


def parse_hyperparameters(content: bytes) -> dict[str, str]:
    """The settings of hyperparameters.json: names to strings, as SageMaker writes them."""
    document = _object(_json("hyperparameters.json", content), "hyperparameters.json")
    if len(document) > HYPERPARAMETERS:
        _refuse(
            "hyperparameters.json",
            f"has {len(document)} entries; SageMaker allows {HYPERPARAMETERS}",
        )
    for name, value in document.items():
        if not isinstance(value, str):
            _refuse("hyperparameters.json", f"{name!r} must be a string, as SageMaker writes it")
        if len(value) > HYPERPARAMETER_CHARACTERS:
            _refuse(
                "hyperparameters.json",
                f"{name!r} is longer than {HYPERPARAMETER_CHARACTERS} characters",
            )
    return document


def batch_size_of(hyperparameters: Mapping[str, str]) -> int:
    """How many tasks a family gets at a time: the hyperparameter `batch_size`, by default 64."""
    text = hyperparameters.get("batch_size", str(DEFAULT_BATCH_SIZE))
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= LARGEST_BATCH_SIZE:
        _refuse(
            "hyperparameters.json",
            f"'batch_size' must be a whole number from 1 to {LARGEST_BATCH_SIZE}",
        )
    return int(text)


def parse_resource_config(content: bytes) -> tuple[str, list[str]]:
    """The name of this instance and the sorted names of all of them, from resourceconfig.json."""
    document = _object(_json("resourceconfig.json", content), "resourceconfig.json")
    hosts = document.get("hosts")
    if (
        not isinstance(hosts, list)
        or not hosts
        or not all(isinstance(host, str) and host for host in hosts)
    ):
        _refuse("resourceconfig.json", "'hosts' must be a list of instance names")
    if len(set(hosts)) != len(hosts):
        _refuse("resourceconfig.json", "'hosts' names an instance twice")
    current_host = document.get("current_host")
    if not isinstance(current_host, str) or current_host not in hosts:
        _refuse("resourceconfig.json", "'current_host' must be one of 'hosts'")
    return current_host, sorted(hosts)


def parse_tasks(
    content: bytes, training: Path, instances: int
) -> tuple[str, str, list[tuple[Task, int | None]]]:
    """Workload, pack, and every task of tasks.json with its shard; `training` is the folder of the
    data channel.

    Any malformed entry raises `InvalidTrainingInputError` for the whole list, because the control
    plane did not write such a list.
    """
    try:
        listed = TaskList.parse(content)
    except MalformedDocumentError as error:
        raise InvalidTrainingInputError(str(error)) from error
    for number, task in enumerate(listed.tasks):
        if task.shard is not None and task.shard >= instances:
            _refuse(
                TASKS_FILE,
                f"tasks[{number}].shard must be from 0 to {instances - 1}: the job has "
                f"{instances} instances",
            )
    tasks = [
        (
            Task(
                task.task,
                task.tenant,
                task.version,
                task.tier,
                training / task.data,
                task.parameters,
                trace_id_of(task.traceparent),
            ),
            task.shard,
        )
        for task in listed.tasks
    ]
    return listed.workload, listed.pack, tasks


def check_distribution(content: bytes, shards: Sequence[int | None]) -> None:
    """Refuse a job of several instances that would do a task twice, or not at all.

    Tasks have shards where each instance gets all data, and none where SageMaker shares the data
    out (S3DistributionType in inputdataconfig.json).
    """
    channels = _object(_json("inputdataconfig.json", content), "inputdataconfig.json")
    channel = _object(channels.get("training"), "inputdataconfig.json", "'training'")
    shared_out = channel.get("S3DistributionType") == "ShardedByS3Key"
    for number, shard in enumerate(shards):
        if shared_out != (shard is None):
            _refuse(
                TASKS_FILE,
                f"tasks[{number}] has {'no' if shard is None else 'a'} shard, and the channel "
                f"'training' is {'' if shared_out else 'not '}ShardedByS3Key",
            )


def tasks_of_instance(
    tasks: Sequence[tuple[Task, int | None]], number: int, instances: int
) -> list[Task]:
    """The tasks of instance `number` of `instances`.

    They are the tasks whose shard is its number, and those without a shard whose data SageMaker
    put here (ShardedByS3Key). A single instance has every task. It keeps a task whose data are
    missing, so that the task gets an outcome that says so.
    """
    return [
        task
        for task, shard in tasks
        if shard == number or (shard is None and (instances == 1 or task.is_here))
    ]


def batches(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    """`tasks` in groups of at most `size`, in order, with one tier in each group. A silo task is
    alone in its group."""
    by_tier: dict[str, list[Task]] = {}
    for task in tasks:
        by_tier.setdefault(task.tier, []).append(task)
    groups: list[list[Task]] = []
    for tier, members in by_tier.items():
        step = 1 if tier == "silo" else size
        groups += [members[start : start + step] for start in range(0, len(members), step)]
    return groups


def _bytes_of(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            _refuse(path.name, f"is larger than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidTrainingInputError(f"{path} cannot be read: {error.strerror}") from error


def _json(file: str, content: bytes) -> Any:
    try:
        return json.loads(
            content, parse_constant=lambda word: _refuse(file, f"{word} is not a JSON number")
        )
    except InvalidTrainingInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidTrainingInputError(f"{file} is not JSON: {error}") from error


def _object(value: Any, file: str, where: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(file, f"{where or 'the document'} must be a JSON object")
    return value


def _refuse(file: str, problem: str) -> NoReturn:
    raise InvalidTrainingInputError(f"{file}: {problem}")
