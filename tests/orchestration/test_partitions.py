"""Tenants become partitions, even if other processes add the same ones at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from dagster import DagsterInstance

from orchestration.partitions import add_tenants, tenants_of
from tenantry.names import ids

ENERGY = ids.workload_name("energy")
SENSORS, ROUNDS = 3, 12


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    return tmp_path


def test_sensors_that_add_the_same_tenants_at_once_all_succeed(home: Path) -> None:
    ready = Barrier(SENSORS)

    def sensor(number: int) -> None:
        with DagsterInstance.from_config(str(home)) as instance:
            for turn in range(ROUNDS):
                tenants = [
                    ids.tenant_id(f"t-{turn:02d}-{n:03d}") for n in range(number, number + 50)
                ]
                ready.wait(60)
                add_tenants(instance, ENERGY, tenants)

    # create its tables first, because that is not part of this test
    with DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_dynamic_partitions(tenants_of("energy").name or "") == []
    with ThreadPoolExecutor(SENSORS) as pool:
        list(pool.map(sensor, range(SENSORS)))
    with DagsterInstance.from_config(str(home)) as instance:
        known = instance.get_dynamic_partitions(tenants_of("energy").name or "")
    assert len(known) == len(set(known)) == ROUNDS * (50 + SENSORS - 1)
