"""Editors read the same JSON Schema that files are checked against."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tenantry.workloads.folder import FOLDER
from tenantry.workloads.json_schema import FILE, FIRST_LINE, json_schema, schema_text
from tests.conftest import ROOT
from tests.tenantry.workloads.test_schema import changed

VALIDATOR = Draft202012Validator(json_schema())
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def test_the_file_is_what_the_command_writes(tmp_path: Path) -> None:
    assert FILE.read_text(encoding="utf-8") == schema_text(), (
        "it is out of date: run `python -m tenantry.workloads schema`"
    )
    written = tmp_path / "workload.schema.json"
    command = [sys.executable, "-m", "tenantry.workloads", "schema", str(written)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert written.read_text(encoding="utf-8") == schema_text()


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json.loads(FILE.read_text()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_each_shipped_workload_names_it_and_fits_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == FIRST_LINE
    assert (path.parent / FIRST_LINE.partition("=")[2]).resolve() == FILE
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("tier", "platinum"),
        ("tier", ...),
        ("tire", "pool"),
        ("name", "Energy"),
        ("owners", ["energy"]),
        ("upload.max_files", 0),
        ("upload.file_types", []),
        ("training.other_instance_types", {"m5.xlarge": 0.2}),
        ("serving.capacity.timetable.0.cron", "nightly"),
        ("serving.capacity.timetable.0.minimum", "two"),
        ("quality.tolerance", 5),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_editor_marks_a_wrong_field(where: str, value: Any) -> None:
    # Convert through JSON, because YAML's own writer distinguishes tuples and the like.
    document = json.loads(json.dumps(changed(where, value)))
    assert list(VALIDATOR.iter_errors(document))


def test_every_field_says_what_it_is_or_is_a_section_that_does() -> None:
    schema = json_schema()
    named = {"instances", "max_files", "max_megabytes", "cron", "timezone"}  # by their names
    silent = [
        name
        for name, field in schema["properties"].items()
        if "description" not in field and "$ref" not in json.dumps(field) and name not in named
    ]
    assert silent == []
    assert all("description" in section for section in schema["$defs"].values())
