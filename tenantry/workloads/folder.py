"""Where the workloads' files are. Reading them is ``tenantry.workloads.schema``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / "workloads"
"""The repository's own. An installed package has none."""

FOLDER_VARIABLE: Final = "TENANTRY_WORKLOADS"
"""Names another folder to read workloads from."""


def folder_of_workloads() -> Path:
    """The folder that the variable names, or the repository's own."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER)
