"""One shared model for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from containers.runtime.training.packed_training import Trained
from containers.tabular import synthetic
from tests.containers.tabular.churn import prepared_tenants, trained

TENANTS, CUSTOMERS, MONTHS, SEED = 12, 350, 9, 5


class Shared(NamedTuple):
    """A model of all tenants, and the folder of their rows."""

    root: Path
    model: Trained


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    base = tmp_path_factory.mktemp("churn")
    prepared_tenants(base / "rows", synthetic.generate(TENANTS, CUSTOMERS, MONTHS, SEED))
    result, _ = trained(base / "rows", base / "workspace")
    assert isinstance(result, Trained)
    return Shared(base / "rows", result)
