"""docs/local-cloud.md agrees with the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from local_sagemaker.http.members import SERVICES, STRUCTURES, tables
from local_sagemaker.http.protocol import Protocol
from tests.local_sagemaker.conftest import Emulator

ROOT = Path(__file__).resolve().parents[2]


def test_the_lists_of_what_is_refused_and_without_effect_are_printed_by_the_code() -> None:
    """To update the page, put the output of `python -m local_sagemaker --operations` between its
    two marks."""
    page = (ROOT / "docs" / "local-cloud.md").read_text()
    _, _, rest = page.partition("<!-- begin: python -m local_sagemaker --operations -->\n")
    written, mark, _ = rest.partition("<!-- end: python -m local_sagemaker --operations -->\n")
    assert mark
    assert written == tables()


def test_the_command_line_prints_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local_sagemaker", "--operations"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == tables()


def test_they_tell_of_every_operation_that_is_answered(emulator: Emulator) -> None:
    answered = set(emulator.control("GET", "/_local/health")["operations"])
    listed = {
        operation
        for protocol in map(Protocol, SERVICES)
        if protocol.name != "SageMaker Runtime"
        for operation in protocol.operations
        if (shape := protocol.model.operation_model(operation).input_shape) is not None
        and shape.name in STRUCTURES
    }
    assert answered == listed


def test_what_they_name_exists() -> None:
    """A member that the service model renamed or dropped would be honoured only in the
    documentation."""
    shapes: dict[str, Any] = {
        name: protocol.model.shape_for(name)
        for protocol in map(Protocol, SERVICES)
        for name in STRUCTURES
        if name in protocol.model.shape_names
    }
    assert set(shapes) == set(STRUCTURES)
    for name, structure in STRUCTURES.items():
        assert structure.honoured | structure.without_effect <= set(shapes[name].members), name
        for member, values in structure.values.items():
            assert set(values) <= set(shapes[name].members[member].enum), name
