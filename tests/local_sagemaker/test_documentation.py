"""docs/local-cloud.md and docs/local-cloud-operations.md agree with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.loaders import create_loader

from local_sagemaker.http.members import SERVICES, STRUCTURES, executed, tables
from local_sagemaker.http.operations import page, unknown
from local_sagemaker.http.protocol import Protocol
from tests.local_sagemaker.conftest import Emulator

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS: Final = ROOT / "docs" / "local-cloud-operations.md"
OF_HOSTING_TRAINING_AND_TRANSFORM: Final = re.compile(
    "Endpoint|Inference|Model|Pipeline|Processing|Tags|Training|Transform|Tuning"
)
"""The words in names of SageMaker's operations for which no answer may lack a reason."""


def test_the_lists_of_what_is_refused_and_without_effect_are_printed_by_the_code() -> None:
    """To update the page, put the output of `python -m local_sagemaker --operations` between its
    two marks."""
    page = (ROOT / "docs" / "local-cloud.md").read_text()
    _, _, rest = page.partition("<!-- begin: python -m local_sagemaker --operations -->\n")
    written, mark, _ = rest.partition("<!-- end: python -m local_sagemaker --operations -->\n")
    assert mark
    assert written == tables()


def test_the_page_of_operations_is_printed_by_the_code() -> None:
    """To update the page, write the output of `python -m local_sagemaker --all-operations` to
    it."""
    assert OPERATIONS.read_text() == page()


@pytest.mark.parametrize(
    ("option", "printed"), [("--operations", tables), ("--all-operations", page)]
)
def test_the_command_line_prints_them(option: str, printed: Callable[[], str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local_sagemaker", option],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == printed()


def test_they_tell_of_every_operation_that_is_answered(emulator: Emulator) -> None:
    answered = set(emulator.control("GET", "/_local/health")["operations"])
    listed = {
        operation
        for protocol in map(Protocol, SERVICES)
        if protocol.name != "SageMaker Runtime"
        for operation in executed(protocol)
    }
    assert answered == listed


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_has_every_operation_of_a_service_once(service: str) -> None:
    """None is both executed and refused, and no refusal names one that botocore dropped."""
    model = create_loader().load_service_model(service, "service-2")
    _, heading, rest = OPERATIONS.read_text().partition(f"\n## {Protocol(service).name}\n")
    assert heading
    named = Counter(re.findall(r"`(\w+)`", rest.partition("\n## ")[0]))
    assert named == Counter(list(model["operations"]))


@pytest.mark.parametrize("service", ["sagemaker", "sagemaker-runtime", "application-autoscaling"])
def test_no_operation_of_hosting_training_transform_or_scaling_is_unknown(service: str) -> None:
    model = create_loader().load_service_model(service, "service-2")
    concerned = {
        operation
        for operation in model["operations"]
        if service != "sagemaker" or OF_HOSTING_TRAINING_AND_TRANSFORM.search(operation)
    }
    protocol = Protocol(service)
    assert concerned.issuperset(executed(protocol))
    assert concerned.isdisjoint(unknown(protocol))


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
