"""The JSON Schema of a workload's file, by which editors complete and check it."""

from __future__ import annotations

import json
from typing import Any, Final

from tenantry.workloads.fields import IN_WORDS
from tenantry.workloads.folder import FOLDER
from tenantry.workloads.schema import Workload

FILE: Final = FOLDER / "workload.schema.json"
FIRST_LINE: Final = "# yaml-language-server: $schema=./workload.schema.json"
"""The line by which a workload's file names its schema to editors."""


def json_schema() -> dict[str, Any]:
    """The schema, made from the model that checks a file when it is read."""
    made = Workload.model_json_schema()
    _tidy(made)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema_text() -> str:
    """The schema as its file has it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(part: Any) -> None:
    """Say patterns in words, and leave out the titles that pydantic makes of fields' names."""
    if isinstance(part, list):
        for one in part:
            _tidy(one)
        return
    if not isinstance(part, dict):
        return
    if isinstance(part.get("title"), str):
        del part["title"]
    if "patternProperties" in part:
        part["additionalProperties"] = False
    words = IN_WORDS.get(part.get("pattern", ""))
    if words is not None:
        # VS Code and other editors show this in the place of the pattern.
        part["patternErrorMessage"] = f"must be {words}"
    if isinstance(part.get("description"), str):
        part["description"] = " ".join(part["description"].split())
    for one in part.values():
        _tidy(one)
