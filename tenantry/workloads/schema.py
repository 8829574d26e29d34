"""Reads and checks the workloads' YAML files. A new workload is one file here, and a container when
none fits."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import StringConstraints, ValidationError, model_validator

from tenantry.errors import TenantryError
from tenantry.names.tiers import Shared
from tenantry.workloads.folder import FOLDER_VARIABLE, folder_of_workloads
from tenantry.workloads.sections import (
    Batch,
    Container,
    Drift,
    Moment,
    Quality,
    Retraining,
    Scheduling,
    Section,
    Serving,
    Training,
    Upload,
)

_MAX_BYTES: Final = 64 * 1024


class InvalidWorkloadError(TenantryError, ValueError):
    """A workload's file cannot be used; the message names the file, the field and what is wrong."""


class Workload(Section):
    """One kind of personalised model the product offers."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,19}$")]
    title: str
    description: str
    owners: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    container: Container
    image_tag: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    tier: Literal["silo", "bridge", "pool"]
    preparation: Annotated[str, StringConstraints(pattern=r"^containers(\.[a-z_][a-z0-9_]*)+$")]
    upload: Upload
    training: Training
    scheduling: Scheduling = Scheduling()
    quality: Quality
    serving: Serving
    batch: Batch
    retraining: Retraining | None = None
    drift: Drift | None = None
    moment: Moment | None = None

    @property
    def shared_machines(self) -> Shared:
        """The machines that its tenants share; a silo tenant's own are made when its model is
        registered."""
        return Shared("bridge" if self.tier == "silo" else self.tier)

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
        """Changes whenever an endpoint would have to be updated, and not with what one costs."""
        left_out: Any = dict.fromkeys(
            ("capacity", "smoke_request", "cache", "container", "usd_per_hour"), True
        )
        left_out["asynchronous"] = {"usd_per_hour"}
        said = (
            f"{self.serving_container}:{self.image_tag} "
            f"{self.serving.model_dump_json(exclude=left_out)}"
        )
        return hashlib.sha256(said.encode()).hexdigest()[:10]

    @model_validator(mode="after")
    def _packs_are_grouped_by_what_uploads_carry(self) -> Workload:
        for name in self.training.pack.together:
            if name not in self.upload.parameters:
                raise ValueError(
                    f"training.pack.together names {name!r}, which is not among upload.parameters"
                )
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


def read_workload(path: Path) -> Workload:
    """Read one workload's file.

    Raises:
        InvalidWorkloadError: it is too large, not YAML, or a field is wrong; the message names
            file, field and cure.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidWorkloadError(f"{path.name}: larger than {_MAX_BYTES} bytes")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # a date that is none is a ValueError
        raise InvalidWorkloadError(f"{path.name}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise InvalidWorkloadError(f"{path.name}: must be a mapping of fields, as in energy.yaml")
    try:
        workload = Workload.model_validate(document)
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(str(part) for part in fault['loc']) or '(whole file)'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise InvalidWorkloadError(f"{path.name}:\n{faults}") from error
    if workload.name != path.stem:
        raise InvalidWorkloadError(
            f"{path.name}: name is {workload.name!r}; it must be the file's, {path.stem!r}"
        )
    return workload


def read_workloads(folder: Path | None = None) -> dict[str, Workload]:
    """All workloads of a folder, by name.

    Args:
        folder: where their files are; by default what the variable ``TENANTRY_WORKLOADS`` names, or
        the repository's own. An installed package has none.

    Raises:
        InvalidWorkloadError: there is no such folder, or a file in it cannot be used.
    """
    folder = folder or folder_of_workloads()
    if not folder.is_dir():
        raise InvalidWorkloadError(
            f"there is no folder of workloads at {folder}; set {FOLDER_VARIABLE} to the folder "
            f"that holds their YAML files"
        )
    workloads = {path.stem: read_workload(path) for path in sorted(folder.glob("*.yaml"))}
    if not workloads:
        raise InvalidWorkloadError(
            f"no *.yaml in {re.sub(r'^.*/', '', str(folder))}/: nothing to offer"
        )
    return workloads
