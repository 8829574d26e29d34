"""Tenants as Dagster partitions: one dynamic set per workload. The date is not a partition, because
tenants × days soon exceed the number that Dagster recommends. It stands in keys and metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dagster import DagsterInstance, DynamicPartitionsDefinition
from sqlalchemy.exc import IntegrityError

from tenantry.names import ids

_ADDED_AT_ONCE: Final = 10_000
_TRIES: Final = 10


def tenants_of(workload: str) -> DynamicPartitionsDefinition:
    """The partition set of a workload's tenants."""
    return DynamicPartitionsDefinition(name=f"{workload}_tenants")


def add_tenants(
    instance: DagsterInstance, workload: ids.WorkloadName, tenants: Sequence[ids.ModelId]
) -> None:
    """Make tenants known to Dagster, through the instance and in bulk; known ones are left alone.

    Through ``SensorResult`` the daemon would look each key up over a connection of its own.
    """
    unique = sorted(set(tenants))
    name = tenants_of(workload).name or ""
    for start in range(0, len(unique), _ADDED_AT_ONCE):
        _add(instance, name, unique[start : start + _ADDED_AT_ONCE])


def _add(instance: DagsterInstance, name: str, tenants: Sequence[ids.ModelId]) -> None:
    """Dagster looks up the new ones and inserts them. If another sensor adds one in between, the
    whole insertion fails."""
    for left in reversed(range(_TRIES)):
        try:
            instance.add_dynamic_partitions(name, tenants)
            return
        except IntegrityError:
            if not left:
                raise
