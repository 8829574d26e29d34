"""``tasks.json``: the tasks of a packed training job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts import patterns
from contracts.documents import Fields
from contracts.limits import DATA_CHARACTERS, FORMAT, MAX_TASKS, PARAMETERS_BYTES, TASKS_BYTES
from contracts.trace_context import trace_id_of

TASKS_FILE: Final = "tasks.json"
ARCHIVE_SUFFIX: Final = ".tar"
"""The end of the name of a task's archive: ``{data}.tar`` in place of the folder ``{data}``."""
TIERS: Final = ("silo", "bridge", "pool")


@dataclass(frozen=True)
class ListedTask:
    """One model to make.

    ``data`` is the folder of its prepared files below the ``training`` channel; ``parameters`` are
    the upload's own. ``shard`` is the number of the instance that does it; None leaves it to the
    instance that finds its folder, or the archive in place of it. ``traceparent`` is the trace it
    is part of. It is empty for none, and for one that cannot be read, so that no task is refused
    for it. ``others`` are fields of another release.
    """

    task: str
    tenant: str
    version: str
    tier: str
    data: str
    shard: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Fields) -> ListedTask:
        """Raises ``MalformedDocumentError``."""
        tier, shard, data, traceparent = (
            fields.one_of("tier", TIERS),
            fields.values.get("shard"),
            fields.values.get("data"),
            str(fields.values.get("traceparent", "")),
        )
        if shard is not None and (type(shard) is not int or not 0 <= shard < MAX_TASKS):
            fields.refuse("shard", "must be a whole number from 0")
        if not isinstance(data, str) or not 0 < len(data) <= DATA_CHARACTERS:
            fields.refuse(
                "data", f"must be a folder's path of at most {DATA_CHARACTERS} characters"
            )
        if not all(patterns.FOLDER.fullmatch(part) for part in data.removesuffix("/").split("/")):
            fields.refuse(
                "data", "must be a path beneath the training channel, of letters, digits and ._=-"
            )
        return cls(
            task=fields.text("task", patterns.TASK),
            tenant=fields.text("tenant", patterns.TENANT),
            version=fields.text("version", patterns.VERSION),
            tier=tier,
            data=data,
            shard=shard,
            parameters=fields.mapping("parameters", PARAMETERS_BYTES),
            traceparent=traceparent if trace_id_of(traceparent) else "",
            others=fields.others(
                "task", "tenant", "version", "tier", "data", "shard", "parameters", "traceparent"
            ),
        )

    def document(self) -> dict[str, Any]:
        """The task as JSON values."""
        return {
            **self.others,
            "task": self.task,
            "tenant": self.tenant,
            "version": self.version,
            "tier": self.tier,
            **({} if self.shard is None else {"shard": self.shard}),
            "data": self.data,
            "parameters": dict(self.parameters),
            **({"traceparent": self.traceparent} if self.traceparent else {}),
        }


@dataclass(frozen=True)
class TaskList:
    """The tasks of a pack, each of a tenant and version of its own.

    ``instances`` is the number of instances that the pack was written for, where its tasks have no
    shard. ``others`` are fields of another release.
    """

    workload: str
    pack: str
    tasks: Sequence[ListedTask]
    instances: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes) -> TaskList:
        """Read a list, all of it or none: the control plane never wrote a list with a malformed
        part. Raises ``MalformedDocumentError``."""
        fields = Fields.read(content, TASKS_FILE, TASKS_BYTES)
        fields.require_format()
        workload = fields.text("workload", patterns.WORKLOAD)
        pack = fields.text("pack", patterns.TASK)
        instances = fields.values.get("instances")
        if instances is not None and (type(instances) is not int or instances < 1):
            fields.refuse("instances", "must be a whole number from 1")
        entries = fields.values.get("tasks")
        if not isinstance(entries, list) or not entries:
            fields.refuse("tasks", "must be a list with at least one task")
        if len(entries) > MAX_TASKS:
            fields.refuse("tasks", f"has {len(entries)} entries; at most {MAX_TASKS} are allowed")
        tasks, known = list[ListedTask](), set[tuple[str, ...]]()
        for number, entry in enumerate(entries):
            part = fields.part(f"tasks[{number}]", entry)
            task = ListedTask.of(part)
            if (task.task,) in known or (task.tenant, task.version) in known:
                part.refuse("", "is the same task, or tenant and version, as one before it")
            known |= {(task.task,), (task.tenant, task.version)}
            tasks.append(task)
        others = fields.others("format", "workload", "pack", "instances", "tasks")
        return cls(workload, pack, tasks, instances, others)

    def document(self) -> dict[str, Any]:
        """The list as JSON values."""
        return {
            **self.others,
            "format": FORMAT,
            "workload": self.workload,
            "pack": self.pack,
            **({} if self.instances is None else {"instances": self.instances}),
            "tasks": [task.document() for task in self.tasks],
        }
