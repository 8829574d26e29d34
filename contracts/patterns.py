"""The patterns of names, on both sides."""

from __future__ import annotations

import re
from typing import Final

TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
VERSION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
WORKLOAD: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
TASK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
"""Ids of tasks and packs."""
FILE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
"""A file that a task leaves beside its archive."""
FOLDER: Final = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,127}")
"""A part of the path of a task's data."""
ARCHIVE: Final = re.compile(rf"{TENANT.pattern}/{VERSION.pattern}\.tar\.gz")
"""The name of a record's model."""
SHA256: Final = re.compile(r"[0-9a-f]{64}")
