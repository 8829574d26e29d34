"""A workload's file may park requests where it has a queue for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tenantry.workloads.schema import InvalidWorkloadError, Workload, read_workload
from tests.tenantry.workloads.test_schema import ASYNCHRONOUS, changed, written


def reading(folder: Path, **serving: Any) -> Workload:
    """The energy workload with an asynchronous endpoint, and with these fields of ``serving``."""
    document = changed("serving.asynchronous", ASYNCHRONOUS)
    document["serving"] |= serving
    return read_workload(written(folder, yaml.safe_dump(document)))


def test_requests_are_parked_only_if_the_file_says_so_and_no_endpoint_changes(
    tmp_path: Path,
) -> None:
    silent, parks = reading(tmp_path), reading(tmp_path, park_when_unavailable=True)
    assert (silent.serving.park_when_unavailable, parks.serving.park_when_unavailable) == (
        False,
        True,
    )
    assert parks.endpoint_version == silent.endpoint_version
    assert parks.answer_version == silent.answer_version


@pytest.mark.parametrize(
    ("serving", "told"),
    [
        (
            {"park_when_unavailable": True, "asynchronous": None},
            "there is no asynchronous endpoint to park requests at; add asynchronous, or remove",
        ),
        ({"park_when_unavailable": "often"}, r"serving\.park_when_unavailable: is 'often'"),
        ({"park_when_unavailible": True}, "did you mean park_when_unavailable?"),
    ],
    ids=["no queue", "no boolean", "misspelt"],
)
def test_a_field_that_parks_nothing_is_refused_with_its_cure(
    tmp_path: Path, serving: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidWorkloadError, match=told):
        reading(tmp_path, **serving)
