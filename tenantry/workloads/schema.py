"""Reads and checks the workloads' YAML files. A new workload is one file here, and a container when
none fits.

A file that cannot be used takes no other workload down. Its own workload never looks like one that
was removed: asking for it raises the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tenantry.errors import TenantryError
from tenantry.names import ids
from tenantry.names.tiers import Shared
from tenantry.workloads.batches import Batch, Inference
from tenantry.workloads.batching import batching_fault
from tenantry.workloads.documents import Document, UnreadableDocumentError, read_document
from tenantry.workloads.drift import Drift
from tenantry.workloads.faults import field_of, said
from tenantry.workloads.fields import Container, ImageTag, Module, Owner, Words, WorkloadName
from tenantry.workloads.folder import COMPONENT_FILE, FOLDER_VARIABLE, folder_of_workloads
from tenantry.workloads.hosting import Hosting
from tenantry.workloads.hosting_rules import hosting_fault
from tenantry.workloads.section import Section
from tenantry.workloads.sections import (
    Imports,
    Moment,
    Quality,
    Retraining,
    Scheduling,
    Serving,
    SharedModel,
    Training,
    Upload,
)
from tenantry.workloads.shown_assets import ShownAsset, WorkloadAsset

_MOST_BATCHES: Final = 8
_SUFFIX: Final = ".yaml"
_NEARLY: Final = ".yml"  # to be renamed; a workload that is not read would look removed


class InvalidWorkloadError(TenantryError, ValueError):
    """A workload's file cannot be used; the message names the file, the field and the fault."""


class Workload(Section):
    """One kind of personalised model the product offers."""

    name: WorkloadName = Field(description="the file's name; every asset key starts with it")
    title: Words = Field(description="what people call it")
    description: Words = Field(description="what it is, in a sentence")
    owners: tuple[Owner, ...] = Field(
        default=(), description="who answers for it: e-mail addresses, or teams as team:NAME"
    )
    container: Container = Field(description="the folder below containers/")
    image_tag: ImageTag = Field(description="the tag of its image")
    tier: Literal["silo", "bridge", "pool"] = Field(
        description="the tier of tenants without a setting of their own"
    )
    preparation: Module = Field(
        description="a module of the container with prepare(files, destination, parameters)"
    )
    upload: Upload
    training: Training
    scheduling: Scheduling = Scheduling()
    quality: Quality
    serving: Serving
    hosting: Hosting = Hosting()
    batches: tuple[Batch, ...] = Field(description="at least one, and at most 8")
    retraining: Retraining | None = None
    drift: Drift | None = None
    imports: Imports | None = None
    inference: Inference | None = None
    shared_model: SharedModel | None = None
    moment: Moment | None = None
    assets: Mapping[WorkloadAsset, ShownAsset] = Field(
        default_factory=dict,
        description="what Dagster shows of its assets beside what all workloads have in common",
    )

    @property
    def shared_machines(self) -> Shared:
        """The machines that its tenants share; a silo tenant's own are made when its model is
        registered."""
        return Shared("bridge" if self.tier == "silo" else self.tier)

    def served_by(self, model: ids.ModelId) -> ids.ModelId:
        """The model that answers for one of a tenant's: itself, or the one that all tenants
        share."""
        return model if self.shared_model is None else ids.SHARED

    @property
    def serving_container(self) -> str:
        """The container of endpoints and batch predictions."""
        return self.serving.container or self.container

    @property
    def answer_version(self) -> str:
        """Changes whenever the same model could give another answer: with the image or its
        environment, and not with the machines that it runs on."""
        serving = self.serving
        said = [self.serving_container, self.image_tag, sorted(serving.environment.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:10]

    @property
    def endpoint_version(self) -> str:
        """Changes whenever an endpoint would have to be updated, but not with its price."""
        left_out: Any = dict.fromkeys(
            (
                "capacity",
                "silo_capacity",
                "prewarming",
                "remove_unused_after_days",
                "smoke_request",
                "cache",
                "container",
                "usd_per_hour",
                "park_when_unavailable",
                "gpu_gigabytes",
            ),
            True,
        )
        if self.serving.batching is None:
            left_out["batching"] = True
        left_out["asynchronous"] = {"usd_per_hour", "capacity", "silo_capacity"}
        said = (
            f"{self.serving_container}:{self.image_tag} "
            f"{self.serving.model_dump_json(exclude=left_out)}"
        )
        if self.hosting != Hosting():
            said += f" {self.hosting.model_dump_json(exclude={'updates'})}"
        return hashlib.sha256(said.encode()).hexdigest()[:10]

    @property
    def capacity_version(self) -> str:
        """Changes whenever what is registered for the endpoints' capacity would."""
        endpoints = [self.serving, self.serving.asynchronous]
        said = [
            one.model_dump_json(include={"capacity", "silo_capacity", "usd_per_hour", "instances"})
            for one in endpoints
            if one is not None
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:10]

    @model_validator(mode="after")
    def _packs_are_grouped_by_what_uploads_carry(self) -> Workload:
        for name in self.training.pack.together:
            if name not in self.upload.parameters:
                raise ValueError(
                    f"training.pack.together names {name!r}, which is not among upload.parameters"
                )
        return self

    @model_validator(mode="after")
    def _fresh_data_have_a_field_of_their_own(self) -> Workload:
        for batch in self.batches:
            if self.inference is not None and self.inference.field in batch.request:
                raise ValueError(
                    f"batches: the request of {batch.name} has {self.inference.field!r}, which is "
                    f"the field of inference for the tenant's own data; leave it out of the request"
                )
            if self.moment is not None and batch.keep_unchanged:
                raise ValueError(
                    f"batches: {batch.name} has keep_unchanged, and each of its requests names "
                    f"another {self.moment.field}, so none is like the last; leave it out"
                )
            if self.inference is None and batch.input == "all":
                raise ValueError(
                    f"batches: the input of {batch.name} is the tenants' data, and there is no "
                    f"section `inference` that says which; add it, or leave input out"
                )
            # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html:
            # no record may be larger than MaxPayloadInMB. One that is fails the job of all.
            most = batch.max_payload_megabytes * 1024
            if (
                self.inference is not None
                and batch.input != "request"
                and self.inference.max_kilobytes >= most
            ):
                raise ValueError(
                    f"batches: a request of {batch.name} may carry {self.inference.max_kilobytes} "
                    f"kB of data, and max_payload_megabytes takes {most} kB in all; raise it, or "
                    f"lower inference.max_kilobytes"
                )
            if self.inference is None and batch.on is not None:
                raise ValueError(
                    f"batches: {batch.name} is made on uploads for inference, and there is no "
                    f"section `inference`; add it, or give the batch a cron"
                )
        return self

    @model_validator(mode="after")
    def _a_shared_model_is_served_from_the_pool(self) -> Workload:
        if self.shared_model is None:
            return self
        if self.tier != "pool":
            raise ValueError(
                f"tier is {self.tier!r}, and a shared model is served from the pool; write pool"
            )
        if self.retraining is not None:
            raise ValueError(
                "retraining is for models of single tenants; shared_model.cron says when the "
                "shared one is made again"
            )
        if self.training.data_distribution == "ShardedByS3Key":
            raise ValueError(
                "training.data_distribution is ShardedByS3Key, and a shared model is made from the "
                "data of all tenants on one instance; write FullyReplicated"
            )
        return self

    @model_validator(mode="after")
    def _batches_have_names_of_their_own(self) -> Workload:
        if not 1 <= len(self.batches) <= _MOST_BATCHES:
            raise ValueError(f"batches has {len(self.batches)}; list 1 to {_MOST_BATCHES} of them")
        names = [batch.name for batch in self.batches]
        if len(set(names)) < len(names):
            raise ValueError("two of the batches have one name; their predictions would collide")
        return self

    def batch_named(self, name: str) -> Batch:
        """One of its batches; the first if ``name`` is empty. Raises ``LookupError``."""
        for batch in self.batches:
            if name in ("", batch.name):
                return batch
        there = ", ".join(batch.name for batch in self.batches)
        raise LookupError(f"{self.name} has no batch {name[:40]!r}; there are {there}")

    @model_validator(mode="after")
    def _can_be_hosted(self) -> Workload:
        if (fault := hosting_fault(self) or batching_fault(self)) is not None:
            raise ValueError(fault)
        return self

    @property
    def recipe(self) -> str:
        """Changes whenever the same data would become another model: with the image or the
        hyperparameters."""
        said = [self.container, self.image_tag, sorted(self.training.hyperparameters.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:10]

    @model_validator(mode="after")
    def _packs_fit_their_instances(self) -> Workload:
        if (
            self.training.pack.max_tenants
            > self.training.max_instances * self.training.tenants_per_instance
        ):
            raise ValueError(
                "training.pack.max_tenants is more than max_instances × tenants_per_instance; "
                "raise one of those"
            )
        return self


class WorkloadComponentFile(Section):
    """A workload as a component of Dagster: the content of its ``defs.yaml``."""

    type: Literal["orchestration.Workload"] = Field(description="which component it is")
    attributes: Workload


class Workloads(Mapping[str, Workload]):
    """The workloads that the product offers, by name.

    As a mapping it holds the workloads whose files can be used. Asking for one whose file cannot be
    used (by ``[]``, ``get`` or ``in``) raises ``InvalidWorkloadError``, so that it does not look
    removed.
    """

    def __init__(self, readable: Mapping[str, Workload], unreadable: Mapping[str, str]) -> None:
        self._readable = dict(readable)
        self.unreadable: Final = dict(unreadable)
        """Why the others' files cannot be used: file, line, field and cure."""

    @property
    def names(self) -> Collection[str]:
        """All that are offered, whether their files can be used or not."""
        return sorted({*self._readable, *self.unreadable})

    def all_readable(self) -> Self:
        """The same, where every file can be used; else ``InvalidWorkloadError`` names all
        faults."""
        if self.unreadable:
            raise InvalidWorkloadError("\n".join(self.unreadable.values()))
        return self

    def __getitem__(self, name: str) -> Workload:
        if name in self.unreadable:
            raise InvalidWorkloadError(self.unreadable[name])
        return self._readable[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readable)

    def __len__(self) -> int:
        return len(self._readable)


def read_workload(path: Path) -> Workload:
    """Read one workload's file: ``NAME.yaml``, or ``NAME/defs.yaml`` as a component of Dagster.

    Raises:
        InvalidWorkloadError: it is too large, not YAML, or a field is wrong; the message names
            file, line, field and cure.
    """
    component = path.stem == Path(COMPONENT_FILE).stem
    called = f"{path.parent.name}/{path.name}" if component else path.name
    expected = path.parent.name if component else path.stem
    if path.suffix != _SUFFIX:
        raise InvalidWorkloadError(f"{called}: its name must end in {_SUFFIX}; rename it")
    model = WorkloadComponentFile if component else Workload
    try:
        document = read_document(path)
        held = model.model_validate(document.fields)
    except UnreadableDocumentError as error:
        raise InvalidWorkloadError(f"{called}: {error}") from error
    except ValidationError as error:
        raise InvalidWorkloadError(f"{called}:\n{_in_words(error, document, model)}") from error
    workload = held.attributes if isinstance(held, WorkloadComponentFile) else held
    if workload.name != expected:
        line = document.line_of(["attributes", "name"] if component else ["name"])
        whose = "folder's" if component else "file's"
        raise InvalidWorkloadError(
            f"{called}: line {line}, name is {workload.name!r}; it must be the {whose}, "
            f"{expected!r}"
        )
    return workload


def _in_words(error: ValidationError, document: Document, model: type[Section]) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        line = document.line_of(fault["loc"])
        lines.append(f"  line {line}, {field_of(fault)}: {said(fault, model)}")
    return "\n".join(lines)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The workloads of a folder, by name, with their files."""
    found = set[str]()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix == _SUFFIX:
            found.add(path.stem)
            yield path.stem, path
        elif path.suffix == _NEARLY and path.stem not in found:
            yield path.stem, path
        elif path.is_dir():
            yield from ((path.name, file) for file in _component_files(path))


def _component_files(folder: Path) -> Iterator[Path]:
    """The file that makes a folder a component, even one that cannot be read."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        names = {COMPONENT_FILE}
    nearly = Path(COMPONENT_FILE).with_suffix(_NEARLY).name
    if found := next((name for name in (COMPONENT_FILE, nearly) if name in names), None):
        yield folder / found


def read_workloads(folder: Path | None = None) -> Workloads:
    """All workloads of a folder. A file that cannot be used does not keep the others from being
    read.

    Args:
        folder: where their files are; by default the folder that the variable
            ``TENANTRY_WORKLOADS`` names, or the repository's own. An installed package has none.

    Raises:
        InvalidWorkloadError: there is no such folder, or no file in it.
    """
    folder = folder or folder_of_workloads()
    if not folder.is_dir():
        raise InvalidWorkloadError(
            f"there is no folder of workloads at {folder}; set {FOLDER_VARIABLE} to the folder "
            f"that holds their YAML files"
        )
    readable, unreadable = dict[str, Workload](), dict[str, str]()
    for name, path in _files(folder):
        if name in readable or name in unreadable:
            readable.pop(name, None)
            unreadable[name] = (
                f"{name}: both {name}{_SUFFIX} and {name}/{COMPONENT_FILE} say what it is; remove "
                f"one of the two"
            )
            continue
        try:
            readable[name] = read_workload(path)
        except InvalidWorkloadError as error:
            unreadable[name] = str(error)
    if not readable and not unreadable:
        raise InvalidWorkloadError(f"no *.yaml in {folder.name}/: nothing to offer")
    return Workloads(readable, unreadable)
