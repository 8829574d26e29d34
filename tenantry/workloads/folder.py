"""Where the workloads' files are. Reading them is ``tenantry.workloads.schema``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / "workloads"
"""The repository's own. An installed package has none."""

FOLDER_VARIABLE: Final = "TENANTRY_WORKLOADS"
"""Names another folder to read workloads from."""

COMPONENT_FILE: Final = "defs.yaml"
"""In a folder of its own, the workload as a component of Dagster."""


def workload_file(name: str) -> Path:
    """The file of a workload: its component's if there is one, else its own YAML file."""
    folder = folder_of_workloads()
    component = folder / name / COMPONENT_FILE
    return component if component.is_file() else folder / f"{name}.yaml"


def folder_of_workloads() -> Path:
    """The folder that the variable names, or the repository's own."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER)
