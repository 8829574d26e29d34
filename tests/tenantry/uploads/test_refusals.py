"""Every refusal has a code of its kind, and the page of refusals lists them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from containers.runtime.tables import files
from tenantry.requests.queue import TOO_MANY_UPLOADS
from tenantry.uploads.intake import NO_MODEL_YET, ONE_MODEL_FOR_ALL, TOO_MANY_MODELS

HERE = Path(__file__).parents[3]
PAGE = (HERE / "docs" / "refusals.md").read_text()

SECTIONS = {
    "The manifest and its files": ["tenantry/uploads/manifests.py"],
    "Any upload": ["tenantry/uploads/bounded_calls.py", "tenantry/uploads/training_data.py"],
    "Consumption files": [
        f"containers/forecast/consumption/{module}.py"
        for module in ("reading", "timestamps", "wall_clock", "preparation", "checks")
    ],
    "Any table": [
        f"containers/runtime/tables/{module}.py"
        for module in ("files", "columns", "csv_file", "parquet_file")
    ],
    "Models that were trained elsewhere": [
        "tenantry/uploads/imported_model.py",
        "containers/runtime/archives/imported.py",
        "containers/diffusion/adapters/imported.py",
    ],
    "Customer tables": ["containers/tabular/preparation.py"],
    "Files of days": ["containers/example/preparation.py"],
}


def codes_raised(source: str) -> set[str]:
    """The codes of a module's refusals. Each call that creates a refusal must give one."""
    said: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if called not in ("RefusedDataError", "RefusedUploadError"):
            continue
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            continue  # copied from a refusal that has its code
        place = 1 if called == "RefusedUploadError" else 3
        code = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
        if code is None:
            assert len(node.args) > place, f"a refusal without a code, line {node.lineno}"
            code = node.args[place]
        if isinstance(code, ast.IfExp):
            said |= {ast.literal_eval(code.body), ast.literal_eval(code.orelse)}
        elif isinstance(code, ast.Name | ast.Attribute):
            continue  # from a table, below, or from the original refusal
        else:
            said.add(ast.literal_eval(code))
    return said


def codes_told(section: str) -> list[str]:
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_of_refusals_tells_every_code_and_no_other(section: str) -> None:
    raised = set().union(
        *(codes_raised((HERE / module).read_text()) for module in SECTIONS[section])
    )
    if section == "Any table":
        raised |= {code for *_, code in files.CONTENT}
    elif section == "Any upload":
        raised |= {TOO_MANY_UPLOADS, TOO_MANY_MODELS, ONE_MODEL_FOR_ALL, NO_MODEL_YET}
    elif section == "The manifest and its files":
        raised |= {"manifest_other_workload", "manifest_other_tenant"}
    told = codes_told(section)
    assert sorted(told) == sorted(raised)
    assert not raised & {"data_unusable", "upload_unusable"}
