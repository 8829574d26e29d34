"""The first text of a new workload, which its container brings along; it can be used as it is."""

from __future__ import annotations

from string import Template
from typing import Final

from tenantry.errors import TenantryError
from tenantry.workloads.code import container_fault, container_file

USUAL_CONTAINER: Final = "forecast"
_FILE: Final = "workload.yaml"


class NoSkeletonError(TenantryError, LookupError):
    """A container brings no file to begin a workload from; the message has the cure."""


def skeleton(name: str, container: str = USUAL_CONTAINER) -> str:
    """The YAML of a workload ``name`` that runs with a container, from the container's own
    ``workload.yaml``. Raises ``NoSkeletonError``."""
    if (fault := container_fault(container)) is not None:
        raise NoSkeletonError(fault)
    file = container_file(container, _FILE)
    if file is None:
        raise NoSkeletonError(
            f"containers/{container} has no {_FILE} to begin a workload from; copy that of "
            f"containers/example there, and change it"
        )
    text = Template(file.read_text(encoding="utf-8"))
    # Safe: a container's file may hold a dollar sign of its own.
    return text.safe_substitute(name=name, title=name.capitalize())
