"""What SageMaker lays out for a training container, read into typed values, and the tasks of this
instance.

The layout is the one of "How Amazon SageMaker Provides Training Information"
(docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html);
tasks.json is this project's own and stands in docs/contracts.md, "Training container".
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from containers.runtime.errors import ContainerError

TASKS_BYTES: Final = 64 * 1024 * 1024
TASKS: Final = 100_000
PARAMETERS_BYTES: Final = 16 * 1024
# CreateTrainingJob accepts 100 hyperparameters with values of up to 2,500 characters (botocore's
# model of the API).
HYPERPARAMETERS: Final = 100
HYPERPARAMETER_CHARACTERS: Final = 2500
CONFIG_BYTES: Final = 1024 * 1024
DEFAULT_BATCH_SIZE: Final = 64
LARGEST_BATCH_SIZE: Final = 10_000
TIERS: Final = ("silo", "bridge", "pool")

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PATH_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,127}")


# The job's FailureReason begins with its sentence.
class InvalidTrainingInputError(ContainerError, ValueError):
    """The container cannot start its loop: a file of /opt/ml/input is missing or malformed; names
    file and field."""


@dataclass(frozen=True)
class Task:
    """One model to make: for `tenant`, as `version`, from the files in the folder `data`.

    `data` is a folder beneath the `training` channel, absolute; `parameters` are the upload's own.
    """

    task: str
    tenant: str
    version: str
    tier: str
    data: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingInput:
    """All that this instance was asked to do. `tasks` are those of this instance; `hosts` is
    sorted."""

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
    """Where the /opt/ml layout lies: `SAGEMAKER_BASE_DIR`, as AWS's own toolkits read it, or
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
        _bytes_of(channels / "tasks" / "tasks.json", TASKS_BYTES),
        channels / "training",
        instances=len(hosts),
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
    """How many tasks a family is given at a time: hyperparameter `batch_size`, 64 when it is not
    set."""
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

    Raises `InvalidTrainingInputError` for the whole list: one that is malformed anywhere was not
    written by the launcher.
    """
    document = _object(_json("tasks.json", content), "tasks.json")
    if document.get("format") != 1:
        _refuse(
            "tasks.json",
            "'format' must be 1; the container and the launcher are of different releases",
        )
    workload = _match(_NAME, document.get("workload"), "'workload'")
    pack = _match(_TASK_ID, document.get("pack"), "'pack'")
    entries = document.get("tasks")
    if not isinstance(entries, list) or not entries:
        _refuse("tasks.json", "'tasks' must be a list with at least one task")
    if len(entries) > TASKS:
        _refuse("tasks.json", f"'tasks' has {len(entries)} entries; at most {TASKS} are allowed")
    tasks: list[tuple[Task, int | None]] = []
    ids: set[str] = set()
    versions: set[tuple[str, str]] = set()
    for number, entry in enumerate(entries):
        task, shard = _parse_task(
            _object(entry, "tasks.json", f"tasks[{number}]"), training, instances, number
        )
        if task.task in ids or (task.tenant, task.version) in versions:
            _refuse(
                "tasks.json",
                f"tasks[{number}] is the same task, or tenant and version, as one before it",
            )
        ids.add(task.task)
        versions.add((task.tenant, task.version))
        tasks.append((task, shard))
    return workload, pack, tasks


def _parse_task(
    entry: dict[str, Any], training: Path, instances: int, number: int
) -> tuple[Task, int | None]:
    where = f"tasks[{number}]"
    tier = entry.get("tier")
    if tier not in TIERS:
        _refuse("tasks.json", f"{where}.tier must be one of {', '.join(TIERS)}")
    shard = entry.get("shard")
    if shard is not None and (type(shard) is not int or not 0 <= shard < instances):
        _refuse(
            "tasks.json",
            f"{where}.shard must be from 0 to {instances - 1}: the job has {instances} instances",
        )
    parameters = _object(entry.get("parameters", {}), "tasks.json", f"{where}.parameters")
    if len(json.dumps(parameters)) > PARAMETERS_BYTES:
        _refuse("tasks.json", f"{where}.parameters is larger than {PARAMETERS_BYTES} bytes")
    data = entry.get("data")
    if not isinstance(data, str) or not 0 < len(data) <= 512:
        _refuse("tasks.json", f"{where}.data must be a folder's path of at most 512 characters")
    if not all(_PATH_PART.fullmatch(part) for part in data.removesuffix("/").split("/")):
        _refuse(
            "tasks.json",
            f"{where}.data must be a path beneath the training channel, of letters, digits and "
            f"._=-",
        )
    task = Task(
        task=_match(_TASK_ID, entry.get("task"), f"{where}.task"),
        tenant=_match(_ID, entry.get("tenant"), f"{where}.tenant"),
        version=_match(_ID, entry.get("version"), f"{where}.version"),
        tier=tier,
        data=training / data,
        parameters=parameters,
    )
    return task, shard


def tasks_of_instance(
    tasks: Sequence[tuple[Task, int | None]], number: int, instances: int
) -> list[Task]:
    """The tasks that instance `number` of `instances` does.

    Those whose shard is its number, and those without a shard whose folder SageMaker put here
    (ShardedByS3Key). An only instance does every task, also one whose folder is missing, so that it
    gets an outcome that says so.
    """
    return [
        task
        for task, shard in tasks
        if shard == number or (shard is None and (instances == 1 or task.data.is_dir()))
    ]


def batches(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    """`tasks` in groups of at most `size`, in order, never of two tiers; a silo task is alone in
    its group."""
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


def _match(pattern: re.Pattern[str], value: Any, where: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        _refuse("tasks.json", f"{where} must match {pattern.pattern}")
    return value


def _refuse(file: str, problem: str) -> NoReturn:
    raise InvalidTrainingInputError(f"{file}: {problem}")
